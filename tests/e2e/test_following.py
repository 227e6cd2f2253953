"""The whole watcher on the whole bed: who leads, and what every PgBouncer does about it."""

from collections.abc import Iterator
from functools import partial

import pytest

from tests.e2e.test_stage import (
    at,
    committed_on,
    facts_of,
    is_led,
    lose_lease,
    settled,
    stamp_in,
    stays,
    traces,
    wait_until_led,
)
from tests.support.bed import Bed, BouncerHost
from tests.support.patroni import Node
from tests.support.waiting import wait_for
from tests.support.watcher import WatcherProcess, settings_for


@pytest.fixture
def watcher(bed: Bed) -> Iterator[WatcherProcess]:
    """A watcher that serves both PgBouncers, settled on the present leader."""
    with WatcherProcess(bed.folder / "following", settings_for(bed)) as process:
        settled(process, bed, at(bed.leader()))
        yield process
    process.log.unlink()


def _assert_followed(bed: Bed, watcher: WatcherProcess, leader: Node) -> None:
    """Both are led there, a commit arrives there, the stamp is right, and each has one line in the log."""
    wait_until_led(bed.bouncers, at(leader), watcher)
    revision = facts_of(bed.etcd, f"{bed.patroni.prefix}leader")["create_revision"]
    for host in bed.bouncers:
        assert committed_on(host) == at(leader)
        switch = watcher.wait_for_line("switch", target=host.name)
        assert (switch["level"], switch["leader"], switch["route"]) == ("INFO", leader.name, at(leader))
        assert switch["revision"] == revision
        stamp = stamp_in(host)
        assert stamp["leader"] == leader.name
        assert int(stamp["revision"]) == revision
        assert int(stamp["cluster"], 16) == bed.etcd.cluster_id()
        assert stamp["system"] == bed.etcd.get(f"{bed.patroni.prefix}initialize")
    for host in bed.bouncers:
        wait_for(
            partial(_timeline_is_noted, host, leader),
            15,
            f"{host.name} notes the timeline",
            logs=[watcher.log],
        )
    assert sorted(line["target"] for line in watcher.lines("switch")) == ["bouncer1", "bouncer2"]


def _timeline_is_noted(host: BouncerHost, leader: Node) -> bool:
    """The watcher notes it when nobody is in a hurry: a new leader's may not be known with the switch."""
    return stamp_in(host)["timeline"] == str(leader.status()["timeline"])


def test_a_planned_switchover_is_followed(bed: Bed, watcher: WatcherProcess) -> None:
    old = bed.leader()
    bed.patroni.switchover()
    _assert_followed(bed, watcher, bed.patroni.wait_for_leader(other_than=old))


def test_a_manual_failover_is_followed(bed: Bed, watcher: WatcherProcess) -> None:
    candidate = bed.patroni.replicas()[-1]
    bed.patroni.failover(candidate)
    _assert_followed(bed, watcher, candidate)


def test_the_next_leader_is_followed_when_the_leader_dies(bed: Bed, watcher: WatcherProcess) -> None:
    old = bed.leader()
    old.kill()
    lose_lease(bed)
    _assert_followed(bed, watcher, bed.patroni.wait_for_leader(other_than=old))


def test_in_pause_mode_the_route_stays_when_the_leader_key_ends(bed: Bed, watcher: WatcherProcess) -> None:
    leader = bed.leader()
    bed.patroni.pause()
    before = traces(bed)
    leader.kill_patroni()
    lose_lease(bed)
    watcher.wait_for_line("wish", reason="no_leader")
    stays(lambda: traces(bed) == before, 3, "nobody writes or reloads")
    assert [committed_on(host) for host in bed.bouncers] == [at(leader)] * 2


def test_what_changes_no_leader_changes_no_route(bed: Bed, watcher: WatcherProcess) -> None:
    leader, before = bed.leader(), traces(bed)
    first, second = bed.patroni.replicas()
    bed.patroni.restart(first)
    bed.patroni.restart(leader)
    bed.patroni.reinit(second)
    bed.patroni.wait_for_leader()
    bed.patroni.wait_for_replicas()
    assert traces(bed) == before
    assert all(is_led(host, at(leader)) for host in bed.bouncers)
    assert not watcher.lines("switch")
