"""The primary moves between two sites, each a real Patroni cluster in an etcd of its own, under load."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.hold_stage import clients_on, failures
from tests.e2e.test_stage import QUICK_ETCD, at, is_led, stamp_in, stays, wait_until_led
from tests.support.bed import Bed, BouncerHost
from tests.support.etcd import EtcdCluster
from tests.support.folders import bed_folder
from tests.support.patroni import Node, PatroniCluster
from tests.support.preloaded import run_watcher
from tests.support.waiting import wait_for
from tests.support.watcher import Settings, WatcherProcess, settings_for, ssh_target

MOVE_SECONDS = 60.0
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Site:
    """One site: a cluster of one node, and the PgBouncer there."""

    patroni: PatroniCluster
    host: BouncerHost

    @property
    def node(self) -> Node:
        return self.patroni.nodes[0]

    def settings(self, bed: Bed, other: "Site") -> Settings:
        """Of the watcher of this site."""
        there = {"scope": other.patroni.scope, "etcd": _etcd(other), "nodes": [other.node.api_url]}
        cluster = {"scope": self.patroni.scope, "standby": "other_site", "other_site": there}
        return settings_for(
            bed,
            cluster=cluster,
            etcd=_etcd(self),
            patroni={"nodes": [self.node.api_url]},
            targets=[ssh_target(self.host)],
        )

    def follow(self, other: "Site") -> None:
        """Become the standby site, and wait until it is."""
        where = {"host": other.node.host, "port": other.node.port}
        self.patroni.patch_config({"standby_cluster": where})
        wait_for(lambda: self.node.is_ok("/standby-leader"), MOVE_SECONDS, "demoted", logs=self.patroni.logs)

    def lead(self) -> None:
        """Be the standby site no longer."""
        self.patroni.patch_config({"standby_cluster": None})
        self.patroni.wait_for_leader(MOVE_SECONDS)


def _etcd(site: Site) -> dict[str, Any]:
    return {"endpoints": site.patroni.etcd.endpoints, **QUICK_ETCD}


@pytest.fixture
def sites(bed: Bed) -> Iterator[tuple[Site, Site]]:
    """The first has the primary."""
    with bed_folder() as folder, EtcdCluster(folder / "etcd", 1) as etcd:
        number = next(_numbers)
        with PatroniCluster(folder / "west", bed.etcd, f"west{number}", 1, loop_wait=1) as west:
            followed = west.nodes[0].host, west.nodes[0].port
            with PatroniCluster(
                folder / "east", etcd, f"east{number}", 1, loop_wait=1, standby_of=followed
            ) as east:
                yield Site(west, bed.bouncers[0]), Site(east, bed.bouncers[1])


def test_clients_of_both_sites_follow_the_primary_from_one_to_the_other_and_none_fails(
    bed: Bed, sites: tuple[Site, Site], tmp_path: Path
) -> None:
    west, east = sites
    with (
        WatcherProcess(tmp_path, west.settings(bed, east), "west") as of_west,
        WatcherProcess(tmp_path, east.settings(bed, west), "east") as of_east,
    ):
        watchers = of_west, of_east
        for site, watcher in zip(sites, watchers, strict=True):
            wait_until_led([site.host], at(west.node), watcher)
        assert int(stamp_in(east.host)["site"]) > 0
        assert stamp_in(east.host)["leader"] == west.node.name
        with clients_on(bed, {"simple": 2, "several": 1, "reconnecting": 1}) as clients:
            for old, new in ((west, east), (east, west)):
                holds = [len(watcher.lines("hold")) for watcher in watchers]
                old.follow(new)
                for watcher, before in zip(watchers, holds, strict=True):
                    watcher.wait_for_line("hold", after=before)
                new.lead()
                led_at = time.monotonic()
                for site, watcher in zip(sites, watchers, strict=True):
                    wait_until_led([site.host], at(new.node), watcher, timeout=MOVE_SECONDS)
                clients.settle(led_at, new.node.host)
            assert failures(clients) == []
        checked = run_watcher(["check-config", "--config", str(of_east.config)])
        assert "other site's etcd" in checked.stdout
        planned = run_watcher(["plan", "--config", str(of_east.config)])
        assert planned.returncode == 0, planned.stdout + planned.stderr
        assert "the other site" in planned.stdout
        assert "primary at the other site" in of_east.get("/status")[1]


@pytest.mark.long
def test_a_site_whose_own_etcd_is_silent_stays_whatever_the_other_says(
    bed: Bed, sites: tuple[Site, Site], tmp_path: Path
) -> None:
    west, east = sites
    with WatcherProcess(tmp_path, east.settings(bed, west)) as watcher:
        wait_until_led([east.host], at(west.node), watcher)
        east.patroni.etcd.freeze()
        watcher.wait_for_line("wish", reason="blind")
        stays(lambda: is_led(east.host, at(west.node)), 2, "the route is kept")
        east.patroni.etcd.thaw()
        watcher.wait_for_line("wish", reason="leader")
