"""Debian's Patroni 3.0.2, which says `master` where later ones say `primary`."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.test_stage import QUICK_ETCD, QUICK_PATRONI, at, settled, wait_until_led
from tests.support.bed import Bed
from tests.support.folders import bed_folder
from tests.support.patroni import Node, PatroniCluster
from tests.support.proxy import Proxy
from tests.support.watcher import WatcherProcess, settings_for


@pytest.fixture
def debian(bed: Bed) -> Iterator[PatroniCluster]:
    """A cluster of Debian's Patroni beside the bed's own, in the same etcd."""
    with (
        bed_folder() as folder,
        PatroniCluster(folder, bed.etcd, "debian", nodes=2, version="debian") as patroni,
    ):
        yield patroni


def _next_leader(patroni: PatroniCluster) -> Node:
    patroni.wait_for_replicas()
    old = patroni.wait_for_leader()
    patroni.switchover()
    return patroni.wait_for_leader(other_than=old)


def test_a_master_is_followed_by_etcd_and_by_the_health_check(
    bed: Bed, debian: PatroniCluster, tmp_path: Path
) -> None:
    assert debian.wait_for_leader().status()["role"] == "master"
    with ExitStack() as stack:
        proxies = [stack.enter_context(Proxy(endpoint)) for endpoint in bed.etcd.endpoints]
        settings = settings_for(
            bed,
            cluster={"scope": debian.scope},
            etcd={**QUICK_ETCD, "endpoints": [proxy.endpoint for proxy in proxies]},
            patroni={**QUICK_PATRONI, "nodes": []},
        )
        watcher = stack.enter_context(WatcherProcess(tmp_path, settings))
        settled(watcher, bed, at(debian.wait_for_leader()))
        _switched_by(watcher, bed, after=0)
        wait_until_led(bed.bouncers, at(_next_leader(debian)), watcher)
        assert _switched_by(watcher, bed, after=2) == ["etcd"] * 2
        for proxy in proxies:
            proxy.cut()
        wait_until_led(bed.bouncers, at(_next_leader(debian)), watcher)
        assert _switched_by(watcher, bed, after=4) == ["health_check"] * 2


def _switched_by(watcher: WatcherProcess, bed: Bed, after: int) -> list[str]:
    """By which source each PgBouncer was switched, once the log tells that of all; `after` so many lines."""
    for host in bed.bouncers:
        watcher.wait_for_line("switch", after=after, target=host.name)
    return [line["source"] for line in watcher.lines("switch")[after:]]
