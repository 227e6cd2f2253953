"""The stage: the whole bed in a network of its own, and a watcher that meets etcd through proxies, by names.

So what is done to the proxies' addresses happens to the watcher alone, and Patroni is well. PgBouncer asks
everybody but the clients for a password.
"""

import json
import time
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import urllib3

from tests.chaos.names import Names
from tests.e2e.test_stage import at, is_led, lose_lease
from tests.support.bed import Bed, BouncerHost
from tests.support.crowd import Crowd
from tests.support.etcd import Member
from tests.support.folders import bed_folder
from tests.support.load import TABLE
from tests.support.patroni import Node
from tests.support.pgbouncer import ADMIN, ADMIN_PASSWORD
from tests.support.postgres import APP
from tests.support.proxy import Proxy
from tests.support.waiting import BedError, wait_for
from tests.support.watcher import WatcherProcess, settings_for, ssh_target

WHOLE_SECONDS = 90.0
LOOK_EVERY = 0.05
SWITCHOVER_SECONDS = 30.0
POSTGRESQL = {"parameters": {"synchronous_commit": "on"}}
CLUSTER = {
    "dcs": {"synchronous_mode": True, "failsafe_mode": True},
    "node_config": {"postgresql": POSTGRESQL},
}
"""So that what was acknowledged may never be lost, and Patroni outlives the loss of etcd."""

FIRST_GROUP = 64200
HBA = f"host all {APP} 0.0.0.0/0 trust\nhost all all 0.0.0.0/0 md5\nlocal all all md5\n"
"""Whom PgBouncer asks for a password: the watcher's account, for one."""


def group_of(member: Member) -> int:
    """The group that one member of etcd runs under, by which its packets are known: addresses on loopback
    tell only where a packet goes.
    """
    return FIRST_GROUP + int(member.name.removeprefix("etcd"))


class Scene(AbstractContextManager["Scene"]):
    """Everything that a case may break. `program` is a folder with another `watcher` package, to run that."""

    def __init__(self, program: Path | None = None) -> None:
        self._stack = ExitStack()
        self._program = program

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = stack.enter_context(bed_folder())
            hba = self.folder / "hba.conf"
            hba.write_text(HBA)
            self.bed = Bed(
                self.folder / "bed",
                nodes=2,
                loop_wait=2,
                bouncer_options={
                    "auth_type": "hba",
                    "ini_extra": {"auth_hba_file": str(hba), "max_client_conn": "400"},
                },
                patroni_options=CLUSTER,
            )
            for member in self.bed.etcd.members:
                member.process.argv[:0] = ["setpriv", f"--regid={group_of(member)}", "--clear-groups"]
            stack.enter_context(self.bed)
            self.links = [stack.enter_context(Proxy(m.endpoint)) for m in self.bed.etcd.members]
            self.names = stack.enter_context(Names(self.folder / "hosts"))
            self.names.lead(self.links)
            self.watcher = self._watcher()
            stack.enter_context(self.watcher)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _watcher(self) -> WatcherProcess:
        login = {"user": ADMIN, "password": ADMIN_PASSWORD}
        targets = [
            ssh_target(host, console={"socket": str(host.pgbouncer.socket), **login})
            for host in self.bed.bouncers
        ]
        settings = settings_for(
            self.bed, etcd={"endpoints": self.names.endpoints(self.links)}, targets=targets
        )
        watcher = WatcherProcess(self.folder / "watcher", settings)
        if self._program is not None:
            watcher.process.cwd = self._program
        return watcher

    @property
    def victim(self) -> BouncerHost:
        """The host that faults of hosts strike."""
        return self.bed.bouncers[0]

    @property
    def bystander(self) -> BouncerHost:
        """The other one."""
        return self.bed.bouncers[1]

    # --- what happens -------------------------------------------------------------------------------

    def clients(self) -> Crowd:
        """Clients on both PgBouncers, to be entered; the table is empty then."""
        self.bed.leader().sql(f"DROP TABLE IF EXISTS {TABLE}", dbname="app")
        return Crowd(self.folder, self.bed.bouncers)

    def switch_over(self) -> Node:
        """A planned switchover, once Patroni knows a synchronous standby to take it; the new leader."""
        old = self.bed.leader()
        standby = self.bed.patroni.wait_for_replicas()[0]
        wait_for(
            lambda: self.bed.patroni.switchover(standby) or True,
            SWITCHOVER_SECONDS,
            "Patroni takes the order",
            poll=0.2,
        )
        return self.bed.patroni.wait_for_leader(other_than=old)

    def crash(self) -> Node:
        """The primary's node dies, and its lease with it; the new leader. The old node comes back."""
        old = self.bed.leader()
        old.kill()
        lose_lease(self.bed)
        new = self.bed.patroni.wait_for_leader(other_than=old)
        old.start()
        return new

    # --- whether all is well ------------------------------------------------------------------------

    def wait_until_led(self, host: BouncerHost, leader: Node, timeout: float = WHOLE_SECONDS) -> float:
        """Until file and PgBouncer lead there and nobody waits; how long that took."""
        began = time.monotonic()
        wait_for(
            partial(self._is_served, host, at(leader)),
            timeout,
            f"{host.name} leads to {leader}, and holds nobody",
            logs=[self.watcher.log],
            poll=0.1,
        )
        return time.monotonic() - began

    def _is_served(self, host: BouncerHost, endpoint: str) -> bool:
        return is_led(host, endpoint) and not host.pgbouncer.is_paused()

    def require_waiting(self, seconds: float) -> None:
        """That clients wait at both, for so long. BedError where one lets them go."""
        self._require(seconds, True, "lets clients go, and nobody takes them")

    def require_not_waiting(self, seconds: float) -> None:
        """That clients wait at none, for so long. BedError where one makes them."""
        self._require(seconds, False, "makes clients wait beside a primary that takes writes")

    def _require(self, seconds: float, paused: bool, but: str) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for host in self.bed.bouncers:
                if host.pgbouncer.is_paused() is not paused:
                    raise BedError(f"{host.name} {but}")
            time.sleep(LOOK_EVERY)

    def wait_until_whole(self) -> Node:
        """Until the cluster is well, etcd heard, every PgBouncer led and free, every agent up; the leader."""
        self.bed.patroni.wait_for_replicas(timeout=WHOLE_SECONDS)
        leader = self.bed.leader()
        wait_for(self._hears_etcd, WHOLE_SECONDS, "the watcher hears etcd", logs=[self.watcher.log])
        wait_for(self._is_at_work, WHOLE_SECONDS, "each of its threads is at work", logs=[self.watcher.log])
        for host in self.bed.bouncers:
            self.wait_until_led(host, leader)
            wait_for(partial(self._has_agent, host), WHOLE_SECONDS, f"an agent on {host.name}")
        return leader

    def _hears_etcd(self) -> bool:
        with suppress(urllib3.exceptions.HTTPError):
            etcd = json.loads(self.watcher.get("/status")[1])["cluster"]["etcd"]
            return etcd is not None and bool(etcd["connected"])
        return False

    def _is_at_work(self) -> bool:
        return self.watcher.get("/livez")[0] == 200

    def _has_agent(self, host: BouncerHost) -> bool:
        return bool(host.sshd.session_pids())

    def rows(self) -> dict[int, int]:
        """How many rows of each client are there. BedError where nobody answers."""
        rows = self.bed.leader().sql(f"SELECT client, count(*) AS n FROM {TABLE} GROUP BY 1", dbname="app")  # noqa: S608
        if not rows:
            raise BedError(f"{TABLE} is empty")
        return {int(row["client"]): int(row["n"]) for row in rows}
