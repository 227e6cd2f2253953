"""The agent beside PgBouncer that lets its clients wait (`agent/hold.py`), as seen from here.

One channel and a reader thread for it, since the agent also speaks unasked: a hold is complete, or has
ended, or the server it watches refuses connections. What it says is kept in `held` and `guard`, and told to
the callbacks. Its two consoles are logged in to by pg8000 through the agent, so no password leaves here.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from watcher.apply.agent_link import FROZEN_HINT, NO_THREAD_HINT, Place, Stream, parse_reply, read_line
from watcher.apply.console import COLUMNS, Console, ConsoleAccess
from watcher.apply.greetings import Greetings, greeting
from watcher.decide.errors import PrimaryRefuses, TargetError, TargetUnreachable
from watcher.decide.model import Endpoint, Held

CONSOLES = ("control", "pause")
GRACE = 0.2
"""Seconds by which the agent's own deadline is later than the watcher's: the watcher, where it lives, ends a
hold by its own word."""

LOGIN_AS = "pgbouncer_watcher"
"""The role that greetings name. It need not exist: whatever the server answers, it takes logins."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How holds are kept on one target. `on_refusal` is the longest hold, in seconds, that the agent begins
    by itself when the server it watches refuses connections; None: none. `cut_after` seconds after a release
    connections that are still in use on the old server are ended; None: never.
    """

    on_refusal: float | None = 60.0
    close_sessions: bool = True
    cut_after: float | None = 2.0
    login_as: str = LOGIN_AS


@dataclass(frozen=True, slots=True)
class Ear:
    """Who is told what the agent says unasked. Called in its reader's thread; must be quick.

    `changed` for every change of `held`; `alarm` with what the guard found, `reader` with what that of a
    server for reads did; `ended` with why a hold ended without us and how long it was; `cut` with how many
    old connections were ended, and how; `left` with the databases that an agent before us had left paused,
    and that are not any more; `differs` where the file or what PgBouncer shows is not what it was at our last
    look, just before `changed`.
    """

    changed: Callable[[], None] = lambda: None
    differs: Callable[[], None] = lambda: None
    alarm: Callable[[Endpoint, bool, str], None] = lambda *_: None
    reader: Callable[[Endpoint, bool, str], None] = lambda *_: None
    ended: Callable[[str, float], None] = lambda *_: None
    cut: Callable[[int, str], None] = lambda *_: None
    left: Callable[[tuple[str, ...]], None] = lambda _: None


class Holding:
    """Holds on one target. Steps come from one thread; `held` may be read by any. `held_somebody` is whether
    the last hold had a database in it at any time: those that somebody else resumes leave it. `watches` is
    whether the agent looks itself since our last word, which was a look, and has seen nothing new.

    Every call is bounded by `limit` seconds and raises TargetError. Whatever happens to us, the agent ends
    its holds: when the channel ends, or at the limit that was asked for.
    """

    def __init__(
        self,
        place: Place,
        access: ConsoleAccess,
        terms: Terms,
        limit: float,
        ear: Ear,
        clock: Callable[[], float],
        greetings: Greetings | None = None,
    ) -> None:
        """By `greetings` one agent greets a primary for several."""
        self.held: Held | None = None
        self.held_somebody = False
        self.guard: Endpoint | None = None
        self.read_guards: tuple[Endpoint, ...] = ()
        self.watches = False
        self._alarmed = False
        self._refusing: set[Endpoint] = set()
        self._place = place
        self._access = access
        self._terms = terms
        self._limit = limit
        self._ear = ear
        self._clock = clock
        self._name = f"{place.name} hold"
        self._greetings = greetings
        self._refused_since: float | None = None
        """The hold in which our own greeting was refused: perhaps it is our host that cannot get there."""
        self._noting = threading.Lock()
        self._stream: Stream | None = None
        self._replies: queue.SimpleQueue[dict[str, Any] | Exception] = queue.SimpleQueue()

    @property
    def connected(self) -> bool:
        return self._stream is not None

    def open(self) -> None:
        """Be ready to hold; ends what a dead agent left behind. Idempotent."""
        if self._stream is not None:
            return
        stream = self._place.open("hold")
        stream.settimeout(None)
        self._replies = queue.SimpleQueue()
        self._stream, self.held, self.guard, self.read_guards = stream, None, None, ()
        reader = threading.Thread(
            target=self._read, args=(stream, self._replies), name=self._name, daemon=True
        )
        try:
            self._start(reader)
            for console in CONSOLES:
                self._log_in(console)
            left = _names_in(self._ask(verb="begin").get("left"))
        except BaseException:
            self.close()
            raise
        if left:
            self._ear.left(left)

    def _start(self, reader: threading.Thread) -> None:
        try:
            reader.start()
        except RuntimeError as error:
            raise TargetUnreachable(self._name, str(error), NO_THREAD_HINT) from error

    def look(self, known: str, every: float) -> dict[str, Any]:
        """`token` of what the file and PgBouncer show; where it is another than the `known` one also `file`,
        the digest of its text, and `shown`, the rows of SHOW DATABASES. TargetRefused by an agent that does
        not know how. Then the agent looks itself `every` so many seconds; an older one does not, see
        `watches`.
        """
        return self._ask(verb="look", known=known, columns=list(COLUMNS), every=every)

    def hold(self, databases: Iterable[str], all_but: Iterable[str] | None, until: float) -> None:
        """Let clients of these databases wait until then at the latest, of every other than `all_but` too
        where that is given; returns once new ones wait.
        """
        self.open()
        limit = max(0.0, until - self._clock()) + GRACE
        self._ask(verb="hold", limit=limit, **_asked(databases, all_but))

    def release(
        self,
        endpoint: Endpoint | None,
        reload: bool,
        goals: Mapping[str, Endpoint],
        moves: Iterable[str] = (),
        *,
        greets: bool = True,
    ) -> list[dict[str, Any]] | None:
        """Let clients go on; the rows of SHOW DATABASES, None if nothing was held. See `model.Release`.

        `goals` is where each database has to lead by then; `moves` are those for reads which the reload leads
        elsewhere. Unless somebody else `greets` the server, it has to take a login first.
        """
        terms = self._terms
        request: dict[str, Any] = {"verb": "release", "reload": reload, "sure": endpoint is not None}
        if reload:
            request["moves"] = list(moves)
        if endpoint is not None:
            request["expect"] = _expected(goals)
            request["greet"] = [endpoint.host, endpoint.port, terms.login_as] if greets else None
            request["close_sessions"] = terms.close_sessions
            request["cut_after"] = terms.cut_after
        held = self.held
        since = None if held is None else held.since
        itself = since == self._refused_since
        whom = endpoint if greets else None
        with self._noting_refusal(since), greeting(self._greetings, whom, since, itself=itself) as ours:
            if since is not None and request.get("greet") and not ours.is_needed:
                request["vouched_at"] = self._clock() - since
            shown: list[dict[str, Any]] | None = self._ask(**request).get("shown")
            ours.took = shown is not None
        return shown

    @contextlib.contextmanager
    def _noting_refusal(self, since: float | None) -> Iterator[None]:
        try:
            yield
        except PrimaryRefuses:
            self._refused_since = since
            if self._greetings is not None:
                self._greetings.refused()
            raise

    def watch(self, endpoint: Endpoint, databases: Iterable[str], all_but: Iterable[str] | None) -> None:
        """Watch that server from now on; a refusal begins a hold there and then, where the terms say so."""
        self.open()
        limit = self._terms.on_refusal
        hold = None if limit is None else {"limit": limit + GRACE, **_asked(databases, all_but)}
        where = {"host": endpoint.host, "port": endpoint.port, "user": self._terms.login_as}
        if self._alarmed and self.guard is not None:
            self._ear.alarm(self.guard, False, "it is not watched any more")
        self._alarmed, self.guard = False, endpoint  # before the request: the answer may be an alarm
        try:
            self._ask(verb="guard", hold=hold, **where)
        except TargetError:
            self.guard = None  # to be asked for again
            raise

    def move(self, goals: Mapping[str, Endpoint]) -> list[dict[str, Any]]:
        """Make PgBouncer read its file, by which these databases for reads lead elsewhere: no client is
        turned away, and what runs in them goes on. The rows of SHOW DATABASES. Refused while anybody is held.
        """
        self.open()
        rows: list[dict[str, Any]] = self._ask(verb="move", databases=list(goals), expect=_expected(goals))[
            "shown"
        ]
        return rows

    def watch_readers(self, endpoints: tuple[Endpoint, ...], databases: Iterable[str]) -> None:
        """Watch these servers for reads from now on, and no others. Where one refuses, clients of `databases`
        that lead there wait for a moment, in which they may be led elsewhere.
        """
        self.open()
        for gone in self._refusing - set(endpoints):
            self._ear.reader(gone, False, "it is not watched any more")
        self._refusing &= set(endpoints)
        self.read_guards = endpoints
        where = [[one.host, one.port] for one in endpoints]
        names = list(databases)
        try:
            self._ask(verb="readers", endpoints=where, databases=names, user=self._terms.login_as)
        except TargetError:
            self.read_guards = ()
            raise

    def close(self) -> None:
        """Ends the channel, and with it every hold."""
        with self._noting:
            stream, self._stream = self._stream, None
        self._forget()
        if stream is not None:
            stream.close()

    def _forget(self) -> None:
        """What a guard that is gone has seen does not count any more; the next one looks anew."""
        guard, self.guard, self.held = self.guard, None, None
        alarmed, self._alarmed = self._alarmed, False
        if alarmed and guard is not None:
            self._ear.alarm(guard, False, "its guard has gone")
        refusing, self._refusing, self.read_guards = self._refusing, set(), ()
        for endpoint in refusing:
            self._ear.reader(endpoint, False, "its guard has gone")

    # --- asking ---------------------------------------------------------------------------------------

    def _log_in(self, console: str) -> None:
        """By pg8000, through the agent; its object is not used any more then: the agent goes on."""
        self._ask(verb="dial", console=console)
        access = ConsoleAccess(user=self._access.user, password=self._access.password)
        stream = _Tunnel(lambda sent: self._pass(console, sent))
        Console(self._place.name, access, lambda: stream, self._limit).log_in()

    def _pass(self, console: str, sent: bytes) -> bytes:
        reply = self._ask(verb="pass", console=console, bytes=base64.b64encode(sent).decode("ascii"))
        return base64.b64decode(reply["bytes"])

    def _ask(self, **request: Any) -> dict[str, Any]:
        stream = self._stream
        if stream is None:
            raise TargetUnreachable(self._name, "the connection broke", "it is opened anew")
        try:
            stream.sendall(json.dumps(request).encode("ascii") + b"\n")
            reply = self._replies.get(timeout=self._limit)
        except queue.Empty as error:
            self.close()
            raise TargetUnreachable(self._name, f"no answer within {self._limit:g} s", FROZEN_HINT) from error
        except (OSError, EOFError) as error:
            self.close()
            raise TargetUnreachable(
                self._name, f"the connection broke: {error}", "it is opened anew"
            ) from error
        if isinstance(reply, TargetUnreachable):
            self.close()
        if isinstance(reply, Exception):  # a refusal leaves the hold as it is
            raise reply
        return reply

    # --- hearing --------------------------------------------------------------------------------------

    def _read(self, stream: Stream, replies: queue.SimpleQueue[dict[str, Any] | Exception]) -> None:
        """The reader's thread, until the channel ends."""
        pending = bytearray()
        try:
            while True:
                self._hear(read_line(stream, None, pending), stream, replies)
        except Exception as error:  # whatever it is, nothing is heard from here on
            problem = f"the connection broke: {error!r}"
            replies.put(TargetUnreachable(self._name, problem, "it is opened anew"))
            stream.close()
        with self._noting:
            was_open = self._stream is stream
            if was_open:
                self._stream = None
        if was_open:
            self._forget()
            self._ear.changed()

    def _hear(
        self, line: bytes, stream: Stream, replies: queue.SimpleQueue[dict[str, Any] | Exception]
    ) -> None:
        """All that tells of the hold is noted here, in the order in which the agent said it: what comes right
        behind an answer must not be undone by whoever waited for that answer.
        """
        said = _object(line)
        if "event" in said:
            if self._stream is stream:
                self._heed(said, stream)
            return
        if "held" in said:
            self._note(said, stream)
        self.watches = said.get("watches") is True
        try:
            replies.put(parse_reply(line, self._name))
        except TargetError as error:
            replies.put(error)

    def _heed(self, said: Mapping[str, Any], stream: Stream) -> None:
        event = said["event"]
        if event == "cut":
            self._ear.cut(int(said["count"]), str(said["how"]))
            return
        if event == "left":
            self._ear.left(tuple(said["databases"]))
            return
        if event == "reader":
            self._heed_reader(Endpoint(str(said["host"]), int(said["port"])), bool(said["refuses"]), said)
            return
        if event == "differs":
            self.watches = False
            self._ear.differs()
            self._ear.changed()
            return
        if event == "ended":
            self._note({}, stream)
            self._ear.ended(str(said["why"]), float(said["held_for"]))
        else:
            self._note(said, stream)
        if event == "alarm":
            endpoint = Endpoint(str(said["host"]), int(said["port"]))
            self._alarmed = bool(said["refuses"])
            if self._alarmed and self._greetings is not None:
                self._greetings.refused()
            self._ear.alarm(endpoint, bool(said["refuses"]), str(said["why"]))
        self._ear.changed()

    def _heed_reader(self, endpoint: Endpoint, refuses: bool, said: Mapping[str, Any]) -> None:
        (self._refusing.add if refuses else self._refusing.discard)(endpoint)
        self._ear.reader(endpoint, refuses, str(said["why"]))

    def _note(self, status: Mapping[str, Any], stream: Stream) -> None:
        """What an agent says whose stream was closed meanwhile does not count any more."""
        with self._noting:
            if self._stream is not stream:
                return
            if not status.get("held"):
                self.held = None
                return
            now, known = self._clock(), self.held
            self.held_somebody = bool(status["databases"]) or (known is not None and self.held_somebody)
            self.held = Held(
                databases=tuple(status["databases"]),
                since=now - float(status["age"]) if known is None else known.since,
                until=now + float(status["left"]) - GRACE,
                complete=bool(status["complete"]),
            )


def _asked(databases: Iterable[str], all_but: Iterable[str] | None) -> dict[str, Any]:
    return {"databases": list(databases), "all_but": None if all_but is None else list(all_but)}


def _expected(goals: Mapping[str, Endpoint]) -> dict[str, Any]:
    return {name: [endpoint.host, endpoint.port] for name, endpoint in goals.items()}


def _names_in(told: object) -> tuple[str, ...]:
    return tuple(map(str, told)) if isinstance(told, list) else ()


def _object(line: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        said = json.loads(line)
        if isinstance(said, dict):
            return said
    return {}


class _Tunnel:
    """A `Stream` for pg8000's login: what it sends goes out when it waits for the answer."""

    def __init__(self, exchange: Callable[[bytes], bytes]) -> None:
        self._exchange = exchange
        self._unsent = b""
        self._unread = b""

    def settimeout(self, timeout: float | None, /) -> None:
        """Each exchange is bounded already."""

    def sendall(self, data: bytes, /) -> None:
        self._unsent += data

    def recv(self, size: int, /) -> bytes:
        if not self._unread:
            sent, self._unsent = self._unsent, b""
            self._unread = self._exchange(sent)
        chunk, self._unread = self._unread[:size], self._unread[size:]
        return chunk

    @property
    def ended(self) -> bool:
        return False

    def close(self) -> None:
        """The agent keeps the connection."""

    def makefile(self, mode: Literal["rwb"]) -> io.BufferedRWPair:
        del mode  # the only one
        return io.BufferedRWPair(_TunnelFile(self), _TunnelFile(self))


class _TunnelFile(io.RawIOBase):
    def __init__(self, tunnel: _Tunnel) -> None:
        super().__init__()
        self._tunnel = tunnel

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        chunk = self._tunnel.recv(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def write(self, data: Any, /) -> int:
        self._tunnel.sendall(bytes(data))
        return len(data)
