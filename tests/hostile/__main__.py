"""The search for inputs that break a promise: `python -m tests.hostile --door NAME --inputs N --seed S`.

Without `--door` the inputs are shared among all doors. Each is searched by atheris, which is led by what
an input reaches in the watcher's own code, in a process of its own. A failing input is kept, minimal, in
build/hostile/, and named; the exit code is then 1. Put it into tests/hostile/met/DOOR/ with the mend.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tests.hostile.door import HERE, Door
from tests.hostile.doors import ALL

FAILED = 77  # of search.py, whose import would start atheris here

KEPT = HERE.parents[1] / "build" / "hostile"
LONGEST = 8192
SECONDS_FOR_ONE = 20
MEBIBYTES = 2048


@dataclass(frozen=True, slots=True)
class Found:
    """What came of one door. `reached` are the branches that the seeds reached, and that the search did."""

    door: str
    tried: int
    reached: tuple[int, int]
    seconds: float
    failing: Path | None = None
    trace: str = ""

    def __str__(self) -> str:
        first, last = self.reached
        line = (
            f"{self.door:22}{self.tried:>9} inputs {last:>6} reached (+{last - first}) {self.seconds:8.1f} s"
        )
        return line if self.failing is None else f"{line}\n  FAILS: {self.failing}\n{self.trace}"


def search(door: Door, inputs: int, seed: int) -> Found:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        folder = Path(name)
        _lay_out(door, folder)
        child = subprocess.run(
            [sys.executable, "-m", "tests.hostile.search", door.name, name, *_words(folder, inputs, seed)],
            capture_output=True,
            check=False,
            cwd=HERE.parents[1],
        )
        said = child.stderr.decode(errors="replace")
        failing = _keep(door, folder) if child.returncode else None
        trace = _trace(folder, said, child.returncode) if child.returncode else ""
    took = time.monotonic() - began
    return Found(door.name, _tried(said), _reached(said), took, failing, trace)


def _lay_out(door: Door, folder: Path) -> None:
    """Seeds as a corpus, and pieces as a dictionary."""
    (folder / "corpus").mkdir()
    for number, seed in enumerate(door.seeds()):
        (folder / "corpus" / str(number)).write_bytes(seed)
    words = ("".join(f"\\x{byte:02x}" for byte in piece[:60]) for piece in door.pieces)
    (folder / "words").write_text("".join(f'"{word}"\n' for word in words))


def _words(folder: Path, inputs: int, seed: int) -> list[str]:
    return [
        f"-runs={inputs}",
        f"-seed={seed}",
        f"-max_len={LONGEST}",
        f"-timeout={SECONDS_FOR_ONE}",
        f"-rss_limit_mb={MEBIBYTES}",
        f"-dict={folder / 'words'}",
        f"-artifact_prefix={folder}/stopped-",
        "-print_final_stats=1",
        str(folder / "corpus"),
    ]


def _keep(door: Door, folder: Path) -> Path:
    """The failing input; where the search itself was stopped by time or memory, the one that it was at."""
    found = [folder / "failing", *sorted(folder.glob("stopped-*"))]
    data = next((path.read_bytes() for path in found if path.exists()), b"")
    kept = KEPT / door.name / sha256(data).hexdigest()[:12]
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(data)
    return kept


def _trace(folder: Path, said: str, code: int) -> str:
    trace = folder / "trace"
    if code == FAILED and trace.exists():
        return trace.read_text()
    return f"exit code {code}\n{said[-2000:]}"


def _tried(said: str) -> int:
    counts = re.findall(r"number_of_executed_units: (\d+)", said) or re.findall(r"(?m)^#(\d+)", said)
    return int(counts[-1]) if counts else 0


def _reached(said: str) -> tuple[int, int]:
    first = re.search(r"INITED cov: (\d+)", said)
    last = re.findall(r"cov: (\d+)", said)
    return (int(first[1]), int(last[-1])) if first and last else (0, 0)


def shared(inputs: int) -> Iterable[tuple[Door, int]]:
    """So many inputs among all doors, each by its share and at least one."""
    whole = sum(door.share for door in ALL.values())
    return [(door, max(1, -(-inputs * door.share // whole))) for door in ALL.values()]


def main(words: list[str]) -> int:
    asked = _asked(words)
    doors = shared(asked.inputs) if asked.door is None else [(ALL[asked.door], asked.inputs)]
    found = []
    for door, inputs in doors:
        found.append(search(door, inputs, asked.seed))
        print(found[-1], flush=True)
    failing = [one for one in found if one.failing is not None]
    print(f"{sum(one.tried for one in found)} inputs at {len(found)} doors, {len(failing)} of them failed")
    return 1 if failing else 0


def _asked(words: list[str]) -> argparse.Namespace:
    flags = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    flags.add_argument("--door", choices=sorted(ALL), help="this one alone")
    flags.add_argument("--inputs", type=int, default=100_000, help="how many, in all (default: 100000)")
    flags.add_argument("--seed", type=int, default=1, help="the same seed tries the same inputs (default: 1)")
    return flags.parse_args(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
