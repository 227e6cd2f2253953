"""A stage for switches that take a second: a PgBouncer with its sshd behind a proxy, two PostgreSQL servers
that are both primaries, and witnesses that see each pause and each error of a client.
"""

import threading
import time
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pg8000.exceptions
import pg8000.native
import psutil

from tests.support.accounts import BOUNCER_ACCOUNTS, own_folder
from tests.support.addresses import take_address
from tests.support.bed import BouncerHost
from tests.support.etcd import EtcdCluster
from tests.support.pgbouncer import ADMIN, ADMIN_PASSWORD, RECOMMENDED, PgBouncer
from tests.support.points import SteppingProgram
from tests.support.postgres import APP, APP_PASSWORD, Postgres
from tests.support.proxy import Proxy
from tests.support.sshd import Sshd

OPERATORS = "reports"
"""The database that an operator has paused, before all else and for good."""

_CREATE = "CREATE TABLE steps (at timestamptz)"
_INSERT = "INSERT INTO steps VALUES (now()) RETURNING host(inet_server_addr()), inet_server_port()"
_POLL = 0.005
_APART = 0.1
"""Seconds: pauses that are nearer to each other count as one, for hardly a client comes through between."""

_ERRORS = (pg8000.exceptions.DatabaseError, pg8000.exceptions.InterfaceError, OSError)


class Ground(AbstractContextManager["Ground"]):
    """What stages share: etcd, PostgreSQL `a` and `b`, and the program that starts watchers."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self.folder = folder
        self.etcd = EtcdCluster(folder / "etcd", 1)
        self.servers = {name: Postgres(folder / name) for name in "ab"}
        self.program = SteppingProgram(folder / "program", BOUNCER_ACCOUNTS[0])

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in (self.etcd, *self.servers.values(), self.program):
                stack.enter_context(server)
            for server in self.servers.values():
                server.sql(_CREATE, dbname=APP, user=APP)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def endpoint(self, name: str) -> str:
        """host:port of server `a` or `b`."""
        return f"{self.servers[name].address}:{self.servers[name].port}"


class _Thread(AbstractContextManager[Any]):
    """Does `_turn` again and again, every few milliseconds, until it is left."""

    def __init__(self, pause: float) -> None:
        self._over = threading.Event()
        self._pause = pause
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._over.wait(self._pause):
            self._turn()

    def _turn(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()


@dataclass
class Pause:
    """One time of waiting, from the first to the last moment that it was seen (monotonic seconds)."""

    began: float
    seen: float

    @property
    def seconds(self) -> float:
        return self.seen - self.began


class AdminConsole:
    """One kept connection to PgBouncer's console. Not for two threads."""

    def __init__(self, pgbouncer: PgBouncer) -> None:
        host, port = pgbouncer.address, pgbouncer.port
        self._link = pg8000.native.Connection(
            ADMIN, host=host, port=port, database="pgbouncer", password=ADMIN_PASSWORD, timeout=10
        )

    def rows(self, statement: str) -> list[dict[str, Any]]:
        """The rows of one statement, columns by name."""
        rows = self._link.run(statement) or []
        names = [column["name"] for column in self._link.columns or []]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def databases(self) -> dict[str, dict[str, Any]]:
        """`SHOW DATABASES` by name."""
        return {row["name"]: row for row in self.rows("SHOW DATABASES")}

    def close(self) -> None:
        self._link.close()


class PauseWitness(_Thread):
    """Sees by a console of its own when the clients' database is paused, and whether the operator's is."""

    def __init__(self, pgbouncer: PgBouncer) -> None:
        super().__init__(_POLL)
        self._console = AdminConsole(pgbouncer)
        self.pauses: list[Pause] = []
        self.is_paused = False
        self.operators_ended = False
        self.looks = 0

    def _turn(self) -> None:
        shown, now = self._console.databases(), time.monotonic()
        if is_paused := bool(int(shown[APP]["paused"])):
            if not self.pauses or now - self.pauses[-1].seen > _APART:
                self.pauses.append(Pause(now, now))
            self.pauses[-1].seen = now
        self.is_paused = is_paused
        self.operators_ended |= not int(shown[OPERATORS]["paused"])
        self.looks += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._console.close()


class Client(_Thread):
    """Commits a row again and again through PgBouncer; `server` took the last one, begun at `at`.
    `firsts` are when each server's first one had ended, `lasts` when its last began, `commits` how many there
    were.
    """

    def __init__(self, pgbouncer: PgBouncer) -> None:
        super().__init__(_POLL)
        self._pgbouncer = pgbouncer
        self._link: pg8000.native.Connection | None = None
        self.server = ""
        self.at = 0.0
        self.firsts: dict[str, float] = {}
        self.lasts: dict[str, float] = {}
        self.commits = 0
        self.errors: list[str] = []

    def _turn(self) -> None:
        began = time.monotonic()
        try:
            rows = self._connected().run(_INSERT)
            self.server, self.at = ":".join(map(str, (rows or [[]])[0])), began
            self.firsts.setdefault(self.server, time.monotonic())
            self.lasts[self.server] = began
            self.commits += 1
        except _ERRORS as error:
            self.errors.append(repr(error))
            self._hang_up()

    def _connected(self) -> pg8000.native.Connection:
        if self._link is None:
            host, port = self._pgbouncer.address, self._pgbouncer.port
            self._link = pg8000.native.Connection(
                APP, host=host, port=port, database=APP, password=APP_PASSWORD, timeout=15
            )
        return self._link

    def _hang_up(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            with suppress(*_ERRORS):
                link.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._hang_up()


class Stage(AbstractContextManager["Stage"]):
    """A PgBouncer whose databases are the clients' and the operator's, and the link to it, which can fail."""

    def __init__(self, ground: Ground, number: int) -> None:
        self._stack = ExitStack()
        account, address = BOUNCER_ACCOUNTS[number % len(BOUNCER_ACCOUNTS)], take_address()
        self.ground = ground
        self.folder = own_folder(ground.folder / f"stage{number}", account)
        a = ground.servers["a"]
        pgbouncer = PgBouncer(
            ground.folder / f"bouncer{number}",
            address,
            account=account,
            server=(a.address, a.port),
            databases=(APP, OPERATORS),
            ini_extra=RECOMMENDED,
        )
        self.host = BouncerHost(
            "bouncer", pgbouncer, Sshd(ground.folder / f"ssh{number}", address, account=account)
        )
        self.link = Proxy(self.host.sshd.endpoint)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in (self.host.pgbouncer, self.host.sshd, self.link):
                stack.enter_context(server)
            self._console = AdminConsole(self.pgbouncer)
            stack.callback(self._console.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def pgbouncer(self) -> PgBouncer:
        return self.host.pgbouncer

    def reset(self) -> None:
        """As at first: no agent, no record, `a` leads, the operator's database alone is paused."""
        self.link.cut()
        self.host.sshd.kill_sessions()
        self.link.mend()
        for agent in self.agents():
            with suppress(psutil.NoSuchProcess):
                agent.kill()
        for record in self.records():
            record.unlink(missing_ok=True)
        a = self.ground.servers["a"]
        self.pgbouncer.write_block(a.address, a.port)
        self._console.rows("RELOAD")
        for name, wanted in ((APP, False), (OPERATORS, True)):
            if self.is_paused(name) != wanted:
                self._console.rows(f"{'PAUSE' if wanted else 'RESUME'} {name}")

    def target(self, via: str) -> dict[str, Any]:
        """The settings of this target, over SSH through the link that can fail, or local."""
        target = {
            "name": self.host.name,
            "via": via,
            "file": str(self.pgbouncer.config_file),
            "console": {"socket": str(self.pgbouncer.socket)},
            "step_timeout": 2.0,
        }
        if via == "ssh":
            target["ssh"] = self._ssh()
        return target

    def settings(self, via: str, scope: str, **sections: Any) -> dict[str, Any]:
        """Of a watcher that follows the keys of `scope` with this PgBouncer, the leader key being enough."""
        addresses = {name: self.ground.endpoint(name) for name in "ab"}
        cluster = {"scope": scope, "ready_by": "leader_key"}
        return {
            "cluster": {**cluster, "connect_via": "addresses", "addresses": addresses},
            "etcd": {"endpoints": self.ground.etcd.endpoints},
            "patroni": {"nodes": []},
            "targets": [self.target(via)],
            **sections,
        }

    def _ssh(self) -> dict[str, Any]:
        address, _, port = self.link.endpoint.rpartition(":")
        known_hosts = self.folder / "known_hosts"
        known_hosts.write_text(self.host.sshd.known_hosts.read_text().replace(self.host.address, address))
        return {
            "host": address,
            "port": int(port),
            "user": self.host.account,
            "key_file": str(self.host.sshd.client_key),
            "known_hosts": str(known_hosts),
            "connect_timeout": 2.0,
        }

    # --- what is there --------------------------------------------------------------------------------

    def config(self) -> dict[str, str]:
        """PgBouncer's settings in force."""
        return {row["key"]: row["value"] for row in self._console.rows("SHOW CONFIG")}

    def is_paused(self, database: str = APP) -> bool:
        """Whether clients of that database wait."""
        return bool(int(self._console.databases()[database]["paused"]))

    def is_at_rest(self) -> bool:
        """Whether clients wait, and no transaction of theirs runs any more."""
        if not self.is_paused():  # first: what is idle before that may not be idle behind it
            return False
        pools = [row for row in self._console.rows("SHOW POOLS") if row["database"] == APP]
        return not any(int(row["sv_active"]) for row in pools)

    def shown_route(self) -> str:
        """Where PgBouncer itself leads clients: host:port."""
        row = self._console.databases()[APP]
        return f"{row['host']}:{row['port']}"

    def records(self) -> list[Path]:
        """What agents that hold have left on the disk; the lock file of their turns does not count."""
        found = self.pgbouncer.folder.glob(f".{self.pgbouncer.config_file.name}.watcher-hold*")
        return [path for path in found if not path.name.endswith(".lock")]

    def agents(self, word: str = "") -> list[psutil.Process]:
        """Agents that serve this PgBouncer, all or those of one word, by whomever they were started."""
        return agents_of(self.pgbouncer, word)


def agents_of(pgbouncer: PgBouncer, word: str = "") -> list[psutil.Process]:
    """Agents that serve this PgBouncer, all or those of one word, by whomever they were started."""
    file = str(pgbouncer.config_file)
    return [process for process in psutil.process_iter() if _is_agent(process, file, word)]


def _is_agent(process: psutil.Process, file: str, word: str) -> bool:
    with suppress(psutil.NoSuchProcess):
        words = process.cmdline()
        return file in words and any("agent.py" in text for text in words) and (not word or word in words)
    return False


def longest(pauses: list[Pause]) -> float:
    """Seconds of the longest pause; 0.0 where there was none."""
    return max((pause.seconds for pause in pauses), default=0.0)
