"""One question to PostgreSQL: is it in recovery? Asked at the address that clients would use."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from pg8000.exceptions import DatabaseError, Error
from pg8000.native import Connection

from watcher.decide.errors import AccessDenied, SourceError
from watcher.decide.model import Endpoint
from watcher.observe.trust import Trust

# The current WAL file's name begins with the timeline; a server in recovery refuses the question.
_QUESTION = (
    "select in_recovery, case when in_recovery then null else substr("
    "pg_walfile_name(pg_current_wal_lsn()), 1, 8) end from pg_is_in_recovery() as in_recovery"
)


@dataclass(frozen=True, slots=True)
class SqlLogin:
    """A role that may log in; it needs no other right.

    `limit` in seconds, for the connection and for each answer. Without `trust` the connection is plain.
    """

    user: str
    password: str | None = field(default=None, repr=False)
    database: str = "postgres"
    trust: Trust | None = None
    limit: float = 1.0


@dataclass(frozen=True, slots=True)
class SqlAnswer:
    """`timeline` is None in recovery."""

    in_recovery: bool
    timeline: int | None


class Postgres:
    """Keeps one connection while the same server is asked again and again. For one thread."""

    def __init__(self, login: SqlLogin) -> None:
        self._login = login
        self._connection: Connection | None = None
        self._endpoint: Endpoint | None = None

    def ask(self, endpoint: Endpoint) -> SqlAnswer:
        """SourceError if it does not answer, AccessDenied if it refuses the login."""
        try:
            return _answer(self._connected(endpoint).run(_QUESTION))
        except (Error, OSError, ValueError, IndexError, TypeError) as error:
            self.close()
            raise _translated(error, f"PostgreSQL at {endpoint}", self._login) from error

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            _quietly(connection.close)

    def _connected(self, endpoint: Endpoint) -> Connection:
        if self._connection is None or self._endpoint != endpoint:
            self.close()
            self._connection, self._endpoint = self._connect(endpoint), endpoint
        return self._connection

    def _connect(self, endpoint: Endpoint) -> Connection:
        login = self._login
        link = socket.create_connection((endpoint.host, endpoint.port), login.limit)
        try:
            return Connection(
                login.user,
                host=endpoint.host,
                port=endpoint.port,
                database=login.database,
                password=login.password,
                ssl_context=False if login.trust is None else login.trust.context(),
                application_name="pgbouncer-watcher",
                sock=link,
            )
        except BaseException:
            link.close()
            raise


def _answer(rows: list[list[object]] | None) -> SqlAnswer:
    in_recovery, timeline = (rows or [])[0]
    return SqlAnswer(in_recovery is not False, int(str(timeline), 16) if timeline else None)


def _translated(error: Exception, place: str, login: SqlLogin) -> SourceError:
    if isinstance(error, DatabaseError):
        fields = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
        code, text = str(fields.get("C", "")), str(fields.get("M", error))
        if code.startswith("28"):
            return AccessDenied(
                place, text, f"correct the login of {login.user!r}, or the server's pg_hba.conf"
            )
        return SourceError(place, text, "see the server's log")
    if isinstance(error, TimeoutError):
        return SourceError(
            place, f"did not answer within {login.limit} s", "is it up, and the port open to us?"
        )
    return SourceError(
        place, f"{error.__cause__ or error}", "is PostgreSQL up there, and does it expect TLS?"
    )


def _quietly(close: Callable[[], None]) -> None:
    """A connection that is broken already cannot say goodbye."""
    try:
        close()
    except (Error, OSError):
        return
