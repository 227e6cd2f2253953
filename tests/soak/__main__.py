"""`python -m tests.soak --seconds 7200`: switchovers for so long; 1 if a client failed or anything grew."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.soak import switches


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=7200, help="how long; 7200 unless said")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder, switches.scene(Path(folder)) as scene:
        record = switches.run(scene, seconds, _say)
    text, is_well = switches.report(record, seconds)
    print(
        f"{text}\ntrends from {switches.WARM_UP_SHARE:.0%} of {seconds:.0f} s on; memory is unique set size"
    )
    return 0 if is_well else 1


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
