"""after_canary(): each row of the table at the top of `canary.py`, and what waits for nobody."""

from dataclasses import replace
from types import MappingProxyType

import pytest

from watcher.decide.canary import after_canary, within_limits
from watcher.decide.decision import (
    CanaryPolicy,
    HoldPolicy,
    Policy,
    ReadyBy,
    Standby,
    desired,
    is_led_to,
    plan,
    ready_since,
)
from watcher.decide.model import (
    PAUSE_KEY,
    Actual,
    Alarm,
    Config,
    Confirmed,
    ConsoleDatabase,
    Database,
    Desired,
    Endpoint,
    Entry,
    Hold,
    Leader,
    Leadership,
    Member,
    Paused,
    Readiness,
    Reason,
    Role,
    Route,
    Source,
    Stamp,
    Verdict,
    View,
)
from watcher.decide.view import fold, says_the_same

OLD, NEW = Endpoint("10.0.0.1", 5432), Endpoint("10.0.0.2", 5432)
REIGN = Leadership("node2", 60)
NOW = 100.0
READY_AT = NOW - 1
HOLD = HoldPolicy(limit=20.0)
POLICY = Policy(hold=HOLD, canary=CanaryPolicy(frozenset({"first", "also"}), limit=5.0))
READY = Readiness(REIGN, Verdict.READY, Role.PRIMARY, 3, READY_AT)
VIEW = View(
    began_at=0.0,
    cluster_id=0xA,
    revision=60,
    entries={"leader": Entry("leader", Leader("node2"), 60, 60)},
    members={"node2": Member("node2", NEW, None, None, Role.PRIMARY, "running", 3)},
    listed_asked_at=NOW - 2,
    contact_at=NOW - 1,
    leader_since=NOW - 2,
    readiness=READY,
    pulse=READY,
)


def led_to(endpoint: Endpoint, revision: int = 50, shown: Endpoint | None = None) -> Actual:
    """A target whose file leads there, and whose PgBouncer does too, or `shown`."""
    at = shown or endpoint
    return Actual(
        databases=(Database("app", endpoint),),
        stamp=Stamp(0xA, "", revision, 2, "somebody"),
        file_read_at=NOW - 3,
        shown=(ConsoleDatabase("app", at.host, at.port),),
        can_hold=True,
    )


AT_OLD = led_to(OLD)


def wished(
    actual: Actual | None = AT_OLD,
    view: View = VIEW,
    policy: Policy = POLICY,
    now: float = NOW,
    target: str = "rest",
) -> Desired:
    return after_canary(desired(view, policy, now, target), actual, view, policy, now, target)


def goes(wish: Desired) -> bool:
    """Whether clients are led to the new leader at once."""
    return wish.reason is Reason.LEADER and wish.route is not None and not wish.held


def confirmed(name: str = "first", reign: Leadership = REIGN) -> View:
    return fold(VIEW, Confirmed(name, reign))


STAYS = replace(POLICY, canary=CanaryPolicy(frozenset({"first"}), limit=5.0, goes_on=False))
UNHELD = replace(POLICY, hold=None)
REFUSES = fold(VIEW, Alarm("rest", NEW, True, NOW - 0.5, "connection refused"))


def test_the_rest_waits_held_and_its_route_stays() -> None:
    wish = wished()
    assert (wish.reason, wish.route, wish.held, wish.belongs) == (Reason.CANARY, None, True, NEW)
    assert wish.recheck_at == READY_AT + 5.0
    assert wish.detail == "node2 leads, and also or first has not been led there yet, which goes first"
    assert plan(led_to(OLD), replace(wish, hold_until=NOW + 20)) == (Hold(NOW + 20),)


def test_who_cannot_be_held_stays_where_he_is_and_is_not_held() -> None:
    wish = wished(policy=UNHELD)
    assert (wish.reason, wish.route, wish.held) == (Reason.CANARY, None, False)
    assert plan(led_to(OLD), wish) == ()


def test_a_canary_waits_for_nobody() -> None:
    assert all(goes(wished(target=name)) for name in ("first", "also"))
    assert goes(wished(policy=replace(POLICY, canary=None)))


@pytest.mark.parametrize("name", ["first", "also"])
def test_the_rest_goes_when_one_canary_has_confirmed(name: str) -> None:
    view = confirmed(name)
    assert goes(wished(view=view))
    assert not says_the_same(VIEW, view)


@pytest.mark.parametrize(
    "view",
    [confirmed("rest"), confirmed(reign=Leadership("node2", 59)), confirmed(reign=Leadership("node1", 60))],
)
def test_another_target_or_another_reign_confirms_nothing(view: View) -> None:
    assert wished(view=view).reason is Reason.CANARY


@pytest.mark.parametrize(
    ("policy", "now", "reason", "held"),
    [
        (POLICY, READY_AT + 4.9, Reason.CANARY, True),
        (POLICY, READY_AT + 5.0, Reason.LEADER, False),
        (UNHELD, READY_AT + 4.9, Reason.CANARY, False),
        (UNHELD, READY_AT + 5.0, Reason.LEADER, False),
        (STAYS, READY_AT + 4.9, Reason.CANARY, True),
        (STAYS, READY_AT + 5.0, Reason.CANARY, False),
    ],
)
def test_the_wait_ends_with_its_limit(policy: Policy, now: float, reason: Reason, held: bool) -> None:
    view = replace(VIEW, contact_at=now)
    wish = wished(view=view, policy=policy, now=now)
    assert (wish.reason, wish.held, wish.route is None) == (reason, held, reason is Reason.CANARY)


@pytest.mark.parametrize("now", [READY_AT + 5, READY_AT + 7])
def test_who_stays_after_the_limit_is_looked_at_when_etcd_falls_silent(now: float) -> None:
    wish = wished(view=replace(VIEW, contact_at=now), policy=STAYS, now=now)
    assert wish.recheck_at == now + STAYS.silence_limit


def test_who_waits_is_looked_at_when_etcd_falls_silent_if_that_is_sooner() -> None:
    wish = wished(view=replace(VIEW, contact_at=NOW - 8))
    assert (wish.reason, wish.recheck_at) == (Reason.CANARY, NOW - 8 + POLICY.silence_limit)


@pytest.mark.parametrize(
    "actual",
    [
        led_to(NEW),
        led_to(OLD, revision=60),
        led_to(NEW, revision=60, shown=OLD),
        None,
    ],
)
def test_who_was_led_there_before_or_is_not_known_waits_for_nobody(actual: Actual | None) -> None:
    assert goes(wished(actual))


@pytest.mark.parametrize(
    "actual",
    [
        led_to(OLD),
        led_to(NEW, shown=OLD),
        led_to(OLD, shown=NEW),
        replace(led_to(OLD), stamp=None),
        replace(led_to(OLD), stamp=Stamp(0xB, "", 60, 2, "node2")),
    ],
)
def test_whoever_leads_elsewhere_by_file_or_by_word_waits(actual: Actual) -> None:
    assert wished(actual).reason is Reason.CANARY


def test_a_wish_without_a_route_is_led_to_by_everybody() -> None:
    assert is_led_to(led_to(OLD), Desired(Reason.NO_LEADER, ""))


def test_while_the_leader_is_not_ready_nothing_is_written_and_the_reason_stays() -> None:
    view = replace(VIEW, readiness=None, pulse=replace(READY, verdict=Verdict.NOT_YET))
    wish = wished(view=view)
    assert (wish.reason, wish.route, wish.held) == (Reason.LEADER_NOT_READY, None, True)
    unheld = wished(view=view, policy=UNHELD)
    assert (unheld.reason, unheld.route, unheld.held) == (Reason.LEADER_NOT_READY, None, False)


def test_whoever_would_wait_at_the_new_leader_too_waits_for_that_reason_where_he_is() -> None:
    wish = wished(view=REFUSES)
    assert (wish.reason, wish.route, wish.held) == (Reason.PRIMARY_REFUSES, None, True)
    assert wish.belongs == NEW


def test_the_guard_stays_with_the_server_where_clients_are() -> None:
    assert desired(VIEW, POLICY, NOW, "rest").guard == NEW
    assert wished().guard is None


def test_a_pause_keeps_hands_off_canary_or_not() -> None:
    entries = {**VIEW.entries, PAUSE_KEY: Entry(PAUSE_KEY, Paused(), 61, 61)}
    assert wished(view=replace(VIEW, entries=entries)).reason is Reason.PAUSED


def test_what_the_health_check_says_waits_for_nobody() -> None:
    route = Route(NEW, Stamp(0, "", 0, 3, "node2"), Source.HEALTH_CHECK)
    wish = Desired(Reason.FALLBACK, "", route)
    assert after_canary(wish, led_to(OLD), VIEW, POLICY, NOW, "rest") is wish


def test_nobody_waits_where_nobody_leads() -> None:
    view = replace(VIEW, entries={"config": VIEW.entries["leader"]})
    wish = desired(view, POLICY, NOW, "rest")
    assert after_canary(wish, led_to(OLD), view, POLICY, NOW, "rest") is wish


# --- from when the limit counts -----------------------------------------------------------------------


def test_the_limit_counts_from_when_the_leader_was_ready() -> None:
    assert ready_since(VIEW, POLICY, REIGN) == READY_AT
    assert ready_since(replace(VIEW, leader_since=NOW - 0.5), POLICY, REIGN) == NOW - 0.5
    assert ready_since(VIEW, replace(POLICY, ready_by=ReadyBy.LEADER_KEY), REIGN) == NOW - 2
    assert (
        ready_since(replace(VIEW, leader_since=None), replace(POLICY, ready_by=ReadyBy.LEADER_KEY), REIGN)
        == 0
    )


def test_the_limit_counts_from_when_a_silent_leader_was_given_up() -> None:
    silent = replace(VIEW, readiness=None, pulse=None)
    assert ready_since(silent, POLICY, REIGN) == NOW - 2 + POLICY.unknown_limit
    says_no = replace(silent, pulse=replace(READY, verdict=Verdict.NOT_YET))
    assert ready_since(says_no, POLICY, REIGN) == float("inf")


HERE = Leadership("here1", 70)
STANDBY_SITE = View(
    began_at=0.0,
    cluster_id=0xB,
    revision=70,
    entries={
        "leader": Entry("leader", Leader(HERE.name), HERE.create_revision, HERE.create_revision),
        "config": Entry("config", Config(standby_cluster=True), 40, 40),
    },
    contact_at=NOW - 1,
    leader_since=NOW - 0.5,
    other=VIEW,
)
AWAY = replace(POLICY, standby=Standby.OTHER_SITE, other_site=Policy(hold=HOLD))


def test_of_another_site_the_limit_counts_from_when_its_leader_was_ready() -> None:
    """Whoever has become the standby leader here meanwhile."""
    wish = wished(view=STANDBY_SITE, policy=AWAY)
    assert (wish.reason, wish.belongs, wish.recheck_at) == (Reason.CANARY, NEW, READY_AT + 5.0)


def test_or_from_when_clients_were_to_go_there_if_that_was_later() -> None:
    wish = wished(view=replace(STANDBY_SITE, turned_at=NOW - 0.25), policy=AWAY)
    assert (wish.reason, wish.belongs, wish.recheck_at) == (Reason.CANARY, NEW, NOW - 0.25 + 5.0)


# --- the hold's own limit -----------------------------------------------------------------------------


def limited(policy: Policy, held_since: float, view: View = VIEW) -> Desired:
    leads = desired(view, policy, NOW, "rest")
    return within_limits(leads, wished(view=view, policy=policy), policy, held_since, NOW)


def test_a_hold_that_has_time_left_ends_at_its_own_limit() -> None:
    wish = limited(POLICY, NOW - 19)
    assert (wish.held, wish.hold_until) == (True, NOW + 1)


def test_clients_that_have_waited_too_long_go_on_to_the_new_leader() -> None:
    assert goes(limited(POLICY, NOW - 20))


def test_they_go_on_to_it_also_where_it_would_make_them_wait() -> None:
    wish = limited(POLICY, NOW - 20, REFUSES)
    assert (wish.reason, wish.held, wish.gave_up) == (Reason.PRIMARY_REFUSES, False, True)
    assert wish.route is not None
    assert wish.route.endpoint == NEW


def test_or_stay_if_that_is_the_policy() -> None:
    wish = limited(STAYS, NOW - 20)
    assert (wish.reason, wish.route, wish.held, wish.gave_up) == (Reason.CANARY, None, False, True)


def test_without_a_canary_a_limit_is_a_limit() -> None:
    policy = replace(POLICY, canary=None)
    held = Desired(Reason.NO_LEADER, "no leader key", held=True)
    wish = within_limits(held, held, policy, NOW - 20, NOW)
    assert (wish.held, wish.gave_up) == (False, True)


def test_the_view_remembers_each_canary_s_last_word() -> None:
    view = fold(fold(confirmed("first"), Confirmed("also", REIGN)), Confirmed("first", Leadership("x", 61)))
    assert view.confirmed == {"first": Leadership("x", 61), "also": REIGN}
    assert isinstance(view.confirmed, MappingProxyType)


@pytest.mark.parametrize(("other", "rules"), [(None, None), (None, POLICY), (VIEW, None)])
def test_of_another_site_of_which_nothing_is_known_the_limit_counts_from_the_beginning(
    other: View | None, rules: Policy | None
) -> None:
    wish = replace(desired(VIEW, POLICY, NOW, "rest"), at_other_site=True)
    began = NOW - 3
    view, policy = replace(VIEW, began_at=began, other=other), replace(POLICY, other_site=rules)
    waits = after_canary(wish, AT_OLD, view, policy, NOW, "rest")
    assert (waits.reason, waits.recheck_at) == (Reason.CANARY, began + 5.0)
