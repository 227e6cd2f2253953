"""Worlds of `target_worlds` in which clients are held: their queries, an operator, servers that refuse."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import pg8000.native
import psutil

from tests.contracts.target_worlds import LIMIT, LOOK_EVERY, RealWorld, marked
from tests.support.fake_target import FakePgBouncer, FakeTarget
from tests.support.pgbouncer import Version
from tests.support.postgres import APP, APP_PASSWORD, Postgres
from tests.support.stage import agents_of
from tests.support.waiting import BedError, wait_for
from watcher.apply.greetings import Greetings
from watcher.apply.holding import Ear, Terms
from watcher.apply.pooler import Pooler
from watcher.decide.model import Endpoint
from watcher.reconciler import Target

QUERY_SECONDS = 20.0
ON_REFUSAL = 30.0
_WHERE = "SELECT host(inet_server_addr()) || ':' || inet_server_port() AS at"


@dataclass
class Heard:
    """What the agent said unasked."""

    alarms: list[tuple[Endpoint, bool]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    readers: list[tuple[Endpoint, bool]] = field(default_factory=list)
    left: list[tuple[str, ...]] = field(default_factory=list)
    differs: list[bool] = field(default_factory=list)

    def clear(self) -> None:
        for told in (self.alarms, self.ended, self.readers, self.left, self.differs):
            told.clear()

    def ear(self) -> Ear:
        return Ear(
            alarm=lambda endpoint, refuses, _: self.alarms.append((endpoint, refuses)),
            ended=lambda why, _: self.ended.append(why),
            reader=lambda endpoint, refuses, _: self.readers.append((endpoint, refuses)),
            left=self.left.append,
            differs=lambda: self.differs.append(True),
        )


class Query(Protocol):
    """One that a client began."""

    def waits(self) -> bool:
        """Whether it waits in PgBouncer; known for sure, one way or the other."""

    def server(self) -> Endpoint:
        """Which server answered it, once it is over."""


class HoldWorld(Protocol):
    """A PgBouncer with clients. `a` and `b` are servers, nobody listens at `closed`."""

    a: Endpoint
    b: Endpoint
    closed: Endpoint

    def begin(self, name: str = "app", in_use: bool = True, reads: Endpoint | None = None) -> Target:
        """A new target that was looked at, led to `a`, by a database or by `*`; nothing is paused. With `*` a
        client has made PgBouncer know the database, if `in_use`. With `reads` there is `ro` too, for reads.
        """

    def use(self) -> AbstractContextManager[object]:
        """A client asks for the database, is answered, and stays connected."""

    def leave(self) -> None:
        """Nobody uses the database any more, which is held and made from `*`: PgBouncer does not show it."""

    def another(self) -> Target:
        """One more target on the same PgBouncer, looked at."""

    def share(self, greetings: Greetings | None) -> None:
        """Every target from now on goes by these."""

    def now(self) -> float:
        """By the clock that limits are told in."""

    def let_pass(self, seconds: float) -> None: ...

    def query(self) -> Query:
        """A client begins one."""

    def transaction(self, database: str = "app") -> AbstractContextManager[object]:
        """A client is amid one that has a server; the end commits it, or raises."""

    def is_paused(self, name: str = "app") -> bool:
        """By PgBouncer's own word."""

    def leads_to(self, name: str) -> Endpoint:
        """The same of where it leads a database."""

    def settings(self) -> dict[str, str]:
        """PgBouncer's own, where it has any."""

    def breaks(self) -> int:
        """How often it was told by now what breaks off logins that are under way."""

    def operator(self, word: str, database: str = "app") -> None:
        """Somebody else says PAUSE or RESUME."""

    def unmark(self) -> None:
        """Somebody takes the block's marks out of the file."""

    def spoil(self) -> None:
        """Somebody makes the file one that PgBouncer does not take at a reload."""

    def add(self, line: str) -> None:
        """Somebody adds it to the block."""

    def crash(self) -> None:
        """`a` is no more."""

    def stop_pgbouncer(self) -> None: ...
    def start_pgbouncer(self) -> None: ...


def reading(at: Endpoint | None) -> str:
    """The lines of `ro`, a database for reads, where there is one."""
    return "" if at is None else f";; role=replica\nro = host={at.host} port={at.port} dbname=app\n"


def _unmarked(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(";; [config"))


def _with(line: str, text: str) -> str:
    before, end, after = text.rpartition(";; [config")
    return f"{before}{line}\n{end}{after}"


def settle(question: Callable[[], object], what: str) -> None:
    """What PgBouncer or an agent does in a moment; at once in memory."""
    wait_for(question, LIMIT, what, poll=0.005)


# --- in memory ---------------------------------------------------------------------------------------


class FakeQuery:
    def __init__(self, pgbouncer: FakePgBouncer) -> None:
        self._pgbouncer = pgbouncer

    def waits(self) -> bool:
        return self._pgbouncer.waits("app")

    def server(self) -> Endpoint:
        assert not self.waits()
        return self._pgbouncer.shown.get("app") or self._fallback()

    def _fallback(self) -> Endpoint:
        assert self._pgbouncer.fallback is not None
        return self._pgbouncer.fallback


class FakeHoldWorld:
    a, b, closed = (Endpoint(f"10.0.0.{n}", 5432) for n in (1, 2, 9))

    def __init__(self) -> None:
        self._now = 1000.0
        self._targets: list[FakeTarget] = []
        self._pgbouncer = FakePgBouncer("")
        self._greetings: Greetings | None = None

    def share(self, greetings: Greetings | None) -> None:
        self._greetings = greetings

    def begin(self, name: str = "app", in_use: bool = True, reads: Endpoint | None = None) -> Target:
        lines = f"{name} = host={self.a.host} port={self.a.port}\n{reading(reads)}"
        self._pgbouncer = FakePgBouncer(marked(lines))
        self._pgbouncer.closed.add(self.closed)
        self._pgbouncer.in_use = {"app"} if name == "*" and in_use else set()
        return self.another()

    def use(self) -> AbstractContextManager[object]:
        self._pgbouncer.in_use.add("app")
        return nullcontext()

    def leave(self) -> None:
        self._pgbouncer.in_use.remove("app")

    def another(self) -> Target:
        target = FakeTarget(
            self._pgbouncer,
            clock=self.now,
            on_refusal=ON_REFUSAL,
            greetings=self._greetings,
            look_every=LOOK_EVERY,
        )
        target.read()
        return target

    def now(self) -> float:
        return self._now

    def let_pass(self, seconds: float) -> None:
        self._now += seconds

    def query(self) -> Query:
        if self._pgbouncer.fallback is not None:
            self.use()
        return FakeQuery(self._pgbouncer)

    @contextmanager
    def transaction(self, database: str = "app") -> Iterator[None]:
        del database  # one is as any other
        self._pgbouncer.busy = True
        yield
        self._pgbouncer.busy = False

    def is_paused(self, name: str = "app") -> bool:
        return self._pgbouncer.waits(name)

    def leads_to(self, name: str) -> Endpoint:
        return self._pgbouncer.shown[name]

    def settings(self) -> dict[str, str]:
        return {}

    def breaks(self) -> int:
        return self._pgbouncer.reloads

    def operator(self, word: str, database: str = "app") -> None:
        (self._pgbouncer.paused.add if word == "PAUSE" else self._pgbouncer.paused.discard)(database)

    def unmark(self) -> None:
        self._pgbouncer.text = _unmarked(self._pgbouncer.text)

    def spoil(self) -> None:
        self._pgbouncer.deaf = True

    def add(self, line: str) -> None:
        self._pgbouncer.text = _with(line, self._pgbouncer.text)

    def crash(self) -> None:
        self._pgbouncer.refuse(self.a)

    def stop_pgbouncer(self) -> None:
        self._pgbouncer.restart()
        self._pgbouncer.down = True

    def start_pgbouncer(self) -> None:
        self._pgbouncer.down = False
        self._pgbouncer.reload()


# --- for real ----------------------------------------------------------------------------------------


class RealQuery(threading.Thread):
    """By a psql of its own; PgBouncer says whether it waits."""

    def __init__(self, world: "RealHoldWorld") -> None:
        super().__init__(daemon=True)
        self._world = world
        self._rows: list[dict[str, str]] | None = None
        self._error: BedError | None = None
        self.start()

    def run(self) -> None:
        try:
            self._rows = self._world.pgbouncer.sql(_WHERE, dbname="app")
        except BedError as error:
            self._error = error

    def waits(self) -> bool:
        settle(lambda: not self.is_alive() or self._world.waiting() > 0, "a query waits or is over")
        return self.is_alive()

    def server(self) -> Endpoint:
        self.join(QUERY_SECONDS)
        assert not self.is_alive(), "the query waits still"
        if self._error is not None:
            raise self._error
        assert self._rows is not None
        host, _, port = self._rows[0]["at"].rpartition(":")
        return Endpoint(host, int(port))


class RealHoldWorld(AbstractContextManager["RealHoldWorld"]):
    """PgBouncer and a way to it, in front of two servers that outlive it."""

    def __init__(
        self,
        folder: Path,
        way: Callable[[RealWorld], Pooler],
        servers: "tuple[Postgres, Postgres]",
        version: Version,
    ) -> None:
        self.heard = Heard()
        self._servers = servers
        self._world = RealWorld(
            folder,
            way,
            has_console=True,
            include_file=False,
            terms=Terms(on_refusal=ON_REFUSAL),
            ear=self.heard.ear(),
            version=version,
        )
        self.pgbouncer = self._world.pgbouncer
        self.a, self.b = (Endpoint(server.address, server.port) for server in servers)
        self.closed = Endpoint(servers[0].address, 1)
        self._before: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._world.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._world.__exit__(kind, error, trace)

    def begin(self, name: str = "app", in_use: bool = True, reads: Endpoint | None = None) -> Target:
        for server in self._servers:
            if not server.is_alive():
                server.start()
        self._world._targets.close()
        self.operator("RESUME")
        self.heard.clear()
        dbname = " dbname=app" if name == "app" else ""
        lines = f"{name} = host={self.a.host} port={self.a.port}{dbname}\n{reading(reads)}"
        target = self._world.begin(marked(lines))
        if name == "*" and in_use:
            with self.use():
                pass
        target.read()
        return target

    def use(self) -> AbstractContextManager[object]:
        client = self._client("app")
        client.run("SELECT 1")
        return closing(client)

    def leave(self) -> None:
        settle(lambda: self._world.leads_to("app") is None, "it is not shown")

    def share(self, greetings: Greetings | None) -> None:
        self._world.greetings = greetings

    def another(self) -> Target:
        target = self._world.another()
        target.read()
        return target

    def now(self) -> float:
        return time.monotonic()

    def let_pass(self, seconds: float) -> None:
        time.sleep(seconds)

    def query(self) -> Query:
        return RealQuery(self)

    def waiting(self) -> int:
        """Clients in the queue."""
        rows = self.pgbouncer.console("SHOW POOLS")
        return sum(int(row["cl_waiting"]) for row in rows if row["database"] == "app")

    @contextmanager
    def transaction(self, database: str = "app") -> Iterator[None]:
        with closing(self._client(database)) as client:
            client.run("BEGIN")
            client.run("SELECT 1")
            yield
            client.run("COMMIT")

    def _client(self, database: str) -> pg8000.native.Connection:
        host, port = self.pgbouncer.address, self.pgbouncer.port
        return pg8000.native.Connection(APP, host=host, port=port, database=database, password=APP_PASSWORD)

    def is_paused(self, name: str = "app") -> bool:
        return self.pgbouncer.is_paused(name)

    def leads_to(self, name: str) -> Endpoint:
        return Endpoint(*self.pgbouncer.route(name))

    def settings(self) -> dict[str, str]:
        return {row["key"]: row["value"] for row in self.pgbouncer.console("SHOW CONFIG")}

    def agents(self, word: str) -> list[psutil.Process]:
        return agents_of(self.pgbouncer, word)

    def breaks(self) -> int:
        said = self.pgbouncer.log.read_text()
        return said.count("RELOAD command issued") + said.count("RECONNECT 'app' command issued")

    def operator(self, word: str, database: str = "app") -> None:
        try:
            self.pgbouncer.console(f"{word} {database}")
        except BedError:
            if word == "PAUSE":  # nothing is paused: as good as resumed
                raise

    def unmark(self) -> None:
        file = self.pgbouncer.config_file
        file.write_text(_unmarked(file.read_text()))

    def spoil(self) -> None:
        file = self.pgbouncer.config_file
        file.write_text("no section\n" + file.read_text())

    def add(self, line: str) -> None:
        file = self.pgbouncer.config_file
        file.write_text(_with(line, file.read_text()))

    @contextmanager
    def defined_elsewhere(self, name: str) -> Iterator[None]:
        """Meanwhile another file than that of the block leads a database to `a`."""
        file, other = self.pgbouncer.config_file, self.pgbouncer.folder / "other.ini"
        other.write_text(f"[databases]\n{name} = host={self.a.host} port={self.a.port} dbname=app\n")
        other.chmod(0o644)
        include = f"\n%include {other}\n"
        file.write_text(file.read_text() + include)
        self.pgbouncer.console("RELOAD")
        try:
            yield
        finally:
            file.write_text(file.read_text().replace(include, ""))
            self.pgbouncer.console("RELOAD")

    def crash(self) -> None:
        self._servers[0].kill()

    def stop_pgbouncer(self) -> None:
        self.pgbouncer.kill()

    def start_pgbouncer(self) -> None:
        self.pgbouncer.start()
