"""What becomes of a view with each sighting: revision decides, never arrival."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watcher.decide.model import (
    Alarm,
    Change,
    Config,
    Confirmed,
    Contact,
    Deletion,
    Endpoint,
    Entry,
    Failover,
    Handover,
    HealthRound,
    Leader,
    Leadership,
    Listing,
    Malformed,
    Member,
    NodeReport,
    Readiness,
    Role,
    Sighting,
    SystemId,
    Value,
    Verdict,
    View,
)
from watcher.decide.view import config, fold, leadership, says_the_same, system_id, timeline, urgency

CLUSTER = 0xA


def entry(key: str, value: Value, revision: int, created: int | None = None) -> Entry:
    return Entry(key, value, revision if created is None else created, revision)


def leader(name: str, revision: int, created: int | None = None) -> Entry:
    return entry("leader", Leader(name), revision, created)


def member(name: str, revision: int = 1, role: Role = Role.REPLICA, timeline: int | None = 3) -> Entry:
    value = Member(name, Endpoint(f"10.0.0.{name[-1]}", 5432), None, None, role, "running", timeline)
    return entry(f"members/{name}", value, revision)


def listing(
    revision: int, *entries: Entry, at: float = 10.0, asked_at: float | None = None, cluster: int = CLUSTER
) -> Listing:
    return Listing(cluster, revision, entries, at if asked_at is None else asked_at, at)


def change(*events: Entry | Deletion, at: float = 20.0, cluster: int = CLUSTER) -> Change:
    return Change(cluster, events, at)


def seen(*sightings: Sighting) -> View:
    view = View(began_at=0.0)
    for sighting in sightings:
        view = fold(view, sighting)
    return view


# --- listings -----------------------------------------------------------------------------------------


def test_a_listing_is_all_that_is_known() -> None:
    view = seen(listing(7, leader("n1", 5), member("n1"), asked_at=9.0, at=10.0))
    assert (view.cluster_id, view.revision) == (CLUSTER, 7)
    assert (view.listed_asked_at, view.contact_at, view.leader_since) == (9.0, 10.0, 10.0)
    assert leadership(view) == Leadership("n1", 5)


def test_a_listing_takes_away_what_it_does_not_show() -> None:
    view = seen(listing(7, leader("n1", 5), member("n1")), listing(8, member("n1"), at=11.0))
    assert leadership(view) is None
    assert set(view.entries) == {"members/n1"}


def test_members_are_remembered_after_their_keys_are_gone() -> None:
    view = seen(listing(7, member("n1"), member("n2")), listing(8, member("n2"), at=11.0))
    assert set(view.members) == {"n1", "n2"}


def test_of_members_that_are_gone_the_latest_are_remembered_and_come_after_those_that_are_there() -> None:
    pods = [listing(7 + number, member("n1"), member(f"pod-{number:03}")) for number in range(100)]
    view = seen(*pods, listing(200, member("n1")))
    assert list(view.members) == ["n1", *(f"pod-{number:03}" for number in range(99, 35, -1))]


OVERTAKEN = [
    ("an older revision, asked before our last contact", 6, CLUSTER, 9.0, False),
    ("an older revision, asked after our last contact: a backup", 6, CLUSTER, 10.5, True),
    ("another cluster, asked before our last contact", 99, 0xB, 9.0, False),
    ("another cluster, asked after our last contact: a backup", 2, 0xB, 10.5, True),
    ("the same revision, asked before", 7, CLUSTER, 9.0, True),
    ("a newer revision, asked before", 8, CLUSTER, 9.0, True),
]


@pytest.mark.parametrize(
    ("revision", "cluster", "asked_at", "taken"),
    [row[1:] for row in OVERTAKEN],
    ids=[row[0] for row in OVERTAKEN],
)
def test_a_listing_that_goes_back_is_believed_only_if_it_cannot_have_been_overtaken(
    revision: int, cluster: int, asked_at: float, taken: bool
) -> None:
    before = seen(listing(7, leader("n1", 5), at=10.0))
    after = fold(before, listing(revision, leader("n2", 2), asked_at=asked_at, at=11.0, cluster=cluster))
    assert (leadership(after) == Leadership("n2", 2)) is taken
    assert (after == before) is not taken


@pytest.mark.parametrize(("revision", "cluster"), [(6, CLUSTER), (7, CLUSTER + 1)], ids=["older", "another"])
def test_a_reign_of_an_etcd_that_was_restored_is_another_though_it_is_called_the_same(
    revision: int, cluster: int
) -> None:
    silence = replace(readiness(Verdict.UNKNOWN), at=9.0)
    before = seen(listing(7, leader("n1", 5)), readiness(Verdict.READY), silence, Confirmed("one", REIGN))
    assert leadership(before) == silence.leadership
    assert before.confirmed
    after = fold(before, listing(revision, leader("n1", 5), at=11.0, cluster=cluster))
    assert leadership(after) == leadership(before)
    assert (after.readiness, after.pulse, after.silent_since, after.leader_since) == (None, None, None, 11.0)
    assert after.confirmed == {}


def test_a_listing_that_goes_on_takes_away_nothing_that_a_leader_said() -> None:
    before = seen(listing(7, leader("n1", 5)), readiness(Verdict.READY))
    after = fold(before, listing(8, leader("n1", 5), at=11.0))
    assert (after.readiness, after.pulse, after.leader_since) == (before.readiness, before.pulse, 10.0)


def test_what_was_said_of_the_first_listing_s_leader_before_it_is_kept() -> None:
    before = seen(readiness(Verdict.READY))
    assert fold(before, listing(7, leader("n1", 5), at=11.0)).readiness == before.readiness


# --- changes -------------------------------------------------------------------------------------------


def test_a_change_puts_and_deletes_in_etcds_order() -> None:
    view = seen(listing(7, leader("n1", 5), member("n1")), change(Deletion("leader", 8), leader("n2", 9)))
    assert leadership(view) == Leadership("n2", 9)
    assert view.revision == 9
    assert leadership(fold(view, change(Deletion("leader", 10)))) is None


def test_events_of_one_transaction_count_all() -> None:
    view = seen(listing(7), change(leader("n1", 8), member("n1", 8)))
    assert set(view.entries) == {"leader", "members/n1"}


def test_old_events_change_nothing_but_are_a_sign_of_life() -> None:
    before = seen(listing(7, leader("n1", 5)))
    after = fold(before, change(leader("n2", 6), Deletion("leader", 7), at=30.0))
    assert after == replace(before, contact_at=30.0)


def test_a_deletion_of_what_is_not_there_is_no_error() -> None:
    assert seen(listing(7), change(Deletion("leader", 8))).revision == 8


def test_a_change_of_another_cluster_is_none_of_ours() -> None:
    before = seen(listing(7, leader("n1", 5)))
    assert fold(before, change(leader("n2", 99), cluster=0xB)) == before


def test_a_change_before_any_listing_is_none_of_ours() -> None:
    assert seen(change(leader("n2", 99))) == View(began_at=0.0)


# --- reigns --------------------------------------------------------------------------------------------


def test_a_reign_begins_when_it_is_first_seen() -> None:
    view = seen(listing(7, leader("n1", 5), at=10.0))
    view = fold(view, change(leader("n1", 8, created=5), at=20.0))  # the lease is kept alive
    assert view.leader_since == 10.0
    view = fold(view, listing(8, leader("n1", 8, created=5), at=25.0))
    assert view.leader_since == 10.0
    view = fold(view, change(Deletion("leader", 9), leader("n1", 10), at=30.0))
    assert view.leader_since == 30.0
    assert leadership(view) == Leadership("n1", 10)


def test_a_leader_key_that_cannot_be_read_is_not_no_leader() -> None:
    malformed = Malformed("leader", "is not a name", "look")
    assert leadership(seen(listing(7, entry("leader", malformed, 5)))) == malformed


def test_a_leader_key_with_another_value_is_nobodys() -> None:
    assert leadership(seen(listing(7, entry("leader", SystemId("7"), 5)))) is None


# --- contact and health --------------------------------------------------------------------------------


def test_contact_only_goes_forward() -> None:
    view = seen(Contact(5.0), Contact(3.0))
    assert view.contact_at == 5.0
    assert seen(listing(7, at=10.0), change(leader("n", 8), at=9.0)).contact_at == 10.0


def test_when_etcd_was_first_heard_is_kept() -> None:
    assert View(began_at=0.0).first_heard_at is None
    view = seen(Contact(5.0), listing(7, at=10.0))
    assert view.first_heard_at == 10.0
    assert fold(fold(view, listing(8, at=11.0)), change(leader("n1", 9), at=12.0)).first_heard_at == 10.0


def test_the_last_round_of_the_health_check_counts() -> None:
    first, second = HealthRound((), {}, 1.0), HealthRound((), {"u": "no"}, 2.0)
    assert seen(first, second).health == second


REIGN = Leadership("n1", 5)


def readiness(verdict: Verdict, reign: Leadership = REIGN, timeline: int | None = 3) -> Readiness:
    return Readiness(reign, verdict, Role.PRIMARY, timeline, 1.0)


def test_ready_is_kept_for_the_rest_of_the_reign() -> None:
    ready = readiness(Verdict.READY)
    for later in (Verdict.NOT_YET, Verdict.UNKNOWN):
        assert seen(ready, readiness(later)).readiness == ready
    again = replace(ready, at=9.0)
    assert seen(ready, again).readiness == again


def test_readiness_of_another_reign_and_getting_ready_count() -> None:
    other = readiness(Verdict.NOT_YET, Leadership("n1", 9))
    assert seen(readiness(Verdict.READY), other).readiness == other
    assert seen(readiness(Verdict.NOT_YET), readiness(Verdict.READY)).readiness == readiness(Verdict.READY)
    assert seen(readiness(Verdict.NOT_YET), readiness(Verdict.UNKNOWN)).readiness == readiness(
        Verdict.UNKNOWN
    )


def test_the_last_answer_counts_beside_the_one_that_is_kept() -> None:
    stumbles = replace(readiness(Verdict.NOT_YET), at=9.0)
    view = seen(readiness(Verdict.READY), stumbles)
    assert (view.readiness, view.pulse) == (readiness(Verdict.READY), stumbles)
    again = replace(readiness(Verdict.READY), at=10.0)
    assert fold(view, again).pulse == again
    assert seen(stumbles).pulse == stumbles


def test_what_a_leader_said_before_its_cluster_turned_is_forgotten() -> None:
    silence = replace(readiness(Verdict.UNKNOWN), at=9.0)
    view = seen(listing(7, leader("n1", 5), entry("config", Config(), 6)), readiness(Verdict.READY), silence)
    assert (view.readiness, view.pulse, view.silent_since) == (readiness(Verdict.READY), silence, 9.0)
    view = fold(view, change(entry("config", Config(standby_cluster=True), 8), at=20.0))
    assert (view.readiness, view.pulse, view.silent_since, view.turned_at) == (None, None, None, 20.0)


# --- alarms, and when a key was first seen ------------------------------------------------------------


def alarm(target: str, at: float, *, refuses: bool = True) -> Alarm:
    return Alarm(target, Endpoint("10.0.0.1", 5432), refuses, at)


def test_each_targets_last_alarm_is_kept() -> None:
    view = seen(alarm("a", 1.0), alarm("b", 2.0), alarm("a", 3.0, refuses=False))
    assert dict(view.alarms) == {"a": alarm("a", 3.0, refuses=False), "b": alarm("b", 2.0)}


def test_who_takes_a_watchers_place_knows_all_that_it_knew_and_its_own_settings() -> None:
    former = replace(
        seen(listing(5, leader("node1", 5), at=10.0), readiness(Verdict.READY)),
        silence_limit=7.0,
        max_lag=1,
        other=View(1.0),
    )
    own = View(began_at=50.0, silence_limit=8.0, max_lag=2, other=View(2.0))
    known = fold(own, Handover(former, 51.0))
    assert known == replace(former, silence_limit=8.0, max_lag=2, other=View(2.0))
    assert fold(known, listing(6, leader("node2", 6), at=52.0)).revision == 6


def test_what_a_guard_saw_refuse_is_doubted_by_who_takes_its_watchers_place() -> None:
    accepts, refuses = alarm("one", 1.0, refuses=False), alarm("two", 2.0)
    reader = replace(refuses, of_reader=True)
    known = fold(View(50.0), Handover(seen(accepts, refuses, reader), 51.0))
    doubted = replace(refuses, refuses=False, at=51.0)
    assert known.alarms == {"one": accepts, "two": doubted}
    assert known.refusals == {("two", reader.endpoint): replace(doubted, of_reader=True)}


def test_an_alarm_is_no_sign_of_etcds_life() -> None:
    assert seen(alarm("a", 1.0)).contact_at is None


def test_a_key_is_first_seen_once_for_each_of_its_revisions() -> None:
    asked = entry("failover", Failover("n1", None, None), 6)
    view = seen(listing(6, asked, at=10.0), listing(6, asked, at=11.0), change(member("n1", 7), at=12.0))
    assert (view.seen_at["failover"], view.seen_at["members/n1"]) == (10.0, 12.0)
    again = change(replace(asked, mod_revision=8), at=13.0)
    assert fold(view, again).seen_at["failover"] == 13.0
    gone = change(Deletion("failover", 8), at=13.0)
    assert "failover" not in fold(view, gone).seen_at


def test_a_key_whose_first_sight_was_not_noted_is_seen_now() -> None:
    asked = entry("failover", Failover("n1", None, None), 6)
    view = replace(seen(listing(6, asked, at=10.0)), seen_at={})
    assert fold(view, listing(6, asked, at=11.0)).seen_at["failover"] == 11.0


def test_news_of_alarms_and_answers_are_news_and_signs_of_life_are_not() -> None:
    view = seen(listing(7, leader("n1", 5)))
    announced = entry("failover", Failover("n1", None, None), 8)
    for news in (alarm("a", 1.0), readiness(Verdict.READY), change(member("n1", 8)), change(announced)):
        assert not says_the_same(view, fold(view, news))
    for none in (Contact(99.0), change(leader("n1", 8, created=5))):
        assert says_the_same(view, fold(view, none))


SAID = NodeReport("n1", "http://10.0.0.1:8008", Role.PRIMARY, "running")


@pytest.mark.parametrize(
    ("before", "after", "is_the_same"),
    [
        (None, HealthRound((SAID,), {}, at=12.0), False),
        (HealthRound((SAID,), {}, at=11.0), HealthRound((SAID,), {}, at=12.0), True),
        (
            HealthRound((SAID,), {}, at=11.0),
            HealthRound((SAID,), {"n2": "timed out"}, at=18.0, took=1.9),
            True,
        ),
        (HealthRound((SAID,), {}, at=11.0), HealthRound((SAID,), {}, at=18.0, took=2.0), False),
        (HealthRound((SAID,), {}, at=20.0), HealthRound((SAID,), {}, at=21.0), False),
        (HealthRound((SAID,), {}, at=11.0), HealthRound((), {}, at=12.0), False),
    ],
)
def test_what_the_nodes_say_again_is_news_where_etcd_was_silent_when_they_had_said_it(
    before: HealthRound | None, after: HealthRound, is_the_same: bool
) -> None:
    view = replace(seen(listing(7, leader("n1", 5), at=10.0)), silence_limit=10.0, health=before)
    assert says_the_same(view, fold(view, after)) is is_the_same


def test_where_etcd_was_never_heard_all_that_the_nodes_say_is_news() -> None:
    view = replace(View(began_at=0.0, silence_limit=10.0), health=HealthRound((SAID,), {}, at=1.0))
    assert not says_the_same(view, fold(view, HealthRound((SAID,), {}, at=2.0)))


# --- questions -----------------------------------------------------------------------------------------


def test_configuration_and_system_are_read_from_their_keys_or_have_defaults() -> None:
    paused = Config(pause=True)
    malformed = Malformed("x", "y", "z")
    assert config(seen(listing(7, entry("config", paused, 1)))) == paused
    assert config(seen(listing(7, entry("config", malformed, 1)))) == Config()
    assert config(View(0.0)) == Config()
    assert system_id(seen(listing(7, entry("initialize", SystemId("730"), 1)))) == "730"
    assert system_id(seen(listing(7, entry("initialize", malformed, 1)))) == ""
    assert system_id(View(0.0)) == ""


TIMELINES = [
    ("its own word", [readiness(Verdict.READY, timeline=4), member("n1", 6, Role.PRIMARY, 3)], 4),
    (
        "its word before its promotion",
        [readiness(Verdict.NOT_YET, timeline=4), member("n1", 6, Role.PRIMARY, 3)],
        3,
    ),
    ("its word without one", [readiness(Verdict.READY, timeline=None), member("n1", 6, Role.PRIMARY, 3)], 3),
    ("another reign's word", [readiness(Verdict.READY, Leadership("n1", 4), 9)], None),
    ("its key, written as primary in this reign", [member("n1", 6, Role.PRIMARY, 3)], 3),
    ("its key, written in the reign's first revision", [member("n1", 5, Role.PRIMARY, 3)], 3),
    ("its key of before this reign", [member("n1", 4, Role.PRIMARY, 3)], None),
    ("its key as a replica", [member("n1", 6, Role.REPLICA, 3)], None),
    ("a key that cannot be read", [entry("members/n1", Malformed("x", "y", "z"), 6)], None),
    ("nothing", [], None),
]


@pytest.mark.parametrize(
    ("known", "wanted"), [row[1:] for row in TIMELINES], ids=[str(row[0]) for row in TIMELINES]
)
def test_the_timeline_of_a_reign_is_told_by_it_alone(
    known: list[Readiness | Entry], wanted: int | None
) -> None:
    entries = [thing for thing in known if isinstance(thing, Entry)]
    others = [thing for thing in known if isinstance(thing, Readiness)]
    assert timeline(seen(listing(7, leader("n1", 5), *entries), *others), REIGN) == wanted


# --- any order -----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.permutations(range(8, 16)), st.lists(st.integers(0, 7)))
def test_the_newest_leader_wins_in_any_order_of_arrival(order: list[int], again: list[int]) -> None:
    """Each revision is another reign; some arrive twice."""
    changes = [change(leader(f"n{revision}", revision)) for revision in order]
    changes += [changes[index] for index in again]
    assert leadership(seen(listing(7, leader("n7", 7)), *changes)) == Leadership("n15", 15)


NOBODY, REIGNS = seen(listing(5, member("n1"))), seen(listing(5, leader("n1", 5)))


def led_for(seconds: float, *, heard_at: float = 0.0, now: float = 1000.0) -> View:
    return replace(REIGNS, leader_since=now - seconds, first_heard_at=heard_at)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (NOBODY, led_for(1)),
        (led_for(4), led_for(7)),
        (led_for(29), led_for(30)),
    ],
    ids=["who waits before who is led", "who was led later", "the last half minute before what was earlier"],
)
def test_where_not_all_can_go_at_once_some_go_first(first: View, then: View) -> None:
    assert urgency(first, 1000.0) > urgency(then, 1000.0)


@pytest.mark.parametrize(
    "view",
    [View(began_at=0.0), led_for(30), led_for(5, heard_at=995.0), replace(REIGNS, leader_since=None)],
    ids=["nothing is known", "led for long", "led since before it was heard of", "nobody knows since when"],
)
def test_nobody_else_is_in_a_hurry(view: View) -> None:
    assert urgency(view, 1000.0) == 0.0


def test_those_of_the_same_five_seconds_are_alike() -> None:
    assert urgency(led_for(1), 1000.0) == urgency(led_for(4.9), 1000.0)
