"""A bed on which the leader can be changed two hundred times in a minute, with all but that change real.

Two one-node Patroni clusters, `a` and `b`, each its own primary and really writable, of the same scope in
two namespaces. The watcher watches that scope in a third namespace, which no Patroni knows. There the
benchmark keeps copies of the two member keys, as their Patronis wrote them, and puts the leader key. So a
question to the new leader's REST API gets the answer that a primary of this scope gives, and the time that
it takes is in the figure. A real promotion is not: see the case `switchover` for that.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.accounts import BOUNCER_ACCOUNTS, require_bed
from tests.support.addresses import take_address
from tests.support.bed import BouncerHost
from tests.support.etcd import EtcdCluster
from tests.support.etcd_gateway import Gateway, Written
from tests.support.folders import bed_folder
from tests.support.patroni import Node, PatroniCluster, with_room_for
from tests.support.pgbouncer import RECOMMENDED, PgBouncer
from tests.support.sshd import Sshd
from tests.support.waiting import wait_for
from tests.support.watcher import Settings, ssh_target

SCOPE = "bench"
NAMESPACE = "bench"
NAMES = ("a", "b")
_AT_ONCE = 8


class SwitchBed(AbstractContextManager["SwitchBed"]):
    """Entering starts it all, with both PgBouncers led to `a`; leaving ends it and removes its files."""

    def __init__(self, bouncers: int = 2, sshds: int | None = None) -> None:
        """With fewer `sshds` than PgBouncers these share them, in turn, and so their hosts."""
        require_bed()
        self._stack = ExitStack()
        self._bouncers = bouncers
        self._hosts = bouncers if sshds is None else sshds
        self._clusters: dict[str, PatroniCluster] = {}
        self.bouncers: list[BouncerHost] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        self.folder = self._stack.enter_context(bed_folder())
        self.etcd = self._stack.enter_context(EtcdCluster(self.folder / "etcd"))
        for name in NAMES:
            cluster = _one_node(self.folder, self.etcd, name, self._bouncers)
            self._clusters[name] = self._stack.enter_context(cluster)
        self._gateway = Gateway(self.etcd.endpoints[0])
        self._stack.callback(self._gateway.close)
        addresses = [take_address() for _ in range(self._bouncers)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            sshds = list(pool.map(self._sshd, range(self._hosts), addresses))
            numbers = range(self._bouncers)
            shared = (sshds[number % len(sshds)] for number in numbers)
            self.bouncers += pool.map(self._bouncer, numbers, addresses, shared)
        self._members = {name: self._member(name) for name in NAMES}
        for name in NAMES:
            self._gateway.put(f"{_prefix(SCOPE)}members/{name}", self._members[name])

    def _sshd(self, number: int, address: str) -> Sshd:
        account = BOUNCER_ACCOUNTS[number % len(BOUNCER_ACCOUNTS)]
        folder = self.folder / f"host{number + 1}-ssh"
        sshd = Sshd(folder, address, account=account, max_startups="1000", max_sessions=1000)
        return self._stack.enter_context(sshd)

    def _bouncer(self, number: int, address: str, sshd: Sshd) -> BouncerHost:
        name, first = f"bouncer{number + 1}", self.node("a")
        pgbouncer = PgBouncer(
            self.folder / name,
            address,
            account=sshd.account,
            server=(first.host, first.port),
            ini_extra=RECOMMENDED,
        )
        return BouncerHost(name, self._stack.enter_context(pgbouncer), sshd)

    def _member(self, name: str) -> str:
        """The member key of `name` as its own Patroni wrote it once it was primary."""
        key = f"{self._clusters[name].prefix}members/{name}"
        return wait_for(lambda: _if_primary(self.etcd.get(key)), 20, f"{key} says primary")

    # --- what the benchmark does ----------------------------------------------------------------------

    def node(self, name: str) -> Node:
        """The one node of `a` or `b`."""
        return self._clusters[name].nodes[0]

    def join_and_lead(self, leader: str, scope: str) -> None:
        """The keys of a further cluster, of the same two members."""
        for name in NAMES:
            self._gateway.put(f"{_prefix(scope)}members/{name}", self._members[name])
        self.begin_reign(leader, scope)

    def end_reign(self, scope: str = SCOPE) -> Written:
        """Delete the leader key, as a leader does when it steps down."""
        return self._gateway.delete(f"{_prefix(scope)}leader")

    def begin_reign(self, name: str, scope: str = SCOPE) -> Written:
        """Create the leader key."""
        return self._gateway.put(f"{_prefix(scope)}leader", name)

    def settings(self) -> Settings:
        """The watcher's."""
        return {
            "cluster": {"scope": SCOPE, "namespace": NAMESPACE},
            "etcd": {"endpoints": self.etcd.endpoints},
            "patroni": {"nodes": list(self._api_urls())},
            "targets": [ssh_target(host) for host in self.bouncers],
            "log": {"format": "json"},
        }

    def _api_urls(self) -> Iterable[str]:
        return (self.node(name).api_url for name in NAMES)


def _prefix(scope: str) -> str:
    return f"/{NAMESPACE}/{scope}/"


def _one_node(folder: Path, etcd: EtcdCluster, name: str, bouncers: int) -> PatroniCluster:
    return PatroniCluster(
        folder / f"patroni-{name}",
        etcd,
        SCOPE,
        nodes=1,
        namespace=f"/bench-{name}/",
        node_config={"name": name},
        dcs=with_room_for(bouncers),
    )


def _if_primary(member: str | None) -> str | None:
    return member if member is not None and '"primary"' in member else None
