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
    desired,
    is_doubted,
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
ONE = replace(
    NOBODY,
    health=HealthRound(
        (NodeReport("node2", "http://node2", Role.PRIMARY, "running", timeline=4),), {}, NOW - 1
    ),
)
AWAY = Failover("node1", "node2", None)
STOP = StopRequest("stop-1", "node1")
BACK = alarmed(refuses=False, problem="")


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


def test_an_alarm_counts_whoever_speaks() -> None:
    """In silence, in pause mode, and for a leader that is not ready: what refuses, refuses."""
    assert wished(alarmed(PAUSED)).reason is Reason.PRIMARY_REFUSES
    blind = wished(alarmed(NOBODY))
    assert (blind.reason, blind.route, blind.held) == (Reason.PRIMARY_REFUSES, None, True)
    fallback = wished(alarmed(ONE))
    assert (fallback.reason, fallback.held) == (Reason.FALLBACK, False)  # it leads to another server
    assert wished(alarmed(ONE, endpoint=NODE2)).held
    assert not wished(alarmed(NOBODY), replace(POLICY, hold=None)).held


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
