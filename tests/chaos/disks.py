"""A disk that is full: a file system in memory over a folder, with all that the folder has and no room."""

import shutil
import tempfile
from pathlib import Path

from tests.support.processes import run

SPARE_KIB = 256  # for what a file takes beyond its bytes


class FullDisk:
    """`folder`, whoever's it is, until one of the two that end it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._filler = folder / ".full"

    def put_there(self) -> None:
        """From now on nobody can write there. What is open already goes on to the old disk."""
        folder = self._folder
        with tempfile.TemporaryDirectory() as name:
            copy = Path(name) / "copy"
            run(["cp", "-a", folder, copy])
            kib = int(run(["du", "-sk", copy]).stdout.split()[0]) + SPARE_KIB
            status = folder.stat()
            run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", folder])
            run(["cp", "-a", f"{copy}/.", folder])
        shutil.chown(folder, status.st_uid, status.st_gid)
        folder.chmod(status.st_mode & 0o777)
        with self._filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

    def take_away(self) -> None:
        """As it was before: what was written meanwhile is gone."""
        run(["umount", "--lazy", self._folder])

    def make_room(self) -> None:
        """There is room again, and what was written meanwhile is there. Nobody may have a file open."""
        self._filler.unlink()
        with tempfile.TemporaryDirectory() as copy:
            run(["cp", "-a", f"{self._folder}/.", copy])
            self.take_away()
            for path in self._folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            run(["cp", "-a", f"{copy}/.", self._folder])
