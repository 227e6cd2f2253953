"""The benchmark's own eye on PgBouncer: warm consoles that are asked until they show a route."""

import contextlib
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

import pg8000.native

from tests.support.bed import BouncerHost
from tests.support.pgbouncer import ADMIN, ADMIN_PASSWORD
from tests.support.postgres import APP
from tests.support.waiting import BedTimeoutError


class Consoles(AbstractContextManager["Consoles"]):
    """One console connection to each PgBouncer, over TCP, opened on entering."""

    def __init__(self, hosts: Sequence[BouncerHost]) -> None:
        self._hosts = hosts
        self._consoles: dict[str, pg8000.native.Connection] = {}

    def __enter__(self) -> Self:
        for host in self._hosts:
            self._consoles[host.name] = pg8000.native.Connection(
                ADMIN,
                password=ADMIN_PASSWORD,
                host=host.address,
                port=host.pgbouncer.port,
                database="pgbouncer",
                timeout=10,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for console in self._consoles.values():
            with contextlib.suppress(Exception):
                console.close()

    def when_all_show(self, host: str, *, poll: float, timeout: float) -> dict[str, float]:
        """For each PgBouncer the moment (monotonic) at which SHOW DATABASES was first seen to show `host`.

        Each is asked every `poll` seconds, so a moment is at most that much late.
        """
        seen: dict[str, float] = {}
        until = time.monotonic() + timeout
        while len(seen) < len(self._consoles):
            for name, console in self._consoles.items():
                if name not in seen and _shows(console, host):
                    seen[name] = time.monotonic()
            if time.monotonic() > until:
                missing = sorted(set(self._consoles) - set(seen))
                raise BedTimeoutError(f"{', '.join(missing)}: not led to {host} within {timeout:g} s")
            time.sleep(poll)
        return seen


def _shows(console: pg8000.native.Connection, host: str) -> bool:
    rows = console.run("SHOW DATABASES")
    names = [column["name"] for column in console.columns or ()]
    name, where = names.index("name"), names.index("host")
    return any(row[name] == APP and row[where] == host for row in rows or ())
