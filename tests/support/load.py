"""Clients that write rows through PgBouncer without a break, in a process of their own.

`ClientLoad` is the object for tests; run as a program this module is that process. Every transaction is one
line of JSON in a file: client, start, end, ok, and the server's address or the error's text. Stamps are
time.monotonic(), which on Linux is one clock for all processes.
"""

import contextlib
import json
import signal
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import pg8000.exceptions
import pg8000.native

from tests.support.postgres import APP, APP_PASSWORD, psql
from tests.support.processes import Process
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]
TABLE = "bed_load"
CREATE_TABLE = f"CREATE TABLE IF NOT EXISTS {TABLE} (id bigserial, at timestamptz DEFAULT now(), client int)"
DRAIN_SECONDS = 1.0
ERROR_TEXT_LIMIT = 300


class _Outspoken(pg8000.native.Connection):
    """Says what the server said last, where pg8000 would say that the network failed behind it."""

    def handle_messages(self, context: Any) -> None:
        """As pg8000's, but an error that the server sent before it hung up is the one that is raised."""
        try:
            super().handle_messages(context)
        except pg8000.exceptions.InterfaceError as trouble:
            raise (context.error or trouble) from trouble


@dataclass(frozen=True)
class Transaction:
    """One attempt: when, and with what result. `server` is host:port of the server that committed it."""

    client: int
    start: float
    end: float
    server: str = ""
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was committed."""
        return not self.error


@dataclass(frozen=True)
class Report:
    """What the clients met, from `started` to `ended` (monotonic)."""

    transactions: list[Transaction]
    started: float
    ended: float
    commits: list[Transaction] = field(init=False)
    failures: list[Transaction] = field(init=False)

    def __post_init__(self) -> None:
        ordered = sorted(self.transactions, key=lambda transaction: transaction.end)
        object.__setattr__(self, "commits", [one for one in ordered if one.ok])
        object.__setattr__(self, "failures", [one for one in ordered if not one.ok])

    @property
    def failed(self) -> int:
        """How many transactions failed, attempts to connect included."""
        return len(self.failures)

    @property
    def errors(self) -> Counter[str]:
        """The texts of the errors, counted."""
        return Counter(one.error for one in self.failures)

    @property
    def longest_stall(self) -> float:
        """The longest time, in seconds, that any one client went without a commit."""
        return max((self._stall(client) for client in {one.client for one in self.transactions}), default=0.0)

    def _stall(self, client: int) -> float:
        ends = [self.started, *(one.end for one in self.commits if one.client == client), self.ended]
        return max(later - earlier for earlier, later in pairwise(ends))

    @property
    def servers(self) -> Counter[str]:
        """Commits by server (host:port)."""
        return Counter(one.server for one in self.commits)

    @property
    def last_server(self) -> str | None:
        """host:port of the server of the last commit."""
        return self.commits[-1].server if self.commits else None

    def first_commit(self, host: str | None = None, *, after: float = 0.0) -> Transaction | None:
        """The first commit that ended later than `after`, on `host` if given."""
        fitting = (one for one in self.commits if one.end > after)
        return next((one for one in fitting if host is None or one.server.startswith(f"{host}:")), None)

    def between(self, start: float, end: float) -> list[Transaction]:
        """Attempts that ended within the span."""
        return [one for one in self.transactions if start <= one.end <= end]

    def __str__(self) -> str:
        return (
            f"{len(self.transactions)} transactions, {self.failed} failed, "
            f"longest stall {self.longest_stall:.2f} s, servers {dict(self.servers)}"
        )


@dataclass(frozen=True)
class Plan:
    """What the load's process is told."""

    host: str
    port: int
    user: str
    dbname: str
    password: str
    clients: int
    pause: float
    timeout: float
    reconnect_each: bool
    ca: str


class ClientLoad(AbstractContextManager["ClientLoad"]):
    """`clients` connections that insert rows, and connect again after each error.

    `pause` (seconds) lies between two transactions of a client, `timeout` bounds each wait for the server.
    With `reconnect_each` every transaction has a connection of its own. With `ca`, a file of authorities, the
    connections are by TLS, and the server must be who it is said to be. Entering creates the table, starts,
    and waits for the first commit of each client.
    """

    def __init__(
        self,
        folder: Path,
        host: str,
        port: int,
        *,
        user: str = APP,
        dbname: str = APP,
        password: str = APP_PASSWORD,
        clients: int = 8,
        pause: float = 0.02,
        timeout: float = 120,
        reconnect_each: bool = False,
        ca: Path | None = None,
    ) -> None:
        self.plan = Plan(
            host, port, user, dbname, password, clients, pause, timeout, reconnect_each, str(ca or "")
        )
        stamp = f"load-{time.monotonic_ns()}"
        self.file = folder / f"{stamp}.jsonl"
        self.log = folder / f"{stamp}.log"
        self.started = 0.0
        self._report: Report | None = None
        self.process = Process(
            "load",
            [sys.executable, "-m", "tests.support.load", str(self.file), json.dumps(asdict(self.plan))],
            log=self.log,
            cwd=ROOT,
        )

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.process.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Create the table, start the clients, wait until each of them has committed once."""
        plan = self.plan
        psql(plan.host, plan.port, plan.user, plan.dbname, CREATE_TABLE, password=plan.password)
        self.file.touch()
        self.process.start()
        wait_for(
            self._all_have_committed, 20, "a commit of every client", logs=[self.log, self.file], poll=0.05
        )
        self.started = time.monotonic()

    def _all_have_committed(self) -> bool:
        return len({one.client for one in self.so_far() if one.ok}) == self.plan.clients

    def so_far(self) -> list[Transaction]:
        """Transactions that have ended until now."""
        lines = self.file.read_text().splitlines(keepends=True)
        return [Transaction(**json.loads(line)) for line in lines if line.endswith("\n")]

    def report(self) -> Report:
        """What has happened from start() until now, or until stop()."""
        if self._report is not None:
            return self._report
        ended = time.monotonic()
        seen = [one for one in self.so_far() if self.started <= one.end <= ended]
        return Report(seen, self.started, ended)

    def wait_for_commit(
        self, host: str | None = None, *, after: float | None = None, timeout: float = 60
    ) -> Transaction:
        """Wait for a commit (on `host`) that ended later than `after` (default: now)."""
        since = time.monotonic() if after is None else after
        return wait_for(
            lambda: self.report().first_commit(host, after=since),
            timeout,
            f"a commit on {host or 'any server'}; so far {self.report()}",
            poll=0.05,
        )

    def stop(self) -> Report:
        """End the clients and give the report. Idempotent. Who still waits has not failed."""
        if self._report is None:
            self._report = self.report()
            with contextlib.suppress(Exception):
                self.process.terminate()
            self.process.stop()
        return self._report


# --- the process --------------------------------------------------------------------------------------


class Client:
    """One connection, made again after every error."""

    def __init__(self, number: int, plan: Plan) -> None:
        self.number = number
        self.plan = plan
        self._connection: pg8000.native.Connection | None = None
        self._insert = (
            f"INSERT INTO {TABLE} (client) VALUES ({int(number)}) "  # noqa: S608  # constants and a number
            "RETURNING host(inet_server_addr()) || ':' || inet_server_port()"
        )

    def transact(self) -> Transaction:
        """One attempt."""
        start = time.monotonic()
        server, error = "", ""
        try:
            server = self._attempt()
        except (pg8000.exceptions.Error, pg8000.exceptions.InterfaceError, OSError) as trouble:
            error = f"{type(trouble).__name__}: {trouble}"[:ERROR_TEXT_LIMIT]
            self._drop()
        return Transaction(self.number, start, time.monotonic(), server, error)

    def _attempt(self) -> str:
        connection = self._connection or self._connect()
        self._connection = connection
        rows = connection.run(self._insert)
        if self.plan.reconnect_each:
            self._drop()
        return str(rows[0][0]) if rows else ""

    def _connect(self) -> pg8000.native.Connection:
        plan = self.plan
        return _Outspoken(
            plan.user,
            host=plan.host,
            port=plan.port,
            database=plan.dbname,
            password=plan.password,
            timeout=plan.timeout,
            ssl_context=ssl.create_default_context(cafile=plan.ca) if plan.ca else None,
            application_name=f"load-{self.number}",
        )

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()


class Writer:
    """Appends transactions to the file, one line each, from many threads."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()

    def write(self, transaction: Transaction) -> None:
        """One line, at once."""
        with self._lock:
            self._out.write(json.dumps(asdict(transaction)) + "\n")
            self._out.flush()


def _transactions(number: int, plan: Plan, ended: threading.Event) -> Iterator[Transaction]:
    client = Client(number, plan)
    while not ended.is_set():
        yield client.transact()
        ended.wait(plan.pause)


def _work(number: int, plan: Plan, writer: Writer, ended: threading.Event) -> None:
    for transaction in _transactions(number, plan, ended):
        writer.write(transaction)


def main(file: str, plan_text: str) -> None:
    """Run the clients until SIGTERM."""
    plan = Plan(**json.loads(plan_text))
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with Path(file).open("a") as out:
        writer = Writer(out)
        threads = [
            threading.Thread(target=_work, args=(number, plan, writer, ended), daemon=True)
            for number in range(plan.clients)
        ]
        for thread in threads:
            thread.start()
        ended.wait()
        deadline = time.monotonic() + DRAIN_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
