"""desired() for a cluster with another site: whose primary clients belong to, and when they wait."""

from dataclasses import replace

import pytest

from watcher.decide.decision import HoldPolicy, Policy, Standby, desired
from watcher.decide.model import (
    Alarm,
    Change,
    Config,
    Deletion,
    Desired,
    Endpoint,
    Entry,
    Failover,
    HealthRound,
    Leader,
    Leadership,
    Listing,
    Malformed,
    Member,
    NodeReport,
    OtherSite,
    Paused,
    Readiness,
    Reason,
    Role,
    Sighting,
    Source,
    StopRequest,
    SystemId,
    Value,
    Verdict,
    View,
)
from watcher.decide.readiness import wanted
from watcher.decide.view import fold, led_since, says_the_same

HERE, THERE = Endpoint("10.0.0.1", 5432), Endpoint("10.1.0.1", 5432)
CLUSTERS = {"here1": 0xA, "there1": 0xB}
NOW = 100.0
THERE_POLICY = Policy(hold=HoldPolicy())
POLICY = replace(THERE_POLICY, standby=Standby.OTHER_SITE, other_site=THERE_POLICY)
PRIMARY_SITE, STANDBY_SITE = Config(), Config(standby_cluster=True)


def entry(key: str, value: Value, revision: int) -> Entry:
    return Entry(key, value, revision, revision)


def site(name: str, config: Value, *, since: float = 10.0, asked_at: float = 90.0) -> View:
    """One whose leader is `name`, as listed long ago, and again at `asked_at`."""
    address = HERE if name == "here1" else THERE
    entries = (
        entry("leader", Leader(name), 50),
        entry("config", config, 40),
        entry("initialize", SystemId("730"), 1),
        entry(f"members/{name}", Member(name, address, None, None, Role.REPLICA, "running"), 51),
    )
    view = View(began_at=since)
    for at in (since, asked_at):
        view = fold(view, Listing(CLUSTERS[name], 60, entries, at, at + 0.1))
    return view


def told(view: View, *events: Entry | Deletion, at: float = NOW - 1) -> View:
    return fold(view, Change(view.cluster_id or 0, events, at))


def turned(view: View, config: Config, revision: int = 70, at: float = NOW - 1) -> View:
    """It has become a standby cluster, or is one no longer."""
    return told(view, entry("config", config, revision), at=at)


def ready(view: View, role: Role = Role.PRIMARY) -> View:
    name = "here1" if view.cluster_id == CLUSTERS["here1"] else "there1"
    return fold(view, Readiness(Leadership(name, 50), Verdict.READY, role, 3, NOW - 0.5))


def both(here: View, there: View | None) -> View:
    return here if there is None else fold(here, OtherSite(there))


def wished(here: View, there: View | None = None, policy: Policy = POLICY, now: float = NOW) -> Desired:
    return desired(both(here, there), policy, now, "pgb1")


AT_HOME = ready(site("here1", PRIMARY_SITE))
ABROAD = site("here1", STANDBY_SITE)
THEIR_PRIMARY = ready(site("there1", PRIMARY_SITE))
THEIR_STANDBY = site("there1", STANDBY_SITE)


def led_to(wish: Desired) -> tuple[Endpoint | None, bool]:
    return None if wish.route is None else wish.route.endpoint, wish.held


def test_a_site_that_has_the_primary_takes_its_own_whatever_the_other_says() -> None:
    for there in (None, THEIR_STANDBY, THEIR_PRIMARY):
        wish = wished(AT_HOME, there)
        assert led_to(wish) == (HERE, False)
        assert not wish.at_other_site


def test_a_standby_site_takes_the_other_s_primary() -> None:
    wish = wished(ABROAD, THEIR_PRIMARY)
    assert led_to(wish) == (THERE, False)
    assert wish.reason is Reason.LEADER
    assert wish.at_other_site
    assert wish.guard == THERE
    assert "the other site: there1 leads" in wish.detail


def test_a_route_to_the_other_site_is_stamped_by_its_etcd_and_by_what_was_said_here() -> None:
    wish = wished(ABROAD, THEIR_PRIMARY)
    assert wish.route is not None
    stamp = wish.route.stamp
    assert (stamp.cluster_id, stamp.revision, stamp.leader, stamp.site) == (0xB, 50, "there1", 40)
    at_home = wished(turned(AT_HOME, PRIMARY_SITE)).route
    assert at_home is not None
    assert (at_home.stamp.cluster_id, at_home.stamp.site) == (0xA, 70)


def test_with_one_site_nothing_is_said_of_sites_in_the_stamp() -> None:
    route = wished(AT_HOME, None, THERE_POLICY).route
    assert route is not None
    assert route.stamp.site == 0


@pytest.mark.parametrize(("here_at", "there_at"), [(92.0, 95.0), (95.0, 92.0)])
def test_a_route_to_the_other_site_is_as_proven_as_the_older_of_both_reads(
    here_at: float, there_at: float
) -> None:
    here = site("here1", STANDBY_SITE, asked_at=here_at)
    there = ready(site("there1", PRIMARY_SITE, asked_at=there_at))
    assert wished(here, there).proven_at == 92.0


def test_what_was_never_listed_proves_nothing() -> None:
    there = replace(THEIR_PRIMARY, listed_asked_at=None)
    assert wished(ABROAD, there).proven_at is None
    assert wished(replace(ABROAD, listed_asked_at=None), THEIR_PRIMARY).proven_at is None


def test_a_leader_of_the_other_site_is_waited_for_like_one_s_own() -> None:
    there = told(THEIR_PRIMARY, Deletion("leader", 70))
    assert led_to(wished(ABROAD, there)) == (None, True)
    assert wished(ABROAD, there).reason is Reason.NO_LEADER
    there = told(there, entry("leader", Leader("there1"), 71))
    wish = wished(ABROAD, there)
    assert led_to(wish) == (THERE, True)
    assert wish.reason is Reason.LEADER_NOT_READY


def test_the_other_site_s_primary_is_guarded_like_one_s_own() -> None:
    there = fold(THEIR_PRIMARY, Alarm("pgb1", THERE, True, NOW - 0.2, "connection refused"))
    assert wished(ABROAD, there).reason is Reason.PRIMARY_REFUSES
    assert wished(ABROAD, there).held


def test_a_stop_at_the_other_site_holds_and_is_acknowledged_to_nobody_here() -> None:
    key = "pgbouncer-watcher/stop/there1"
    there = told(THEIR_PRIMARY, entry(key, StopRequest("s1", "there1"), 70))
    wish = wished(ABROAD, there)
    assert (wish.reason, wish.held, wish.stop_id) == (Reason.STOPPING, True, "")


def test_a_switchover_at_the_other_site_is_waited_for_at_its_date() -> None:
    date = 1_790_000_000.0
    there = told(THEIR_PRIMARY, entry("failover", Failover("there1", "there2", date), 70))
    due = desired(both(ABROAD, there), POLICY, NOW, "pgb1", date)
    assert (due.reason, due.held) == (Reason.ANNOUNCED, True)
    early = desired(both(ABROAD, there), POLICY, NOW, "pgb1", date - 5)
    assert (early.reason, early.held) == (Reason.LEADER, False)


@pytest.mark.parametrize(("here_at", "there_at"), [(92.0, 95.0), (95.0, 92.0)])
def test_a_route_to_the_other_site_lasts_until_the_first_of_both_etcds_counts_as_silent(
    here_at: float, there_at: float
) -> None:
    here = site("here1", STANDBY_SITE, asked_at=here_at)
    there = ready(site("there1", PRIMARY_SITE, asked_at=there_at))
    assert wished(here, there).recheck_at == 92.0 + 0.1 + POLICY.silence_limit


# --- the primary on its way from one site to the other ----------------------------------------------


def test_clients_wait_while_the_primary_is_on_its_way() -> None:
    for here, there in (
        (turned(AT_HOME, STANDBY_SITE), THEIR_STANDBY),
        (ABROAD, turned(THEIR_PRIMARY, STANDBY_SITE)),
    ):
        wish = wished(here, there)
        assert led_to(wish) == (None, True)
        assert wish.reason is Reason.STANDBY_CLUSTER


def test_nobody_waits_for_it_where_neither_site_was_seen_to_have_it() -> None:
    assert led_to(wished(ABROAD, THEIR_STANDBY)) == (None, False)
    edited = told(ABROAD, entry("config", Config(standby_cluster=True, ttl=20), 70))
    assert led_to(wished(edited, THEIR_STANDBY)) == (None, False)


def test_nobody_waits_for_it_without_holds() -> None:
    without = replace(POLICY, hold=None, other_site=replace(THERE_POLICY, hold=None))
    assert without == POLICY.without_holds()
    assert not wished(turned(AT_HOME, STANDBY_SITE), THEIR_STANDBY, without).held
    assert not wished(ABROAD, told(THEIR_PRIMARY, Deletion("leader", 70)), without).held


def test_a_promoted_site_is_waited_for_however_old_its_leader_key_is() -> None:
    here = turned(ABROAD, PRIMARY_SITE)
    wish = wished(here, THEIR_STANDBY)
    assert led_to(wish) == (HERE, True)
    assert wish.reason is Reason.LEADER_NOT_READY
    assert led_to(wished(here, THEIR_STANDBY, now=NOW + 2.1)) == (HERE, False)  # it does not answer us
    assert led_to(wished(ready(here), THEIR_STANDBY)) == (HERE, False)


def test_what_a_leader_said_before_its_site_was_a_standby_one_counts_no_more() -> None:
    here = turned(turned(AT_HOME, STANDBY_SITE, 70, NOW - 3), PRIMARY_SITE, 71, NOW - 1)
    wish = wished(here, THEIR_STANDBY)
    assert (wish.reason, led_to(wish)) == (Reason.LEADER_NOT_READY, (HERE, True))
    assert led_to(wished(ready(here), THEIR_STANDBY)) == (HERE, False)


def test_a_switch_begins_when_the_site_has_become_the_one_to_follow() -> None:
    assert led_since(AT_HOME) == AT_HOME.leader_since
    assert led_since(turned(ABROAD, PRIMARY_SITE, at=NOW - 1)) == NOW - 1
    there = both(turned(AT_HOME, STANDBY_SITE, at=NOW - 3), turned(THEIR_STANDBY, PRIMARY_SITE, at=NOW - 2))
    assert led_since(there, at_other_site=True) == NOW - 2
    reigns = told(THEIR_PRIMARY, entry("leader", Leader("there2"), 80), at=NOW - 1)
    assert led_since(both(ABROAD, reigns), at_other_site=True) == NOW - 1
    assert led_since(View(0.0), at_other_site=True) is None


def test_where_both_have_a_primary_each_site_s_clients_take_their_own() -> None:
    assert led_to(wished(ready(turned(ABROAD, PRIMARY_SITE)), THEIR_PRIMARY)) == (HERE, False)


# --- what is not known -------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [None, Malformed("config", "is not JSON", "look")])
def test_where_the_config_key_cannot_be_read_nothing_changes(config: Malformed | None) -> None:
    event = Deletion("config", 70) if config is None else entry("config", config, 70)
    for here in (AT_HOME, ABROAD):
        wish = wished(told(here, event), THEIR_PRIMARY)
        assert (wish.reason, led_to(wish)) == (Reason.BLIND, (None, False))
        assert "`config` key cannot be read" in wish.detail
        assert wish.recheck_at == NOW - 1 + POLICY.silence_limit
    there = told(THEIR_PRIMARY, event)
    assert led_to(wished(ABROAD, there)) == (THERE, False)  # it led, and nothing says that it does not


def test_a_config_key_that_comes_back_as_it_was_is_no_turn() -> None:
    gone = told(ABROAD, Deletion("config", 70))
    assert turned(gone, STANDBY_SITE, 71).turned_at is None


def test_a_scope_without_keys_is_told_as_such() -> None:
    assert wished(fold(View(0.0), Listing(0xA, 1, (), NOW - 1, NOW - 1))).reason is Reason.NO_CLUSTER


@pytest.mark.parametrize(
    ("there", "reason", "detail"),
    [
        (None, Reason.STANDBY_CLUSTER, "the other site was not asked"),
        (View(began_at=NOW - 1), Reason.STARTING, "the other site: etcd has not been heard yet"),
    ],
)
def test_a_site_that_was_not_asked_or_not_heard_changes_nothing(
    there: View | None, reason: Reason, detail: str
) -> None:
    wish = wished(ABROAD, there)
    assert (wish.reason, led_to(wish)) == (reason, (None, False))
    assert detail in wish.detail


def test_a_silent_etcd_of_this_site_leaves_the_route_whatever_the_other_s_says() -> None:
    wish = wished(ABROAD, THEIR_PRIMARY, now=NOW + 50)
    assert (wish.reason, wish.route) == (Reason.BLIND, None)


def test_a_silent_etcd_of_the_other_site_leaves_it_to_the_health_check_there() -> None:
    here = fold(ABROAD, Listing(0xA, 60, tuple(ABROAD.entries.values()), NOW + 49, NOW + 49))
    assert wished(here, THEIR_PRIMARY, now=NOW + 50).reason is Reason.BLIND
    node = NodeReport("there1", "http://t", Role.PRIMARY, "running", timeline=4, system_id="730")
    there = fold(THEIR_PRIMARY, HealthRound((node,), {}, NOW + 49))
    wish = wished(here, there, now=NOW + 50)
    assert (wish.reason, led_to(wish)) == (Reason.FALLBACK, (THERE, False))
    assert wish.recheck_at == NOW + 49 + POLICY.silence_limit
    assert wish.route is not None
    assert (wish.route.source, wish.route.stamp.site) == (Source.HEALTH_CHECK, 0)


def test_watcher_pause_is_this_site_s_own() -> None:
    pause = entry("pgbouncer-watcher/pause", Paused(), 70)
    wish = wished(told(ABROAD, pause), THEIR_PRIMARY)
    assert (wish.reason, wish.belongs) == (Reason.PAUSED, THERE)
    assert wished(ABROAD, told(THEIR_PRIMARY, pause)).reason is Reason.LEADER


# --- the other policies ------------------------------------------------------------------------------


def test_a_standby_cluster_whose_leader_key_has_gone_holds_nobody_who_was_not_led_to_it() -> None:
    keep = replace(POLICY, standby=Standby.KEEP, other_site=None)
    wish = wished(told(ABROAD, Deletion("leader", 70)), None, keep)
    assert (wish.reason, wish.held) == (Reason.STANDBY_CLUSTER, False)
    followed = replace(keep, standby=Standby.STANDBY_LEADER)
    assert wished(told(ABROAD, Deletion("leader", 70)), None, followed).held
    assert led_to(wished(told(ABROAD, Deletion("leader", 70)), THEIR_PRIMARY)) == (THERE, False)


def test_a_standby_leader_that_is_not_followed_is_asked_nothing() -> None:
    assert wanted(both(ABROAD, THEIR_PRIMARY), POLICY) is None
    assert wanted(turned(ABROAD, PRIMARY_SITE), POLICY) is not None


# --- the view ----------------------------------------------------------------------------------------


def test_what_is_heard_of_the_other_site_is_news_only_where_it_says_something_new() -> None:
    before = both(ABROAD, THEIR_PRIMARY)
    again: Sighting = OtherSite(replace(THEIR_PRIMARY, contact_at=NOW + 1))
    assert says_the_same(before, fold(before, again))
    assert not says_the_same(before, both(ABROAD, THEIR_STANDBY))
    assert not says_the_same(ABROAD, before)


def test_reads_stay_at_this_site_while_the_primary_is_at_the_other() -> None:
    address = Endpoint("10.1.0.9", 5432)
    replica = Member(
        "n9", address, None, None, Role.REPLICA, "running", 3, position=9, replication="streaming"
    )
    there = told(THEIR_PRIMARY, entry("members/n9", replica, 61))
    assert wished(there, None, THERE_POLICY).candidates  # at its own site it is known
    wish = wished(ABROAD, there)
    assert wish.route is not None
    assert (wish.readers, wish.read_guards, wish.candidates) == (None, (), ())
