"""Who is asked whether it takes clients."""

from dataclasses import replace

from watcher.decide.decision import ConnectVia, HoldPolicy, Policy, ReadyBy, Standby
from watcher.decide.model import (
    Alarm,
    Config,
    Endpoint,
    Entry,
    HealthRound,
    Leader,
    Leadership,
    Listing,
    Malformed,
    Member,
    NodeReport,
    Readiness,
    Role,
    Value,
    Verdict,
    View,
)
from watcher.decide.readiness import Want, wanted
from watcher.decide.view import fold

API = "http://10.0.0.1:8008/patroni"
MEMBER = Member("node1", Endpoint("10.0.0.1", 5432), None, API, Role.REPLICA, "running")
REIGN = Leadership("node1", 5)
POLICY = Policy()


def seen(**values: Value) -> View:
    entries = tuple(Entry(key.replace("__", "/"), value, 5, 5) for key, value in values.items())
    return fold(View(0.0), Listing(1, 5, entries, 1.0, 1.0))


LED = seen(leader=Leader("node1"), members__node1=MEMBER)


def ready(
    view: View, verdict: Verdict = Verdict.READY, role: Role = Role.PRIMARY, reign: Leadership = REIGN
) -> View:
    return fold(view, Readiness(reign, verdict, role, 1, 2.0))


def test_a_leader_that_nobody_asked_is_wanted() -> None:
    assert wanted(LED, POLICY) == Want(REIGN, Role.PRIMARY, (API,), Endpoint("10.0.0.1", 5432), ReadyBy.REST)


def test_a_leader_that_is_ready_is_left_alone() -> None:
    assert wanted(ready(LED), POLICY) is None


def test_a_leader_that_is_not_ready_yet_or_unknown_is_asked_on() -> None:
    assert wanted(ready(LED, Verdict.NOT_YET, Role.REPLICA), POLICY) is not None
    assert wanted(ready(LED, Verdict.UNKNOWN, Role.OTHER), POLICY) is not None


def test_readiness_of_an_earlier_reign_does_not_count() -> None:
    assert wanted(ready(LED, reign=Leadership("node1", 4)), POLICY) is not None


def test_nobody_is_wanted_where_nobody_reigns() -> None:
    assert wanted(View(0.0), POLICY) is None
    assert wanted(seen(members__node1=MEMBER), POLICY) is None
    assert wanted(seen(leader=Malformed("here", "is nonsense", "look")), POLICY) is None


def test_the_leader_key_alone_may_be_enough() -> None:
    assert wanted(LED, Policy(ready_by=ReadyBy.LEADER_KEY)) is None


def test_a_standby_leader_is_wanted_in_its_own_role_and_only_by_policy() -> None:
    view = seen(leader=Leader("node1"), members__node1=MEMBER, config=Config(standby_cluster=True))
    assert wanted(view, POLICY) is None
    want = wanted(view, Policy(standby=Standby.STANDBY_LEADER))
    assert want is not None
    assert want.role is Role.STANDBY_LEADER


def test_a_cluster_that_leaves_standby_mode_is_asked_again_in_the_same_reign() -> None:
    policy = Policy(standby=Standby.STANDBY_LEADER)
    view = seen(leader=Leader("node1"), members__node1=MEMBER, config=Config(standby_cluster=True))
    view = ready(view, role=Role.STANDBY_LEADER)
    assert wanted(view, policy) is None
    entries = {**view.entries, "config": Entry("config", Config(), 5, 6)}
    want = wanted(replace(view, entries=entries), policy)
    assert want is not None
    assert want.role is Role.PRIMARY


def test_an_address_that_is_not_known_is_told_and_the_leader_asked_all_the_same() -> None:
    want = wanted(seen(leader=Leader("node1")), POLICY)
    assert want is not None
    assert want.api_urls == ()
    assert "has no member key" in str(want.endpoint)


def test_clients_are_awaited_where_the_policy_sends_them() -> None:
    there = Endpoint("db1", 6000)
    want = wanted(LED, Policy(connect_via=ConnectVia.ADDRESSES, addresses={"node1": there}))
    assert want is not None
    assert want.endpoint == there


def test_a_url_that_answered_lately_is_tried_before_the_one_of_the_member_key() -> None:
    mine = NodeReport("node1", "http://db1:8008", Role.REPLICA, "running")
    other = NodeReport("node2", "http://db2:8008", Role.REPLICA, "running")
    view = fold(LED, HealthRound((other, mine), {}, 2.0))
    want = wanted(view, POLICY)
    assert want is not None
    assert want.api_urls == ("http://db1:8008", API)


def test_a_ready_leader_that_somebody_saw_refuse_is_asked_once_more_and_then_left_alone() -> None:
    policy = replace(POLICY, hold=HoldPolicy())
    view = fold(ready(LED), Alarm("pgb1", Endpoint("10.0.0.1", 5432), True, 3.0))
    want = wanted(view, policy)
    assert want is not None
    assert want.again
    assert wanted(view, POLICY) is None  # without holds nobody waits for the answer
    view = fold(view, Alarm("pgb1", Endpoint("10.0.0.1", 5432), False, 4.0))
    assert wanted(view, policy) is not None
    assert wanted(fold(view, Readiness(REIGN, Verdict.READY, Role.PRIMARY, 1, 5.0)), policy) is None


def test_a_leader_that_never_was_ready_is_not_asked_again_but_still() -> None:
    want = wanted(LED, replace(POLICY, hold=HoldPolicy()))
    assert want is not None
    assert not want.again
