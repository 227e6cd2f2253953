"""Speaks with an agent (`agent/`) over any byte stream: an SSH channel, or a socket to a child process."""

from __future__ import annotations

import json
import time
from typing import Any, Literal, Protocol

from watcher.apply.agent.wire import PROTOCOL
from watcher.decide.errors import FileChanged, PrimaryRefuses, TargetError, TargetRefused, TargetUnreachable


class Stream(Protocol):
    """A connected socket, or what behaves like one. Time-outs raise TimeoutError, other ends OSError.

    `ended` is whether the other side has ended, where nothing was to be expected from it. `makefile` is for
    pg8000, which reads and writes through a buffered file of mode `rwb`.
    """

    def settimeout(self, timeout: float | None, /) -> None: ...
    def recv(self, size: int, /) -> bytes: ...
    def sendall(self, data: bytes, /) -> None: ...
    @property
    def ended(self) -> bool: ...
    def makefile(self, mode: Literal["rwb"]) -> Any: ...
    def close(self) -> None: ...


class Place(Protocol):
    """Where agents are started: beside PgBouncer, over SSH or as a child process.

    `open` starts one that does `word` and gives its stream once it has said that it is there. It takes
    at most the place's own limit, and raises TargetUnreachable or TargetRefused. `close` ends all
    streams; the next `open` connects anew. One thread at a time.
    """

    name: str

    def open(self, word: str) -> Stream: ...
    def close(self) -> None: ...
    @property
    def connected(self) -> bool: ...


def agent_words(size: int) -> list[str]:
    """Arguments for a Python that runs an agent whose source of `size` bytes comes first on its input."""
    run = f"import sys;exec(compile(sys.stdin.buffer.read({size}),'agent.py','exec'))"
    return ["-I", "-c", run]


_HINTS = {
    "EACCES": "give the account the right to write the file and its folder",
    "EPERM": "give the account the right to write the file and its folder",
    "EROFS": "the file system is read-only; find out why and mount it for writing",
    "ENOSPC": "the disk is full; make room",
    "EDQUOT": "the quota is used up; make room",
    "ENOENT": "the file is gone; restore it, or correct `targets.file`",
    "EBUSY": "the file cannot be renamed over; mount its folder, or set `write: in_place`",
    "attributes": "look at the access list and labels of the file",
    "owner": "use the account that owns the file",
    "large": "correct `targets.file`; that is no configuration",
    "locked": "see which process holds a lock on the folder: lslocks",
    "busy": "see which process keeps it open: lsof",
    "mount": "mount its folder instead of the file",
    "lease": "use the account that owns the file, or mount its folder instead of the file",
    "reload": "run the command by hand as the same account",
    "console": "is PgBouncer running there? is that where it listens? an agent that a key forces asks at"
    " its own `--console`",
    "route": "see PgBouncer's log; does it read this file itself, or a single-file mount of its old text? is"
    " a forced agent at that file (`--file`)?",
    "held": "it is done when they go on",
    "pause": "is the account an admin of PgBouncer? has an operator suspended or paused all of it?",
    "bounds": "see `--block` and `--allow` in this key's line of authorized_keys; is somebody else at it?"
    " reload the watcher (SIGHUP) once that line is right, for a connection that is open keeps the old one",
    "word": "where the key forces an installed agent, set `ssh.agent_command`, and see its options",
    "request": "is the agent of another version, or behind another forced command? install it anew",
}


FROZEN_HINT = "the host or the process there hangs; look at it, the watcher keeps trying"
NO_THREAD_HINT = "give the watcher more memory, or more threads (`TasksMax`, a container's limits)"
_BROKE = "see the host's sshd log, or the agent's last words above; the watcher connects again by itself"
_MAX_LINE = 64 * 1024 * 1024


def read_line(stream: Stream, until: float | None, pending: bytearray) -> bytes:
    """One line without its end. `pending` keeps what arrived behind it.

    Raises TimeoutError at `until` (monotonic seconds; None: never), OSError where the stream ends or never
    stops.
    """
    searched = 0
    while (at := pending.find(b"\n", searched)) < 0:
        searched = len(pending)
        if until is not None:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            stream.settimeout(left)
        chunk = stream.recv(65536)
        if not chunk:
            raise EOFError("the other side ended")
        pending += chunk
        if len(pending) > _MAX_LINE:
            raise OSError("an endless line")
    line = bytes(pending[:at])
    del pending[: at + 1]
    return line


def parse_reply(line: bytes, place: str) -> dict[str, Any]:
    """The answer of an agent, or the TargetError that it stands for."""
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError) as error:
        said = line[:120].decode("utf-8", "replace")
        raise TargetRefused(place, f"not an agent: it said {said!r}", _HINTS["request"]) from error
    if not isinstance(reply, dict):
        raise TargetRefused(place, "not an agent: its answer is no JSON object", _HINTS["request"])
    if "error" in reply:
        raise _refusal(place, str(reply["error"]), str(reply.get("problem", "")), reply.get("file"))
    return reply


def _refusal(place: str, code: str, problem: str, file: object = None) -> TargetError:
    """`file` is the agent's own, where it tells: behind a forced command it may be another than ours."""
    if code == "changed":
        return FileChanged(
            place, "somebody else wrote the file meanwhile", "nothing was written; it is read again"
        )
    if code == "login":
        return PrimaryRefuses(place, problem, "clients wait until it does, or the hold has lasted its limit")
    if code == "console":
        return TargetUnreachable(place, f"PgBouncer's console: {problem}", _HINTS["console"])
    hint = _HINTS.get(code, "")
    if isinstance(file, str) and not place.endswith(f" {file}"):
        problem = f"its agent is at {file}: {problem}"
        hint = (
            "where a key forces an agent, `--file` in its line of authorized_keys counts, not `targets.file`"
        )
    return TargetRefused(place, f"{problem} [{code}]", hint)


def greet(stream: Stream, place: str, limit: float) -> None:
    """Waits for the agent's first line. Raises what it says instead, or TimeoutError, OSError."""
    reply = parse_reply(read_line(stream, time.monotonic() + limit, bytearray()), place)
    if reply.get("agent") != PROTOCOL:
        problem = f"the agent there speaks version {reply.get('agent')!r}, we speak {PROTOCOL}"
        raise TargetRefused(place, problem, "install ours: watcher agent")


class AgentLink:
    """Requests and answers, one line of JSON each, every one bounded by `limit` seconds."""

    def __init__(self, stream: Stream, place: str, limit: float) -> None:
        self._stream = stream
        self._place = place
        self._limit = limit
        self._pending = bytearray()

    def request(self, **request: Any) -> dict[str, Any]:
        """The answer, or a TargetError. After TargetUnreachable the link is of no more use."""
        line = json.dumps(request).encode("ascii") + b"\n"
        until = time.monotonic() + self._limit
        try:
            self._stream.settimeout(self._limit)
            self._stream.sendall(line)
            reply = read_line(self._stream, until, self._pending)
        except TimeoutError as error:
            raise TargetUnreachable(
                self._place, f"no answer within {self._limit:g} s", FROZEN_HINT
            ) from error
        except (OSError, EOFError) as error:
            raise TargetUnreachable(self._place, f"the connection broke: {error}", _BROKE) from error
        return parse_reply(reply, self._place)

    @property
    def ended(self) -> bool:
        """Whether the agent has: it says nothing that it is not asked for."""
        return self._stream.ended

    def close(self) -> None:
        self._stream.close()
