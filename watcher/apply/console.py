"""PgBouncer's admin console (PgBouncer usage, «Admin console»), by pg8000 over whatever stream there is.

Simple queries only, and columns by name: PgBouncer adds and moves them between versions.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pg8000.exceptions
import pg8000.native

from watcher.apply.agent_link import Stream
from watcher.decide.errors import LoginRefused, TargetError, TargetRefused, TargetUnreachable
from watcher.decide.model import ConsoleDatabase


@dataclass(frozen=True, slots=True)
class ConsoleAccess:
    """Who logs in, and, where no stream is dialled, by which Unix socket or host and port."""

    user: str = "pgbouncer"
    password: str | None = None
    unix_socket: str | None = None
    host: str | None = None
    port: int = 6432
    tls: ssl.SSLContext | None = None


class Console:
    """One warm console connection, opened when first needed, every exchange bounded by `limit` seconds.

    After an error of the connection it is closed; the next call opens it anew. One thread at a time.
    """

    def __init__(
        self, place: str, access: ConsoleAccess, dial: Callable[[], Stream] | None, limit: float
    ) -> None:
        self._place = f"{place} console"
        self._access = access
        self._dial = dial
        self._limit = limit
        self._connection: pg8000.native.Connection | None = None

    def log_in(self) -> None:
        """Open the connection if it is not."""
        with self._translated():
            self._open()

    def databases(self) -> tuple[ConsoleDatabase, ...]:
        """`SHOW DATABASES`."""
        return databases_in(self.rows("SHOW DATABASES"), self._place)

    def version(self) -> str:
        """`SHOW VERSION`, as it says it: `PgBouncer 1.18.0`."""
        return " ".join(str(value) for row in self.rows("SHOW VERSION") for value in row.values())

    def config(self) -> dict[str, str]:
        """`SHOW CONFIG`: the live value of each setting, as text, in the unit of that setting."""
        rows = self.rows("SHOW CONFIG")
        try:
            return {str(row["key"]): str(row["value"]) for row in rows}
        except KeyError as error:
            raise TargetRefused(
                self._place, f"SHOW CONFIG has no column {error}", "is this PgBouncer?"
            ) from error

    def reload(self) -> None:
        """`RELOAD`. PgBouncer 1.18 answers so even where it failed: confirm by `databases`."""
        self.rows("RELOAD")

    def check_admin(self) -> None:
        """Raises TargetRefused unless this user may do more than SHOW; changes nothing.

        PgBouncer tests the right before the name (src/admin.c, admin_cmd_resume).
        """
        with contextlib.suppress(_NoSuchDatabase):
            self.rows("RESUME pgbouncer_watcher_no_such_database")

    def rows(self, statement: str) -> list[dict[str, Any]]:
        """The rows of one statement, columns by name.

        A connection that broke since its last use (PgBouncer was restarted) is opened anew at once, so
        `statement` must be one that may be said twice.
        """
        was_warm = self._connection is not None
        try:
            return self._run(statement)
        except TargetUnreachable as error:
            if not was_warm or isinstance(error.__cause__, TimeoutError):
                raise
            return self._run(statement)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # whatever a broken connection says, it is gone
                connection.close()

    def _run(self, statement: str) -> list[dict[str, Any]]:
        with self._translated():
            connection = self._open()
            rows = connection.run(statement) or []
            names = [column["name"] for column in connection.columns or []]
            return [dict(zip(names, row, strict=True)) for row in rows]

    def _open(self) -> pg8000.native.Connection:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> pg8000.native.Connection:
        stream = self._dial() if self._dial is not None else None
        if stream is None:
            return self._log_in_over(None)
        try:
            stream.settimeout(self._limit)
            return self._log_in_over(stream)
        except BaseException:  # pg8000 does not close what was given to it
            stream.close()
            raise

    def _log_in_over(self, stream: Stream | None) -> pg8000.native.Connection:
        """Without a context pg8000 would try TLS first, which only a real socket can be wrapped into."""
        access = self._access
        return pg8000.native.Connection(
            access.user,
            host=access.host if stream is None else None,
            unix_sock=access.unix_socket if stream is None else None,
            port=access.port,
            database="pgbouncer",
            password=access.password or "",  # pg8000 breaks on None where one is asked for
            ssl_context=False if access.tls is None and stream is not None else access.tls,
            timeout=self._limit,
            sock=stream,
        )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except pg8000.exceptions.DatabaseError as error:
            raise self._refusal(error) from error
        except TargetError:
            self.close()
            raise
        except (pg8000.exceptions.InterfaceError, OSError, EOFError) as error:
            self.close()
            cause = error.__cause__ or error
            problem = "no answer in time" if isinstance(cause, TimeoutError) else str(cause) or str(error)
            raise TargetUnreachable(
                self._place, problem, "is PgBouncer running and answering there?"
            ) from error
        except Exception as error:  # pg8000 stumbles over what is not PostgreSQL's protocol in many ways
            self.close()
            problem = f"what answers there does not speak as PgBouncer does: {error!r}"
            raise TargetUnreachable(self._place, problem, "is PgBouncer listening there?") from error

    def _refusal(self, error: pg8000.exceptions.DatabaseError) -> TargetError:
        fields = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
        message, fatal = str(fields.get("M", error)), fields.get("S") == "FATAL"
        if message.startswith("no such database"):
            return _NoSuchDatabase(self._place, message)
        if fatal:
            self.close()
        kind = LoginRefused if fatal else TargetRefused
        return kind(self._place, f"user {self._access.user!r}: {message}", _hint(message))


class _NoSuchDatabase(TargetRefused):
    pass


def _hint(message: str) -> str:
    if "admin access" in message or "not allowed" in message:
        return "put the user into admin_users, or use PgBouncer's own system user over its Unix socket"
    if "password" in message or "auth" in message or "SASL" in message:
        return "correct `console.user` and `console.password`; see PgBouncer's auth_file"
    return "see PgBouncer's log"


COLUMNS = ("name", "host", "port", "paused", "disabled", "pool_mode", "pool_size", "min_pool_size")
"""Of `SHOW DATABASES`, those that `databases_in` reads."""


def databases_in(rows: Iterable[Mapping[str, Any]], place: str) -> tuple[ConsoleDatabase, ...]:
    """Rows of `SHOW DATABASES` as values. TargetRefused where they are none."""
    try:
        return tuple(_database(row) for row in rows)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise TargetRefused(place, f"SHOW DATABASES has no readable {error}", "is this PgBouncer?") from error


def _database(row: Mapping[str, Any]) -> ConsoleDatabase:
    host = row["host"]
    return ConsoleDatabase(
        name=str(row["name"]),
        host=None if host is None else str(host),
        port=int(row["port"]),
        paused=bool(int(row.get("paused") or 0)),
        disabled=bool(int(row.get("disabled") or 0)),
        pool_mode=row.get("pool_mode") or None,
        pool_size=_size(row.get("pool_size")),
        min_pool_size=_size(row.get("min_pool_size")),
    )


def _size(value: Any) -> int | None:
    return None if value is None else int(value)
