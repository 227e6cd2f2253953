"""A PgBouncer and its file in memory: a `reconciler.Target` that keeps the promises of `apply.pooler.Pooler`.

Small, public, and held to the same contract as the real ones (tests/contracts/test_target.py). Beside it
what a reconciler needs otherwise: views in which somebody leads, and a reporter that remembers.
"""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache

from tests.support.blocks import parse, rewrite
from watcher.apply.greetings import Greetings, greeting
from watcher.decide.config_block import goal
from watcher.decide.decision import ConnectVia, Policy, ReadyBy, unconfirmed
from watcher.decide.errors import (
    BlockError,
    FileChanged,
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
    Desired,
    Endpoint,
    Entry,
    Held,
    Hold,
    Leader,
    Release,
    Reload,
    Role,
    Step,
    Switch,
    View,
    Watch,
    WatchReaders,
    Write,
)

WHOLE_LOOK_EVERY = 60.0
NODES = {f"node{n}": Endpoint(f"10.0.0.{n}", 5432) for n in (1, 2, 3)}
POLICY = Policy(
    connect_via=ConnectVia.ADDRESSES, addresses=NODES, ready_by=ReadyBy.LEADER_KEY, silence_limit=1e9
)


read_block = lru_cache(4096)(parse)
"""What a text says is asked for many times a second of a simulation."""


def led_by(name: str | None, revision: int, at: float, *, proven: bool = True) -> View:
    """A view in which `name` leads since `revision`; nobody does if it is None."""
    entries = {} if name is None else {"leader": Entry("leader", Leader(name), revision, revision)}
    return View(
        began_at=0.0,
        cluster_id=0xCDF8,
        revision=revision,
        entries=entries,
        listed_asked_at=at if proven else None,
        contact_at=at,
        leader_since=at,
    )


@dataclass
class Reports:
    """A `reconciler.Reporter` that remembers what it was told."""

    wishes: list[Desired] = field(default_factory=list)
    synced: list[Actual] = field(default_factory=list)
    switches: list[Switch] = field(default_factory=list)
    reads: list[tuple[Endpoint, ...]] = field(default_factory=list)
    failures: list[WatcherError] = field(default_factory=list)
    holds: list[Desired] = field(default_factory=list)
    releases: list[tuple[Desired, float | None]] = field(default_factory=list)
    looks: list[tuple[Desired, Actual | None, WatcherError | None]] = field(default_factory=list)

    def wished(self, wish: Desired) -> None:
        self.wishes.append(wish)

    def looked(self, target: str, wish: Desired, actual: Actual | None, failure: WatcherError | None) -> None:
        del target
        self.looks.append((wish, actual, failure))

    def held(self, target: str, wish: Desired) -> None:
        del target
        self.holds.append(wish)

    def released(self, target: str, wish: Desired, seconds: float | None) -> None:
        del target
        self.releases.append((wish, seconds))

    def reads_led(self, target: str, wish: Desired, to: tuple[Endpoint, ...]) -> None:
        del target, wish
        self.reads.append(to)

    def in_sync(self, target: str, actual: Actual) -> None:
        del target
        self.synced.append(actual)

    def switched(self, switch: Switch) -> None:
        self.switches.append(switch)

    def failed(self, target: str, error: WatcherError, failures: int) -> None:
        del target, failures
        self.failures.append(error)


@dataclass
class FakePgBouncer:
    """The file, and what a pretended PgBouncer made of it at its last reload.

    Whoever sets `text` is somebody else who writes the file. `deaf`: it reloads and nothing happens.
    `down`: its console does not answer. `in_use` are databases that clients made it derive from `*`; one that
    is taken out keeps its pause, and is not shown.
    `paused` are the databases whose clients wait, whoever paused them: an operator adds and removes names.
    `busy`: a transaction runs. `closed` are servers that take no login; `refuse` also rings their guards.
    """

    text: str
    block: str = "demo"
    deaf: bool = False
    down: bool = False
    busy: bool = False
    in_use: set[str] = field(default_factory=set)
    shown: dict[str, Endpoint] = field(default_factory=dict)
    fallback: Endpoint | None = None
    paused: set[str] = field(default_factory=set)
    closed: set[Endpoint] = field(default_factory=set)
    agents: "list[FakeAgent]" = field(default_factory=list)
    reloads: int = 0

    def __post_init__(self) -> None:
        self.reload()

    def reload(self) -> None:
        """What RELOAD and SIGHUP do; it knows the databases of the block alone."""
        if self.deaf or self.down:
            return
        self.reloads += 1
        try:
            found = {db.name: db.endpoint for db in read_block(self.text, self.block, "fake").databases}
        except BlockError:
            return
        self.fallback = found.pop("*", None)
        self.shown = found

    def rows(self) -> tuple[ConsoleDatabase, ...]:
        """`SHOW DATABASES`."""
        self.must_answer()
        derived = {} if self.fallback is None else dict.fromkeys(self.in_use, self.fallback)
        ends = {**derived, **self.shown}
        waiting = {name for name in ends if self.waits(name)}
        return tuple(ConsoleDatabase(n, e.host, e.port, n in waiting) for n, e in ends.items())

    def must_answer(self) -> None:
        if self.down:
            raise TargetUnreachable("fake console", "connection refused", "is PgBouncer running there?")

    def waits(self, database: str) -> bool:
        """Whether a query to it would wait now."""
        for agent in self.agents:
            agent.end_at_limit()
        return database in self.paused

    def restart(self) -> None:
        """A pause does not outlive it, and agents lose their consoles."""
        for agent in tuple(self.agents):
            agent.end()
        self.paused.clear()
        self.reload()

    def refuse(self, endpoint: Endpoint) -> None:
        """The server there refuses connections from now on."""
        self.closed.add(endpoint)
        for agent in tuple(self.agents):
            agent.hear(endpoint)


class FakeAgent:
    """What holds on one target's behalf beside PgBouncer, on its own clock: see `apply/agent/hold.py`."""

    def __init__(
        self, pgbouncer: FakePgBouncer, clock: Callable[[], float], on_refusal: float | None
    ) -> None:
        self.guard: Endpoint | None = None
        self.read_guards: tuple[Endpoint, ...] = ()
        self.held_somebody = False
        self._pgbouncer = pgbouncer
        self._clock = clock
        self._on_refusal = on_refusal
        self._databases: Callable[[], Iterable[str]] = tuple
        self._held: Held | None = None
        pgbouncer.agents.append(self)

    @property
    def held(self) -> Held | None:
        self.end_at_limit()
        self._spare_what_was_resumed()
        if self._held is not None and self._held.complete is self._pgbouncer.busy:
            self._held = replace(self._held, complete=not self._pgbouncer.busy)
        return self._held

    def _spare_what_was_resumed(self) -> None:
        """By somebody else: a pause that comes after that is theirs."""
        if self._held is not None:
            left = tuple(name for name in self._held.databases if name in self._pgbouncer.paused)
            if left != self._held.databases:
                self._held = replace(self._held, databases=left)

    def hold(self, databases: Iterable[str], until: float) -> None:
        """Pauses those that nobody has paused, or another agent; again, it sets the limit anew."""
        self._pgbouncer.must_answer()
        self.end_at_limit()
        if self._held is None:
            wanted = list(databases)
            since = self._since(wanted)
            self._held = Held(tuple(filter(self._may_pause, wanted)), since, until)
            self.held_somebody = bool(self._held.databases)
            self._pgbouncer.paused.update(self._held.databases)
        self._held = replace(self._held, until=until)

    def _may_pause(self, database: str) -> bool:
        return database not in self._pgbouncer.paused or database in self._shared()

    def _since(self, wanted: Iterable[str]) -> float:
        """Whom another agent makes wait already has waited since then."""
        same = [held.since for held in self._others() if set(held.databases) & set(wanted)]
        return min([self._clock(), *same])

    def _shared(self) -> set[str]:
        """What other agents hold."""
        return {name for held in self._others() for name in held.databases}

    def _others(self) -> list[Held]:
        agents = (agent for agent in self._pgbouncer.agents if agent is not self)
        return [agent._held for agent in agents if agent._held is not None]

    def watch(self, endpoint: Endpoint, databases: Callable[[], Iterable[str]]) -> None:
        """`databases` are told when they are to be held."""
        self.guard, self._databases = endpoint, databases

    def hear(self, endpoint: Endpoint) -> None:
        """The server there refuses connections: clients wait, without a word from the watcher."""
        if endpoint == self.guard and self._on_refusal is not None and self._held is None:
            self.hold(self._databases(), self._clock() + self._on_refusal)

    def resume(self, sure: bool) -> None:
        """Ends our hold; where not `sure`, what another agent holds as well goes on waiting."""
        held, self._held = self._held, None
        if held is not None:
            self._pgbouncer.paused -= set(held.databases) - (set() if sure else self._shared())

    def end_at_limit(self) -> None:
        if self._held is not None and self._clock() >= self._held.until:
            self.resume(sure=False)

    def end(self) -> None:
        """Its channel ended, and with it its hold."""
        self.resume(sure=False)
        if self in self._pgbouncer.agents:
            self._pgbouncer.agents.remove(self)


@dataclass(frozen=True)
class _Watched:
    """What an agent compares with, when it does so next, and until when its silence counts."""

    seen: object
    looks_at: float
    until: float


class FakeTarget:
    """One target. `calls` counts what was asked of it: read, write, reload, confirm, hold, watch, release,
    let_go, close. While nothing is taken its agent looks itself every `look_every` seconds, as `is_watched`
    says.

    `fail("write", error, error)` makes the next two writes fail before they do anything; `fails["read"]`
    is what is still to come, and `fail_always` never ends. An Exception that is no TargetError is a bug.
    """

    def __init__(
        self,
        pgbouncer: FakePgBouncer,
        *,
        name: str = "fake",
        console: bool = True,
        holds: bool = True,
        on_refusal: float | None = 60.0,
        clock: Callable[[], float] = time.monotonic,
        greetings: Greetings | None = None,
        look_every: float = 10.0,
    ) -> None:
        self.name = name
        self._look_every = look_every
        self._greetings = greetings
        self._refused_since: float | None = None  # the hold in which we were
        self.connected = True
        self.pgbouncer = pgbouncer
        self.calls: Counter[str] = Counter()
        self.fails: dict[str, deque[Exception]] = defaultdict(deque)
        self.fail_always: dict[str, Exception] = {}
        self.forbidden: set[Endpoint] = set()  # whom our agent may not greet or watch
        self._last: Actual | None = None
        self._console = console
        self._holds = holds and console
        self._on_refusal = on_refusal
        self._agent: FakeAgent | None = None
        self._hold_problem: WatcherError | None = None
        self._clock = clock
        self._text: str | None = None
        self._seen_text: str | None = None
        self._first_seen: tuple[object, float] | None = None
        self._reload_owed = False
        self._was_fallback: Endpoint | None = None
        self._went_on = False
        self.watches = True  # its agent does, if it holds
        self._watched: _Watched | None = None

    @property
    def is_watched(self) -> bool:
        watched = self._watched
        if (
            watched is None
            or not self.watches
            or self._last is None
            or self._agent not in self.pgbouncer.agents
        ):
            return False
        now = self._clock()
        if now >= watched.looks_at:
            is_same = not self.pgbouncer.down and watched.seen == self._what_is_there()
            self._watched = replace(watched, looks_at=now + self._look_every) if is_same else None
        return self._watched is not None and now < watched.until

    def _what_is_there(self) -> object:
        return self.pgbouncer.text, self.pgbouncer.rows()

    @property
    def last(self) -> Actual | None:
        """What was seen last; its hold as it is now."""
        if self._last is not None:
            self._last = self._with_hold(self._last)
        return self._last

    @property
    def held(self) -> Held | None:
        agent = self._agent if self._agent in self.pgbouncer.agents else None
        return None if agent is None else agent.held

    def fail(self, call: str, *errors: Exception) -> None:
        self.fails[call].extend(errors)

    def read(self) -> Actual:
        with self._forgetting():
            self._count("read")
        if self._text != self.pgbouncer.text:
            self._last = self._text = None
            self._owe_reload()
        self._text = self.pgbouncer.text
        try:
            shown, problem = self._rows(), None
        except TargetError as error:
            shown, problem = (), error
        self._be_ready_to_hold()
        self._last = self._with_hold(self._actual(shown, problem))
        self._watched = None
        if self._holds and problem is None and self._hold_problem is None:
            now = self._clock()
            self._watched = _Watched(self._what_is_there(), now + self._look_every, now + WHOLE_LOOK_EVERY)
        return self._last

    def _be_ready_to_hold(self) -> None:
        self._hold_problem = None
        if self._holds:
            try:
                self._live_agent()
            except TargetError as error:
                self._hold_problem = error

    def _live_agent(self) -> FakeAgent:
        """The one that is there, or a new one: it ends with its console."""
        if not self._holds:
            raise TargetError(self.name, "its clients cannot be held", "set `console`")
        if self._agent is None or self._agent not in self.pgbouncer.agents:
            self.pgbouncer.must_answer()
            self._agent = FakeAgent(self.pgbouncer, self._clock, self._on_refusal)
        return self._agent

    def _with_hold(self, actual: Actual) -> Actual:
        agent = self._agent if self._agent in self.pgbouncer.agents else None
        can_hold = self._holds and self._hold_problem is None
        held, guard = (None, None) if agent is None else (agent.held, agent.guard)
        self._went_on = self._went_on and held is None
        has_primary = any(db.role is not Role.REPLICA for db in actual.databases)
        return actual.with_hold(
            can_hold=can_hold and has_primary,
            can_watch=can_hold,
            held=held,
            guard=guard,
            read_guards=() if agent is None else agent.read_guards,
            hold_problem=self._hold_problem,
            went_on=self._went_on,
        )

    def _owe_reload(self) -> None:
        """For a text of somebody else's, where PgBouncer cannot show whether it has read it."""
        block = read_block(self.pgbouncer.text, self.pgbouncer.block, self.name)
        self._reload_owed |= not self._console or any(db.name == "*" for db in block.databases)

    def take(self, step: Step) -> None:
        self._watched = None
        with self._forgetting(step):
            self._count(type(step).__name__.lower())
            self._carry_out(step)

    def let_go(self, endpoint: Endpoint | None, *, greets: bool = True) -> None:
        held = None if self._agent is None else self._agent.held
        if self._agent is None or held is None:
            return
        self._watched = None
        with self._forgetting():
            self._count("let_go")
        if endpoint is not None:
            if greets:
                self._must_take_logins(endpoint)
            shown = {row.name: Endpoint(row.host or "", row.port) for row in self.pgbouncer.rows()}
            self._must_lead_there([name for name in held.databases if shown.get(name, endpoint) != endpoint])
        self._agent.resume(sure=endpoint is not None)

    def close(self) -> None:
        self.calls["close"] += 1
        if self._agent is not None:
            self._agent.end()

    def _count(self, call: str) -> None:
        self.calls[call] += 1
        error = self.fails[call].popleft() if self.fails[call] else self.fail_always.get(call)
        if error is not None:
            raise error

    @contextmanager
    def _forgetting(self, step: Step | None = None) -> Iterator[None]:
        """After an error nothing is known, but for a server that takes no login or may not be watched."""
        try:
            yield
        except PrimaryRefuses:
            raise
        except BaseException as error:
            is_guard = isinstance(step, Watch | WatchReaders) and self._agent in self.pgbouncer.agents
            if not (is_guard and isinstance(error, TargetRefused)):
                self._last = self._text = None
            raise

    def _carry_out(self, step: Step) -> None:
        match step:
            case Write():
                self._write(step)
            case Reload():
                if self.pgbouncer.down:
                    raise TargetUnreachable(self.name, "connection refused", "is PgBouncer running there?")
                self._spare_who_is_held()
                self.pgbouncer.reload()
                self._reload_owed = self._reload_owed and self._console
            case Confirm(endpoint):
                self._confirm(endpoint)
            case Release(endpoint, reload):
                self._release(endpoint, reload)
            case Hold() | Watch() | WatchReaders():
                self._tell_agent(step)

    def _spare_who_is_held(self) -> None:
        """Databases for reads are led elsewhere only while nobody is held."""
        shown = self.pgbouncer.shown
        reads = [
            db
            for db in read_block(self.pgbouncer.text, self.pgbouncer.block, self.name).databases
            if db.role is Role.REPLICA
        ]
        moves = any(shown.get(db.name) not in (None, db.endpoint) for db in reads)
        if self._holds and moves and any(agent.held is not None for agent in self.pgbouncer.agents):
            raise TargetRefused(self.name, "clients are held [held]", "it is done when they go on")

    def _tell_agent(self, step: Hold | Watch | WatchReaders) -> None:
        match step:
            case Hold(until):
                self._live_agent().hold(self._names(), until)
            case Watch(endpoint):
                agent = self._live_agent()
                agent.guard = None
                self._must_be_allowed(endpoint)
                agent.watch(endpoint, self._names)
            case WatchReaders(endpoints):
                agent = self._live_agent()
                agent.read_guards = ()
                self._must_be_allowed(*endpoints)
                agent.read_guards = endpoints

    def _names(self) -> tuple[str, ...]:
        """The databases of the block as it was seen last, and those made from its `*`; those for reads only
        if they lead to the primary.
        """
        pgbouncer = self.pgbouncer
        text = pgbouncer.text if self._seen_text is None else self._seen_text
        databases = read_block(text, pgbouncer.block, self.name).databases
        primary = {db.endpoint for db in databases if db.role is not Role.REPLICA}
        names = [db.name for db in databases if db.endpoint in primary]
        derived = pgbouncer.in_use if "*" in names else set()
        return tuple(name for name in [*names, *derived] if name != "*")

    def _release(self, endpoint: Endpoint | None, reload: bool) -> None:
        """Reload, confirmation and release in one; where one fails everybody goes on waiting."""
        agent = self._live_agent()
        if agent.held is None:  # ended by itself: who goes is led all the same
            if reload:
                self._carry_out(Reload())
            if endpoint is not None:
                self._confirm(endpoint)
            return
        since = agent.held.since
        with greeting(self._greetings, endpoint, since, itself=since == self._refused_since) as ours:
            if endpoint is not None and ours.is_needed:
                self._greet(endpoint, since)
            ours.took = True
        if reload and not self._goes_on_at(endpoint):
            self.pgbouncer.reload()
        shown = self.pgbouncer.rows()
        if endpoint is not None:
            self._must_lead_there(
                self._led_elsewhere(shown, endpoint) or self._made_elsewhere(shown, endpoint)
            )
        self._went_on = agent.held_somebody and not agent.held.databases  # which spares what was resumed
        agent.resume(sure=endpoint is not None)
        self._reload_owed = self._reload_owed and not reload
        if self._last is not None:
            released = tuple(replace(row, paused=self.pgbouncer.waits(row.name)) for row in shown)
            self._last = replace(self._last, shown=released, reload_owed=self._reload_owed)

    def _greet(self, endpoint: Endpoint, since: float) -> None:
        try:
            self._must_take_logins(endpoint)
        except PrimaryRefuses:
            self._refused_since = since
            if self._greetings is not None:
                self._greetings.refused()
            raise

    def _must_take_logins(self, endpoint: Endpoint) -> None:
        self._must_be_allowed(endpoint)
        if endpoint in self.pgbouncer.closed:
            raise PrimaryRefuses(self.name, f"{endpoint} takes no login: it refuses", "clients wait")

    def _must_be_allowed(self, *endpoints: Endpoint) -> None:
        for endpoint in self.forbidden.intersection(endpoints):
            raise TargetRefused(self.name, f"{endpoint} is none of the hosts that --allow names", "see there")

    def _must_lead_there(self, wrong: Collection[str]) -> None:
        """None of these should be led elsewhere."""
        if wrong:
            raise TargetRefused(self.name, f"PgBouncer shows {list(wrong)} elsewhere [route]", "see its log")

    def _goes_on_at(self, endpoint: Endpoint | None) -> bool:
        """Whether another has led them there already, and let them go."""
        rows = {row.name: row for row in self.pgbouncer.rows()}
        found = [rows.get(name) for name in self._names()]
        ends = {None if row is None or row.paused else Endpoint(row.host or "", row.port) for row in found}
        return endpoint is not None and ends == {endpoint}

    def _led_elsewhere(self, shown: tuple[ConsoleDatabase, ...], endpoint: Endpoint) -> list[str]:
        ends = {row.name: Endpoint(row.host or "", row.port) for row in shown}
        text = self.pgbouncer.text if self._text is None else self._text
        block = read_block(text, self.pgbouncer.block, self.name)
        goals = {db.name: db.endpoint if db.role is Role.REPLICA else endpoint for db in block.databases}
        return [name for name, goal in goals.items() if name != "*" and ends.get(name) != goal]

    def _made_elsewhere(self, shown: tuple[ConsoleDatabase, ...], endpoint: Endpoint) -> list[str]:
        """What was made from `*`, unless one of these leads there."""
        made = [row for row in shown if row.name in self.pgbouncer.in_use]
        leads = any((row.host, row.port) == (endpoint.host, endpoint.port) for row in made)
        return [] if leads else [row.name for row in made]

    def _write(self, step: Write) -> None:
        known = self.pgbouncer.text if self._text is None else self._text
        if known != self.pgbouncer.text:
            raise FileChanged(self.name, "somebody else wrote the file meanwhile", "it is read again")
        before = read_block(known, self.pgbouncer.block, self.name).databases
        self.pgbouncer.text = self._text = rewrite(known, self.pgbouncer.block, step.route, self.name)
        elsewhere = [db for db in before if goal(db, step.route) not in (None, db.endpoint)]
        self._was_fallback = next((db.endpoint for db in elsewhere if db.name == "*"), self._was_fallback)
        self._reload_owed = self._reload_owed or bool(elsewhere)
        if self._last is not None:
            self._last = self._actual(self._last.shown, self._last.console_problem)

    def _confirm(self, endpoint: Endpoint) -> None:
        actual = self._actual(self._rows(), None)
        wrong = unconfirmed(actual, endpoint)
        if wrong:
            raise NotConfirmed(self.name, f"after RELOAD PgBouncer shows {wrong} elsewhere", "see its log")
        self._reload_owed = False
        self._last = self._actual(actual.shown, None)

    def _rows(self) -> tuple[ConsoleDatabase, ...] | None:
        return self.pgbouncer.rows() if self._console else None

    def _actual(self, shown: tuple[ConsoleDatabase, ...] | None, problem: WatcherError | None) -> Actual:
        text = self.pgbouncer.text if self._text is None else self._text
        block = read_block(text, self.pgbouncer.block, self.name)
        self._seen_text = text
        if self._first_seen is None or self._first_seen[0] != block:
            self._first_seen = block, self._clock()
        return Actual(
            databases=block.databases,
            stamp=block.stamp,
            file_read_at=self._first_seen[1],
            defined=block.defined,
            was_fallback=self._was_fallback,
            shown=shown,
            reload_owed=self._reload_owed,
            console_problem=problem,
        )
