"""Temporary folders that the service accounts can enter, on a memory file system where there is one."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import run
from tests.support.waiting import wait_for

MEMORY = Path("/dev/shm")
MEMORY_NEEDED = 3 << 30
BUSY_SECONDS = 10.0


def _parent() -> Path:
    """/dev/shm if it is big enough for a whole bed (a container's 64 MB are not), else /var/tmp."""
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MEMORY_NEEDED:
        return MEMORY
    return Path("/var/tmp")


def _sweep(parent: Path) -> None:
    """Remove what beds left behind whose process was killed before it could tidy up."""
    for path in parent.glob("bed-*-*"):
        owner = path.name.split("-")[1]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def bed_folder(*, keep: bool = False) -> Iterator[Path]:
    """A new folder of mode 755 with a short path (a socket's path may have 107 bytes), removed at the end."""
    _sweep(_parent())
    prefix = "kept-bed-" if keep else f"bed-{os.getpid()}-"
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=_parent()))
    path.chmod(0o755)
    try:
        yield path
    finally:
        if not keep:
            shutil.rmtree(path, ignore_errors=True)


def make_read_only(folder: Path) -> Callable[[], object]:
    """Mounted so over itself, once nobody who came by that has a file open for writing. What undoes it."""
    run(["mount", "--bind", folder, folder])
    remounted: list[str | Path] = ["mount", "-o", "remount,bind,ro", folder]
    try:
        wait_for(lambda: run(remounted), BUSY_SECONDS, f"nobody writes in {folder}")
    except BaseException:
        run(["umount", "--lazy", folder])
        raise
    return lambda: run(["umount", "--lazy", folder])
