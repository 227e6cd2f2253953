"""The file on its own host: read whole, replaced untorn, one request a line."""

import argparse
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from typing import Any, Callable, Dict, Iterator, List, Optional

from watcher.apply.agent.wire import ENDLESS, LONGEST, PROTOCOL, Refused, say

MAX_FILE = 16 * 1024 * 1024
MAX_MEMORY = 768 * 1024 * 1024


def read(path: str) -> bytes:
    """The whole file."""
    with open(path, "rb") as file:
        return _whole(file.fileno())


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write(path: str, expect: str, content: bytes, way: str, limit: float) -> None:
    """Replaces the file if its digest still is `expect`; `way` is auto, rename or in_place.

    Takes a lock on the folder, so that watchers wait for each other, at most `limit` seconds.
    """
    path = os.path.realpath(path)
    until = time.monotonic() + limit
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(folder, until)
        if way == "in_place" or (way == "auto" and _is_mount(path)):
            _write_in_place(path, expect, content, until)
        else:
            _write_and_rename(path, expect, content, folder)
    finally:
        os.close(folder)


def probe(path: str, way: str, limit: float) -> None:
    """Goes as far as a write goes before it changes the file, so that it fails where a write would."""
    path = os.path.realpath(path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(folder, time.monotonic() + limit)
        if way == "in_place" or (way == "auto" and _is_mount(path)):
            os.close(os.open(path, os.O_RDWR))
        else:
            with _fresh(path, read(path), folder):
                pass
    finally:
        os.close(folder)


def _lock(folder: int, until: float) -> None:
    def attempt() -> bool:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True

    if not _insist(attempt, until):
        raise Refused("locked", "another watcher has kept the folder's lock for too long")


def _insist(attempt: Callable[[], bool], until: float) -> bool:
    """Tries until it succeeds or the time is over; EAGAIN says «not now»."""
    while True:
        try:
            return attempt()
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
        if time.monotonic() >= until:
            return False
        time.sleep(0.002)


def _is_mount(path: str) -> bool:
    """Whether the file is a mount of its own, which cannot be renamed over (EBUSY)."""
    try:
        with open("/proc/self/mountinfo", "rb") as mounts:
            points = [line.split()[4] for line in mounts]
    except (OSError, IndexError):
        return False
    escaped = os.fsencode(path).replace(b"\\", b"\\134").replace(b" ", b"\\040").replace(b"\t", b"\\011")
    return escaped in points


def _write_and_rename(path: str, expect: str, content: bytes, folder: int) -> None:
    with _fresh(path, content, folder) as fresh:
        _compare(read(path), expect)
        os.rename(fresh, os.path.basename(path), src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


@contextlib.contextmanager
def _fresh(path: str, content: bytes, folder: int) -> Iterator[str]:
    """A new file to be renamed, under one name, so that a killed writer leaves one at most.

    Only under the folder's lock: the one of another writer is not ours to remove.
    """
    fresh = "." + os.path.basename(path) + ".watcher-new"
    _unlink(fresh, folder)
    try:
        _make(fresh, path, content, folder)
        yield fresh
    finally:
        _unlink(fresh, folder)


def _make(fresh: str, like: str, content: bytes, folder: int) -> None:
    """A new file beside the old one, on the disk, with the old one's owner, mode and attributes."""
    file = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=folder)
    try:
        _write_all(file, content, 0)
        _keep_attributes(file, like)
        _keep_owner(file, os.stat(like))  # behind the access list, which is part of the mode
        os.fsync(file)
    finally:
        os.close(file)


def _keep_owner(file: int, old: os.stat_result) -> None:
    new = os.fstat(file)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.fchown(file, old.st_uid, old.st_gid)
        except OSError as error:
            raise Refused("owner", f"cannot keep its owner {old.st_uid}:{old.st_gid}") from error
    os.fchmod(file, old.st_mode & 0o7777)


def _keep_attributes(file: int, like: str) -> None:
    """Access lists and security labels; a file system that has none says so and loses none."""
    try:
        names = os.listxattr(like)
        surplus = set(os.listxattr(file)) - set(names)
    except OSError:
        return
    for name in surplus:  # what the folder gives to new files (a default access list)
        with contextlib.suppress(OSError):
            os.removexattr(file, name)
    for name in names:
        value = os.getxattr(like, name)
        try:
            if os.getxattr(file, name) == value:
                continue
        except OSError:
            pass
        try:
            os.setxattr(file, name, value)
        except OSError as error:
            raise Refused(
                "attributes", f"cannot keep attribute {name}: {os.strerror(error.errno or 0)}"
            ) from error


def _unlink(name: str, folder: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _write_in_place(path: str, expect: str, content: bytes, until: float) -> None:
    """For a file that is a mount of its own. A lease keeps every reader at its open() meanwhile.

    The kernel grants the lease only while nobody else has the file open, and makes whoever opens it
    wait until we let go (fcntl(2), F_SETLEASE), so no reader sees a part.
    """
    file = os.open(path, os.O_RDWR)
    try:
        _lease(file, until)
        old = _whole(file)
        _compare(old, expect)
        _overwrite(file, old, content)
        os.fsync(file)
    finally:
        os.close(file)  # lets go of the lease


def _overwrite(file: int, old: bytes, content: bytes) -> None:
    """Between its steps the file is the old or the new text, followed by empty lines at most.

    So a full disk, or a writer that is killed, leaves one of them. (Not if it is killed within the one
    system call that writes more than a page: the kernel may stop there between two pages.)
    """
    try:
        _write_all(file, b"\n" * (len(content) - len(old)), len(old))  # takes all the room that it needs
        _write_all(file, content.ljust(len(old), b"\n"), 0)
    except OSError:
        os.ftruncate(file, len(old))
        _write_all(file, old, 0)
        raise
    os.ftruncate(file, len(content))


def _lease(file: int, until: float) -> None:
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # the kernel's word that somebody waits; its default kills

    def attempt() -> bool:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        return True

    try:
        granted = _insist(attempt, until)
    except OSError as error:
        raise _no_lease(error) from error
    if not granted:
        raise Refused("busy", "is kept open by another process, so it cannot be written without being torn")


def _no_lease(error: OSError) -> Refused:
    if error.errno == errno.EACCES:
        return Refused("lease", "must be written in place, which only the account that owns it can do untorn")
    reason = os.strerror(error.errno or 0)
    return Refused("mount", f"must be written in place, and its file system grants no lease ({reason})")


def _compare(content: bytes, expect: str) -> None:
    if digest(content) != expect:
        raise Refused("changed", "is not what it was when it was read")


def _whole(file: int) -> bytes:
    if os.fstat(file).st_size > MAX_FILE:
        raise Refused("large", f"has more than {MAX_FILE} bytes")
    os.lseek(file, 0, os.SEEK_SET)
    parts: List[bytes] = []
    while True:
        part = os.read(file, 1 << 20)
        if not part:
            return b"".join(parts)
        parts.append(part)


def _write_all(file: int, content: bytes, at: int) -> None:
    """One system call, unless the disk is full."""
    while content:
        count = os.pwrite(file, content, at)
        at, content = at + count, content[count:]


# --- one request a line -----------------------------------------------------------------------------


def answer(request: Dict[str, Any], options: argparse.Namespace) -> Dict[str, Any]:
    """What the request asks for, or the reason why not; never an exception."""
    try:
        return _carry_out(request, options)
    except Refused as error:
        return {"error": error.code, "problem": error.problem}
    except OSError as error:
        return {
            "error": errno.errorcode.get(error.errno or 0, "OSError"),
            "problem": os.strerror(error.errno or 0),
            "file": options.file,
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return {"error": "request", "problem": repr(error)}


def _carry_out(request: Dict[str, Any], options: argparse.Namespace) -> Dict[str, Any]:
    verb = request["verb"]
    if verb == "read":
        return _read(request, options.file)
    if verb == "write":
        content = _encode(request["text"])
        if options.bounds.is_set:
            _check_bounds(request["expect"], content, options)
        write(options.file, request["expect"], content, options.write, options.limit)
        return {"digest": digest(content)}
    if verb == "probe":
        probe(options.file, options.write, options.limit)
        _probe_bounds(request.get("addresses", []), options)
        return _own_line(request.get("file", options.file), options)
    if verb == "reload":
        return _reload(options.reload_command, options.limit)
    raise Refused("request", f"unknown verb {verb!r}")


def _own_line(wanted: str, options: argparse.Namespace) -> Dict[str, Any]:
    """What our command line settles, whatever the watcher's settings say."""
    is_another = os.path.realpath(options.file) != os.path.realpath(wanted)
    return {
        "other_file": options.file if is_another else None,
        "bounded": options.bounds.is_set,
        "any_address": options.bounds.allows_any_address,
    }


def _probe_bounds(addresses: List[List[Any]], options: argparse.Namespace) -> None:
    """Whether the block that may be written is there, and clients may be sent to each of these."""
    text = read(options.file)
    options.bounds.check_text(text, text)
    refused = []
    for host, port in addresses:
        try:
            options.bounds.check_address(str(host), str(port))
        except Refused as error:
            refused.append(error.problem)
    if refused:
        raise Refused("bounds", "; ".join(refused))


def _check_bounds(expect: str, content: bytes, options: argparse.Namespace) -> None:
    """Of the text that is there by now; the write compares again, so it is about the same one."""
    old = read(options.file)
    _compare(old, expect)
    options.bounds.check_text(old, content)


def _read(request: Dict[str, Any], path: str) -> Dict[str, Any]:
    content = read(path)
    found = digest(content)
    if found == request.get("known"):
        return {"digest": found}
    return {"digest": found, "text": content.decode("utf-8", "surrogateescape")}


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _reload(command: Optional[str], limit: float) -> Dict[str, Any]:
    if not command:
        raise Refused("request", "no reload command was given")
    with subprocess.Popen(  # noqa: S602 # nosec B602 # whoever set the agent up wrote it, for a shell
        command,
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=os.setsid,
    ) as child:
        said = _what_it_says(child, time.monotonic() + limit)
        if said is None:
            os.killpg(child.pid, signal.SIGKILL)
            raise Refused("reload", f"did not end within {limit} s")
    if child.returncode != 0:
        tail = said.decode("utf-8", "replace").strip()[-200:]
        raise Refused("reload", f"exit code {child.returncode}: {tail}")
    return {}


def _what_it_says(child: "subprocess.Popen[bytes]", until: float) -> Optional[bytes]:
    """Until it ends, None if not in time. What it leaves in the background may keep its output open."""
    assert child.stdout is not None  # noqa: S101 - a pipe
    said = b""
    while True:
        ended = child.poll() is not None
        while select.select([child.stdout], [], [], 0)[0]:
            chunk = os.read(child.stdout.fileno(), 65536)
            if not chunk:
                break
            said = (said + chunk)[-4096:]
        if ended:
            return said
        if time.monotonic() >= until:
            return None
        time.sleep(0.005)


def _bound_memory() -> None:
    """A few bytes of JSON can stand for much: whoever holds the key takes no host its memory."""
    with contextlib.suppress(OSError, ValueError):  # a lower limit is there already
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))


def serve(options: argparse.Namespace) -> None:
    """Answers requests until standard input ends, or a line does not."""
    if options.bounds.is_set:
        _bound_memory()
    say({"agent": PROTOCOL})
    for line in iter(lambda: sys.stdin.buffer.readline(LONGEST), b""):
        if len(line) == LONGEST:
            say(ENDLESS)
            return
        try:
            request = json.loads(line.decode("ascii"))
        except (ValueError, RecursionError, MemoryError):
            say({"error": "request", "problem": "not a line of JSON"})
            continue
        say(answer(request, options))
