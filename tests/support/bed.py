"""The whole system on one machine: etcd, Patroni, and PgBouncers each with an sshd of its own."""

import contextlib
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.accounts import BOUNCER_ACCOUNTS, require_bed
from tests.support.addresses import take_address
from tests.support.etcd import EtcdCluster
from tests.support.folders import bed_folder
from tests.support.load import ClientLoad
from tests.support.patroni import Node, PatroniCluster, Version
from tests.support.pgbouncer import RECOMMENDED, PgBouncer
from tests.support.sshd import Sshd
from tests.support.tls import Tls
from tests.support.waiting import BedError, wait_for

Progress = Callable[[str], None]


@dataclass(frozen=True)
class BouncerHost:
    """A PgBouncer and the sshd beside it, on one address, for one account."""

    name: str
    pgbouncer: PgBouncer
    sshd: Sshd

    @property
    def address(self) -> str:
        """The host's address."""
        return self.pgbouncer.address

    @property
    def account(self) -> str:
        """The account that runs PgBouncer and logs in by SSH."""
        return self.pgbouncer.account

    def start(self) -> None:
        """Start what does not run."""
        for server in (self.sshd, self.pgbouncer):
            if not server.is_alive():
                server.start()

    def kill(self) -> None:
        """Both die, as if the host had lost its power."""
        self.sshd.kill()
        self.pgbouncer.kill()

    def freeze(self) -> None:
        """Both freeze."""
        self.sshd.freeze()
        self.pgbouncer.freeze()

    def thaw(self) -> None:
        """Both go on."""
        self.sshd.thaw()
        self.pgbouncer.thaw()

    def stop(self) -> None:
        """Neither runs afterwards. Idempotent."""
        self.sshd.stop()
        self.pgbouncer.stop()


class Bed(AbstractContextManager["Bed"]):
    """Three etcd members, three Patroni nodes, two PgBouncer hosts, all leading to the leader.

    Everything is started from the calling thread, so Ctrl-C at any point ends in stop(), which leaves no
    process and no file. Without `folder` it makes one of its own; `keep` leaves its files for a look.
    `progress` is told one line per step (`print` will do). `bouncer_options` go to every PgBouncer,
    `patroni_options` to the cluster.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        progress: Progress | None = None,
        etcd_size: int = 3,
        nodes: int = 3,
        bouncers: int = 2,
        scope: str = "demo",
        ttl: int = 20,
        loop_wait: int = 5,
        version: Version = "4",
        tls: Tls | None = None,
        pool_mode: str = "transaction",
        ini_extra: Mapping[str, str] = RECOMMENDED,
        bouncer_options: Mapping[str, Any] | None = None,
        patroni_options: Mapping[str, Any] | None = None,
        keep: bool = False,
    ) -> None:
        require_bed()
        self._stack = ExitStack()
        self._progress = progress
        self._began = time.monotonic()
        self.folder = folder or self._stack.enter_context(bed_folder(keep=keep))
        self.etcd = EtcdCluster(self.folder / "etcd", etcd_size, tls=tls)
        self.patroni = PatroniCluster(
            self.folder / "patroni",
            self.etcd,
            scope,
            nodes,
            ttl=ttl,
            loop_wait=loop_wait,
            version=version,
            **(patroni_options or {}),
        )
        options = {"pool_mode": pool_mode, "ini_extra": ini_extra, **(bouncer_options or {})}
        self.bouncers = [self._bouncer_host(number, options) for number in range(bouncers)]

    def _bouncer_host(self, number: int, options: Mapping[str, Any]) -> BouncerHost:
        address, account = take_address(), BOUNCER_ACCOUNTS[number % len(BOUNCER_ACCOUNTS)]
        name = f"bouncer{number + 1}"
        first = self.patroni.nodes[0]
        pgbouncer = PgBouncer(
            self.folder / name, address, account=account, server=(first.host, first.port), **options
        )
        return BouncerHost(name, pgbouncer, Sshd(self.folder / f"{name}-ssh", address, account=account))

    def _say(self, text: str) -> None:
        if self._progress is not None:
            self._progress(f"{time.monotonic() - self._began:5.1f} s  {text}")

    # --- life -----------------------------------------------------------------------------------------

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
        """Start everything that does not run and wait until rows can be written through every PgBouncer."""
        self._began = time.monotonic()
        self.etcd.launch()
        for host in self.bouncers:
            host.start()
        self._say("PgBouncers and their sshds run")
        self.etcd.start()
        self._say("etcd answers")
        self.patroni.start()
        self._say("Patroni has a leader and its replicas")
        self.point_at_leader()
        self._say("PgBouncers lead to the leader")

    def stop(self) -> None:
        """End every process, remove every file. Idempotent."""
        for host in self.bouncers:
            host.stop()
        self.patroni.stop()
        self.etcd.stop()
        self._stack.close()

    def pids(self) -> list[int]:
        """Every process of the bed that is alive."""
        servers = [member.process for member in self.etcd.members]
        servers += [node.process for node in self.patroni.nodes]
        servers += [server.process for host in self.bouncers for server in (host.sshd, host.pgbouncer)]
        return [process.pid for server in servers for process in server.members()]

    # --- what tests ask for ---------------------------------------------------------------------------

    def leader(self) -> Node:
        """The leader that takes writes now; waits for one."""
        return self.patroni.wait_for_leader()

    def point_at_leader(self) -> Node:
        """Lead every PgBouncer to the leader by hand, and see a transaction through each."""
        leader = self.leader()
        for host in self.bouncers:
            host.pgbouncer.point_at(leader.host, leader.port)
            wait_for(partial(host.pgbouncer.sql, "SELECT 1"), 20, f"{host.name} serves")
        return leader

    def heal(self) -> Node:
        """Undo whatever a test did to the servers: thaw, start, resume, wait for health. The leader."""
        self.etcd.thaw()
        for node in self.patroni.nodes:
            node.thaw()
        self.etcd.start()
        with contextlib.suppress(BedError, OSError):
            self.patroni.resume()
        with contextlib.suppress(BedError, OSError):
            self.patroni.cancel_switchover()
        self.patroni.start()
        for host in self.bouncers:
            self._heal_bouncer(host)
        return self.point_at_leader()

    def _heal_bouncer(self, host: BouncerHost) -> None:
        host.thaw()
        host.start()
        for row in host.pgbouncer.console("SHOW DATABASES"):
            if row["paused"] == "1" and row["name"] != "pgbouncer":
                host.pgbouncer.console(f"RESUME {row['name']}")

    def load(self, bouncer: int = 0, **options: Any) -> ClientLoad:
        """A load of clients on one PgBouncer; to be entered, or started and stopped. See ClientLoad."""
        pgbouncer = self.bouncers[bouncer].pgbouncer
        return ClientLoad(self.folder, pgbouncer.address, pgbouncer.port, **options)
