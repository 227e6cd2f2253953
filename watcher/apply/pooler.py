"""One PgBouncer as the reconciler sees it: what it shows, and the steps it can take.

The same over SSH and beside it (`Place`), with a console or with a command that makes it reload.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from watcher.apply.agent_link import AgentLink, Place
from watcher.apply.console import Console, databases_in
from watcher.apply.holding import Holding
from watcher.decide.config_block import Block, MarkedFile, goal
from watcher.decide.decision import unconfirmed
from watcher.decide.errors import (
    NotConfirmed,
    PrimaryRefuses,
    TargetError,
    TargetRefused,
    TargetUnreachable,
    WatcherError,
)
from watcher.decide.model import (
    Actual,
    Confirm,
    ConsoleDatabase,
    Database,
    Endpoint,
    Held,
    Hold,
    Release,
    Reload,
    Role,
    Route,
    Step,
    Watch,
    WatchReaders,
    Write,
)

WHOLE_LOOK_EVERY = 60.0
"""Seconds after which what the agent that holds tells of file and console is not taken for a look at them,
nor that it tells nothing."""

_SETTLE_LIMIT = 1.0
_SETTLE_STEP = 0.02


@dataclass(frozen=True, slots=True)
class _Known:
    """The file as last seen."""

    file: MarkedFile
    digest: str
    at: float


@dataclass(frozen=True, slots=True)
class Rights:
    """What the agent's own command line settles there, whatever the settings say; an older one does not tell.

    `other_file`: what it reads and writes in place of `targets.file`.
    """

    other_file: str | None = None
    is_bounded: bool = True
    allows_any_address: bool = False


class Pooler:
    """One target. Not thread-safe: one worker owns it. Every call is bounded in time.

    `read()` looks at everything; `last` is what was seen last, None before the first look and after an
    error, other than that the agent refuses to watch a server. `take(step)` carries one step out and is
    idempotent; what it writes is written only over the text that was seen last, so a `last` of some seconds
    ago is as good as a fresh look. Its hold is as of now, and `let_go(…)` ends it whatever the file is like.
    While `is_watched` an agent there looks itself, `look_every` so many seconds, and tells what is new.
    Without `holding` its clients cannot be held.
    `replicas` are databases for reads, marked or not; `block_is_named` asks for markers with the name of
    `block`.
    Raises TargetError and BlockError.
    """

    def __init__(
        self,
        place: Place,
        *,
        file: str,
        block: str,
        console: Console | None,
        reloads_by_command: bool,
        step_limit: float,
        replicas: Collection[str] = (),
        block_is_named: bool = False,
        holding: Holding | None = None,
        look_every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = place.name
        self._last: Actual | None = None
        self._holding = holding
        self._hold_problem: TargetError | None = None
        self._place = place
        self._file = file
        self._block = block
        self._replicas = replicas
        self._block_is_named = block_is_named
        self._console = console
        self._reloads_by_command = reloads_by_command
        self._limit = step_limit
        self._look_every = look_every
        self._clock = clock
        self._sleep = sleep
        self._link: AgentLink | None = None
        self._known: _Known | None = None
        self._first_seen: tuple[Block, float] | None = None
        self._token = ""
        self._whole_look_at = float("-inf")
        self._reload_owed = False
        self._was_fallback: Endpoint | None = None
        self._went_on = False

    @property
    def last(self) -> Actual | None:
        """What was seen last; its hold as it is now."""
        if self._last is not None:
            self._last = self._with_hold(self._last)
        return self._last

    @property
    def held(self) -> Held | None:
        """Our hold as it is now, whatever else is known."""
        return None if self._holding is None else self._holding.held

    def read(self) -> Actual:
        """What the target shows now: its file, and its console where it has one.

        A console that does not answer shows nothing (`shown` empty, `console_problem` says why), so
        that the file is put right all the same.
        """
        with self._forgetting():
            self._last = self._with_hold(self._glance() or self._whole_look())
            return self._last

    def take(self, step: Step) -> None:
        """Carries one step out."""
        self._token = ""  # of what is there no longer: if it comes back, that is news
        with self._forgetting(step):
            match step:
                case Write(route):
                    self._write(route)
                case Reload():
                    self._reload()
                case Confirm(endpoint):
                    self._confirm(endpoint)
                case Hold(until):
                    self._can_hold().hold(*self._to_hold(), until)
                case Watch(endpoint):
                    self._can_hold().watch(endpoint, *self._to_hold())
                case WatchReaders(endpoints):
                    self._can_hold().watch_readers(endpoints, self._for_reads())
                case Release(endpoint, reload):
                    self._release(endpoint, reload)

    def let_go(self, endpoint: Endpoint | None, *, greets: bool = True) -> None:
        """Ends our hold, where there is one, by no look at the file: once that server takes a login, unless
        somebody else `greets` it, and only if PgBouncer leads there; with None wherever it leads.
        """
        holding = self._holding
        held = None if holding is None else holding.held
        if holding is not None and held is not None:
            goals = {} if endpoint is None else dict.fromkeys(held.databases, endpoint)
            with self._forgetting():
                holding.release(endpoint, reload=False, goals=goals, greets=greets)

    def preview(self, route: Route) -> tuple[str, str]:
        """The file's text as last read, and as `Write(route)` would leave it."""
        known = self._known or self._read_file()
        return known.file.text, known.file.led_to(route).text

    def check_rights(self, endpoints: Iterable[Endpoint] = ()) -> Rights:
        """Raises TargetRefused where a write, with each of these in it, or a reload would be refused; changes
        nothing. An installed agent that is older does not look at these.
        """
        addresses = [[one.host, one.port] for one in endpoints]
        told = self._request(verb="probe", file=self._file, addresses=addresses)
        if self._console is not None and not self._reloads_by_command:
            self._console.check_admin()
        other = told.get("other_file")
        return Rights(
            None if other is None else str(other),
            bool(told.get("bounded", True)),
            bool(told.get("any_address", False)),
        )

    def tuning(self) -> tuple[str, dict[str, str]] | None:
        """PgBouncer's version and live settings, in its own words; None where it has no console."""
        return (self._console.version(), self._console.config()) if self._console is not None else None

    def close(self) -> None:
        """Ends every connection, and with them our holds; the next call opens them anew."""
        self._drop_link()
        if self._holding is not None:
            self._holding.close()
        if self._console is not None:
            self._console.close()
        self._place.close()

    @property
    def connected(self) -> bool:
        can_hold = self._holding is None or self._holding.connected or self._hold_problem is not None
        return self._place.connected and self._link is not None and not self._link.ended and can_hold

    @property
    def is_watched(self) -> bool:
        """Whether the agent that holds would have told, had it seen anything else than `last`; not for longer
        than `WHOLE_LOOK_EVERY`, for one that hangs tells nothing.
        """
        if self._holding is None or self._token == "":
            return False
        return self._holding.watches and self.connected and not self._is_due_for_all

    # --- looking -------------------------------------------------------------------------------------

    @property
    def _is_due_for_all(self) -> bool:
        return self._clock() - self._whole_look_at >= WHOLE_LOOK_EVERY

    def _glance(self) -> Actual | None:
        """By one word of the agent that holds; None where it is time for more, or that is not all."""
        known, last = self._known, self._last
        if self._holding is None or known is None or last is None or not self.connected:
            return None
        if last.console_problem is not None or self._hold_problem is not None or self._is_due_for_all:
            return None
        shown = self._ask_who_holds(self._holding, known, last)
        return None if shown is None else self._actual(known, shown)

    def _ask_who_holds(
        self, holding: Holding, known: _Known, last: Actual
    ) -> tuple[ConsoleDatabase, ...] | None:
        """What PgBouncer shows, which is watched from now on; None where the file is not what is known of it,
        or the agent does not know how, or cannot read the file.
        """
        try:
            said = holding.look(self._token, self._look_every)
            if said.get("token") == self._token:
                return last.shown
            if said.get("file") != known.digest:
                return None
            shown = databases_in(said["shown"], f"{self.name} hold")
            self._token = self._told(said, "token")
        except (TargetRefused, KeyError, TypeError):
            return None
        return shown

    def _whole_look(self) -> Actual:
        self._token, self._whole_look_at = "", self._clock()
        known = self._read_file()
        shown, problem = self._read_console()
        self._be_ready_to_hold()
        if self._last is not None:
            self._have_watched(known, self._last, shown)  # else a step is near, before the file changes again
        return self._actual(known, shown, problem)

    def _read_file(self) -> _Known:
        reply = self._request(verb="read", known=self._known.digest if self._known else None)
        at = self._clock()  # behind the answer: who asks etcd later than this knows of more (see `fence`)
        if self._known is None or "text" in reply:
            text, digest = self._told(reply, "text"), self._told(reply, "digest")
            place = self._place_of_file()
            file = MarkedFile(text, self._block, place, self._replicas, self._block_is_named)
            self._known = self._seen(file, digest, at)
            self._owe_reload(file.block)
        return self._known

    def _owe_reload(self, block: Block) -> None:
        """For a text that somebody else wrote, an earlier watcher too: did PgBouncer read it? Where it has
        no console, or for databases made from `*`, it cannot be asked; one reload more settles it.
        """
        self._reload_owed |= self._console is None or any(db.name == "*" for db in block.databases)

    def _seen(self, file: MarkedFile, digest: str, at: float) -> _Known:
        """`at` is when this very block was first seen: looks that show no other do not outdate a proof, nor
        does what somebody writes beside it, however often.
        """
        if self._first_seen is None or self._first_seen[0] != file.block:
            self._first_seen = file.block, at
        return _Known(file, digest, self._first_seen[1])

    def _actual(
        self, known: _Known, shown: tuple[ConsoleDatabase, ...] | None, problem: WatcherError | None = None
    ) -> Actual:
        block = known.file.block
        return Actual(
            databases=block.databases,
            stamp=block.stamp,
            file_read_at=known.at,
            defined=block.defined,
            was_fallback=self._was_fallback,
            shown=shown,
            reload_owed=self._reload_owed,
            console_problem=problem,
        )

    def _read_console(self) -> tuple[tuple[ConsoleDatabase, ...] | None, TargetError | None]:
        if self._console is None:
            return None, None
        try:
            return self._console.databases(), None
        except TargetError as error:
            return (), error

    # --- holding ----------------------------------------------------------------------------------------

    def _be_ready_to_hold(self) -> None:
        """Opened before it is needed. Where it cannot be, the route is put right all the same."""
        self._hold_problem = None
        if self._holding is not None:
            try:
                self._holding.open()
            except TargetError as error:
                self._hold_problem = error

    def _have_watched(self, known: _Known, last: Actual, shown: tuple[ConsoleDatabase, ...] | None) -> None:
        """By the agent that holds, from now on; one that does not answer is none to hold with."""
        if self._holding is None or self._hold_problem is not None:
            return
        try:
            if self._ask_who_holds(self._holding, known, last) != shown:
                self._token = ""
        except TargetError as error:
            self._hold_problem = error

    def _with_hold(self, actual: Actual) -> Actual:
        holding = self._holding
        if holding is None:
            return actual
        held = holding.held
        self._went_on = self._went_on and held is None
        return actual.with_hold(
            can_hold=self._hold_problem is None
            and any(db.role is not Role.REPLICA for db in actual.databases),
            can_watch=self._hold_problem is None,
            held=held,
            guard=holding.guard,
            read_guards=holding.read_guards,
            hold_problem=self._hold_problem,
            went_on=self._went_on,
        )

    def _can_hold(self) -> Holding:
        if self._holding is None:
            raise TargetError(self.name, "its clients cannot be held", "set `console`")
        return self._holding

    def _to_hold(self) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
        """The databases of the block by name; with `*` in it also those that the file does not define, as
        PgBouncer has made them from it when the hold begins. Those for reads only if they lead to the
        primary.
        """
        block = (self._known or self._read_file()).file.block
        names = tuple(db.name for db in _of_primary(block.databases) if db.name != "*")
        makes_others = any(db.name == "*" for db in block.databases)
        return names, tuple(sorted(block.defined)) if makes_others else None

    def _release(self, endpoint: Endpoint | None, reload: bool) -> None:
        known = self._known or self._read_file()
        goals = {db.name: _goal(db, endpoint) for db in known.file.block.databases if db.name != "*"}
        holding = self._can_hold()
        held, held_somebody = holding.held, holding.held_somebody
        shown = holding.release(endpoint, reload, goals, self._moves())
        if shown is None:
            self._lead_those_who_go(endpoint, reload)
            return
        rows = databases_in(shown, f"{self.name} hold")
        going = {row.name for row in rows if not row.paused}  # already: that was looked at before the release
        self._went_on = held is not None and held_somebody and going.issuperset(held.databases)
        if self._last is None:
            return
        if reload:
            self._reload_owed = False
        self._last = replace(self._last, shown=rows, reload_owed=self._reload_owed)

    def _for_reads(self) -> list[str]:
        block = (self._known or self._read_file()).file.block
        return [db.name for db in block.databases if db.role is Role.REPLICA]

    def _moves(self) -> dict[str, Endpoint]:
        """The databases for reads that the file leads elsewhere than PgBouncer does, and where."""
        if self._last is None or self._last.shown is None:
            return {}
        shown = {row.name: (row.host, row.port) for row in self._last.shown}
        block = (self._known or self._read_file()).file.block
        return {
            db.name: db.endpoint
            for db in block.databases
            if db.role is Role.REPLICA
            and shown.get(db.name) not in (None, (db.endpoint.host, db.endpoint.port))
        }

    def _lead_those_who_go(self, endpoint: Endpoint | None, reload: bool) -> None:
        """The hold had ended by itself before our word came, and nothing was done with it."""
        if reload:
            self._reload()
        if endpoint is not None:
            self._confirm(endpoint)

    # --- steps ------------------------------------------------------------------------------------------

    def _write(self, route: Route) -> None:
        known = self._known or self._read_file()
        after, databases = known.file.led_to(route), known.file.block.databases
        led_elsewhere = {db.endpoint for db in databases if db.name == "*"} - {route.endpoint}
        self._was_fallback = next(iter(led_elsewhere), self._was_fallback)
        if any(goal(db, route) not in (None, db.endpoint) for db in databases):
            self._reload_owed = True  # before the write: its answer may get lost
        reply = self._request(verb="write", expect=known.digest, text=after.text)
        self._known = self._seen(after, self._told(reply, "digest"), self._clock())
        if self._last is not None:
            self._last = self._actual(self._known, self._last.shown, self._last.console_problem)

    def _reload(self) -> None:
        moves = self._moves()
        if self._reloads_by_command:
            self._request(verb="reload")
        elif moves and self._holding is not None and self._hold_problem is None:
            self._holding.move(moves)
        elif self._console is not None:
            self._console.reload()
        if self._console is None:
            self._reload_owed = False  # the command's exit code is all that there is to know

    def _confirm(self, endpoint: Endpoint) -> None:
        """PgBouncer reloads on its console at once; after a signal it may take a moment."""
        until = self._clock() + (_SETTLE_LIMIT if self._reloads_by_command else 0.0)
        while True:
            actual = self._look_after_reload()
            wrong = unconfirmed(actual, endpoint)
            if not wrong:
                break
            if self._clock() >= until:
                raise self._not_confirmed(wrong, actual, endpoint)
            self._sleep(_SETTLE_STEP)
        self._reload_owed = False
        self._last = replace(actual, reload_owed=False)

    def _look_after_reload(self) -> Actual:
        shown = self._console.databases() if self._console is not None else None
        return self._actual(self._known or self._read_file(), shown)

    def _not_confirmed(self, wrong: tuple[str, ...], actual: Actual, endpoint: Endpoint) -> NotConfirmed:
        rows = {row.name: row for row in actual.shown or ()}
        instead = ", ".join(
            f"{name} at {rows[name].host}:{rows[name].port}" if name in rows else f"{name} not at all"
            for name in wrong[:5]
        )
        return NotConfirmed(
            self.name,
            f"after RELOAD PgBouncer shows {instead} instead of {endpoint}",
            f"see PgBouncer's log; does it read {self._file} itself, or a single-file mount of its old text?"
            " is a forced agent at that file?",
        )

    # --- connections --------------------------------------------------------------------------------------

    def _request(self, **request: Any) -> dict[str, Any]:
        """One exchange with the agent; a link that broke is given up with its connection."""
        try:
            if self._link is not None and self._link.ended:
                self._drop_link()  # alone, for somebody may be held
            if self._link is None:
                self._link = AgentLink(self._place.open("file"), self._place_of_file(), self._limit)
            return self._link.request(**request)
        except TargetUnreachable:
            self.close()
            raise
        except TargetRefused:
            if self._link is None:  # what is open may be what leaves no room for it
                self.close()
            raise

    def _told(self, reply: dict[str, Any], field: str) -> str:
        told = reply.get(field)
        if not isinstance(told, str):
            raise TargetRefused(
                self._place_of_file(), f"not an agent: it told no {field}", "install ours anew"
            )
        return told

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    @contextlib.contextmanager
    def _forgetting(self, step: Step | None = None) -> Iterator[None]:
        """After an error nothing is taken for known."""
        try:
            yield
        except PrimaryRefuses:  # says nothing against what we know
            raise
        except BaseException as error:
            if not self._is_refused_guard(step, error):
                self._last = self._known = None
            raise

    def _is_refused_guard(self, step: Step | None, error: BaseException) -> bool:
        """That says nothing against what we know either; that the agent which holds is not there does."""
        return isinstance(step, Watch | WatchReaders) and isinstance(error, TargetRefused) and self.connected

    def _place_of_file(self) -> str:
        return f"{self.name} {self._file}"


def _of_primary(databases: Iterable[Database]) -> tuple[Database, ...]:
    """Those that are the primary's, and those for reads that lead there for want of a replica."""
    known = tuple(databases)
    primary = {db.endpoint for db in known if db.role is not Role.REPLICA}
    return tuple(db for db in known if db.endpoint in primary)


def _goal(database: Database, endpoint: Endpoint | None) -> Endpoint:
    return database.endpoint if database.role is Role.REPLICA or endpoint is None else endpoint
