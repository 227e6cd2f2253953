"""A PgBouncer and its file in memory: a `reconciler.Target` that keeps the promises of `apply.pooler.Pooler`.

Small, public, and held to the same contract as the real ones (tests/contracts/test_target.py). Beside it
what a reconciler needs otherwise: views in which somebody leads, and a reporter that remembers.
"""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from watcher.decide.config_block import parse, rewrite
from watcher.decide.decision import ConnectVia, Policy, ReadyBy, unconfirmed
from watcher.decide.errors import (
    BlockError,
    FileChanged,
    NotConfirmed,
    TargetError,
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
    Leader,
    Reload,
    Step,
    Switch,
    View,
    Write,
)

NODES = {f"node{n}": Endpoint(f"10.0.0.{n}", 5432) for n in (1, 2, 3)}
POLICY = Policy(
    connect_via=ConnectVia.ADDRESSES, addresses=NODES, ready_by=ReadyBy.LEADER_KEY, silence_limit=1e9
)


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
    failures: list[WatcherError] = field(default_factory=list)

    def wished(self, wish: Desired) -> None:
        self.wishes.append(wish)

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
    `down`: its console does not answer. `in_use` are databases that clients made it derive from `*`.
    """

    text: str
    block: str = "demo"
    deaf: bool = False
    down: bool = False
    in_use: set[str] = field(default_factory=set)
    shown: dict[str, Endpoint] = field(default_factory=dict)
    fallback: Endpoint | None = None

    def __post_init__(self) -> None:
        self.reload()

    def reload(self) -> None:
        """What RELOAD and SIGHUP do; it knows the databases of the block alone."""
        if self.deaf or self.down:
            return
        try:
            found = {db.name: db.endpoint for db in parse(self.text, self.block, "fake").databases}
        except BlockError:
            return
        self.fallback = found.pop("*", None)
        self.shown = found

    def rows(self) -> tuple[ConsoleDatabase, ...]:
        """`SHOW DATABASES`."""
        if self.down:
            raise TargetUnreachable("fake console", "connection refused", "is PgBouncer running there?")
        derived = {} if self.fallback is None else dict.fromkeys(self.in_use, self.fallback)
        return tuple(ConsoleDatabase(n, e.host, e.port) for n, e in {**derived, **self.shown}.items())


class FakeTarget:
    """One target. `calls` counts what was asked of it: read, write, reload, confirm, close.

    `fail("write", error, error)` makes the next two writes fail before they do anything; `fails["read"]`
    is what is still to come, and `fail_always` never ends. An Exception that is no TargetError is a bug.
    """

    def __init__(
        self,
        pgbouncer: FakePgBouncer,
        *,
        name: str = "fake",
        console: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.last: Actual | None = None
        self.connected = True
        self.pgbouncer = pgbouncer
        self.calls: Counter[str] = Counter()
        self.fails: dict[str, deque[Exception]] = defaultdict(deque)
        self.fail_always: dict[str, Exception] = {}
        self._console = console
        self._clock = clock
        self._text: str | None = None
        self._reload_owed = False
        self._was_fallback: Endpoint | None = None

    def fail(self, call: str, *errors: Exception) -> None:
        self.fails[call].extend(errors)

    def read(self) -> Actual:
        self._count("read")
        if self._text != self.pgbouncer.text:
            self._owe_reload()
        self._text = self.pgbouncer.text
        try:
            shown, problem = self._rows(), None
        except TargetError as error:
            shown, problem = (), error
        self.last = self._actual(shown, problem)
        return self.last

    def _owe_reload(self) -> None:
        """For a text of somebody else's, where PgBouncer cannot show whether it has read it."""
        block = parse(self.pgbouncer.text, self.pgbouncer.block, self.name)
        self._reload_owed |= not self._console or any(db.name == "*" for db in block.databases)

    def take(self, step: Step) -> None:
        self._count(type(step).__name__.lower())
        try:
            self._carry_out(step)
        except BaseException:
            self.last = self._text = None
            raise

    def close(self) -> None:
        self.calls["close"] += 1

    def _count(self, call: str) -> None:
        self.calls[call] += 1
        error = self.fails[call].popleft() if self.fails[call] else self.fail_always.get(call)
        if error is not None:
            self.last = self._text = None
            raise error

    def _carry_out(self, step: Step) -> None:
        match step:
            case Write():
                self._write(step)
            case Reload():
                if self.pgbouncer.down:
                    raise TargetUnreachable(self.name, "connection refused", "is PgBouncer running there?")
                self.pgbouncer.reload()
                self._reload_owed = self._reload_owed and self._console
            case Confirm(endpoint):
                self._confirm(endpoint)
            case _:
                raise TargetError(self.name, f"cannot {type(step).__name__.lower()} yet", "")

    def _write(self, step: Write) -> None:
        known = self.pgbouncer.text if self._text is None else self._text
        if known != self.pgbouncer.text:
            raise FileChanged(self.name, "somebody else wrote the file meanwhile", "it is read again")
        before = parse(known, self.pgbouncer.block, self.name).databases
        self.pgbouncer.text = self._text = rewrite(known, self.pgbouncer.block, step.route, self.name)
        elsewhere = [db for db in before if db.endpoint != step.route.endpoint]
        self._was_fallback = next((db.endpoint for db in elsewhere if db.name == "*"), self._was_fallback)
        self._reload_owed = self._reload_owed or bool(elsewhere)
        if self.last is not None:
            self.last = self._actual(self.last.shown, self.last.console_problem)

    def _confirm(self, endpoint: Endpoint) -> None:
        actual = self._actual(self._rows(), None)
        wrong = unconfirmed(actual, endpoint)
        if wrong:
            raise NotConfirmed(self.name, f"after RELOAD PgBouncer shows {wrong} elsewhere", "see its log")
        self._reload_owed = False
        self.last = self._actual(actual.shown, None)

    def _rows(self) -> tuple[ConsoleDatabase, ...] | None:
        return self.pgbouncer.rows() if self._console else None

    def _actual(self, shown: tuple[ConsoleDatabase, ...] | None, problem: WatcherError | None) -> Actual:
        text = self.pgbouncer.text if self._text is None else self._text
        block = parse(text, self.pgbouncer.block, self.name)
        return Actual(
            databases=block.databases,
            stamp=block.stamp,
            file_read_at=self._clock(),
            defined=block.defined,
            was_fallback=self._was_fallback,
            shown=shown,
            reload_owed=self._reload_owed,
            console_problem=problem,
        )
