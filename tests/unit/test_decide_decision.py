"""desired(): what follows from all that is known. plan(): the steps from what is to what should be."""

from dataclasses import replace

import pytest

from watcher.decide.decision import ConnectVia, Policy, ReadyBy, Standby, desired, replicas
from watcher.decide.model import (
    Config,
    Desired,
    Endpoint,
    Entry,
    Fitness,
    HealthRound,
    Leader,
    Leadership,
    Malformed,
    Member,
    NodeReport,
    Readiness,
    Reason,
    Role,
    Route,
    Source,
    Stamp,
    SystemId,
    Value,
    Verdict,
    View,
)
from watcher.decide.readers import ReadPolicy
from watcher.decide.view import fold

NODE1, NODE2 = Endpoint("10.0.0.1", 5432), Endpoint("10.0.0.2", 5432)
PROXY1 = Endpoint("10.0.1.1", 6000)
REIGN = Leadership("node1", 50)
NOW = 100.0
POLICY = Policy(unknown_limit=3.0, silence_limit=10.0, health_fresh=10.0)


def entry(key: str, value: Value, revision: int = 50) -> Entry:
    return Entry(key, value, revision, revision)


def member(name: str, conn: Endpoint | None, proxy: Endpoint | None = None, problem: str = "") -> Member:
    return Member(name, conn, proxy, None, Role.PRIMARY, "running", 3, problem)


MEMBERS = {"node1": member("node1", NODE1, PROXY1), "node2": member("node2", NODE2)}
READY = Readiness(REIGN, Verdict.READY, Role.PRIMARY, 3, NOW - 1)
GOOD = View(
    began_at=0.0,
    cluster_id=0xA,
    revision=60,
    entries={
        "leader": entry("leader", Leader("node1")),
        "initialize": entry("initialize", SystemId("730"), 1),
    },
    members=MEMBERS,
    listed_asked_at=NOW - 2,
    contact_at=NOW - 1,
    leader_since=NOW - 1,
    readiness=READY,
)


def having(view: View, *entries: Entry, without: str = "") -> View:
    merged = {**view.entries, **{e.key: e for e in entries}}
    return replace(view, entries={key: value for key, value in merged.items() if key != without})


def wished(view: View = GOOD, policy: Policy = POLICY, now: float = NOW) -> Desired:
    return desired(view, policy, now)


# --- etcd speaks -------------------------------------------------------------------------------------


def test_a_ready_leader_is_where_clients_go_stamped_and_proven() -> None:
    wish = wished()
    assert wish.reason is Reason.LEADER
    assert wish.route == Route(NODE1, Stamp(0xA, "730", 50, 3, "node1"), Source.ETCD)
    assert wish.proven_at == NOW - 2
    assert wish.recheck_at == NOW + 9
    assert not wish.held


UNCHANGED: dict[str, tuple[View, Reason, str]] = {
    "no leader key": (having(GOOD, without="leader"), Reason.NO_LEADER, "no leader key"),
    "a leader key that cannot be read": (
        having(GOOD, entry("leader", Malformed("/demo/leader", "is odd", "look"))),
        Reason.LEADER_UNUSABLE,
        "/demo/leader: is odd",
    ),
    "a standby cluster": (
        having(GOOD, entry("config", Config(standby_cluster=True))),
        Reason.STANDBY_CLUSTER,
        "a standby cluster",
    ),
    "a leader without a member key": (replace(GOOD, members={}), Reason.LEADER_UNUSABLE, "has no member key"),
    "a leader without an address": (
        replace(GOOD, members={"node1": member("node1", None, problem="conn_url is odd")}),
        Reason.LEADER_UNUSABLE,
        "conn_url is odd",
    ),
    "a leader whose member key has none": (
        replace(GOOD, members={"node1": member("node1", None)}),
        Reason.LEADER_UNUSABLE,
        "has no conn_url",
    ),
    "a leader that says not yet": (
        replace(GOOD, readiness=replace(READY, verdict=Verdict.NOT_YET, problem="starting")),
        Reason.LEADER_NOT_READY,
        "starting",
    ),
    "a leader in another role": (
        replace(GOOD, readiness=replace(READY, role=Role.REPLICA)),
        Reason.LEADER_NOT_READY,
        "its role is replica",
    ),
    "a leader that does not answer yet": (
        replace(GOOD, readiness=replace(READY, verdict=Verdict.UNKNOWN, problem="refused")),
        Reason.LEADER_NOT_READY,
        "refused",
    ),
    "a leader that was not asked yet": (
        replace(GOOD, readiness=None),
        Reason.LEADER_NOT_READY,
        "not asked yet",
    ),
    "readiness of another reign": (
        replace(GOOD, readiness=replace(READY, leadership=Leadership("node1", 49))),
        Reason.LEADER_NOT_READY,
        "not asked yet",
    ),
    "a member key that cannot be read": (
        having(replace(GOOD, members={}), entry("members/node1", Malformed("m", "is odd", "look"))),
        Reason.LEADER_UNUSABLE,
        "m: is odd; look",
    ),
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_the_route_stays_while_there_is_no_leader_to_send_clients_to(name: str) -> None:
    view, reason, detail = UNCHANGED[name]
    wish = wished(view)
    assert (wish.reason, wish.route, wish.held) == (reason, None, False)
    assert detail in wish.detail
    assert wish.recheck_at is not None
    assert wish.recheck_at > NOW


def test_a_leader_that_cannot_be_asked_is_followed_after_the_limit() -> None:
    view = replace(GOOD, readiness=replace(READY, verdict=Verdict.UNKNOWN), leader_since=NOW - 1)
    assert wished(view).recheck_at == NOW + 2
    assert wished(view, now=NOW + 1.99).route is None
    assert wished(view, now=NOW + 2).route is not None


def test_a_leader_that_says_not_yet_is_waited_for() -> None:
    not_yet = replace(READY, verdict=Verdict.NOT_YET)
    view = replace(GOOD, readiness=not_yet, pulse=not_yet)
    assert wished(view, now=NOW + 8.9).reason is Reason.LEADER_NOT_READY


def test_a_leader_that_said_not_yet_and_then_nothing_is_waited_for_from_then_on() -> None:
    view = replace(GOOD, readiness=None, pulse=None, leader_since=NOW - 50)
    for verdict, at in ((Verdict.NOT_YET, NOW - 40), (Verdict.UNKNOWN, NOW - 1), (Verdict.UNKNOWN, NOW)):
        view = fold(view, replace(READY, verdict=verdict, at=at))
    assert wished(view, now=NOW + 1.99).reason is Reason.LEADER_NOT_READY
    assert wished(view, now=NOW + 2).reason is Reason.LEADER
    said_more = fold(view, replace(READY, verdict=Verdict.NOT_YET, at=NOW + 1))
    assert wished(said_more, now=NOW + 8).reason is Reason.LEADER_NOT_READY


def test_a_silence_of_an_earlier_reign_is_none_of_the_next() -> None:
    before = Leadership("node1", 40)
    view = replace(GOOD, readiness=None, pulse=None, leader_since=NOW - 50)
    view = fold(view, replace(READY, leadership=before, verdict=Verdict.NOT_YET, at=NOW - 60))
    view = fold(view, replace(READY, verdict=Verdict.UNKNOWN, at=NOW - 1))
    assert view.silent_since is None
    assert wished(view).reason is Reason.LEADER


def test_a_reign_without_a_known_beginning_is_as_old_as_we_are() -> None:
    view = replace(GOOD, readiness=None, leader_since=None, began_at=NOW - 2.9)
    assert wished(view).route is None
    assert wished(replace(view, began_at=NOW - 3)).route is not None


def test_by_the_leader_key_alone_nobody_is_asked() -> None:
    view = replace(GOOD, readiness=None)
    assert wished(view, replace(POLICY, ready_by=ReadyBy.LEADER_KEY)).route is not None


def test_a_standby_leader_is_followed_where_that_is_asked_for() -> None:
    view = having(GOOD, entry("config", Config(standby_cluster=True)))
    policy = replace(POLICY, standby=Standby.STANDBY_LEADER)
    assert wished(view, policy).reason is Reason.LEADER_NOT_READY
    standby = replace(view, readiness=replace(READY, role=Role.STANDBY_LEADER))
    assert wished(standby, policy).route is not None
    assert wished(having(standby, without="config"), policy).route is None


def test_clients_are_sent_to_the_address_that_the_policy_names() -> None:
    via_proxy = wished(policy=replace(POLICY, connect_via=ConnectVia.PROXY_URL)).route
    assert via_proxy is not None
    assert via_proxy.endpoint == PROXY1
    table = replace(POLICY, connect_via=ConnectVia.ADDRESSES, addresses={"node1": Endpoint("db", 1)})
    mapped = wished(replace(GOOD, members={}), table).route
    assert mapped is not None
    assert mapped.endpoint == Endpoint("db", 1)
    odd = having(GOOD, entry("members/node1", Malformed("m", "is odd", "look")))
    assert "not in `cluster.addresses`" in wished(odd, replace(table, addresses={})).detail


def test_a_member_without_a_proxy_is_not_led_to_its_other_address() -> None:
    view = having(replace(GOOD, readiness=None), entry("leader", Leader("node2")))
    wish = wished(view, Policy(connect_via=ConnectVia.PROXY_URL, ready_by=ReadyBy.LEADER_KEY))
    assert wish.route is None
    assert "has no proxy_url" in wish.detail


# --- who serves reads, beside the leader --------------------------------------------------------------


FIT = replace(GOOD, fitness={"node1": Fitness(None, 0.0), "node2": Fitness(None, NOW)})


@pytest.mark.parametrize(("settle", "recheck_at"), [(5.0, NOW + 5), (60.0, NOW + 9)])
def test_a_replica_that_settles_is_looked_at_then_or_when_etcd_would_be_silent(
    settle: float, recheck_at: float
) -> None:
    policy = replace(POLICY, reads=ReadPolicy(settle=settle))
    wish = wished(FIT, policy)
    assert wish.recheck_at == recheck_at
    assert [one.name for one in wish.candidates] == ["node1", "node2"]
    assert wish.candidates == replicas(FIT, policy, NOW, "")


def test_where_nothing_is_for_reads_nobody_waits_for_a_replica_to_settle() -> None:
    policy = replace(POLICY, reads=ReadPolicy(settle=5.0))
    plain = desired(FIT, policy, NOW, "bouncer1", reads=False)
    assert (plain.readers, plain.read_guards, plain.candidates) == (None, None, ())
    assert plain.recheck_at == NOW + 9  # when etcd would be silent
    full = desired(FIT, policy, NOW, "bouncer1")
    assert plain == replace(full, readers=None, read_guards=None, candidates=(), recheck_at=NOW + 9)


def test_reads_are_sent_to_the_address_that_the_policy_names() -> None:
    addresses = {"node1": Endpoint("db1", 1), "node2": Endpoint("db2", 1)}
    policy = replace(POLICY, connect_via=ConnectVia.ADDRESSES, addresses=addresses)
    assert [one.endpoint for one in replicas(FIT, policy, NOW, "")] == list(addresses.values())


# --- etcd is silent ------------------------------------------------------------------------------------


def node(name: str = "node2", role: Role = Role.PRIMARY, state: str = "running") -> NodeReport:
    return NodeReport(name, f"http://{name}", role, state, timeline=4, system_id="730")


def silent(*reports: NodeReport, at: float = NOW - 1, view: View = GOOD) -> View:
    return replace(view, contact_at=NOW - 10, health=HealthRound(reports, {}, at))


def test_before_etcd_was_heard_nothing_is_wished_for_until_it_counts_as_silent() -> None:
    view = View(began_at=NOW)
    wish = wished(view)
    assert (wish.reason, wish.route, wish.recheck_at) == (Reason.STARTING, None, NOW + 10)
    assert wished(view, now=NOW + 10).reason is Reason.BLIND


def test_silence_begins_at_its_limit() -> None:
    view = replace(GOOD, contact_at=NOW - 9.99)
    assert wished(view).reason is Reason.LEADER
    assert wished(replace(view, contact_at=NOW - 10)).reason is Reason.BLIND


def test_a_single_primary_is_followed_without_etcd() -> None:
    wish = wished(silent(node(), node("node1", Role.REPLICA)))
    assert wish.reason is Reason.FALLBACK
    assert wish.route == Route(NODE2, Stamp(0, "730", 0, 4, "node2"), Source.HEALTH_CHECK)
    assert wish.proven_at is None


BLIND: dict[str, tuple[View, str]] = {
    "no round": (replace(GOOD, contact_at=NOW - 10), "no health check has answered lately"),
    "an old round": (silent(node(), at=NOW - 10.1), "no health check has answered lately"),
    "nobody": (silent(), "no node says"),
    "only replicas": (silent(node("node1", Role.REPLICA)), "no node says"),
    "two primaries": (
        silent(node("node2"), node("node1")),
        "2 nodes say that they are the primary: node1, node2",
    ),
    "a standby leader": (silent(node("node2", Role.STANDBY_LEADER)), "no node says"),
    "it starts": (silent(node(state="starting")), "node2 is primary, but starting"),
    "in no state": (silent(node(state="")), "in no known state"),
    "it is paused": (silent(replace(node(), paused=True)), "Patroni is paused"),
    "it was paused": (
        silent(node(), view=having(GOOD, entry("config", Config(pause=True)))),
        "Patroni is paused",
    ),
    "of another system": (silent(replace(node(), system_id="731")), "another system identifier"),
    "without an address": (silent(node(), view=replace(GOOD, members={})), "no member key"),
}


@pytest.mark.parametrize("name", BLIND)
def test_without_etcd_and_without_one_sure_primary_the_route_stays(name: str) -> None:
    view, detail = BLIND[name]
    wish = wished(view)
    assert (wish.reason, wish.route) == (Reason.BLIND, None)
    assert detail in wish.detail


@pytest.mark.parametrize("system", ["", "730"])
def test_a_system_that_one_side_does_not_know_is_no_obstacle(system: str) -> None:
    assert wished(silent(replace(node(), system_id=system))).route is not None
    assert wished(having(silent(node()), without="initialize")).route is not None


def test_an_address_from_the_cluster_body_serves_where_no_member_key_was_ever_seen() -> None:
    there = Endpoint("10.0.0.9", 5432)
    view = silent(replace(node(), conn=there), view=replace(GOOD, members={}))
    route = wished(view).route
    assert route is not None
    assert route.endpoint == there
    assert wished(view, replace(POLICY, connect_via=ConnectVia.PROXY_URL)).route is None
    known = wished(replace(view, members=MEMBERS)).route
    assert known is not None
    assert known.endpoint == NODE2


def test_a_round_counts_while_it_is_fresh() -> None:
    policy = replace(POLICY, health_fresh=6.0)
    assert wished(silent(node(), at=NOW - 6), policy).reason is Reason.FALLBACK
    assert wished(silent(node(), at=NOW - 6.1), policy).reason is Reason.BLIND


def test_a_round_of_before_etcds_last_word_knows_less_however_fresh() -> None:
    policy = replace(POLICY, health_fresh=30.0)
    assert wished(silent(node(), at=NOW - 10), policy).reason is Reason.FALLBACK
    assert wished(silent(node(), at=NOW - 10.1), policy).reason is Reason.BLIND


def test_where_etcd_was_never_heard_every_fresh_round_counts() -> None:
    """Also on a host whose clock has just begun."""
    view = replace(silent(node(), at=0.5), contact_at=None, began_at=-20.0)
    assert wished(view, now=1.0).reason is Reason.FALLBACK


def test_the_fallback_leads_to_the_address_that_the_policy_names() -> None:
    policy = replace(POLICY, connect_via=ConnectVia.ADDRESSES, addresses={"node2": Endpoint("db2", 1)})
    route = wished(silent(node()), policy).route
    assert route is not None
    assert route.endpoint == Endpoint("db2", 1)


def test_a_route_by_an_etcd_without_a_known_id_is_stamped_with_none() -> None:
    route = wished(replace(GOOD, cluster_id=None)).route
    assert route is not None
    assert route.stamp.cluster_id == 0
