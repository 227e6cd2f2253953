"""What every step of the installation shares: where things go, how a command is run, how it fails."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

STATE = Path("/var/lib/pgbouncer-watcher-bed")


class InstallError(Exception):
    """The machine is not as the bed needs it; the text ends with a line HINT."""


def say(text: str) -> None:
    """One line for each thing done."""
    print(text, flush=True)


def run(argv: Sequence[str | Path], hint: str, *, cwd: Path | None = None) -> None:
    """Run a command; on a failure show the end of what it said, and the hint."""
    words = [str(word) for word in argv]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(words, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise InstallError(f"{' '.join(words)}: exit {done.returncode}\n{said}\nHINT: {hint}")
