"""A plain PostgreSQL, primary or streaming standby, without Patroni."""

import contextlib
import csv
import functools
import io
import re
import signal
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.accounts import POSTGRES_ACCOUNT, own_folder
from tests.support.addresses import take_address
from tests.support.processes import Process, run
from tests.support.waiting import BedError, wait_for

READY_SECONDS = 30.0
APP = "app"
APP_PASSWORD = "app-password"
SUPERUSER_PASSWORD = "superuser-password"

CHEAP: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "100",
    "max_wal_size": "128MB",
    "jit": "off",
    "autovacuum": "off",
    # not posix: a killed server would leave files in /dev/shm for ever; these go with the data
    "dynamic_shared_memory_type": "mmap",
}


@functools.cache
def bin_dir() -> Path:
    """Where the newest installed PostgreSQL has its programs (not Debian's slow wrappers)."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if not found:
        raise BedError("no PostgreSQL below /usr/lib/postgresql\nHINT: python3 -m tests.support.install")
    return max(found, key=lambda path: int(path.parent.name))


def psql(
    host: str | Path,
    port: int,
    user: str,
    dbname: str,
    sql: str,
    *,
    password: str = "",
    as_account: str | None = None,
    timeout: float = 15,
) -> list[dict[str, str]]:
    """Run one statement by the real psql and give its rows by column name. Raises BedError with psql's text.

    `host` may be the folder of a Unix socket; `as_account` is the operating system user that connects.
    """
    connection = ["-h", str(host), "-p", str(port), "-U", user, "-d", dbname]
    done = run(
        [bin_dir() / "psql", "-X", "-q", "-w", "--csv", "-v", "ON_ERROR_STOP=1", *connection, "-c", sql],
        user=as_account,
        env={"PGPASSWORD": password, "PGCONNECT_TIMEOUT": "5"},
        timeout=timeout,
    )
    return list(csv.DictReader(io.StringIO(done.stdout)))


def hba(method: str) -> list[str]:
    """Lines of pg_hba.conf: the socket is trusted, loopback logs in by `method`."""
    return [
        "local all all trust",
        "local replication all trust",
        f"host all all 127.0.0.0/8 {method}",
        f"host replication all 127.0.0.0/8 {method}",
    ]


def remove_shared_memory(data: Path) -> None:
    """Remove the small System V segment that a killed postmaster left; the machine has room for 4,096 only.

    Its id is the last number of the seventh line of postmaster.pid, which an orderly stop removes.
    """
    with contextlib.suppress(OSError, IndexError):
        identity = (data / "postmaster.pid").read_text().splitlines()[6].split()[-1]
        run(["ipcrm", "-m", identity], check=False)
        (data / "postmaster.pid").unlink()


class Postgres(AbstractContextManager["Postgres"]):
    """A PostgreSQL on an address of its own, with a superuser `postgres` and a role and database `app`.

    With `primary` it is that server's streaming standby. `auth` is how loopback logs in: trust, md5 or
    scram-sha-256. The first start() makes the data; later ones go on with it.
    """

    def __init__(
        self,
        folder: Path,
        address: str | None = None,
        port: int = 5432,
        *,
        primary: "Postgres | None" = None,
        auth: str = "trust",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = own_folder(folder, POSTGRES_ACCOUNT)
        self.address = address or take_address()
        self.port = port
        self.primary = primary
        self.auth = auth
        self.data = folder / "data"
        self.log = folder / "postgres.log"
        self._settings = {**CHEAP, **(settings or {})}
        self.process = Process(
            f"postgres at {self.address}",
            [bin_dir() / "postgres", "-D", self.data],
            log=self.log,
            user=POSTGRES_ACCOUNT,
        )

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        return self.process.pid

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
        """Start and wait until it takes logins."""
        new = not self.data.exists()
        if new:
            self._clone(self.primary) if self.primary else self._initdb()
        self.process.start()
        self.wait_until_ready()
        if new and self.primary is None:
            self.sql(f"CREATE ROLE {APP} LOGIN PASSWORD '{APP_PASSWORD}'")
            self.sql(f"CREATE DATABASE {APP} OWNER {APP}")

    def _initdb(self) -> None:
        command = [
            str(bin_dir() / "initdb"),
            "-D",
            str(self.data),
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]
        run([*command, "-A", "trust"], user=POSTGRES_ACCOUNT)
        self._configure()

    def _clone(self, primary: "Postgres") -> None:
        command = [
            str(bin_dir() / "pg_basebackup"),
            "-D",
            str(self.data),
            "-h",
            str(primary.folder),
            "-p",
            str(primary.port),
        ]
        run(
            [*command, "-U", "postgres", "-R", "-X", "stream", "-c", "fast", "--no-sync"],
            user=POSTGRES_ACCOUNT,
        )
        self._configure()

    def _configure(self) -> None:
        settings = {
            **self._settings,
            "listen_addresses": self.address,
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "hot_standby": "on",
        }
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        (self.data / "pg_hba.conf").write_text("\n".join(hba(self.auth)) + "\n")

    def wait_until_ready(self, timeout: float = READY_SECONDS) -> None:
        """Wait until it takes logins."""
        wait_for(self._answers, timeout, f"PostgreSQL at {self.address}", logs=[self.log], poll=0.05)

    def _answers(self) -> bool:
        return bool(self.sql("SELECT 1"))

    def sql(self, sql: str, *, dbname: str = "postgres", user: str = "postgres") -> list[dict[str, str]]:
        """Run a statement through the Unix socket, as superuser by default."""
        return psql(self.folder, self.port, user, dbname, sql, as_account=POSTGRES_ACCOUNT)

    def in_recovery(self) -> bool:
        """Whether it is a standby still."""
        return self.sql("SELECT pg_is_in_recovery() AS r")[0]["r"] == "t"

    def promote(self) -> None:
        """Make the standby a primary, and wait for it."""
        self.sql("SELECT pg_promote(wait => true)")

    def set(self, name: str, value: str) -> None:
        """Change a setting and reload."""
        if not re.fullmatch(r"[a-z_.]+", name):
            raise BedError(f"not the name of a setting: {name}")
        self.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        self.sql("SELECT pg_reload_conf()")

    def is_alive(self) -> bool:
        """Whether the postmaster runs."""
        return self.process.is_alive()

    def stop_fast(self) -> None:
        """SIGINT: an orderly stop that cuts its sessions, as `pg_ctl stop -m fast`."""
        self.process.terminate(number=signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL to the postmaster and its backends: connections are reset."""
        self.process.kill()

    def freeze(self) -> None:
        """SIGSTOP to the postmaster and its backends: it accepts connections and never answers."""
        self.process.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.thaw()

    def stop(self) -> None:
        """Make sure that it does not run. Idempotent."""
        self.process.stop()
        remove_shared_memory(self.data)
