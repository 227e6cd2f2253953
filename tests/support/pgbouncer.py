"""A real PgBouncer under its own account, with the marked block that the watcher writes."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tests.support import newer_pgbouncer
from tests.support.accounts import own_file, own_folder
from tests.support.addresses import take_address
from tests.support.install_steps import InstallError
from tests.support.postgres import APP, APP_PASSWORD, psql
from tests.support.processes import Process
from tests.support.waiting import BedError, wait_for
from watcher.decide.advice import recommended

READY_SECONDS = 10.0
SOCKET_PATH_LIMIT = 107
ADMIN, ADMIN_PASSWORD = "admin", "admin-password"
STATS, STATS_PASSWORD = "stats", "stats-password"

Version = Literal["debian", "new"]
DEBIAN_VERSION = (1, 18)

RECOMMENDED: Mapping[str, str] = {
    name: value
    for name, value in recommended(DEBIAN_VERSION).items()
    if name != "pool_mode"  # which is a parameter of its own
}
"""What the project recommends to its users, as every version here takes it; pass it as `ini_extra`."""


def _program(version: Version) -> list[str | Path]:
    """Raises BedError with the remedy where the machine does not have it."""
    if version == "debian":
        return ["/usr/sbin/pgbouncer"]
    try:
        return newer_pgbouncer.command()
    except InstallError as error:
        raise BedError(str(error)) from error


class PgBouncer(AbstractContextManager["PgBouncer"]):
    """PgBouncer on an address of its own, run by `account`.

    `databases` are the names in the block (default: app), all leading to `server` (host, port) at first.
    `outside` are lines of [databases] beside the block. With `include_file` the block is in a file of its own
    that pgbouncer.ini includes; `config_file` is the one with the block either way. Users are `app`,
    `admin`, `stats` (SHOW only) and those of `users`, with their passwords in the userlist; under the default
    auth_type trust no password is asked for. `version` is Debian 12's own 1.18, or a new one, at least 1.24.
    """

    def __init__(
        self,
        folder: Path,
        address: str | None = None,
        port: int = 6432,
        account: str = "bed-bouncer1",
        *,
        databases: Iterable[str] = (APP,),
        server: tuple[str, int] = ("127.0.0.1", 1),
        outside: Iterable[str] = (),
        block_name: str | None = None,
        pool_mode: str = "transaction",
        auth_type: str = "trust",
        users: Mapping[str, str] | None = None,
        stats_users: Iterable[str] = (STATS,),
        include_file: bool = False,
        ini_extra: Mapping[str, str] | None = None,
        version: Version = "debian",
    ) -> None:
        self.folder = own_folder(folder, account)
        self.address = address or take_address()
        self.port = port
        self.account = account
        self.databases = list(databases)
        self.reads: tuple[str, ...] = ()  # databases for reads that the block has as well
        self.outside = list(outside)
        self.block_name = block_name
        self.users = {APP: APP_PASSWORD, ADMIN: ADMIN_PASSWORD, STATS: STATS_PASSWORD, **(users or {})}
        self.ini = folder / "pgbouncer.ini"
        self.config_file = folder / "databases.ini" if include_file else self.ini
        self.log = folder / "pgbouncer.log"
        self._server = server
        self._settings = {
            "listen_addr": self.address,
            "listen_port": str(port),
            "unix_socket_dir": str(folder),
            "auth_type": auth_type,
            "auth_file": str(folder / "userlist.txt"),
            "admin_users": ADMIN,
            "stats_users": ",".join(stats_users),
            "pool_mode": pool_mode,
            "ignore_startup_parameters": "extra_float_digits",
            **(ini_extra or {}),
        }
        self._check_socket_path()
        self.write_files()
        self.process = Process(
            f"pgbouncer at {self.address}", [*_program(version), self.ini], log=self.log, user=account
        )

    def _check_socket_path(self) -> None:
        if len(str(self.socket)) > SOCKET_PATH_LIMIT:
            raise BedError(f"{self.socket}: longer than a socket's path may be ({SOCKET_PATH_LIMIT} bytes)")

    @property
    def socket(self) -> Path:
        """The Unix socket."""
        return self.folder / f".s.PGSQL.{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the running PgBouncer."""
        return self.process.pid

    # --- files ----------------------------------------------------------------------------------------

    def block(self, host: str, port: int) -> str:
        """The marked lines that lead every database to host:port."""
        name = f" {self.block_name}" if self.block_name else ""
        lines = [
            f"{database} = host={host} port={port}" + ("" if database == "*" else f" dbname={database}")
            for database in self.databases
        ]
        for database in self.reads:
            lines += [";; role=replica", f"{database} = host={host} port={port} dbname={APP}"]
        return (
            "\n".join([f";; [config cluster{name}: begin]", *lines, f";; [config cluster{name}: end]"]) + "\n"
        )

    def write_files(self) -> None:
        """Write every file anew, as at first."""
        userlist = "".join(f'"{user}" "{password}"\n' for user, password in self.users.items())
        own_file(self.folder / "userlist.txt", userlist, self.account, 0o640)
        self.write_block(*self._server)

    def write_block(self, host: str, port: int) -> None:
        """Lead the block to host:port, without a reload, and not atomically."""
        self._server = (host, port)
        block = self.block(host, port)
        if self.config_file != self.ini:
            own_file(self.config_file, block, self.account)
            block = f"%include {self.config_file}\n"
        settings = "".join(f"{name} = {value}\n" for name, value in self._settings.items())
        outside = "".join(f"{line}\n" for line in self.outside)
        own_file(self.ini, f"[databases]\n{outside}{block}\n[pgbouncer]\n{settings}", self.account)

    def point_at(self, host: str, port: int) -> None:
        """Lead every database of the block to host:port, and reload."""
        self.write_block(host, port)
        self.reload()

    # --- console --------------------------------------------------------------------------------------

    def console(self, sql: str, *, timeout: float = 10) -> list[dict[str, str]]:
        """Run one console command over the Unix socket as the account itself, which needs no password."""
        return psql(
            self.folder, self.port, "pgbouncer", "pgbouncer", sql, as_account=self.account, timeout=timeout
        )

    def tcp_console(
        self, sql: str, *, user: str = ADMIN, password: str = ADMIN_PASSWORD
    ) -> list[dict[str, str]]:
        """Run one console command over TCP with a password."""
        return psql(self.address, self.port, user, "pgbouncer", sql, password=password)

    def sql(self, sql: str, *, dbname: str | None = None, user: str = APP) -> list[dict[str, str]]:
        """Run one statement as a client would."""
        database = dbname or self.databases[0]
        return psql(self.address, self.port, user, database, sql, password=self.users.get(user, ""))

    def database(self, name: str | None = None) -> dict[str, str]:
        """The row of SHOW DATABASES for one database of the block."""
        wanted = name or self.databases[0]
        return next(row for row in self.console("SHOW DATABASES") if row["name"] == wanted)

    def route(self, name: str | None = None) -> tuple[str, int]:
        """Where PgBouncer really leads a database: host and port."""
        row = self.database(name)
        return row["host"], int(row["port"])

    def is_paused(self, name: str | None = None) -> bool:
        """Whether a database is paused."""
        return self.database(name)["paused"] == "1"

    def reload(self) -> None:
        """RELOAD through the console."""
        self.console("RELOAD")

    # --- life -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def set_up(self, changes: Mapping[str, str | None], version: Version | None = None) -> Iterator[None]:
        """For a while, started anew, with other settings (None: PgBouncer's default) or as another version.

        It leads where it was last pointed at by hand.
        """
        settings, argv = self._settings, self.process.argv
        others = {**settings, **changes}
        self._settings = {name: value for name, value in others.items() if value is not None}
        if version is not None:
            self.process.argv = [str(word) for word in (*_program(version), self.ini)]
        try:
            self._start_anew()
            yield
        finally:
            self._settings, self.process.argv = settings, argv
            self._start_anew()

    def _start_anew(self) -> None:
        self.process.stop()
        self.write_block(*self._server)
        self.start()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start, and wait until the console answers."""
        self.process.start()
        wait_for(
            lambda: self.console("SHOW VERSION"),
            READY_SECONDS,
            f"PgBouncer at {self.address}",
            logs=[self.log],
        )

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process.is_alive()

    def kill(self) -> None:
        """SIGKILL: clients and servers see their connections reset."""
        self.process.kill()

    def freeze(self) -> None:
        """SIGSTOP: connections stay, nothing answers."""
        self.process.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.thaw()

    def stop(self) -> None:
        """Make sure that it does not run. Idempotent."""
        self.process.stop()
