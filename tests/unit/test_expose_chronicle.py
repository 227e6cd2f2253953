"""What is known of each target, and what happened, as it is told."""

from dataclasses import replace

from tests.unit.expose_scene import (
    BLIND,
    EPOCH,
    LEADS,
    LOST,
    NO_LEADER,
    OLD,
    ROUTE,
    Clock,
    actual,
    chronicle,
    lost,
    switch,
    view,
    well,
)
from watcher.decide.errors import SourceError
from watcher.decide.model import Held


def test_a_target_is_in_sync_from_the_first_look_that_shows_it_until_one_that_does_not() -> None:
    clock = Clock()
    told = chronicle(clock)
    assert told.targets[0].in_sync_since is None
    well(told)
    clock.now += 5
    well(told)
    assert told.targets[0].in_sync_since == EPOCH + 1000.0
    assert told.targets[0].well_at == EPOCH + 1005.0
    told.looked("pgb1", LEADS, actual(shown=OLD), None)
    assert told.targets[0].in_sync_since is None
    assert told.targets[0].well_at == EPOCH + 1005.0


def test_a_target_fails_since_its_first_failure_and_what_it_showed_last_stays() -> None:
    clock = Clock()
    told = chronicle(clock)
    well(told)
    for _ in range(3):
        clock.now += 1
        lost(told)
    (state,) = told.targets
    assert (state.failing_since, state.failure) == (EPOCH + 1001.0, LOST)
    assert (state.actual, state.seen_at, state.well_at) == (actual(), EPOCH + 1000.0, EPOCH + 1000.0)
    well(told)
    assert told.targets[0].failing_since is None


def test_who_cannot_be_looked_at_is_in_sync_by_what_it_showed_last_until_another_leads() -> None:
    told = chronicle(Clock())
    lost(told)
    assert told.targets[0].in_sync_since is None
    well(told)
    lost(told)
    assert told.targets[0].in_sync_since == EPOCH + 1000.0
    elsewhere = replace(LEADS, route=replace(ROUTE, endpoint=OLD))
    told.looked("pgb1", elsewhere, None, LOST)
    assert told.targets[0].in_sync_since is None


def test_while_nobody_knows_where_clients_belong_a_target_is_as_it_was() -> None:
    told = chronicle(Clock())
    told.looked("pgb1", BLIND, actual(), None)
    assert told.targets[0].in_sync_since is None
    well(told)
    told.looked("pgb1", BLIND, actual(), None)
    assert told.targets[0].in_sync_since == EPOCH + 1000.0
    told.looked("pgb1", NO_LEADER, actual(held=Held(("app",), 998.0, 1050.0)), None)
    told.looked("pgb1", BLIND, actual(), None)
    assert told.targets[0].in_sync_since is None


def test_the_same_failure_is_noted_once_and_its_end_too() -> None:
    told = chronicle(Clock())
    for _ in range(3):
        lost(told)
    well(told)
    assert [(one.text, one.bad) for one in told.happenings] == [
        ("well again", False),
        ("pgb1: no answer within 5 s", True),
    ]


def test_a_hold_is_dated_by_its_beginning() -> None:
    told = chronicle(Clock())
    told.looked("pgb1", NO_LEADER, actual(held=Held(("app",), 998.0, 1050.0)), None)
    assert told.targets[0].held_since == EPOCH + 998.0
    well(told)
    assert told.targets[0].held_since is None


def test_the_end_of_a_hold_is_noted_with_how_long_it_was_where_that_is_known() -> None:
    told = chronicle(Clock())
    for wish in (LEADS, replace(LEADS, gave_up=True)):
        for seconds in (1.5, None):
            told.released("pgb1", wish, seconds)
    assert [(one.text, one.bad) for one in reversed(told.happenings)] == [
        (f"clients go on after 1.50 s: {LEADS.detail}", False),
        (f"clients go on by another's word: {LEADS.detail}", False),
        (f"clients were let go into errors after 1.50 s: {LEADS.detail}", True),
        (f"clients were let go into errors by another's word: {LEADS.detail}", True),
    ]


def test_switches_and_happenings_come_newest_first_and_are_bounded() -> None:
    told = chronicle(Clock())
    for number in range(500):
        for target in ("pgb1", "pgb2"):
            told.switched(switch(target, revision=number))
        told.cut("pgb1", number, "KILL_CLIENT")
    newest = told.switches[0]
    assert [part.switch.target for part in newest] == ["pgb1", "pgb2"]
    assert (newest[0].switch.id, newest[0].at) == ("pg2-499", EPOCH + 1000.2)
    assert told.happenings[0].text == "499 connections to the old server were ended: KILL_CLIENT"
    assert (len(told.switches), len(told.happenings)) == (10, 200)


def test_a_target_that_comes_late_is_part_of_its_switch_and_a_repair_is_one_more() -> None:
    clock = Clock()
    told = chronicle(clock)
    for target in ("pgb1", "pgb2", "pgb1"):
        told.switched(switch(target))
    assert [[part.switch.target for part in each] for each in told.switches] == [["pgb1"], ["pgb1", "pgb2"]]


def test_a_switch_that_corrects_somebody_else_is_noted_as_bad() -> None:
    told = chronicle(Clock())
    told.switched(switch())
    told.switched(switch(corrects="a tool"))
    assert [(one.text, one.bad) for one in told.happenings] == [
        (
            "led back to 10.0.0.2:5432 (pg2), confirmed after 200 ms;"
            " somebody else had led it to 10.0.0.1:5432: a tool",
            True,
        ),
        ("led to 10.0.0.2:5432 (pg2), confirmed after 200 ms", False),
    ]


def test_a_leader_of_before_the_start_leads_since_nobody_knows_when() -> None:
    told = chronicle(Clock())
    told.viewed(view(leader=None))
    told.viewed(view())
    assert told.reign_since is None
    told.viewed(view(leader="pg1"))
    assert told.reign_since == EPOCH + 995.0
    told.viewed(view(leader=None))
    told.viewed(replace(view(leader="pg1"), leader_since=1.0, began_at=1.0))  # the settings were read anew
    assert told.reign_since == EPOCH + 995.0


def test_a_source_is_dated_by_its_last_change_not_by_its_last_word() -> None:
    clock = Clock()
    told = chronicle(clock)
    silent = SourceError("etcd a", "no answer", "is it up?")
    told.source_state("etcd", True, "a", None)
    for place in ("a", "b"):
        clock.now += 1
        told.source_state("etcd", False, place, silent)
    state = told.sources["etcd"]
    assert (state.connected, state.place, state.since, state.problem) == (False, "b", EPOCH + 1001.0, silent)


def test_every_worker_tells_of_the_same_wish_and_it_is_noted_once() -> None:
    told = chronicle(Clock(), "a", "b")
    told.wished(NO_LEADER)
    told.cut("a", 1, "x")
    told.wished(NO_LEADER)
    told.wished(LEADS)
    assert [one.text for one in told.happenings if one.about == "cluster"] == [
        "pg2 leads since revision 42",
        "no leader key",
    ]


def test_sources_that_the_settings_no_longer_name_go() -> None:
    told = chronicle(Clock(), "a")
    for source in ("etcd", "other_site"):
        told.source_state(source, False, "e1:2379", None)
    told.keep_only(["a"], gone=["other_site", "barrier"])
    assert set(told.sources) == {"etcd"}


def test_targets_of_other_settings_go_and_those_that_stay_keep_what_is_known() -> None:
    told = chronicle(Clock(), "a", "b")
    well(told, "a")
    told.keep_only(["a", "c"])
    lost(told, "b")
    assert [(state.name, state.in_sync_since is not None) for state in told.targets] == [
        ("a", True),
        ("c", False),
    ]
