"""The fake target in memory and the real one by each way to a PgBouncer, with what is around each."""

import shlex
import socket
import struct
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from tests.support.accounts import own_file
from tests.support.agent import write_agent
from tests.support.fake_target import FakePgBouncer, FakeTarget
from tests.support.pgbouncer import ADMIN, ADMIN_PASSWORD, STATS, STATS_PASSWORD, PgBouncer, Version
from tests.support.sshd import Sshd
from tests.support.waiting import wait_for
from watcher.apply.agent_link import Place
from watcher.apply.console import Console, ConsoleAccess
from watcher.apply.greetings import Greetings
from watcher.apply.holding import Ear, Holding, Terms
from watcher.apply.local import LocalPlace
from watcher.apply.pooler import Pooler
from watcher.apply.ssh import SshAccess, SshPlace
from watcher.decide.model import Desired, Endpoint, Reason, Route, Stamp
from watcher.reconciler import Target

NODE1, NODE2, NODE3 = (Endpoint(f"127.0.0.{n}", 5432 + n) for n in (11, 12, 13))
BLOCK = "demo"
APP_AT_NODE1 = f"app = host={NODE1.host} port={NODE1.port} dbname=app\n"
LIMIT = 5.0
LOOK_EVERY = 0.2


def marked(lines: str, name: str = "") -> str:
    """Lines between the markers of a block."""
    word = f" {name}" if name else ""
    return f";; [config cluster{word}: begin]\n{lines};; [config cluster{word}: end]\n"


def route(endpoint: Endpoint, revision: int = 7) -> Route:
    return Route(endpoint, Stamp(0xCDF8, "7301", revision, 3, "node 2"))


def wish(endpoint: Endpoint, revision: int = 7) -> Desired:
    return Desired(Reason.LEADER, "", route(endpoint, revision))


class World(Protocol):
    """A target with all that is around it."""

    has_console: bool

    @property
    def file(self) -> Path | None:
        """The file, where it is a real one."""

    def begin(self, databases: str) -> Target:
        """A new target whose [databases] are these, and whose PgBouncer has read them."""

    def another(self) -> Target:
        """One more target on the same file and PgBouncer, which knows nothing of the first."""

    def databases(self) -> str:
        """The [databases] that are in the file now."""

    def scribble(self, databases: str) -> None:
        """Somebody else writes the file."""

    def leads_to(self, database: str) -> Endpoint | None:
        """Where the running PgBouncer leads it."""

    def use(self, database: str) -> AbstractContextManager[object]:
        """A client that stays connected to it."""


class FakeWorld:
    file: Path | None = None

    def __init__(self, *, has_console: bool) -> None:
        self.has_console = has_console

    def begin(self, databases: str) -> Target:
        self._pgbouncer = FakePgBouncer(databases, BLOCK)
        return self.another()

    def another(self) -> Target:
        return FakeTarget(self._pgbouncer, console=self.has_console)

    def databases(self) -> str:
        return self._pgbouncer.text

    def scribble(self, databases: str) -> None:
        self._pgbouncer.text = databases

    def leads_to(self, database: str) -> Endpoint | None:
        found = {row.name: Endpoint(row.host or "", row.port) for row in self._pgbouncer.rows()}
        return found.get(database)

    def use(self, database: str) -> AbstractContextManager[object]:
        self._pgbouncer.in_use.add(database)
        return ExitStack()


class RealWorld(AbstractContextManager["RealWorld"]):
    """PgBouncer, sshd, and a way to them; `way` makes a Pooler out of this world, which holds by `terms`."""

    def __init__(
        self,
        folder: Path,
        way: "Callable[[RealWorld], Pooler]",
        *,
        has_console: bool,
        include_file: bool,
        terms: Terms | None = None,
        ear: Ear | None = None,
        version: Version = "debian",
    ) -> None:
        self.has_console = has_console
        self.terms, self.ear = terms, ear or Ear()
        self.greetings: Greetings | None = None
        self.pgbouncer = PgBouncer(folder / "pgbouncer", include_file=include_file, version=version)
        self.sshd = Sshd(folder / "sshd", account=self.pgbouncer.account)
        self.file = self.pgbouncer.config_file
        self.agent = write_agent(folder)
        self._way = way
        self._targets = ExitStack()
        whole, block = self.file.read_text(), self.pgbouncer.block("127.0.0.1", 1)
        self._head, _, self._tail = whole.partition(block)

    def __enter__(self) -> Self:
        self.pgbouncer.start()
        self.sshd.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._targets.close()
        self.sshd.stop()
        self.pgbouncer.stop()

    def begin(self, databases: str) -> Target:
        self._targets.close()
        self.scribble(databases)
        self.pgbouncer.reload()
        return self.another()

    def another(self) -> Target:
        target = self._way(self)
        self._targets.callback(target.close)
        return target

    def databases(self) -> str:
        text = self.file.read_bytes().decode()
        assert text.startswith(self._head)
        assert text.endswith(self._tail)
        return text[len(self._head) : len(text) - len(self._tail)]

    def scribble(self, databases: str) -> None:
        text = self._head + databases + self._tail
        own_file(self.file, "", self.pgbouncer.account)
        self.file.write_bytes(text.encode())

    def leads_to(self, database: str) -> Endpoint | None:
        rows = {row["name"]: row for row in self.pgbouncer.console("SHOW DATABASES")}
        row = rows.get(database)
        return None if row is None else Endpoint(row["host"], int(row["port"]))

    def use(self, database: str) -> AbstractContextManager[object]:
        """By the startup packet of PostgreSQL's protocol; there is no server to go further."""
        parameters = b"user\0app\0database\0" + database.encode() + b"\0\0"
        client = socket.create_connection((self.pgbouncer.address, self.pgbouncer.port), 5)
        client.sendall(struct.pack("!II", len(parameters) + 8, 196608) + parameters)
        wait_for(lambda: self.leads_to(database), 5, f"{database} in use", logs=[self.pgbouncer.log])
        return closing(client)


# --- ways to a PgBouncer ---------------------------------------------------------------------------


def over_ssh(world: RealWorld) -> Pooler:
    world.sshd.authorize()
    place = SshPlace("target", access(world), options(world))
    console = Console("target", ConsoleAccess(), lambda: place.open("console"), LIMIT)
    return pooler(world, place, console, ConsoleAccess())


def behind_forced_command(world: RealWorld) -> Pooler:
    words = ["/usr/bin/python3", "-I", str(world.agent), *options(world), "--block", BLOCK]
    command = shlex.join(words)
    world.sshd.authorize("restrict", command)
    place = SshPlace("target", access(world, agent_command="whatever"), [])
    console = Console("target", ConsoleAccess(), lambda: place.open("console"), LIMIT)
    return pooler(world, place, console, ConsoleAccess())


def beside_it(world: RealWorld) -> Pooler:
    login = console_login(world, ADMIN, ADMIN_PASSWORD)
    place = LocalPlace("target", options(world))
    return pooler(world, place, Console("target", login, None, LIMIT), login)


def by_command(world: RealWorld) -> Pooler:
    """The console may only SHOW."""
    login = console_login(world, STATS, STATS_PASSWORD)
    place = LocalPlace("target", [*options(world), "--reload-command", hup(world)])
    return pooler(world, place, Console("target", login, None, LIMIT), reloads_by_command=True)


def by_command_without_console(world: RealWorld) -> Pooler:
    place = SshPlace("target", access(world), [*options(world), "--reload-command", hup(world)])
    world.sshd.authorize()
    return pooler(world, place, None, reloads_by_command=True)


def options(world: RealWorld) -> list[str]:
    return ["--file", str(world.file), "--console", str(world.pgbouncer.socket)]


def hup(world: RealWorld) -> str:
    return f"kill -HUP {world.pgbouncer.pid}"


def access(world: RealWorld, agent_command: str | None = None) -> SshAccess:
    sshd = world.sshd
    return SshAccess(
        sshd.address,
        sshd.port,
        sshd.account,
        sshd.known_hosts,
        sshd.client_key,
        agent_command=agent_command,
        python="/usr/bin/python3",
    )


def console_login(world: RealWorld, user: str, password: str) -> ConsoleAccess:
    return ConsoleAccess(user, password, host=world.pgbouncer.address, port=world.pgbouncer.port)


def pooler(
    world: RealWorld,
    place: Place,
    console: Console | None,
    login: ConsoleAccess | None = None,
    *,
    reloads_by_command: bool = False,
) -> Pooler:
    holding = None
    if login is not None and world.terms is not None:
        holding = Holding(place, login, world.terms, LIMIT, world.ear, time.monotonic, world.greetings)
    return Pooler(
        place,
        file=str(world.file),
        block=BLOCK,
        console=console,
        reloads_by_command=reloads_by_command,
        step_limit=LIMIT,
        holding=holding,
        look_every=LOOK_EVERY,
    )


WAYS: dict[str, tuple[Callable[[RealWorld], Pooler], bool, bool]] = {
    "over ssh": (over_ssh, True, False),
    "behind a forced command": (behind_forced_command, True, False),
    "beside it": (beside_it, True, False),
    "included file": (over_ssh, True, True),
    "reload by command": (by_command, True, False),
    "without console": (by_command_without_console, False, False),
}
FAKES = {"fake": True, "fake without console": False}
