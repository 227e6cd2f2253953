"""The loop of a target that waits for a canary, and of the canary that tells."""

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from tests.support.fake_target import NODES, led_by
from tests.unit.test_reconciler import RESYNC, lost
from tests.unit.test_reconciler_hold import HELD, Holding, nobody
from watcher.decide.decision import CanaryPolicy, Policy
from watcher.decide.errors import TargetRefused
from watcher.decide.model import Leadership, Reason, View

WAITS = replace(HELD, canary=CanaryPolicy(frozenset({"first"}), limit=5.0))
STAYS = replace(WAITS, canary=CanaryPolicy(frozenset({"first"}), limit=5.0, goes_on=False))


def settled(policy: Policy, **others: Any) -> Holding:
    """Led to node1 without a canary; from then on by `policy`."""
    world = Holding(**others)
    world.reconciler._policy = policy
    return world


def confirmed(view: View) -> View:
    return replace(view, confirmed=MappingProxyType({"first": Leadership("node2", 7)}))


@pytest.fixture
def world() -> Holding:
    return settled(WAITS)


def test_clients_wait_until_the_canary_has_confirmed(world: Holding) -> None:
    view = led_by("node2", 7, world.now)
    world.turn(view)
    assert world.waits
    assert str(NODES["node2"].host) not in world.pgbouncer.text
    assert world.reports.holds[-1].reason is Reason.CANARY
    world.now += 0.1
    world.turn(confirmed(view))
    assert not world.waits
    assert world.pgbouncer.shown == {"app": NODES["node2"]}
    assert world.target.calls == {"hold": 1, "write": 1, "release": 1, "watch": 1}


def test_the_same_hold_goes_on_from_the_loss_of_the_leader(world: Holding) -> None:
    world.turn(nobody(world.now))
    world.now += 2
    world.turn(led_by("node2", 7, world.now))
    assert world.waits
    assert world.target.calls == {"hold": 1}


def test_clients_go_on_to_the_new_leader_when_the_limit_is_over(world: Holding) -> None:
    due = world.turn(led_by("node2", 7, world.now))
    assert due == 5.0
    world.now += due
    world.turn()
    assert not world.waits
    assert world.pgbouncer.shown == {"app": NODES["node2"]}


def test_clients_that_had_waited_long_before_go_on_to_the_new_leader_at_the_hold_s_limit(
    world: Holding,
) -> None:
    world.turn(nobody(world.now))
    world.now += 18
    world.turn(led_by("node2", 7, world.now))
    assert world.waits
    world.now += 2
    world.turn()
    assert not world.waits
    assert world.pgbouncer.shown == {"app": NODES["node2"]}


def test_clients_go_on_where_they_were_if_the_rest_stays() -> None:
    world = settled(STAYS)
    view = led_by("node2", 7, world.now)
    world.turn(view)
    assert world.waits
    world.now += 5
    world.turn(replace(view, contact_at=world.now))
    assert not world.waits
    assert world.pgbouncer.shown == {"app": NODES["node1"]}
    assert str(NODES["node2"].host) not in world.pgbouncer.text
    world.turn(confirmed(replace(view, contact_at=world.now)))
    assert world.pgbouncer.shown == {"app": NODES["node2"]}


def test_who_has_to_connect_first_waits_too(world: Holding) -> None:
    """Where it leads is known by the look alone."""
    world.target.fail("read", lost())
    world.now += 30
    world.turn(led_by("node1", 5, world.now))
    assert world.target.last is None
    world.now += 10
    world.turn(led_by("node2", 7, world.now))
    assert world.waits
    assert world.pgbouncer.shown == {"app": NODES["node1"]}


def test_a_drift_waits_for_no_canary(world: Holding) -> None:
    view = led_by("node1", 5, world.now)
    world.turn(view)
    world.pgbouncer.text = world.pgbouncer.text.replace(NODES["node1"].host, NODES["node3"].host)
    world.pgbouncer.shown = {"app": NODES["node3"]}
    world.now += 10
    world.turn(view)
    assert world.pgbouncer.shown == {"app": NODES["node1"]}
    assert world.reports.holds == []


def test_who_was_led_on_by_another_watcher_is_not_held_again(world: Holding) -> None:
    """That one's canary has confirmed, ours has not yet: only a look at PgBouncer tells."""
    view = led_by("node2", 7, world.now)
    world.turn(view)
    assert world.waits
    world.now += 1
    world.pgbouncer.text = world.pgbouncer.text.replace(NODES["node1"].host, NODES["node2"].host)
    world.pgbouncer.reload()
    for agent in world.pgbouncer.agents:
        agent.resume(sure=True)
    world.reconciler.hold_ended(1.0)
    world.turn(view)
    assert not world.waits
    assert world.target.calls["hold"] == 1


def test_a_canary_tells_that_pgbouncer_leads_to_the_leader_until_that_is_known() -> None:
    told: list[Leadership] = []
    policy = replace(WAITS, canary=CanaryPolicy(frozenset({"fake"})))
    world = Holding(policy=policy, confirm=told.append)
    assert told == [Leadership("node1", 5)]
    world.turn(nobody(world.now))
    view = led_by("node2", 7, world.now)
    world.turn(view)
    assert told == [Leadership("node1", 5), Leadership("node2", 7)]
    known = MappingProxyType({"fake": Leadership("node2", 7)})
    for _ in range(2):
        world.now += RESYNC
        world.turn(replace(view, confirmed=known))
    assert len(told) == 2
    world.now += RESYNC
    world.turn(view)  # as after a restored etcd, in which there is another reign of that name
    assert told[2:] == [Leadership("node2", 7)]


def test_a_canary_that_could_not_be_led_tells_nothing() -> None:
    told: list[Leadership] = []
    policy = replace(WAITS, canary=CanaryPolicy(frozenset({"fake"})))
    world = Holding(policy=policy, confirm=told.append)
    told.clear()
    world.turn(nobody(world.now))
    world.target.fail("release", lost())
    world.turn(led_by("node2", 7, world.now))
    assert told == []


def test_a_canary_that_is_led_confirms_also_where_its_clients_cannot_be_held() -> None:
    told: list[Leadership] = []
    world = Holding(confirm=told.append)
    told.clear()
    world.target.fail_always["hold"] = TargetRefused("fake", "no room", "make some")
    world.turn(nobody(world.now))
    world.now += 5
    world.turn(led_by("node2", 7, world.now))
    assert world.pgbouncer.shown == {"app": NODES["node2"]}
    assert told == [Leadership("node2", 7)]
