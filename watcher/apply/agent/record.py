"""What a hold has changed at PgBouncer, on the disk before it is done, so that a successor can undo it.

One file an agent, beside PgBouncer's own, or, while none can be written there, in a folder of our account
among temporary files; locked while that agent lives. A record that nobody has locked was
left by one that was killed: its pauses are ours to end. A pause without a record is an operator's, and is
never touched. Records say which PgBouncer they are about, since a pause does not outlive it. Of one that is
undone, and cannot be removed, a file among temporary files tells that, to whoever wrote it too.
"""

import binascii
import contextlib
import errno
import fcntl
import json
import os
import re
import socket
import stat
import struct
import time
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

ELSEWHERE = "/tmp/.pgbouncer-watcher-%d"  # noqa: S108 # nosec B108 # entered only where it is ours alone
_MARK = ".watcher-hold-"
_FRESH = ".watcher-hold.new-"
_UNDONE = ".watcher-hold.undone-"
_LOCK = ".watcher-hold.lock"
OVERDUE = 0.5  # seconds after its deadline until an agent that has not ended its hold counts as dead
_NO_RECORD = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""What comes of reading a file that only has the name of a record."""
_TURN_LIMIT = 0.5
"""Seconds to wait for another agent's turn. One that is frozen in its turn must not keep ours from ending."""


class Records:
    """The records about the PgBouncer whose file is `path`. Agents look in both places, since a disk may be
    full, or mounted anew, while one of them lives and before the next begins.
    """

    def __init__(self, path: str, pooler: str) -> None:
        folder, name = os.path.split(os.path.realpath(path))
        self._elsewhere = ELSEWHERE % os.geteuid()
        everywhere = os.path.realpath(path).strip("/").replace("/", "-")
        self._beside, self._away = (
            os.path.join(folder, "." + name),
            os.path.join(self._elsewhere, "." + everywhere),
        )
        self._pooler = pooler
        self._done: Set[str] = set()  # records that are undone, of which that can be told nobody else
        self._id = _new_id()
        self._own: Optional[str] = None
        self._file: Optional[int] = None
        self._has_turn = False

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """One agent at a time begins or ends a hold. Who has the turn may ask for it again."""
        if self._has_turn:
            yield
            return
        lock = _opened_lock(self._beside)
        if lock is None:
            lock = self._lock_elsewhere()
        try:
            if lock is not None:
                _wait_for(lock, time.monotonic() + _TURN_LIMIT)
            self._has_turn = True
            yield
        finally:
            self._has_turn = False
            if lock is not None:
                os.close(lock)

    def _lock_elsewhere(self) -> Optional[int]:
        with contextlib.suppress(OSError):
            return _opened_lock(self._away) if self._has_elsewhere() else None
        return None

    def _has_elsewhere(self) -> bool:
        """Whether that place is ours alone. It is made where there is none, or OSError is raised."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._elsewhere, 0o700)
        return _is_ours_alone(self._elsewhere)

    def note(
        self,
        databases: List[str],
        settings: Dict[str, str],
        set_to: Dict[str, str],
        age: float = 0.0,
        left: float = 60.0,
    ) -> None:
        """Replace what our record says: what we paused, for how many seconds by now and how many more at
        most, settings as they were before we changed them, and what we changed them to.

        Whole at any instant, and locked before it has a name that others look for: a new one, where that of
        ours is told to be undone.
        """
        if self._id in self._undone():
            self._id = _new_id()
        now = _boot_time()
        line = {
            "pooler": self._pooler,
            "databases": databases,
            "settings": settings,
            "set_to": set_to,
            "began": now - age,
            "until": now + left,
        }  # type: Dict[str, Any]
        former = self._own, self._file
        self._own, self._file = self._written(json.dumps(line).encode("ascii"))
        _end_record(*former, but_for=self._own)

    def _written(self, content: bytes) -> Tuple[str, int]:
        """Its path, and the file. Raises OSError where it can be in neither place."""
        try:
            return self._written_at(self._beside, content)
        except OSError:
            if not self._has_elsewhere():
                raise
            return self._written_at(self._away, content)

    def _written_at(self, base: str, content: bytes) -> Tuple[str, int]:
        """Again where a sweep took it in the instant before it was locked."""
        fresh, own = base + _FRESH + self._id, base + _MARK + self._id
        while True:
            file = _locked_file(fresh, content)
            try:
                os.rename(fresh, own)
            except FileNotFoundError:
                os.close(file)
            else:
                return own, file

    def forget(self) -> None:
        """There is nothing left to undo."""
        former, self._own, self._file = (self._own, self._file), None, None
        _end_record(*former)

    def others(self) -> List[Dict[str, Any]]:
        """The records of other agents that live and keep to their deadline, about this PgBouncer; `age` and
        `left` are seconds since they hold, and until that.
        """
        return [record for record in self._all(alive=True) if record["pooler"] == self._pooler]

    def own(self) -> List[str]:
        """The databases that are on our record still, wherever that has got to: another agent that ended a
        hold for everybody, or took us for dead, took them out.
        """
        if self._file is not None and self._id not in self._undone():
            with contextlib.suppress(*_NO_RECORD):
                return [str(name) for name in json.loads(_content(self._file))["databases"]]
        return []

    def take_from_others(self, databases: List[str]) -> None:
        """Nobody waits in these any more by what other agents have on record, whether they know it or not;
        the settings that they changed are theirs still. As long as before, in one write, for who reads it.
        """
        for path in self._not_ours():
            with contextlib.suppress(*_NO_RECORD):
                self._take_from(path, databases)

    def _take_from(self, path: str, databases: List[str]) -> None:
        with _file_of_ours(path) as file:
            content = _content(file)
            record = json.loads(content)
            if record["pooler"] == self._pooler:
                rest = [name for name in record["databases"] if name not in databases]
                changed = json.dumps(dict(record, databases=rest)).encode("ascii")
                os.pwrite(file, changed.ljust(len(content)), 0)

    def are_more(self) -> bool:
        """Whether there is any record but ours, whoever it is of and whatever it is about."""
        return bool(self._not_ours())

    def _not_ours(self) -> List[str]:
        spared, undone = {self._own, *self._done}, self._undone()
        return [
            path for path in self._paths(_MARK) if path not in spared and _end_of(path, _MARK) not in undone
        ]

    def _undone(self) -> Set[str]:
        """The ids of records that are told to be undone."""
        return {_end_of(path, _UNDONE) for path in self._paths_elsewhere(_UNDONE)}

    def _paths(self, mark: str) -> List[str]:
        """In both places."""
        return _paths(self._beside + mark) + self._paths_elsewhere(mark)

    def _paths_elsewhere(self, mark: str) -> List[str]:
        return _paths(self._away + mark) if _is_ours_alone(self._elsewhere) else []

    def left(self) -> List[Dict[str, Any]]:
        """The records of agents that are dead, or frozen past their deadline, about this PgBouncer, to be
        removed once they are undone.
        """
        self._sweep()
        return [record for record in self._all(alive=False) if record["pooler"] == self._pooler]

    def remove(self, left: List[Dict[str, Any]]) -> None:
        """They are undone, which whoever is thawed learns. What cannot be removed is looked at no more."""
        for record in left:
            if not _is_removed(record["path"]) and not self._is_told(record["path"]):
                self._done.add(record["path"])

    def _is_told(self, path: str) -> bool:
        """Whether whoever looks reads from now on that this record is undone."""
        told = self._away + _UNDONE + _end_of(path, _MARK)
        with contextlib.suppress(OSError):
            if self._has_elsewhere():
                os.close(os.open(told, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
                return True
        return False

    def _sweep(self) -> None:
        """Remove what could not be removed before, and what an agent left that was killed while it made its
        record, with nothing changed yet.
        """
        for told in self._paths_elsewhere(_UNDONE):
            name = _MARK + _end_of(told, _UNDONE)
            if _is_removed(self._beside + name) and _is_removed(self._away + name):
                with contextlib.suppress(OSError):
                    _unlink_file(told)
        for path in self._paths(_FRESH):
            with contextlib.suppress(OSError), _file_of_ours(path) as file:
                if not _is_locked(file):
                    _unlink_file(path)

    def _all(self, alive: bool) -> Iterator[Dict[str, Any]]:
        for path in self._not_ours():
            with contextlib.suppress(*_NO_RECORD):
                record = self._look_at(path, alive)
                if record is not None:
                    yield record

    def _look_at(self, path: str, alive: bool) -> Optional[Dict[str, Any]]:
        """The record, where its agent lives or not as asked for; a dead one's about a PgBouncer that has gone
        is removed.
        """
        file, is_locked = self._opened_record(path)
        try:
            if os.fstat(file).st_uid != os.geteuid():
                return None
            content, now = _content(file), _boot_time()
            if not content and not is_locked:  # emptied where it could not be removed
                _unlink_file(path)
            record = json.loads(content)
            left = float(record["until"]) - now
            if (is_locked and left > -OVERDUE) != alive:
                return None
            if (
                not alive
                and _kind(record["pooler"]) == _kind(self._pooler)
                and record["pooler"] != self._pooler
            ):
                with contextlib.suppress(OSError):
                    _unlink_file(path)
            return {
                "path": path,
                "pooler": str(record["pooler"]),
                "databases": [str(name) for name in record["databases"]],
                "settings": {str(name): str(value) for name, value in record["settings"].items()},
                "set_to": {str(name): str(value) for name, value in record["set_to"].items()},
                "age": now - float(record["began"]),
                "left": left,
            }
        finally:
            os.close(file)

    def _opened_record(self, path: str) -> Tuple[int, bool]:
        """And whether it is locked; if not, by one who has not just written another in its place: that one
        lives. It is looked at once, since whoever lives may write another at any moment.
        """
        while True:
            # a pipe of that name would keep us waiting for a writer
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                is_locked = _is_locked(file)
                if is_locked or os.fstat(file).st_ino == os.stat(path, follow_symlinks=False).st_ino:
                    return file, is_locked
            except OSError:
                os.close(file)
                raise
            os.close(file)


def _is_ours_alone(folder: str) -> bool:
    """Whether nobody else can have put anything there."""
    with contextlib.suppress(OSError):
        found = os.lstat(folder)
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return False


def _paths(prefix: str) -> List[str]:
    """Those that are there and begin so."""
    folder, name = os.path.split(prefix)
    with contextlib.suppress(OSError):
        return [os.path.join(folder, entry) for entry in os.listdir(folder) if entry.startswith(name)]
    return []


def _end_of(path: str, mark: str) -> str:
    return path.rpartition(mark)[2]


def _new_id() -> str:
    """Random, since containers share process ids."""
    return binascii.hexlify(os.urandom(6)).decode("ascii")


def _content(file: int) -> str:
    return os.pread(file, 1 << 20, 0).decode("ascii")


def _boot_time() -> float:
    """Seconds since the machine was started: one clock for all processes, and no record outlives it for long,
    since PgBouncer does not outlive the machine either.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _opened_lock(base: str) -> Optional[int]:
    """None where that cannot be had: another user may be in the way, which must not keep us from a hold."""
    with contextlib.suppress(OSError):
        return os.open(base + _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    return None


def _locked_file(path: str, content: bytes) -> int:
    """A new file, locked while it is open; none where it cannot be written whole."""
    _unlink_file(path)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.pwrite(file, content, 0) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)
        os.close(file)
        raise
    return file


def _end_record(path: Optional[str], file: Optional[int], but_for: Optional[str] = None) -> None:
    """It is removed, unless it has just been replaced by the one `but_for`, and its lock let go. Where it
    cannot be, for its folder is read-only by now, it is emptied: what is open still can be written.
    """
    if path is not None and file is not None and path != but_for:
        with contextlib.suppress(OSError):
            os.ftruncate(file, 0)
        with contextlib.suppress(OSError):
            os.unlink(path)
    if file is not None:
        os.close(file)


def _is_removed(path: str) -> bool:
    """Whether it is there no more. If it is ours it is emptied before, for who has it open still."""
    with contextlib.suppress(OSError), _file_of_ours(path) as file:
        os.ftruncate(file, 0)
    with contextlib.suppress(OSError):
        _unlink_file(path)
        return True
    return False


@contextlib.contextmanager
def _file_of_ours(path: str) -> Iterator[int]:
    """To be read and written; OSError where it is a link, or another account's."""
    file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(file).st_uid != os.geteuid():
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        yield file
    finally:
        os.close(file)


def _unlink_file(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _wait_for(lock: int, until: float) -> None:
    while _is_locked(lock) and time.monotonic() < until:
        time.sleep(0.001)


def _is_locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _kind(pooler: str) -> str:
    """By what it is known: the same one may be known by its process to some and by its socket to others."""
    return re.sub("[0-9 ]+", " ", pooler)


def identity(pooler: socket.socket) -> str:
    """Which process answers at the other end, by a word that another never has; empty where that cannot be
    told. Where its process cannot be seen it is known by its socket, which is made anew at each start.
    """
    if pooler.family != socket.AF_UNIX:
        return _listener(pooler)
    with contextlib.suppress(OSError, IndexError):
        pid = struct.unpack("3i", pooler.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        with open("/proc/%d/stat" % pid) as told:
            started = told.read().rpartition(")")[2].split()[19]
        return "%d since %s" % (pid, started)
    with contextlib.suppress(OSError):
        found = os.stat(pooler.getpeername())
        return "socket %d since %d" % (found.st_ino, found.st_ctime_ns)
    return ""


def _listener(pooler: socket.socket) -> str:
    """The kernel's number of the socket that listens at the other end, which is on this host."""
    table, port = ("tcp6" if pooler.family == socket.AF_INET6 else "tcp"), pooler.getpeername()[1]
    with contextlib.suppress(OSError, IndexError, ValueError):
        with open("/proc/net/" + table) as lines:
            found = [line.split() for line in lines][1:]
        numbers = [row[9] for row in found if row[3] == "0A" and int(row[1].split(":")[1], 16) == port]
        return "listener %s" % " ".join(sorted(numbers)) if numbers else ""
    return ""
