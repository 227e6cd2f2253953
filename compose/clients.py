"""What clients see of the endpoint: who commits, who fails, who waits for how long.

    clients.py [--clients 20] [--seconds N] [--json]

Each client writes a row, thinks for 20 ms, and writes the next; every other client connects anew for each.
A line a second, and a summary at the end or at SIGTERM. Exit code 0 if no transaction failed, 1 if one did,
2 if the clients themselves are at fault.
"""

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psycopg2

THINK = 0.02
# found once, for it is the endpoint that is looked at, and not the name server
ENDPOINT = socket.gethostbyname(os.environ.get("PGHOST", "haproxy"))
PASSWORD = Path("/run/secrets/app_password")
NOT_YET = "none yet"


@dataclass
class Failure:
    """One transaction that failed, or one connection that could not be made. Seconds; `at` is Unix time."""

    at: float
    after: float
    client: int
    through: str
    error: str


@dataclass
class Seen:
    """What all clients met so far. `through` counts commits by the PgBouncer that they went through."""

    committed: int = 0
    longest: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    through: dict[str, int] = field(default_factory=dict)


class Clients:
    """All clients, a thread each, until `over`."""

    def __init__(self, count: int) -> None:
        self.seen, self.lately = Seen(), Seen()
        self.over, self.is_broken = threading.Event(), False
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._client, args=[number], daemon=True) for number in range(count)
        ]
        self._asked = dict.fromkeys(range(count), 0.0)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self, limit: float) -> None:
        deadline = time.monotonic() + limit
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def take_second(self) -> Seen:
        """What was met since the last call; who waits still has waited until now."""
        with self._lock:
            lately, self.lately = self.lately, Seen()
            waiting = [time.monotonic() - asked for asked in self._asked.values() if asked]
            lately.longest = max([lately.longest, *waiting])
            return lately

    def _client(self, number: int) -> None:
        try:
            self._write_on(number)
        except BaseException:
            self.is_broken = True
            self.over.set()
            raise

    def _write_on(self, number: int) -> None:
        stays, connection, through = number % 2 == 0, None, NOT_YET
        while not self.over.is_set():
            began = time.monotonic()
            self._asked[number] = self._asked[number] or began
            try:
                connection = connection or _connect()
                through = _transaction(connection, number)
                self._committed(number, through)
            except psycopg2.Error as error:
                after = time.monotonic() - began
                self._failed(Failure(time.time(), after, number, through, str(error).strip()))
                connection = _closed(connection)
            if not stays:
                connection = _closed(connection)
            self.over.wait(THINK)
        _closed(connection)

    def _committed(self, number: int, through: str) -> None:
        with self._lock:
            waited = time.monotonic() - self._asked[number]
            self._asked[number] = 0.0
            for seen in (self.seen, self.lately):
                seen.committed += 1
                seen.through[through] = seen.through.get(through, 0) + 1
                seen.longest = max(seen.longest, waited)

    def _failed(self, failure: Failure) -> None:
        with self._lock:
            for seen in (self.seen, self.lately):
                seen.failures.append(failure)


def _connect() -> "psycopg2.extensions.connection":
    connection = psycopg2.connect(host=ENDPOINT, dbname="app", user="app", password=PASSWORD.read_text())
    connection.autocommit = True
    return connection


def _closed(connection: "psycopg2.extensions.connection | None") -> None:
    if connection is not None:
        connection.close()


def _transaction(connection: "psycopg2.extensions.connection", number: int) -> str:
    """Commit a row; the address of the PgBouncer in between, as PostgreSQL sees it."""
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO seen (client) VALUES (%s) RETURNING host(inet_client_addr())", [number])
        return cursor.fetchone()[0]


def _create_table() -> None:
    connection = _connect()
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS seen (client int, at timestamptz DEFAULT now())")
    connection.close()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--json", action="store_true", help="the summary as JSON, with every failure")
    options = parser.parse_args()
    _create_table()
    clients = Clients(options.clients)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: clients.over.set())
    clients.start()
    _report(clients, time.monotonic() + options.seconds)
    clients.over.set()
    clients.join(limit=5)
    print(json.dumps(asdict(clients.seen)) if options.json else _as_text(clients.seen))
    return 2 if clients.is_broken else 1 if clients.seen.failures else 0


def _report(clients: Clients, until: float) -> None:
    while not clients.over.wait(min(1.0, max(0.0, until - time.monotonic()))) and time.monotonic() < until:
        lately = clients.take_second()
        print(
            f"{time.strftime('%H:%M:%S')}  committed {lately.committed:5}  failed {len(lately.failures):3}"
            f"  longest wait {lately.longest:6.2f} s  through {', '.join(sorted(lately.through)) or 'none'}"
        )
        for failure in lately.failures[:3]:
            print(f"          client {failure.client}: {failure.error.splitlines()[0]}")


def _as_text(seen: Seen) -> str:
    return (
        f"in all: committed {seen.committed}, failed {len(seen.failures)}, longest wait {seen.longest:.2f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
