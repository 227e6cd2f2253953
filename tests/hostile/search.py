"""One door searched by atheris, in this process: `python -m tests.hostile.search DOOR FOLDER -runs=N …`.

The rest of the words are libFuzzer's. A failing input is made minimal and written into FOLDER, and the
process ends with FAILED.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["watcher"]):
    from tests.hostile.doors import ALL

from tests.hostile.minimal import minimal

FAILED = 77


def main(words: list[str]) -> None:
    door, folder = ALL[words[1]], Path(words[2])

    def one(data: bytes) -> None:
        try:
            door.check(data)
        except Exception:
            _tell(folder, minimal(door.check, data), traceback.format_exc())
            os._exit(FAILED)

    atheris.Setup([words[0], *words[3:]], one)
    atheris.Fuzz()


def _tell(folder: Path, data: bytes, trace: str) -> None:
    (folder / "failing").write_bytes(data)
    (folder / "trace").write_text(trace, errors="backslashreplace")


if __name__ == "__main__":
    main(sys.argv)
