"""plan(): the steps from what is to what should be."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from watcher.decide.decision import is_in_sync, leads_writes, plan, unconfirmed
from watcher.decide.errors import Fenced, TargetUnreachable
from watcher.decide.model import (
    Actual,
    Confirm,
    ConsoleDatabase,
    Database,
    Desired,
    Endpoint,
    Held,
    Hold,
    Readers,
    Reason,
    Release,
    Reload,
    Role,
    Route,
    Source,
    Stamp,
    Step,
    Watch,
    Write,
)

NODE1, NODE2 = Endpoint("10.0.0.1", 5432), Endpoint("10.0.0.2", 5432)
NOW = 100.0


STAMP = Stamp(0xA, "730", 50, 3, "node1")
ROUTE = Route(NODE1, STAMP)
WISH = Desired(Reason.LEADER, "", ROUTE, proven_at=None)
RIGHT = Actual(
    databases=(Database("app", NODE1),),
    stamp=STAMP,
    file_read_at=NOW,
    defined=frozenset({"app"}),
    shown=(ConsoleDatabase("app", NODE1.host, NODE1.port), ConsoleDatabase("pgbouncer", None, 6432)),
)
ELSEWHERE = replace(RIGHT, databases=(Database("app", NODE2),))
RELOAD: tuple[Step, ...] = (Reload(), Confirm(NODE1))
UNTIL = NOW + 60
WITH_READS = replace(
    RIGHT,
    databases=(Database("app", NODE1), Database("reads", NODE2, Role.REPLICA)),
    shown=(ConsoleDatabase("app", NODE1.host, NODE1.port), ConsoleDatabase("reads", NODE2.host, NODE2.port)),
)
HOLD = replace(WISH, reason=Reason.LEADER_NOT_READY, held=True, hold_until=UNTIL)
NO_ROUTE = replace(HOLD, reason=Reason.NO_LEADER, route=None)
GUARDED = replace(WISH, guard=NODE1)
CAN_HOLD = replace(RIGHT, can_hold=True)
MISLED: dict[str, Any] = {"databases": (Database("app", NODE2),)}
SHOWN_ELSEWHERE: dict[str, Any] = {"shown": (ConsoleDatabase("app", NODE2.host, NODE2.port),)}


def lasting(until: float) -> Actual:
    return replace(CAN_HOLD, held=Held(("app",), NOW, until))


IS_HELD = lasting(UNTIL)


PLANS: dict[str, tuple[Actual, Desired, tuple[Step, ...]]] = {
    "nothing differs": (RIGHT, WISH, ()),
    "nothing is wished for": (ELSEWHERE, Desired(Reason.NO_LEADER, ""), ()),
    "the file leads elsewhere": (ELSEWHERE, WISH, (Write(ROUTE), *RELOAD)),
    "one of two databases leads elsewhere": (
        replace(RIGHT, databases=(Database("app", NODE1), Database("b", NODE2))),
        WISH,
        (Write(ROUTE), *RELOAD),
    ),
    "only the stamp is old": (replace(RIGHT, stamp=replace(STAMP, revision=49)), WISH, (Write(ROUTE),)),
    "the old stamp knows more of the same reign": (
        replace(ELSEWHERE, stamp=replace(STAMP, timeline=9)),
        WISH,
        (Write(replace(ROUTE, stamp=replace(STAMP, timeline=9))), *RELOAD),
    ),
    "there is no stamp": (replace(RIGHT, stamp=None), WISH, (Write(ROUTE),)),
    "pgbouncer is not where its file is": (
        replace(RIGHT, shown=(ConsoleDatabase("app", NODE2.host, NODE2.port),)),
        WISH,
        RELOAD,
    ),
    "pgbouncer has another port": (
        replace(RIGHT, shown=(ConsoleDatabase("app", NODE1.host, 1),)),
        WISH,
        RELOAD,
    ),
    "pgbouncer does not have it": (replace(RIGHT, shown=()), WISH, RELOAD),
    "no console": (replace(RIGHT, shown=None), WISH, ()),
    "no console, and a reload is owed": (replace(RIGHT, shown=None, reload_owed=True), WISH, RELOAD),
    "it is not known who serves reads": (WITH_READS, WISH, ()),
    "hold": (CAN_HOLD, HOLD, (Hold(UNTIL),)),
    "held already": (IS_HELD, HOLD, ()),
    "held already, by another clock": (lasting(UNTIL - 0.25), HOLD, ()),
    "held already, as was heard late": (lasting(UNTIL + 1), HOLD, ()),
    "hold for longer": (lasting(UNTIL - 1), HOLD, (Hold(UNTIL),)),
    "hold for less": (lasting(UNTIL + 1.5), HOLD, (Hold(UNTIL),)),
    "hold who cannot be held": (RIGHT, HOLD, ()),
    "hold, and lead nowhere else": (replace(CAN_HOLD, **MISLED), NO_ROUTE, (Hold(UNTIL),)),
    "hold, then write, and no more": (replace(CAN_HOLD, **MISLED), HOLD, (Hold(UNTIL), Write(ROUTE))),
    "write under a hold": (replace(IS_HELD, **MISLED), HOLD, (Write(ROUTE),)),
    "written under a hold": (replace(IS_HELD, **SHOWN_ELSEWHERE, reload_owed=True), HOLD, ()),
    "write where nobody can be held": (replace(RIGHT, **MISLED), HOLD, (Write(ROUTE),)),
    "release": (IS_HELD, WISH, (Release(NODE1, reload=False),)),
    "release to what is written": (
        replace(IS_HELD, **SHOWN_ELSEWHERE, reload_owed=True),
        WISH,
        (Release(NODE1, reload=True),),
    ),
    "write and release": (replace(IS_HELD, **MISLED), WISH, (Write(ROUTE), Release(NODE1, reload=True))),
    "release, then a stamp that learned something": (
        replace(IS_HELD, stamp=replace(STAMP, timeline=2)),
        WISH,
        (Release(NODE1, reload=False), Write(ROUTE)),
    ),
    "release where the hold lasted its limit": (IS_HELD, replace(WISH, gave_up=True), (Release(),)),
    "release where it lasted its limit, then lead": (
        replace(IS_HELD, **SHOWN_ELSEWHERE, reload_owed=True),
        replace(WISH, gave_up=True),
        (Release(), *RELOAD),
    ),
    "write, release where it lasted its limit, then lead": (
        replace(IS_HELD, **MISLED),
        replace(WISH, gave_up=True),
        (Write(ROUTE), Release(), *RELOAD),
    ),
    "release as things are": (IS_HELD, Desired(Reason.BLIND, ""), (Release(),)),
    "release, then follow what is written": (
        replace(IS_HELD, **SHOWN_ELSEWHERE),
        Desired(Reason.BLIND, ""),
        (Release(), *RELOAD),
    ),
    "follow what is written": (replace(CAN_HOLD, reload_owed=True), Desired(Reason.BLIND, ""), RELOAD),
    "release at the limit, then follow what is written": (
        replace(IS_HELD, **SHOWN_ELSEWHERE),
        Desired(Reason.NO_LEADER, "", gave_up=True),
        (Release(), *RELOAD),
    ),
    "nothing is followed before anything is known": (
        replace(CAN_HOLD, **SHOWN_ELSEWHERE),
        Desired(Reason.STARTING, ""),
        (),
    ),
    "nor against an operator's word": (
        replace(IS_HELD, **SHOWN_ELSEWHERE),
        Desired(Reason.PAUSED, ""),
        (Release(),),
    ),
    "nor where lines lead to two servers": (
        replace(CAN_HOLD, **SHOWN_ELSEWHERE, databases=(Database("a", NODE1), Database("b", NODE2))),
        Desired(Reason.BLIND, ""),
        (),
    ),
    "released by its limit": (CAN_HOLD, WISH, ()),
    "watch": (CAN_HOLD, GUARDED, (Watch(NODE1),)),
    "watch another": (replace(CAN_HOLD, guard=NODE2), GUARDED, (Watch(NODE1),)),
    "watched already": (replace(CAN_HOLD, guard=NODE1), GUARDED, ()),
    "watch where nobody can be held": (RIGHT, GUARDED, ()),
    "leave the watch as it is": (replace(CAN_HOLD, guard=NODE1), WISH, ()),
    "watch after a release": (
        replace(IS_HELD, **MISLED),
        GUARDED,
        (Write(ROUTE), Release(NODE1, reload=True), Watch(NODE1)),
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_the_steps_are_those_between_what_is_and_what_should_be(name: str) -> None:
    actual, wish, steps = PLANS[name]
    assert plan(actual, wish) == steps


def test_the_health_check_does_not_restamp_what_leads_there_already() -> None:
    wish = Desired(Reason.FALLBACK, "", Route(NODE1, Stamp(0, "730", 0, 4, "x"), Source.HEALTH_CHECK))
    assert plan(RIGHT, wish) == ()


def test_what_the_health_check_writes_carries_no_revision_of_etcds() -> None:
    wish = Desired(Reason.FALLBACK, "", Route(NODE1, Stamp(0, "730", 0, 4, "node1"), Source.HEALTH_CHECK))
    write = plan(ELSEWHERE, wish)[0]
    assert isinstance(write, Write)
    assert write.route == Route(NODE1, Stamp(0, "730", 0, 4, "node1"), Source.HEALTH_CHECK)


def test_a_stamp_that_has_to_wait_for_a_proof_makes_nothing_else_wait() -> None:
    fallback = replace(RIGHT, stamp=Stamp(0, "730", 0, 4, "node1"))
    unproven = replace(WISH, proven_at=None, held=True, hold_until=UNTIL)
    assert plan(replace(fallback, can_hold=True), unproven) == (Hold(UNTIL),)
    assert plan(fallback, replace(WISH, proven_at=fallback.file_read_at + 1)) == (Write(ROUTE),)
    another = replace(fallback, stamp=replace(STAMP, cluster_id=0, revision=0, leader="node2"))
    with pytest.raises(Fenced):
        plan(another, WISH)


@pytest.mark.parametrize("source", Source)
def test_what_the_fence_refuses_is_no_plan(source: Source) -> None:
    newer = replace(ELSEWHERE, stamp=replace(STAMP, revision=51, timeline=9))
    with pytest.raises(Fenced) as caught:
        plan(newer, replace(WISH, route=replace(ROUTE, source=source)))
    assert caught.value.place == "fence"
    assert ("timeline 3" if source is Source.HEALTH_CHECK else "revision 51") in caught.value.problem
    assert caught.value.hint


def test_the_fence_keeps_nobody_from_being_held_or_let_go() -> None:
    """A plan that is refused is refused whole; what waits then ends at its limit on PgBouncer's host."""
    newer = replace(IS_HELD, stamp=replace(STAMP, revision=51))
    with pytest.raises(Fenced):
        plan(newer, WISH)
    assert plan(newer, NO_ROUTE) == ()
    assert plan(newer, Desired(Reason.BLIND, "")) == (Release(),)


def test_the_fence_does_not_keep_pgbouncer_from_reading_its_file() -> None:
    newer = replace(RIGHT, stamp=replace(STAMP, revision=51), shown=())
    with pytest.raises(Fenced):
        plan(newer, WISH)
    assert plan(replace(newer, stamp=STAMP), WISH) == RELOAD


# --- what PgBouncer shows ------------------------------------------------------------------------------


STAR = replace(
    RIGHT, databases=(Database("*", NODE1),), defined=frozenset({"*", "fixed"}), was_fallback=NODE2, shown=()
)


def showing(*rows: tuple[str, Endpoint]) -> Callable[[Actual], Actual]:
    found = tuple(ConsoleDatabase(name, endpoint.host, endpoint.port) for name, endpoint in rows)
    return lambda actual: replace(actual, shown=found)


def test_a_fallback_that_nobody_uses_is_confirmed() -> None:
    assert unconfirmed(STAR, NODE1) == ()


def test_databases_made_from_the_fallback_must_have_moved() -> None:
    assert unconfirmed(showing(("made", NODE2))(STAR), NODE1) == ("made",)
    assert unconfirmed(showing(("made", NODE1))(STAR), NODE1) == ()


def test_databases_of_their_own_need_not_move_with_the_fallback() -> None:
    assert unconfirmed(showing(("fixed", NODE2))(STAR), NODE1) == ()


@pytest.mark.parametrize("was", [None, NODE1])
def test_where_the_fallback_did_not_move_nothing_is_asked(was: Endpoint | None) -> None:
    actual = replace(showing(("made", NODE2))(STAR), was_fallback=was)
    assert unconfirmed(actual, NODE1) == ()


def test_an_old_fallback_says_nothing_where_the_block_has_none() -> None:
    actual = replace(showing(("app", NODE1), ("made", NODE2))(RIGHT), was_fallback=NODE2)
    assert unconfirmed(actual, NODE1) == ()


def test_databases_of_their_own_and_those_made_from_the_fallback_are_named_together() -> None:
    both = replace(
        STAR, databases=(Database("app", NODE1), Database("*", NODE1)), defined=frozenset({"app", "*"})
    )
    actual = showing(("app", NODE2), ("made", NODE2))(both)
    assert unconfirmed(actual, NODE1) == ("app", "made")


def test_a_database_must_be_where_it_should_lead_whatever_the_file_says() -> None:
    assert unconfirmed(ELSEWHERE, NODE1) == ()
    assert unconfirmed(replace(ELSEWHERE, **SHOWN_ELSEWHERE), NODE1) == ("app",)
    assert unconfirmed(WITH_READS, NODE1) == ()


# --- in sync -------------------------------------------------------------------------------------------

PAUSED_BY_WORD = Desired(Reason.PAUSED, "", belongs=NODE1)
IN_SYNC: dict[str, tuple[Actual, Desired, bool]] = {
    "the file and PgBouncer lead there": (RIGHT, WISH, True),
    "no console, and nothing is owed": (replace(RIGHT, shown=None), WISH, True),
    "no console, and a reload is owed": (replace(RIGHT, shown=None, reload_owed=True), WISH, False),
    "the file leads elsewhere": (ELSEWHERE, WISH, False),
    "only PgBouncer leads elsewhere": (replace(RIGHT, **SHOWN_ELSEWHERE), WISH, False),
    "only the file leads elsewhere": (replace(RIGHT, **MISLED, shown=None), WISH, False),
    "it is not known where clients belong": (RIGHT, Desired(Reason.NO_LEADER, ""), False),
    "they belong there, and nothing may be done": (RIGHT, PAUSED_BY_WORD, True),
    "they belong elsewhere, and nothing may be done": (ELSEWHERE, PAUSED_BY_WORD, False),
    "the wish goes before where they belong": (RIGHT, replace(WISH, belongs=NODE2), True),
    "they should wait": (RIGHT, replace(WISH, held=True), False),
    "they wait": (IS_HELD, WISH, False),
    "the console says nothing": (
        replace(RIGHT, console_problem=TargetUnreachable("pgb1", "is away", "look")),
        WISH,
        False,
    ),
}


@pytest.mark.parametrize("name", IN_SYNC)
def test_a_target_is_in_sync_where_clients_go_to_where_they_belong(name: str) -> None:
    actual, wish, in_sync = IN_SYNC[name]
    assert is_in_sync(actual, wish) is in_sync


def test_whoever_writes_is_led_right_also_while_reads_are_not() -> None:
    wish = replace(WISH, readers=Readers(counts=(NODE1,)))
    assert not is_in_sync(WITH_READS, wish)
    assert leads_writes(WITH_READS, wish)
    assert not leads_writes(ELSEWHERE, WISH)


def test_whoever_writes_is_led_right_also_while_pgbouncer_leads_reads_elsewhere() -> None:
    shows_less = replace(WITH_READS, shown=RIGHT.shown)
    assert not is_in_sync(shows_less, WISH)
    assert leads_writes(shows_less, WISH)


def test_a_reload_that_is_owed_to_reads_alone_is_not_owed_to_whoever_writes() -> None:
    owed = replace(WITH_READS, reload_owed=True)
    assert not is_in_sync(owed, WISH)
    assert leads_writes(owed, WISH)
    assert not leads_writes(replace(owed, shown=None), WISH), "nobody can tell what it has read"
    made_from_it = (Database("*", NODE1), *WITH_READS.databases)
    assert not leads_writes(replace(owed, databases=made_from_it), WISH), "nor of those made from *"
