"""A virtual environment of its own for a tool from PyPI, beside the project's. Standard library only."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.support.install_steps import STATE, run, say

SYSTEM_PYTHON = Path("/usr/bin/python3")


@dataclass(frozen=True)
class PinnedVenv:
    """Made with the machine's own Python, in a folder that any account can enter; exactly these packages."""

    name: str
    pins: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where it is."""
        return STATE / self.name

    @property
    def _note(self) -> Path:
        return self.folder / "installed-pins.txt"

    def is_current(self) -> bool:
        """Whether it was finished, with the versions asked for here."""
        return self._note.exists() and self._note.read_text().split() == list(self.pins)

    def create(self) -> None:
        """Make it anew. Raises InstallError with the remedy."""
        say(f"virtual environment: {self.folder}")
        shutil.rmtree(self.folder, ignore_errors=True)
        run([SYSTEM_PYTHON, "-m", "venv", self.folder], "apt-get install python3-venv")
        say(f"from PyPI: {' '.join(self.pins)}")
        pip: list[str | Path] = [self.folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-deps"]
        run(
            [*pip, *self.pins],
            "is the network there? pip's own settings (pip.conf, PIP_INDEX_URL) are honoured",
        )
        self._note.write_text("\n".join(self.pins) + "\n")
