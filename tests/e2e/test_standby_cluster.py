"""A standby cluster: its leader takes no writes, until it leaves standby mode without a new leader key."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_stage import at, facts_of, is_led, stays, trace, wait_until_led
from tests.support.bed import Bed
from tests.support.folders import bed_folder
from tests.support.patroni import PatroniCluster
from tests.support.watcher import Settings, WatcherProcess, settings_for, ssh_target


@pytest.fixture
def standby(bed: Bed) -> Iterator[PatroniCluster]:
    """A cluster of one node that follows the bed's leader."""
    leader = bed.leader()
    with (
        bed_folder() as folder,
        PatroniCluster(
            folder, bed.etcd, "standby", nodes=1, standby_of=(leader.host, leader.port)
        ) as patroni,
    ):
        yield patroni


def _settings(bed: Bed, patroni: PatroniCluster, bouncer: int, *, standby: str) -> Settings:
    return settings_for(
        bed,
        cluster={"scope": patroni.scope, "standby": standby},
        patroni={"nodes": []},
        targets=[ssh_target(bed.bouncers[bouncer])],
    )


def test_a_standby_leader_is_followed_by_policy_and_a_promoted_one_always(
    bed: Bed, standby: PatroniCluster, tmp_path: Path
) -> None:
    (node,) = standby.nodes
    first, second = bed.bouncers
    before = trace(first)
    key = f"{standby.prefix}leader"
    reign = facts_of(bed.etcd, key)["create_revision"]
    with (
        WatcherProcess(tmp_path, _settings(bed, standby, 0, standby="keep"), "stays") as stays_away,
        WatcherProcess(tmp_path, _settings(bed, standby, 1, standby="standby_leader"), "follows") as follows,
    ):
        stays_away.wait_for_line("wish", reason="standby_cluster")
        wait_until_led([second], at(node), follows)
        assert not node.accepts_writes()
        stays(lambda: trace(first).file == before.file, 1, "who may not follow leaves the file alone")
        standby.patch_config({"standby_cluster": None})
        wait_until_led([first], at(node), stays_away, timeout=30)
        assert node.accepts_writes()
        assert is_led(second, at(node))
        assert facts_of(bed.etcd, key)["create_revision"] == reign
