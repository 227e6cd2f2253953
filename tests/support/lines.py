"""A file of lines that grows, read on from where it was left: a look costs what is new, not what is old."""

import json
from pathlib import Path
from typing import Any


class Tail:
    """Every line once. A line without its end yet is left for the next look."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = 0
        self._rest = b""

    def new(self) -> list[Any]:
        """The values of the lines of JSON that were written since the last look."""
        return [json.loads(line) for line in self.texts()]

    def texts(self) -> list[bytes]:
        """The same lines as they are."""
        if not self._file.exists():
            return []
        with self._file.open("rb") as file:
            file.seek(self._offset)
            added = file.read()
        self._offset += len(added)
        *whole, self._rest = (self._rest + added).split(b"\n")
        return whole
