"""A primary that dies or hangs: who was in a transaction fails, everybody else waits."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.contenders import watcher as watcher_alone
from tests.benchmarks.stage import stage
from tests.e2e.hold_stage import (
    clients_on,
    configs,
    failures,
    wait_for_configs,
    wait_until_held,
    wait_until_released,
    watching,
)
from tests.e2e.test_stage import lose_lease, stays
from tests.support.attempts import Attempt
from tests.support.bed import Bed
from tests.support.crowd import WITH_LONG, Crowd, said
from tests.support.patroni import Node
from tests.support.pgbouncer import RECOMMENDED
from tests.support.watcher import WatcherProcess
from watcher.apply.agent.hold import COMPARE_EVERY

SELDOM = "postgres"
COMPARED = COMPARE_EVERY + 1.0
POOL_SIZE = int(RECOMMENDED["default_pool_size"])
HELD_WITHIN = 2.0
"""A generous bound, in seconds, for what takes some ten milliseconds."""

CUT_AFTER = 1.0
CUT_SECONDS = 25.0
"""A generous bound on the time from the release until the last connection to the old server is cut: PgBouncer
before 1.24 can only do it by the age of a query, and not before `CUT_AFTER`."""


def _assert_no_more_failed_than_were_in_flight(clients: Crowd, struck_at: float, held_at: float) -> None:
    """In flight is who began before all clients waited and had not ended when the blow fell."""
    failed, in_flight = clients.failures(), clients.in_flight(struck_at, held_at)
    assert len(failed) <= len(in_flight), said(failed)


def _assert_each_at_most_once(failed: list[Attempt]) -> None:
    """What failed at one PgBouncer: no client of it twice."""
    times = Counter((one.kind, one.client) for one in failed)
    assert set(times.values()) <= {1}, said(failed)


def test_when_the_leaders_node_dies_only_transactions_in_flight_fail(bed: Bed, tmp_path: Path) -> None:
    old = bed.leader()
    with watching(bed, tmp_path) as watcher, clients_on(bed, WITH_LONG) as clients:
        before = configs(bed.bouncers)
        struck_at = time.monotonic()
        old.kill()
        wait_until_held(watcher, bed.bouncers, "primary_refuses")
        held_at = time.monotonic()
        assert held_at - struck_at < HELD_WITHIN
        lose_lease(bed)
        new = bed.patroni.wait_for_leader(other_than=old)
        clients.settle(time.monotonic(), new.host)
        _assert_no_more_failed_than_were_in_flight(clients, struck_at, held_at)
        wait_for_configs(bed.bouncers, before)


def test_when_postgresql_alone_dies_clients_wait_until_patroni_has_started_it_again(
    bed: Bed, tmp_path: Path
) -> None:
    leader = bed.leader()
    with watching(bed, tmp_path) as watcher, clients_on(bed, WITH_LONG) as clients:
        before = configs(bed.bouncers)
        struck_at = time.monotonic()
        leader.kill_postgres()
        wait_until_held(watcher, bed.bouncers, "primary_refuses")
        held_at = time.monotonic()
        assert held_at - struck_at < HELD_WITHIN
        clients.settle(time.monotonic())
        _assert_no_more_failed_than_were_in_flight(clients, struck_at, held_at)
        wait_until_released(watcher, bed.bouncers)
        wait_for_configs(bed.bouncers, before)


@pytest.fixture
def star(bed: Bed) -> Iterator[None]:
    """The block of every PgBouncer has `*` as well."""
    for host in bed.bouncers:
        host.pgbouncer.databases.append("*")
    bed.point_at_leader()
    yield
    for host in bed.bouncers:
        host.pgbouncer.databases.remove("*")


@pytest.mark.usefixtures("star")
def test_a_database_made_from_the_star_that_nobody_uses_for_a_while_is_led_too(
    bed: Bed, tmp_path: Path
) -> None:
    """PgBouncer does not show it meanwhile, and keeps its pause; the agent compares every two seconds."""
    old = bed.leader()
    with watching(bed, tmp_path) as watcher, clients_on(bed) as clients:
        for host in bed.bouncers:
            host.pgbouncer.sql("SELECT 1", dbname=SELDOM)
        old.kill()
        wait_until_held(watcher, bed.bouncers, "primary_refuses")
        stays(lambda: all(host.pgbouncer.is_paused() for host in bed.bouncers), COMPARED, "clients wait")
        lose_lease(bed)
        new = bed.patroni.wait_for_leader(other_than=old)
        clients.settle(time.monotonic(), new.host)
        wait_until_released(watcher, bed.bouncers)
        where = "SELECT host(inet_server_addr()) AS at"
        led = [host.pgbouncer.sql(where, dbname=SELDOM) for host in bed.bouncers]
        assert led == [[{"at": new.host}]] * len(bed.bouncers)


@pytest.mark.long
def test_when_the_leaders_host_vanishes_each_client_fails_at_most_once() -> None:
    """Who was handed to it before that was known. PgBouncer ends its connections there after three seconds,
    and would turn everybody away from then on.
    """
    with stage(watcher_alone, ini=RECOMMENDED, networks=True) as scene:
        episode = scene.crash("drop")
    _assert_each_at_most_once(episode.attempts.failures)
    assert episode.failed <= POOL_SIZE + episode.in_flight, said(episode.attempts.failures)


def _hang(bed: Bed, node: Node, watcher: WatcherProcess) -> tuple[float, Node]:
    """The node hangs, and its lease runs out: when all clients waited, and who leads then."""
    node.freeze()
    lose_lease(bed)
    wait_until_held(watcher, bed.bouncers, "no_leader")
    return time.monotonic(), bed.patroni.wait_for_leader(other_than=node)


def test_clients_of_a_hung_primary_are_cut_off_it_within_a_bound_and_nobody_else_fails(
    bed: Bed, tmp_path: Path
) -> None:
    """PgBouncer 1.18 can only do it by the age of their queries, a newer one client by client."""
    hold = {"old_connections": "cut", "cut_after": CUT_AFTER}
    with bed.bouncers[1].pgbouncer.set_up({}, "new"):
        old = bed.point_at_leader()
        with watching(bed, tmp_path, hold=hold) as watcher, clients_on(bed, WITH_LONG) as clients:
            before = configs(bed.bouncers)
            held_at, new = _hang(bed, old, watcher)
            wait_until_released(watcher, bed.bouncers)
            released = time.monotonic()
            clients.settle(released, new.host, timeout=CUT_SECONDS)
            failed = clients.failures()
            assert all(one.start < held_at for one in failed), said(failed)
            for host in bed.bouncers:
                _assert_each_at_most_once(clients.failures(on=host))
            hows = {line["target"]: line["message"].rpartition(" ")[2] for line in watcher.lines("cut")}
            assert hows == {"bouncer1": "query_timeout", "bouncer2": "KILL_CLIENT"}
            wait_for_configs(bed.bouncers, before)


@pytest.mark.long
def test_clients_of_a_hung_primary_stay_there_where_that_is_asked_for(bed: Bed, tmp_path: Path) -> None:
    old = bed.leader()
    hold = {"old_connections": "leave"}
    with watching(bed, tmp_path, hold=hold) as watcher, clients_on(bed, WITH_LONG) as clients:
        before = configs(bed.bouncers)
        _hang(bed, old, watcher)
        wait_until_released(watcher, bed.bouncers)
        released = time.monotonic()
        time.sleep(2 * CUT_AFTER + 1)  # longer than `cut` would have needed to begin
        assert failures(clients) == []
        assert 0 < clients.waiting(released) <= POOL_SIZE * len(bed.bouncers)
        assert watcher.lines("cut") == []
        wait_for_configs(bed.bouncers, before)
