"""What the words of the domain say of themselves."""

from dataclasses import replace
from typing import Any

import pytest

from watcher.decide.errors import WatcherError
from watcher.decide.model import (
    Actual,
    Database,
    Endpoint,
    Failover,
    Held,
    Member,
    NodeReport,
    Role,
    Route,
    Stamp,
    Switch,
)


def switch(*steps: tuple[str, float], stamp: Stamp = Stamp(0xA, "730", 50, 3, "node1")) -> Switch:  # noqa: B008 - frozen
    return Switch("pgb1", Route(Endpoint("10.0.0.1", 5432), stamp), (), 10.0, 10.5, steps)


HELD = switch(("hold", 10.6), ("write", 10.8), ("release", 11.3))
LATER = switch(("write", 10.75), ("reload", 11.0), ("confirm", 11.5), ("write", 13.0))


def test_the_stages_of_a_switch_follow_each_other_from_the_first_word_to_the_release() -> None:
    assert HELD.stages == pytest.approx({"decide": 0.5, "hold": 0.1, "write": 0.2, "release": 0.5})
    assert list(HELD.stages) == ["decide", "hold", "write", "release"]
    assert sum(HELD.stages.values()) == pytest.approx(HELD.confirmed_at - HELD.heard_at)


def test_what_comes_behind_the_confirmation_is_no_stage_of_the_switch() -> None:
    assert LATER.confirmed_at == 11.5
    assert LATER.stages == {"decide": 0.5, "write": 0.25, "reload": 0.25, "confirm": 0.5}


def test_a_step_that_was_taken_twice_is_one_stage() -> None:
    twice = switch(("reload", 11.0), ("confirm", 11.5), ("reload", 12.0), ("confirm", 14.0))
    assert twice.confirmed_at == 14.0
    assert twice.stages == {"decide": 0.5, "reload": 1.0, "confirm": 2.5}


@pytest.mark.parametrize(
    ("stamp", "name"),
    [
        (Stamp(0xA, "730", 50, 3, "node1"), "node1-50"),
        (Stamp(0, "730", 0, 4, "node2"), "node2-t4"),
        (Stamp(0, "730", 0, None, "node2"), "node2-t0"),
    ],
    ids=["by etcd", "by the health check", "of no known timeline"],
)
def test_a_switch_is_named_by_the_leader_and_its_reign(stamp: Stamp, name: str) -> None:
    assert switch(("confirm", 11.0), stamp=stamp).id == name


@pytest.mark.parametrize(
    ("leader", "candidate", "announces"),
    [("a", None, True), (None, "b", True), ("a", "b", True), (None, None, False), ("", "", False)],
)
def test_a_failover_that_names_anybody_is_an_announcement(
    leader: str | None, candidate: str | None, announces: bool
) -> None:
    assert Failover(leader, candidate, None).announces is announces


@pytest.mark.parametrize(
    ("role", "state", "accepts"),
    [
        (Role.PRIMARY, "running", True),
        (Role.PRIMARY, "starting", False),
        (Role.STANDBY_LEADER, "running", False),
        (Role.REPLICA, "running", False),
    ],
)
def test_a_running_primary_alone_accepts_writes(role: Role, state: str, accepts: bool) -> None:
    assert NodeReport("n", "http://n", role, state).accepts_writes is accepts


def test_a_member_that_has_merely_gone_on_in_the_wal_is_the_same() -> None:
    one, later = (Member("n", None, None, None, Role.PRIMARY, "running", 3, position=at) for at in (1, 2))
    assert one == later


NODE = Endpoint("10.0.0.1", 5432)
NOT_HELD: dict[str, Any] = {
    "can_hold": False,
    "can_watch": False,
    "held": None,
    "guard": None,
    "read_guards": (),
    "hold_problem": None,
    "went_on": False,
}
HOW_IT_MAY_CHANGE: dict[str, Any] = {
    "can_hold": True,
    "can_watch": True,
    "held": Held(("app",), 1.0, 2.0),
    "guard": NODE,
    "read_guards": (NODE,),
    "hold_problem": WatcherError("pgb1", "no", "none"),
    "went_on": True,
}


@pytest.mark.parametrize("what", NOT_HELD)
def test_what_was_seen_is_kept_with_what_is_so_of_its_hold_now(what: str) -> None:
    before = Actual((Database("app", NODE),), None, 5.0)
    change = {what: HOW_IT_MAY_CHANGE[what]}
    after = before.with_hold(**(NOT_HELD | change))
    assert after == replace(before, **change)
    assert after.with_hold(**(NOT_HELD | change)) is after


@pytest.mark.parametrize(("databases", "is_felt"), [(("app",), True), ((), False)])
def test_a_hold_is_felt_while_somebody_waits_by_it(databases: tuple[str, ...], is_felt: bool) -> None:
    assert Held(databases, 1.0, 2.0).is_felt is is_felt


def test_a_hold_that_is_as_it_was_makes_nothing_new() -> None:
    before = Actual((), None, 5.0)
    assert before.with_hold(**NOT_HELD) is before


WRITES, READS = Database("app", NODE), Database("reads", NODE, Role.REPLICA)


@pytest.mark.parametrize(
    ("databases", "writes"),
    [((WRITES, READS), (WRITES,)), ((WRITES,), (WRITES,)), ((READS,), (READS,))],
    ids=["of both sorts", "for writes", "for reads alone"],
)
def test_a_block_for_reads_alone_is_looked_at_as_one_for_writes_is(
    databases: tuple[Database, ...], writes: tuple[Database, ...]
) -> None:
    assert Actual(databases, None, 5.0).writes == writes
