"""A door: one place where text from outside comes in, and what is promised of it there."""

from __future__ import annotations

import atexit
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Door:
    """`check` gives the input to the real code. It raises nothing but what the promise's breach raises:
    AssertionError, or an error that is not documented there.

    `pieces` are what a nearly valid input is made of. `share` is its part of the inputs of a run over all
    doors: one that speaks over a socket is slow. `swollen` makes inputs of about that many bytes, for which
    the work must grow no faster than they do.
    """

    name: str
    promise: str
    check: Callable[[bytes], None]
    pieces: tuple[bytes, ...]
    share: int = 10
    swollen: Mapping[str, Callable[[int], bytes]] = field(default_factory=dict)

    @property
    def corpus(self) -> Path:
        """Small good inputs, one a file, from which the search begins."""
        return HERE / "corpus" / self.name

    @property
    def met(self) -> Path:
        """Inputs that once broke the promise."""
        return HERE / "met" / self.name

    def kept(self) -> list[tuple[str, bytes]]:
        """Both, each with its name."""
        files = [path for folder in (self.corpus, self.met) for path in _files(folder)]
        return [(path.name, path.read_bytes()) for path in files]

    def seeds(self) -> list[bytes]:
        return [data for _, data in self.kept()]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_file())


def as_text(data: bytes) -> str:
    """As the watcher decodes a file: every byte survives."""
    return data.decode("utf-8", "surrogateescape")


def repeated(before: bytes, piece: bytes, after: bytes = b"") -> Callable[[int], bytes]:
    """Inputs of one piece many times, between two others."""
    return lambda size: before + piece * max(1, size // len(piece)) + after


@contextmanager
def said(data: bytes) -> Iterator[socket.socket]:
    """The near end of a stream whose other side has said this, says no more, and takes what it is told."""
    near, far = socket.socketpair()
    with near, far:
        far.settimeout(5)
        far.sendall(data[:100_000])
        far.shutdown(socket.SHUT_WR)
        yield near


def throwaway_folder() -> Path:
    """A new folder that goes with this process."""
    folder = tempfile.mkdtemp(prefix="hostile-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
