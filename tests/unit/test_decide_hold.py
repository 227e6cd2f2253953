"""desired(): when clients wait. Each row of the table at the top of `decision.py`, and the edges of each."""

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from watcher.decide.decision import (
    Announced,
    ConnectVia,
    HoldPolicy,
    Policy,
    ReadyBy,
    Standby,
    desired,
    is_doubted,
    let_be,
    within_limit,
)
from watcher.decide.model import (
    STOP_KEYS,
    Alarm,
    Config,
    Desired,
    Endpoint,
    Entry,
    Failover,
    HealthRound,
    Leader,
    Leadership,
    Malformed,
    Member,
    NodeReport,
    Readiness,
    Reason,
    Role,
    StopRequest,
    Value,
    Verdict,
    View,
)
from watcher.decide.view import fold

NODE1, NODE2 = Endpoint("10.0.0.1", 5432), Endpoint("10.0.0.2", 5432)
REIGN = Leadership("node1", 50)
NOW = 100.0
WALL = 1_900_000_000.0
HERE = "pgb1"
POLICY = Policy(unknown_limit=3.0, silence_limit=10.0, health_fresh=10.0, hold=HoldPolicy())
MEMBERS = {
    name: Member(name, endpoint, None, None, Role.PRIMARY, "running", 3)
    for name, endpoint in (("node1", NODE1), ("node2", NODE2))
}
READY = Readiness(REIGN, Verdict.READY, Role.PRIMARY, 3, NOW - 1)
GOOD = View(
    began_at=0.0,
    cluster_id=0xA,
    revision=60,
    entries={"leader": Entry("leader", Leader("node1"), 50, 50)},
    members=MEMBERS,
    listed_asked_at=NOW - 2,
    contact_at=NOW - 1,
    leader_since=NOW - 1,
    readiness=READY,
    pulse=READY,
)


def having(key: str, value: Value, revision: int = 55, seen_at: float = NOW - 1, view: View = GOOD) -> View:
    """With one more key, first seen at `seen_at`."""
    entry = Entry(key, value, revision, revision)
    return replace(
        view, entries={**view.entries, key: entry}, seen_at=MappingProxyType({**view.seen_at, key: seen_at})
    )


def without(key: str, view: View = GOOD) -> View:
    return replace(view, entries={name: entry for name, entry in view.entries.items() if name != key})


def alarmed(view: View = GOOD, target: str = HERE, **changes: Any) -> View:
    alarm = replace(Alarm(target, NODE1, True, NOW - 0.5, "connection refused"), **changes)
    return replace(view, alarms=MappingProxyType({**view.alarms, target: alarm}))


def proven(verdict: Verdict, view: View = GOOD, **changes: Any) -> View:
    """With an answer of the leader's since its last alarm, a READY of before kept."""
    answer = replace(READY, verdict=verdict, at=NOW - 0.1, **changes)
    return replace(view, pulse=answer)


def wished(
    view: View = GOOD, policy: Policy = POLICY, now: float = NOW, wall: float | None = WALL
) -> Desired:
    return desired(view, policy, now, HERE, wall)


def settled(**changes: Any) -> Policy:
    """The policy with other holds."""
    return replace(POLICY, hold=replace(HoldPolicy(), **changes))


PAUSED = having("config", Config(pause=True))
NOT_YET = replace(READY, verdict=Verdict.NOT_YET, problem="starting")
SILENT = replace(READY, verdict=Verdict.UNKNOWN, problem="refused")
NO_ADDRESS = replace(GOOD, members={})
STANDBY = having("config", Config(standby_cluster=True))
NOBODY = replace(GOOD, contact_at=NOW - 10, health=HealthRound((), {}, NOW - 1))
ONE_REPORT = (NodeReport("node2", "http://node2", Role.PRIMARY, "running", timeline=4),)
ONE = replace(NOBODY, health=HealthRound(ONE_REPORT, {}, NOW - 1))
AWAY = Failover("node1", "node2", None)
STOP = StopRequest("stop-1", "node1")
BACK = alarmed(refuses=False, problem="")
NO_LEADER = having("config", Config(), view=without("leader"))


# --- the table -------------------------------------------------------------------------------------

TABLE: dict[str, tuple[View, Reason, Endpoint | None, bool]] = {
    "leader known and ready": (GOOD, Reason.LEADER, NODE1, False),
    "its PostgreSQL refuses": (alarmed(), Reason.PRIMARY_REFUSES, NODE1, True),
    "it takes connections again": (BACK, Reason.PRIMARY_REFUSES, NODE1, True),
    "a switchover is announced": (having("failover", AWAY), Reason.ANNOUNCED, NODE1, True),
    "it is about to stop": (having(f"{STOP_KEYS}node1", STOP), Reason.STOPPING, NODE1, True),
    "it says not yet": (
        replace(GOOD, readiness=NOT_YET, pulse=NOT_YET),
        Reason.LEADER_NOT_READY,
        NODE1,
        True,
    ),
    "it does not answer yet": (
        replace(GOOD, readiness=SILENT, pulse=SILENT),
        Reason.LEADER_NOT_READY,
        NODE1,
        True,
    ),
    "it never answered": (
        replace(GOOD, readiness=SILENT, pulse=SILENT, leader_since=NOW - 3),
        Reason.LEADER,
        NODE1,
        False,
    ),
    "no leader key": (
        having("failover", Failover(None, None, None), view=without("leader")),
        Reason.NO_LEADER,
        None,
        True,
    ),
    "no leader key in pause mode": (without("leader", PAUSED), Reason.NO_LEADER, None, False),
    "no key at all": (without("leader"), Reason.NO_CLUSTER, None, False),
    "a leader key that cannot be read": (
        having("leader", Malformed("leader", "is odd", "look")),
        Reason.LEADER_UNUSABLE,
        None,
        False,
    ),
    "a leader without an address": (NO_ADDRESS, Reason.LEADER_UNUSABLE, None, True),
    "a standby cluster": (STANDBY, Reason.STANDBY_CLUSTER, None, False),
    "one node alone says primary": (ONE, Reason.FALLBACK, NODE2, False),
    "nobody says anything": (NOBODY, Reason.BLIND, None, False),
    "etcd was not heard yet": (View(began_at=NOW), Reason.STARTING, None, False),
}


@pytest.mark.parametrize("name", TABLE)
def test_each_row_of_the_table_is_so(name: str) -> None:
    view, reason, endpoint, held = TABLE[name]
    wish = wished(view)
    found = wish.route.endpoint if wish.route is not None else None
    assert (wish.reason, found, wish.held) == (reason, endpoint, held)


@pytest.mark.parametrize("name", TABLE)
def test_nobody_is_ever_held_where_holds_are_off(name: str) -> None:
    view, reason, endpoint, held = TABLE[name]
    wish = wished(view, replace(POLICY, hold=None))
    assert not wish.held
    assert wish.guard is None
    assert wish.stop_id == ""
    if held and reason in (Reason.PRIMARY_REFUSES, Reason.ANNOUNCED, Reason.STOPPING):
        assert (wish.reason, wish.route and wish.route.endpoint) == (Reason.LEADER, endpoint)
    if reason is Reason.LEADER_NOT_READY:
        assert wish.route is None  # what nobody waits for is not written before it is ready


@pytest.mark.parametrize("name", TABLE)
def test_no_hold_outlives_its_limit(name: str) -> None:
    view = TABLE[name][0]
    raw = wished(view)
    over = within_limit(raw, POLICY, NOW - 60, NOW)
    assert over.held is False
    assert over.gave_up is raw.held
    assert over.route == raw.route
    assert over.stop_id == ""
    assert ("released" in over.detail) is raw.held


@pytest.mark.parametrize("name", TABLE)
def test_what_time_alone_may_change_is_looked_at_in_time(name: str) -> None:
    wish = within_limit(wished(TABLE[name][0]), POLICY, NOW, NOW)
    assert wish.reason is Reason.BLIND or wish.recheck_at is not None or wish.reason is Reason.FALLBACK
    if wish.held:
        assert wish.recheck_at is not None
        assert NOW < wish.recheck_at <= wish.hold_until


# --- how long ----------------------------------------------------------------------------------------


def test_a_hold_is_as_long_as_the_policy_lets_it_be_from_its_first_moment() -> None:
    wish = wished(alarmed())
    limited = within_limit(wish, POLICY, NOW - 20, NOW)
    assert (limited.held, limited.hold_until) == (True, NOW + 40)
    assert within_limit(wish, POLICY, NOW - 59.9, NOW).held
    assert not within_limit(wish, POLICY, NOW - 60, NOW).held


def test_an_own_limit_of_a_hold_counts_where_it_is_the_shorter_one() -> None:
    wish = wished(having("failover", AWAY))
    assert within_limit(wish, POLICY, NOW, NOW).hold_until == NOW - 1 + 10
    assert within_limit(wish, settled(limit=5.0), NOW - 1, NOW).hold_until == NOW + 4


def test_a_limit_changes_nothing_for_who_is_not_held() -> None:
    wish = wished()
    assert within_limit(wish, POLICY, NOW - 1000, NOW) is wish
    held = replace(wish, held=True)
    assert within_limit(held, replace(POLICY, hold=None), NOW - 1000, NOW) is held


def test_a_recheck_that_comes_before_the_limit_stays() -> None:
    wish = replace(wished(alarmed()), recheck_at=NOW + 1)
    assert within_limit(wish, POLICY, NOW, NOW).recheck_at == NOW + 1
    assert within_limit(replace(wish, recheck_at=None), POLICY, NOW, NOW).recheck_at == NOW + 60


# --- no leader ------------------------------------------------------------------------------------------


def test_a_leader_key_that_comes_back_ends_the_hold() -> None:
    gone = without("leader", having("failover", Failover(None, None, None)))
    assert wished(gone).held
    assert not wished(having("leader", Leader("node1"), 50, view=gone)).held


def test_a_new_leader_is_written_while_its_clients_wait_for_it() -> None:
    reign = Leadership("node2", 70)
    view = replace(
        having("leader", Leader("node2"), 70), readiness=replace(NOT_YET, leadership=reign), leader_since=NOW
    )
    wish = wished(view)
    assert wish.route is not None
    assert (wish.route.endpoint, wish.held, wish.guard) == (NODE2, True, None)
    assert wish.proven_at == NOW - 2
    ready = wished(replace(view, readiness=replace(READY, leadership=reign)))
    assert ready.route is not None
    assert (ready.route.endpoint, ready.held, ready.guard) == (NODE2, False, NODE2)


def test_a_leader_that_says_not_yet_is_waited_for_and_a_silent_one_is_not() -> None:
    says_no = replace(GOOD, readiness=NOT_YET, pulse=NOT_YET, leader_since=NOW - 50)
    assert wished(says_no).held
    silent = replace(GOOD, readiness=SILENT, pulse=SILENT, leader_since=NOW - 2.9)
    assert wished(silent).held
    assert wished(silent).recheck_at == pytest.approx(NOW + 0.1)
    assert not wished(silent, now=NOW + 0.11).held


# --- the primary refuses ----------------------------------------------------------------------------------


def test_the_leader_is_guarded_while_it_is_ready() -> None:
    assert wished().guard == NODE1
    assert wished(policy=settled(on_crash=False)).guard is None
    assert wished(replace(GOOD, readiness=NOT_YET, pulse=NOT_YET)).guard is None
    assert wished(alarmed()).guard == NODE1


@pytest.mark.parametrize(
    "view",
    [
        alarmed(target="pgb2"),
        alarmed(endpoint=NODE2),
        alarmed(proven(Verdict.READY), refuses=False),
    ],
    ids=["another target's", "of another server", "over, and proven"],
)
def test_an_alarm_that_does_not_count_holds_nobody(view: View) -> None:
    assert (wished(view).reason, wished(view).held) == (Reason.LEADER, False)


def test_who_does_not_want_to_wait_in_a_crash_does_not() -> None:
    for view in (alarmed(), BACK):
        assert not wished(view, settled(on_crash=False)).held


def test_the_alarm_says_why() -> None:
    assert "10.0.0.1:5432 takes no connections: connection refused" in wished(alarmed()).detail


def test_whom_somebody_else_let_go_is_not_held_and_no_stop_waits_for_that() -> None:
    held = replace(wished(alarmed()), stop_id="stop-1")
    free = let_be(held)
    assert (free.held, free.gave_up, free.stop_id, free.reason) == (False, False, "", held.reason)
    assert free.detail == f"{held.detail}; somebody else let clients go on"


def test_of_one_that_no_guard_asks_any_more_nobody_says_that_it_takes_connections_again() -> None:
    doubted: dict[str, Any] = {"refuses": False, "problem": "connection refused"}
    assert wished(BACK).detail.startswith("node1 takes connections again, and is not ready: ")
    took = "took no connections when it was last asked"
    assert wished(alarmed(**doubted)).detail.startswith(f"node1 {took}, and is not ready: ")
    followed_on = wished(alarmed(ONE, endpoint=NODE2, **doubted)).detail
    assert followed_on.startswith(f"PostgreSQL at 10.0.0.2:5432 {took}, and the nodes were not asked since; ")


def test_an_alarm_counts_whoever_speaks() -> None:
    """In silence, in pause mode, and for a leader that is not ready: what refuses, refuses."""
    assert wished(alarmed(PAUSED)).reason is Reason.PRIMARY_REFUSES
    blind = wished(alarmed(NOBODY))
    assert (blind.reason, blind.route, blind.held) == (Reason.PRIMARY_REFUSES, None, True)
    fallback = wished(alarmed(ONE))
    assert (fallback.reason, fallback.held) == (Reason.FALLBACK, False)  # it leads to another server
    assert wished(alarmed(ONE, endpoint=NODE2)).held
    assert not wished(alarmed(NOBODY), replace(POLICY, hold=None)).held
    assert not wished(alarmed(NOBODY), settled(on_crash=False)).held


def test_silence_lets_nobody_go_on_to_a_server_that_came_back_as_a_replica() -> None:
    back = replace(proven(Verdict.NOT_YET, BACK), contact_at=NOW - 10)
    for health in (None, NOBODY.health):
        wish = wished(replace(back, health=health))
        assert (wish.reason, wish.route, wish.held) == (Reason.PRIMARY_REFUSES, None, True)
    assert not wished(back, settled(on_crash=False)).held


def test_in_silence_a_server_that_came_back_is_waited_for_no_longer_than_when_etcd_speaks() -> None:
    back = replace(proven(Verdict.UNKNOWN, BACK), contact_at=NOW - 10)
    assert wished(back).recheck_at == NOW - 0.5 + 3
    for now, held in ((NOW + 2.49, True), (NOW + 2.5, False)):
        assert wished(back, now=now).held is held


def test_in_silence_a_leader_that_says_that_it_is_ready_gets_its_clients_by_the_next_round() -> None:
    says_so = replace(proven(Verdict.READY, BACK), contact_at=NOW - 10)
    first = replace(GOOD, readiness=READY, pulse=replace(READY, at=NOW - 0.1), contact_at=NOW - 10)
    for view in (says_so, first):
        for health in (None, HealthRound((), {}, NOW - 0.11)):
            wish = wished(replace(view, health=health))
            assert (wish.held, wish.reason, wish.route) == (True, Reason.PRIMARY_REFUSES, None)
            assert wish.recheck_at == pytest.approx(NOW - 0.1 + 3)
            assert "node1 says that it is ready, and the nodes were not asked since" in wish.detail
            assert not wished(replace(view, health=health), now=NOW + 2.91).held
        asked = replace(view, health=HealthRound((), {}, NOW - 0.1))
        assert (wished(asked).reason, wished(asked).held) == (Reason.BLIND, False)
    long = replace(POLICY, unknown_limit=20.0)
    for at, held in ((NOW - 10.1, False), (NOW - 10, True)):  # before the silence, and in its first instant
        assert wished(replace(first, pulse=replace(READY, at=at)), long).held is held


def followed(view: View, at: float, node: str = "node2") -> View:
    """After a round in the silence in which that node alone was the primary, and one without any answer."""
    alone = HealthRound((replace(ONE_REPORT[0], name=node),), {}, at)
    return replace(fold(fold(view, alone), HealthRound((), {}, NOW - 0.1)), contact_at=NOW - 10)


@pytest.mark.parametrize(
    "view",
    [
        NO_LEADER,
        replace(GOOD, readiness=NOT_YET, pulse=NOT_YET),
        proven(Verdict.NOT_YET, BACK),
    ],
    ids=["nobody led", "the leader was not ready", "the leader came back as a replica"],
)
def test_once_a_node_was_followed_in_silence_rounds_without_it_hold_nobody(view: View) -> None:
    assert (wished(followed(view, NOW - 0.4)).reason, wished(followed(view, NOW - 0.4)).held) == (
        Reason.BLIND,
        False,
    )
    assert wished(followed(view, NOW - 10.1)).held  # before the silence, or before the leader refused


def test_who_alone_was_the_primary_before_the_leader_refused_was_the_leader() -> None:
    assert wished(followed(proven(Verdict.NOT_YET, BACK), NOW - 0.6, "node1")).held
    assert not wished(followed(proven(Verdict.NOT_YET, BACK), NOW - 0.5, "node1")).held


def test_once_another_node_was_the_primary_nobody_waits_for_the_leader_that_was() -> None:
    """The guard is taken off it after that round, which is told as if it took connections again."""
    wish = wished(followed(proven(Verdict.NOT_YET, BACK), NOW - 0.6))
    assert (wish.reason, wish.held) == (Reason.BLIND, False)


def test_of_two_sites_silence_says_nothing_of_who_has_the_primary() -> None:
    both = replace(POLICY, standby=Standby.OTHER_SITE, other_site=POLICY)
    assert not wished(unheard(NO_LEADER), both).held


def test_a_followed_server_that_took_connections_again_after_the_last_round_is_waited_for() -> None:
    at_node2 = alarmed(ONE, endpoint=NODE2, refuses=False, problem="")
    wish = wished(at_node2)
    assert (wish.held, wish.guard) == (True, NODE2)
    assert wish.route is not None
    assert "10.0.0.2:5432 takes connections again, and the nodes were not asked since" in wish.detail
    assert wish.recheck_at == NOW - 0.5 + 3
    assert not wished(replace(at_node2, health=HealthRound(ONE_REPORT, {}, NOW - 0.5))).held
    assert not wished(at_node2, now=NOW + 2.5).held
    assert not wished(at_node2, settled(on_crash=False)).held
    lost = replace(at_node2, health=NOBODY.health)
    assert (wished(lost).held, wished(lost).route) == (True, None)


def test_what_a_followed_server_did_says_nothing_of_a_leader_where_nobody_led() -> None:
    back = alarmed(followed(NO_LEADER, NOW - 0.6), endpoint=NODE2, refuses=False)
    for at, reason, held in ((NOW - 0.05, Reason.PRIMARY_REFUSES, True), (NOW - 0.3, Reason.BLIND, False)):
        alarm = replace(back.alarms[HERE], at=at)  # after the last round, in which nobody answered, or before
        wish = wished(replace(back, alarms=MappingProxyType({HERE: alarm})))
        assert (wish.reason, wish.held) == (reason, held)


def test_in_silence_clients_go_to_another_node_that_is_the_primary_whatever_the_old_one_does() -> None:
    back = replace(proven(Verdict.NOT_YET, BACK), contact_at=NOW - 10, health=ONE.health)
    wish = wished(back)
    assert (wish.reason, wish.held, wish.guard) == (Reason.FALLBACK, False, NODE2)
    assert wish.route is not None
    assert wish.route.endpoint == NODE2


def unheard(view: View) -> View:
    """Since ten seconds; no node says that it is the primary."""
    return replace(view, contact_at=NOW - 10, health=NOBODY.health)


NO_PRIMARY: dict[str, tuple[View, Reason]] = {
    "nobody led": (NO_LEADER, Reason.NO_LEADER),
    "the leader was not ready": (replace(GOOD, readiness=NOT_YET, pulse=NOT_YET), Reason.LEADER_NOT_READY),
    "the leader had no address": (NO_ADDRESS, Reason.LEADER_UNUSABLE),
}


@pytest.mark.parametrize(("view", "reason"), NO_PRIMARY.values(), ids=NO_PRIMARY)
def test_silence_lets_nobody_go_on_to_where_there_was_no_primary(view: View, reason: Reason) -> None:
    spoke, wish = wished(view), wished(unheard(view))
    assert (wish.reason, wish.held, wish.route) == (reason, True, None)
    assert (wish.guard, wish.stop_id, wish.proven_at, wish.readers) == (None, "", None, None)
    assert (
        wish.detail == f"{spoke.detail}; since then etcd is silent, and no node says that it is the primary"
    )
    assert wish.recheck_at is None or wish.recheck_at > NOW
    assert not wished(unheard(view), replace(POLICY, hold=None)).held


def test_who_waits_in_silence_for_a_leader_that_refused_has_a_guard_that_tells_whether_it_still_does() -> (
    None
):
    wish = wished(unheard(alarmed(GOOD)))
    assert (wish.reason, wish.held, wish.guard) == (Reason.PRIMARY_REFUSES, True, NODE1)
    assert wished(unheard(alarmed(GOOD)), settled(on_crash=False)).guard is None


def test_what_the_guard_sees_is_told_in_silence_only_where_etcd_told_of_nothing_to_wait_for() -> None:
    assert wished(unheard(alarmed(NO_LEADER))).reason is Reason.NO_LEADER
    paused = unheard(alarmed(without("leader", PAUSED)))
    assert (wished(paused).reason, wished(paused).held) == (Reason.PRIMARY_REFUSES, True)
    assert not wished(unheard(alarmed(without("leader", PAUSED), target="another"))).held


@pytest.mark.parametrize("view", [NO_LEADER, replace(GOOD, readiness=NOT_YET, pulse=NOT_YET)])
def test_in_silence_too_clients_go_to_a_node_that_alone_is_the_primary(view: View) -> None:
    wish = wished(replace(view, contact_at=NOW - 10, health=ONE.health))
    assert (wish.reason, wish.held) == (Reason.FALLBACK, False)


def test_a_leader_that_fell_silent_too_gets_its_clients_in_time() -> None:
    silent = unheard(replace(GOOD, readiness=SILENT, pulse=SILENT, leader_since=NOW - 2.5))
    assert wished(silent).recheck_at == NOW + 0.5
    assert (wished(silent, now=NOW + 0.5).reason, wished(silent, now=NOW + 0.5).held) == (Reason.BLIND, False)


@pytest.mark.parametrize(
    "view",
    [
        GOOD,
        having("failover", AWAY),
        having(f"{STOP_KEYS}node1", STOP),
        without("leader", PAUSED),
        having("config", Config(standby_cluster=True), view=without("leader")),
        View(began_at=0.0),
    ],
    ids=["a leader", "announced", "about to stop", "Patroni is paused", "a standby cluster", "never heard"],
)
def test_silence_itself_holds_nobody(view: View) -> None:
    assert (wished(unheard(view)).reason, wished(unheard(view)).held) == (
        Reason.BLIND,
        False,
    )


def test_the_server_that_is_followed_in_silence_is_waited_for_until_it_has_proven_itself_again() -> None:
    here = HealthRound((replace(ONE.health.reports[0], name="node1"),), {}, NOW - 1) if ONE.health else None
    back = replace(proven(Verdict.NOT_YET, BACK), contact_at=NOW - 10, health=here)
    wish = wished(back)
    assert (wish.reason, wish.held, wish.guard) == (Reason.PRIMARY_REFUSES, True, NODE1)
    assert wish.route is not None
    later = None if here is None else replace(here, at=NOW - 0.5)
    again = wished(replace(back, health=later))
    assert (again.reason, again.held) == (Reason.FALLBACK, False)


def test_who_is_followed_in_silence_is_guarded() -> None:
    assert wished(ONE).guard == NODE2
    assert wished(ONE, settled(on_crash=False)).guard is None
    assert wished(ONE, replace(POLICY, hold=None)).guard is None
    assert wished(NOBODY).guard is None


def test_after_an_alarm_clients_wait_until_the_leader_says_again_that_it_takes_writes() -> None:
    assert wished(BACK).held
    assert "it has not said so again" in wished(BACK).detail
    assert not wished(proven(Verdict.READY, BACK)).held
    older = replace(BACK, pulse=replace(READY, at=NOW - 0.6))
    assert wished(older).held
    of_an_earlier_reign = replace(BACK, pulse=replace(READY, at=NOW, leadership=Leadership("node1", 49)))
    assert wished(of_an_earlier_reign).held


def test_after_an_alarm_a_leader_that_says_not_yet_is_waited_for() -> None:
    view = proven(Verdict.NOT_YET, BACK, problem="starting")
    assert wished(view).held
    assert "starting" in wished(view).detail
    assert wished(replace(view, contact_at=NOW + 50), now=NOW + 55).held


def test_an_answer_of_the_alarms_own_instant_counts_as_one_about_it() -> None:
    assert not wished(replace(BACK, pulse=replace(READY, at=NOW - 0.5))).held
    assert wished(replace(BACK, pulse=replace(NOT_YET, at=NOW - 0.5)), now=NOW + 5).held


def test_who_waits_for_a_leader_that_says_not_yet_looks_again_when_etcd_counts_as_silent() -> None:
    assert wished(proven(Verdict.NOT_YET, BACK)).recheck_at == NOW + 9


def test_after_an_alarm_a_leader_that_cannot_be_asked_gets_its_clients_after_the_limit() -> None:
    for view in (BACK, proven(Verdict.UNKNOWN, BACK)):
        assert wished(view).recheck_at == NOW - 0.5 + 3
        assert wished(view, now=NOW + 2.49).held
        assert not wished(view, now=NOW + 2.5).held


def test_the_limit_begins_when_a_leader_that_answered_after_its_alarm_fell_silent() -> None:
    view = replace(proven(Verdict.UNKNOWN, BACK), silent_since=NOW + 1)
    assert wished(view, now=NOW + 3.99).held
    assert not wished(view, now=NOW + 4).held


def test_a_no_of_before_the_alarm_says_nothing_about_after_it() -> None:
    view = replace(BACK, pulse=replace(NOT_YET, at=NOW - 0.6))
    assert not wished(view, now=NOW + 2.5).held


def test_a_new_leader_is_not_doubted_for_what_the_old_one_did() -> None:
    reign = Leadership("node2", 70)
    view = having(
        "leader", Leader("node2"), 70, view=alarmed(replace(GOOD, readiness=replace(READY, leadership=reign)))
    )
    assert (wished(view).reason, wished(view).held) == (Reason.LEADER, False)


def test_by_the_leader_key_alone_nobody_has_to_prove_anything_again() -> None:
    by_key = replace(POLICY, ready_by=ReadyBy.LEADER_KEY)
    assert wished(alarmed(), by_key).held
    assert not wished(BACK, by_key).held


DOUBTS: dict[str, tuple[View, Policy, bool]] = {
    "no alarm": (GOOD, POLICY, False),
    "it refuses": (alarmed(), POLICY, True),
    "it refuses somebody else": (alarmed(target="pgb2"), POLICY, True),
    "it said since that it is ready": (proven(Verdict.READY, BACK), POLICY, False),
    "it refuses though it says that it is ready": (proven(Verdict.READY, alarmed()), POLICY, True),
    "it said before that it is ready": (BACK, POLICY, True),
    "an alarm of another server": (alarmed(endpoint=NODE2), POLICY, False),
    "one of several": (alarmed(BACK, "pgb2", endpoint=NODE2), POLICY, True),
    "by the leader key": (alarmed(), replace(POLICY, ready_by=ReadyBy.LEADER_KEY), False),
    "no holds": (alarmed(), replace(POLICY, hold=None), False),
    "no holds in a crash": (alarmed(), settled(on_crash=False), False),
    "an address that is not known": (alarmed(NO_ADDRESS), POLICY, False),
    "an address of the settings": (
        alarmed(endpoint=Endpoint("db", 1)),
        replace(POLICY, connect_via=ConnectVia.ADDRESSES, addresses={"node1": Endpoint("db", 1)}),
        True,
    ),
}


@pytest.mark.parametrize("name", DOUBTS)
def test_a_leader_is_asked_again_while_it_is_in_doubt(name: str) -> None:
    view, policy, doubted = DOUBTS[name]
    assert is_doubted(view, policy, REIGN) is doubted


# --- a stop is asked for ------------------------------------------------------------------------------------


def stopping(revision: int = 55, member: str = "node1", view: View = GOOD, seen_at: float = NOW - 1) -> View:
    return having(STOP_KEYS + member, StopRequest("stop-1", member), revision, seen_at, view)


def test_a_stop_of_the_leader_holds_everybody_for_it() -> None:
    wish = wished(stopping())
    assert (wish.reason, wish.held, wish.stop_id) == (Reason.STOPPING, True, "stop-1")
    assert "node1 is about to stop" in wish.detail


@pytest.mark.parametrize(
    "view",
    [
        stopping(revision=49),
        stopping(member="node2"),
        having(f"{STOP_KEYS}node1", Malformed("stop", "is odd", "look")),
        alarmed(proven(Verdict.READY, stopping()), refuses=False),
    ],
    ids=[
        "of an earlier reign",
        "of a replica",
        "that cannot be read",
        "that is over: it was away and is back",
    ],
)
def test_a_stop_that_does_not_count_holds_nobody(view: View) -> None:
    assert (wished(view).reason, wished(view).held, wished(view).stop_id) == (Reason.LEADER, False, "")


def test_a_stop_of_this_very_reign_counts_from_its_first_revision() -> None:
    assert wished(stopping(revision=50)).held


@pytest.mark.parametrize("seen_at", [NOW - 0.5, NOW])
def test_an_end_of_an_earlier_alarm_is_not_the_end_of_this_stop(seen_at: float) -> None:
    view = alarmed(proven(Verdict.READY, stopping(seen_at=seen_at)), refuses=False)
    assert wished(view).stop_id == "stop-1"


def test_a_stop_whose_first_sight_was_not_noted_is_still_to_come() -> None:
    view = alarmed(proven(Verdict.READY, replace(stopping(), seen_at={})), refuses=False)
    assert wished(view).stop_id == "stop-1"


def test_while_what_was_to_stop_refuses_the_stop_goes_on() -> None:
    wish = wished(alarmed(stopping()))
    assert (wish.reason, wish.held, wish.stop_id) == (Reason.PRIMARY_REFUSES, True, "stop-1")


def test_a_stop_is_waited_for_behind_an_announcement_that_does_not_hold_any_more() -> None:
    wish = wished(having("failover", AWAY, seen_at=NOW - 11, view=stopping()))
    assert (wish.reason, wish.stop_id) == (Reason.STOPPING, "stop-1")


# --- a switchover is announced ---------------------------------------------------------------------------


def announced(
    leader: str | None = "node1",
    candidate: str | None = "node2",
    scheduled_at: float | None = None,
    *,
    revision: int = 55,
    seen_at: float = NOW - 1,
) -> View:
    return having("failover", Failover(leader, candidate, scheduled_at), revision, seen_at)


NO_ANNOUNCEMENT: dict[str, View] = {
    "withdrawn, by a PUT of {}": announced(None, None),
    "a date without anybody": announced(None, None, WALL - 1),
    "of an earlier reign": announced(revision=49),
    "away from somebody else": announced("node2", "node3"),
    "to the present leader": announced(None, "node1"),
    "from the leader to itself": announced("node1", "node1"),
    "that cannot be read": having("failover", Malformed("failover", "is odd", "look")),
    "without an end that nothing followed": announced(seen_at=NOW - 10),
    "for a date that cannot be read": announced(scheduled_at=float("inf")),
    "for tomorrow": announced(scheduled_at=WALL + 86400),
    "for a date long past": announced(scheduled_at=WALL - 86400),
}


@pytest.mark.parametrize("name", NO_ANNOUNCEMENT)
def test_an_announcement_that_does_not_count_holds_nobody(name: str) -> None:
    wish = wished(NO_ANNOUNCEMENT[name])
    assert (wish.reason, wish.held) == (Reason.LEADER, False)


@pytest.mark.parametrize(
    "view",
    [announced(), announced(candidate=None), announced(leader=None), announced(revision=50)],
    ids=["from and to", "away", "to somebody else", "with the reign's first revision"],
)
def test_an_announcement_for_now_holds_until_its_own_limit(view: View) -> None:
    wish = wished(view)
    assert (wish.reason, wish.held, wish.hold_until) == (Reason.ANNOUNCED, True, NOW - 1 + 10)
    assert "away from node1" in wish.detail
    later = replace(view, contact_at=NOW + 8)
    assert wished(later, now=NOW + 8.99).held
    assert not wished(later, now=NOW + 9).held


def test_an_announcement_that_was_never_seen_to_come_counts_from_now() -> None:
    view = replace(announced(), seen_at={})
    assert wished(view).hold_until == NOW + 10


def test_a_scheduled_switchover_holds_shortly_before_its_date() -> None:
    view = announced(scheduled_at=WALL + 5)
    before = wished(view)
    assert not before.held
    assert before.recheck_at == pytest.approx(NOW + 4.85)
    assert not wished(view, now=NOW + 4.8, wall=WALL + 4.8).held
    due = wished(view, now=NOW + 4.86, wall=WALL + 4.86)
    assert (due.reason, due.held) == (Reason.ANNOUNCED, True)
    assert due.hold_until == pytest.approx(NOW + 14.85)


def test_a_date_is_looked_at_no_later_than_etcds_silence() -> None:
    wish = wished(announced(scheduled_at=WALL + 3600))
    assert wish.recheck_at == NOW - 1 + 10


def test_without_a_clock_nothing_is_due() -> None:
    assert not wished(announced(scheduled_at=WALL), wall=None).held
    assert wished(announced(), wall=None).held


@pytest.mark.parametrize("when", [Announced.AT_BARRIER, Announced.NEVER])
def test_an_announcement_holds_nobody_where_that_is_not_wanted(when: Announced) -> None:
    assert not wished(announced(), settled(announced=when)).held
    assert wished(stopping(), settled(announced=when)).held


def test_what_holds_first_is_what_is_said() -> None:
    """A crash amid an announced switchover is held for as a crash: longer."""
    wish = wished(alarmed(announced()))
    assert (wish.reason, wish.hold_until) == (Reason.PRIMARY_REFUSES, float("inf"))
