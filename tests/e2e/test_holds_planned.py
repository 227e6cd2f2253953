"""No client sees a planned switchover, in whatever way it is asked for."""

import datetime
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.e2e.hold_stage import (
    DEFAULTS,
    assert_all_on,
    clients_on,
    configs,
    wait_for_configs,
    wait_until_held,
    wait_until_released,
    watching,
)
from tests.support.bed import Bed
from tests.support.patroni import Node

AHEAD = 3.0  # seconds until a scheduled switchover; Patroni sees to it in a turn of its loop before

Order = Callable[[Bed, Node], object]


def by_rest(bed: Bed, candidate: Node) -> object:
    return bed.patroni.switchover(candidate)


def by_patronictl(bed: Bed, candidate: Node) -> object:
    return bed.patroni.patronictl("switchover", bed.patroni.scope, "--candidate", candidate.name, "--force")


def by_failover(bed: Bed, candidate: Node) -> object:
    return bed.patroni.patronictl("failover", bed.patroni.scope, "--candidate", candidate.name, "--force")


def by_schedule(bed: Bed, candidate: Node) -> object:
    when = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=AHEAD)
    return bed.patroni.switchover(candidate, scheduled=when.isoformat())


@pytest.mark.parametrize(
    ("order", "settings"),
    [
        pytest.param(by_rest, DEFAULTS, id="by REST, PgBouncer's defaults"),
        pytest.param(by_patronictl, {**DEFAULTS, "min_pool_size": "5"}, id="by patronictl, min_pool_size"),
        pytest.param(by_failover, DEFAULTS, id="by patronictl failover, PgBouncer's defaults"),
        pytest.param(by_schedule, DEFAULTS, id="scheduled, PgBouncer's defaults"),
    ],
)
def test_no_client_fails_in_a_switchover(
    bed: Bed, tmp_path: Path, order: Order, settings: Mapping[str, str | None]
) -> None:
    """One PgBouncer has the settings named, the other one those that we recommend."""
    old = bed.leader()
    (candidate, *_) = bed.patroni.wait_for_replicas()
    with bed.bouncers[0].pgbouncer.set_up(settings):
        bed.point_at_leader()
        with watching(bed, tmp_path) as watcher, clients_on(bed) as clients:
            before = configs(bed.bouncers)
            order(bed, candidate)
            assert bed.patroni.wait_for_leader(other_than=old) is candidate
            assert_all_on(clients, candidate, after=time.monotonic())
            wait_until_held(watcher, bed.bouncers, "announced")
            wait_until_released(watcher, bed.bouncers)
            wait_for_configs(bed.bouncers, before)
