"""Databases for reads on a real Patroni cluster: what clients see while replicas come and go."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from tests.support.bed import Bed
from tests.support.folders import bed_folder
from tests.support.reads import ReadStage, Seen


@pytest.fixture
def stage(bed: Bed) -> Iterator[ReadStage]:
    with bed_folder() as folder, ReadStage(bed, folder) as stage:
        yield stage


def tell(what: str, seen: Seen) -> None:
    print(f"\n{what}: {seen}")  # what clients saw is what these tests are about


def failed_beside(seen: Seen) -> list[str]:
    """What failed and was not in flight when it happened."""
    return [f"{one.kind}: {one.error}" for one in seen.failures if one not in seen.in_flight]


@pytest.mark.long
def test_a_replica_that_dies_takes_what_is_in_flight_on_it_and_no_more(stage: ReadStage) -> None:
    victim, *rest = stage.ready()
    seen, led_at = stage.seen(victim.kill, lambda: rest)
    tell("killed", seen)
    assert failed_beside(seen) == []
    assert led_at - seen.start < 3.0  # long before its key in etcd ends
    assert seen.on(victim, led_at) == []
    victim.start()
    stage.ready()


def test_a_replica_that_is_drained_fails_nobody(stage: ReadStage) -> None:
    victim, *rest = stage.ready()
    with ExitStack() as stack:
        seen, led_at = stage.seen(partial(stack.enter_context, stage.drained([victim])), lambda: rest)
        tell("drained", seen)
        assert seen.failures == []
        assert seen.on(victim, led_at) == []
        seen, _ = stage.seen(stack.close, stage.ready)
    tell("back again", seen)
    assert seen.failures == []


@pytest.mark.long
def test_a_replica_that_lags_is_left_and_comes_back(stage: ReadStage) -> None:
    victim, *rest = stage.ready()
    seen, led_at = stage.seen(partial(stage.make_lag, victim), lambda: rest)
    tell("lagging", seen)
    assert seen.failures == []
    assert seen.on(victim, led_at) == []
    seen, _ = stage.seen(partial(stage.catch_up, victim), stage.ready)
    tell("lagging no more", seen)
    assert seen.failures == []


@pytest.mark.long
def test_a_switchover_fails_no_read_and_the_new_leader_leaves_the_list(stage: ReadStage) -> None:
    old = stage.bed.leader()
    candidate, other = stage.ready()
    seen, led_at = stage.seen(partial(stage.bed.patroni.switchover, candidate), lambda: [other, old])
    tell("switchover", seen)
    assert seen.failures == []
    assert seen.on(candidate, led_at) == []


@pytest.mark.long
def test_without_a_replica_reads_go_to_the_primary_and_back(stage: ReadStage) -> None:
    leader, replicas = stage.bed.leader(), stage.ready()
    with ExitStack() as stack:
        seen, _ = stage.seen(partial(stack.enter_context, stage.drained(replicas)), lambda: [leader])
        tell("all drained", seen)
        assert seen.failures == []
        seen, _ = stage.seen(stack.close, stage.ready)
    tell("all back", seen)
    assert seen.failures == []


@pytest.mark.long
def test_the_one_that_serves_all_reads_dies(bed: Bed) -> None:
    """With `least_lag` there is one at a time, and nobody else's connections in its pool."""
    with bed_folder() as folder, ReadStage(bed, folder, choose="least_lag") as stage:
        replicas = bed.patroni.wait_for_replicas()
        (host,) = stage.led_to()
        victim = next(node for node in replicas if node.host == host)
        others = [node for node in replicas if node is not victim]
        seen, _ = stage.seen(victim.kill, lambda: others)
        tell("the only one killed", seen)
        victim.start()
        assert len(failed_beside(seen)) <= stage.clients.size  # a pool without a server turns some away
