"""What every target promises of holds: the fake in memory, and real ones on real servers."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from tests.contracts import target_worlds
from tests.contracts.holding_worlds import FakeHoldWorld, HoldWorld, RealHoldWorld, settle
from tests.contracts.target_worlds import (
    BLOCK,
    LIMIT,
    LOOK_EVERY,
    RealWorld,
    beside_it,
    options,
    over_ssh,
    route,
    wish,
)
from tests.support.fake_target import FakeTarget
from tests.support.folders import bed_folder, make_read_only
from tests.support.pgbouncer import Version
from tests.support.postgres import Postgres
from tests.support.waiting import wait_for
from watcher.apply import pooler as pooler_module
from watcher.apply.agent.hold import COMPARE_EVERY, VOUCHED_LIMIT
from watcher.apply.agent.record import OVERDUE
from watcher.apply.greetings import Greetings
from watcher.apply.holding import GRACE
from watcher.apply.pooler import Pooler
from watcher.decide.decision import plan
from watcher.decide.errors import BlockError, PrimaryRefuses, TargetError, TargetRefused, TargetUnreachable
from watcher.decide.model import Endpoint, Held, Hold, Release, Reload, Watch, WatchReaders, Write
from watcher.reconciler import Target

LONG, AMPLE, SHORT, SLACK = 20.0, 2.0, 0.5, 1.0
COMPARED = COMPARE_EVERY + SLACK
NOWHERE = Endpoint("10.66.6.6", 5432)
WAYS: dict[str, tuple[Callable[[RealWorld], Pooler], Version]] = {
    "local": (beside_it, "debian"),
    "ssh": (over_ssh, "debian"),
    "newer": (beside_it, "new"),
}


@pytest.fixture(scope="module")
def servers(installed: None) -> Iterator[tuple[Postgres, Postgres]]:
    with bed_folder() as folder, Postgres(folder / "a") as a, Postgres(folder / "b") as b:
        yield a, b


@pytest.fixture(scope="module")
def worlds(
    servers: tuple[Postgres, Postgres], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, HoldWorld]]:
    """One of each."""
    with bed_folder() as folder:
        real = {
            name: RealHoldWorld(folder / name, way, servers, version) for name, (way, version) in WAYS.items()
        }
        with real["local"], real["ssh"], real["newer"]:
            yield {"fake": FakeHoldWorld(), **real}


@pytest.fixture(params=["fake", *WAYS])
def world(request: pytest.FixtureRequest, worlds: dict[str, HoldWorld]) -> HoldWorld:
    return worlds[request.param]


@pytest.fixture(params=["local", *(pytest.param(way, marks=pytest.mark.long) for way in ("ssh", "newer"))])
def real_world(request: pytest.FixtureRequest, worlds: dict[str, HoldWorld]) -> RealHoldWorld:
    world = worlds[request.param]
    assert isinstance(world, RealHoldWorld)
    return world


def held(target: Target) -> Held | None:
    assert target.last is not None
    return target.last.held


def went_on(target: Target) -> bool:
    assert target.last is not None
    return target.last.went_on


def hold(world: HoldWorld, target: Target, seconds: float = LONG) -> None:
    target.take(Hold(world.now() + seconds))


def test_a_query_waits_while_clients_are_held_and_goes_on_when_they_are_released(world: HoldWorld) -> None:
    target, before = world.begin(), world.settings()
    hold(world, target)
    query = world.query()
    assert query.waits()
    target.take(Release(world.a))
    assert query.server() == world.a
    assert held(target) is None
    settle(lambda: world.settings() == before, "PgBouncer's settings are as they were")


def test_a_hold_said_twice_is_one_with_the_later_limit(world: HoldWorld) -> None:
    target = world.begin()
    hold(world, target, SHORT)
    first = held(target)
    hold(world, target)
    second = held(target)
    assert first is not None
    assert second is not None
    assert second.since == first.since
    assert second.until > first.until + LONG / 2
    target.take(Release(world.a))
    assert not world.is_paused()


def test_a_hold_ends_at_its_limit_without_our_word(world: HoldWorld) -> None:
    target = world.begin()
    hold(world, target, SHORT)
    assert world.is_paused()
    world.let_pass(SHORT + SLACK)
    assert held(target) is None
    assert not world.is_paused()
    assert world.query().server() == world.a


def test_whom_another_makes_wait_already_has_waited_since_then(world: HoldWorld) -> None:
    first, second = world.begin(), world.another()
    hold(world, first, LONG)
    world.let_pass(SHORT)
    began = world.now()
    hold(world, second, LONG)
    found = held(second)
    assert found is not None
    assert found.since < began


def test_a_hold_is_complete_when_the_transactions_are_done_and_cuts_none(world: HoldWorld) -> None:
    target = world.begin()
    with world.transaction():
        hold(world, target)
        now = held(target)
        assert now is not None
        assert not now.complete
    settle(lambda: (one := held(target)) is not None and one.complete, "the hold is complete")
    target.take(Release(world.a))


def test_released_to_another_server_clients_come_out_there_and_nothing_is_left_to_do(
    world: HoldWorld,
) -> None:
    target = world.begin()
    hold(world, target)
    query = world.query()
    target.take(Write(route(world.b)))
    assert query.waits()
    target.take(Release(world.b, reload=True))
    assert query.server() == world.b
    assert target.last is not None
    assert plan(target.last, wish(world.b)) == ()


def test_who_goes_on_before_the_release_comes_is_led_all_the_same(world: HoldWorld) -> None:
    target = world.begin()
    hold(world, target, SHORT)
    target.take(Write(route(world.b)))
    world.let_pass(SHORT + SLACK)
    assert not world.is_paused()
    target.take(Release(world.b, reload=True))
    assert world.query().server() == world.b
    assert target.last is not None
    assert plan(target.last, wish(world.b)) == ()


def test_clients_are_not_released_to_a_server_that_takes_no_login(world: HoldWorld) -> None:
    target = world.begin()
    hold(world, target)
    target.take(Write(route(world.closed)))
    with pytest.raises(PrimaryRefuses):
        target.take(Release(world.closed, reload=True))
    assert world.is_paused()
    target.take(Write(route(world.b, 8)))
    target.take(Release(world.b, reload=True))
    assert world.query().server() == world.b


def test_clients_are_not_released_while_pgbouncer_leads_elsewhere(world: HoldWorld) -> None:
    target = world.begin()
    hold(world, target)
    with pytest.raises(TargetRefused):
        target.take(Release(world.b))
    assert world.is_paused()
    target.read()
    target.take(Release(world.a))
    assert not world.is_paused()


@pytest.mark.parametrize("name", ["app", "*"])
def test_clients_are_not_released_where_pgbouncer_does_not_take_the_file(world: HoldWorld, name: str) -> None:
    target = world.begin(name)
    with world.use():
        hold(world, target)
        target.take(Write(route(world.b)))
        world.spoil()
        with pytest.raises(TargetRefused, match="route"):
            target.take(Release(world.b, reload=True))
        assert world.is_paused()


def test_nor_where_it_does_not_know_a_database_of_the_block(world: HoldWorld) -> None:
    target = world.begin()
    world.add(f"more = host={world.a.host} port={world.a.port} dbname=app")
    world.spoil()
    target.read()
    hold(world, target)
    with pytest.raises(TargetRefused, match="route"):
        target.take(Release(world.a, reload=True))
    assert world.is_paused()


def test_what_somebody_else_resumed_is_as_good_as_released(world: HoldWorld) -> None:
    target = world.begin()
    hold(world, target)
    world.operator("RESUME")
    assert world.query().server() == world.a
    target.take(Release(world.a))
    assert held(target) is None
    assert went_on(target)


def test_who_lets_clients_go_on_does_not_say_that_they_did_before(world: HoldWorld) -> None:
    target = world.begin()
    hold(world, target)
    world.operator("RESUME")
    target.take(Release(world.a))
    assert went_on(target)
    hold(world, target)
    assert not went_on(target)
    target.take(Release(world.a))
    assert not went_on(target)


def test_a_hold_in_which_nobody_waited_was_ended_by_nobody_else(world: HoldWorld) -> None:
    target = world.begin("*", in_use=False)
    hold(world, target)
    target.take(Release(world.a))
    assert not went_on(target)


def test_a_pause_that_an_operator_made_is_never_released(world: HoldWorld) -> None:
    target = world.begin()
    world.operator("PAUSE")
    target.read()
    hold(world, target)
    target.take(Release(world.a))
    assert world.is_paused()
    hold(world, target)
    target.close()
    settle(world.is_paused, "the operator's pause is there")
    world.operator("RESUME")


def test_what_an_operator_pauses_after_a_resume_of_their_own_is_theirs(world: HoldWorld) -> None:
    target = world.begin()
    hold(world, target)
    world.operator("RESUME")
    settle(lambda: held(target) == replace(still(target), databases=()), "it is noticed")
    world.operator("PAUSE")
    target.take(Release(world.a))
    assert world.is_paused()
    assert went_on(target)
    world.operator("RESUME")


@pytest.mark.parametrize("how", ["shared", "asked before the hold", "not shared"])
def test_where_another_has_just_been_told_that_a_server_takes_logins_it_is_not_asked_again(
    world: HoldWorld, how: str
) -> None:
    asked_at = 0.0 if how == "asked before the hold" else world.now() + 1000
    world.share(None if how == "not shared" else Greetings(lambda: asked_at))
    try:
        one, other = world.begin(), world.another()
        hold(world, one)
        one.take(Release(world.a))
        hold(world, other)
        world.crash()
        if how != "shared":
            with pytest.raises(PrimaryRefuses):
                other.take(Release(world.a))
            assert world.is_paused()
        other.take(Release(world.a) if how == "shared" else Release())
        assert not world.is_paused()
    finally:
        world.share(None)


def test_a_word_that_was_on_its_way_for_long_is_none(real_world: RealHoldWorld) -> None:
    """The server may have died since."""
    greetings = Greetings(lambda: 1e9)
    real_world.share(greetings)
    try:
        target = real_world.begin()
        hold(real_world, target)
        with greetings.greeting(real_world.a, 0.0) as ours:
            ours.took = True
        with ThreadPoolExecutor() as pool:
            with frozen(real_world):
                released = pool.submit(target.take, Release(real_world.a))
                real_world.let_pass(VOUCHED_LIMIT)
                real_world.crash()
            with pytest.raises(PrimaryRefuses):
                released.result(LIMIT)
        assert real_world.is_paused()
        target.take(Release())
    finally:
        real_world.share(None)


def test_who_was_refused_itself_asks_again_whatever_another_was_told(world: HoldWorld) -> None:
    """Perhaps it is its host alone that cannot get there."""
    greetings = Greetings(lambda: world.now() + 1000)
    world.share(greetings)
    try:
        target = world.begin()
        hold(world, target)
        world.crash()
        for _ in range(2):
            with pytest.raises(PrimaryRefuses):
                target.take(Release(world.a))
            with greetings.greeting(world.a, world.now()) as ours:
                ours.took = True
        assert world.is_paused()
        target.take(Release())
    finally:
        world.share(None)


def still(target: Target) -> Held:
    found = held(target)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "way",
    [
        lambda target, world: target.let_go(world.a),
        lambda target, world: target.let_go(world.a, greets=False),
        lambda target, _: target.let_go(None),
    ],
    ids=["there", "greeted by another", "anywhere"],
)
def test_who_is_let_go_goes_on_though_the_file_cannot_be_used(
    world: HoldWorld, way: Callable[[Target, HoldWorld], None]
) -> None:
    target = world.begin()
    target.let_go(world.a)  # nobody waits
    hold(world, target)
    query = world.query()
    assert query.waits()
    world.unmark()
    with pytest.raises(BlockError):
        target.read()
    with pytest.raises(TargetRefused, match="route"):
        target.let_go(world.b)
    with pytest.raises(PrimaryRefuses):
        target.let_go(world.closed)
    with pytest.raises(TargetRefused, match="route"):
        target.let_go(world.closed, greets=False)
    assert query.waits()
    way(target, world)
    assert query.server() == world.a
    assert not world.is_paused()


def test_a_target_that_is_closed_holds_nobody(world: HoldWorld) -> None:
    target = world.begin()
    hold(world, target)
    target.close()
    settle(lambda: not world.is_paused(), "nobody waits")


def test_who_gives_up_leaves_the_hold_to_the_other(world: HoldWorld) -> None:
    one = world.begin()
    other = world.another()
    hold(world, one)
    hold(world, other)
    one.close()
    assert world.query().waits()
    other.take(Release(world.a))
    assert not world.is_paused()


def test_who_knows_the_new_route_releases_whatever_the_other_knows(world: HoldWorld) -> None:
    one = world.begin()
    other = world.another()
    hold(world, one)
    hold(world, other)
    one.take(Write(route(world.b)))
    one.take(Release(world.b, reload=True))
    assert world.query().server() == world.b
    other.take(Release())
    assert not world.is_paused()
    assert [went_on(each) for each in (one, other)] == [False, True]


def test_the_slower_of_two_that_release_breaks_off_no_login(world: HoldWorld) -> None:
    """Clients go on already: a second RELOAD would break off their first logins to the new server."""
    one = world.begin()
    other = world.another()
    hold(world, one)
    hold(world, other)
    one.take(Write(route(world.b)))
    one.take(Release(world.b, reload=True))
    assert world.query().server() == world.b
    before = world.breaks()
    other.take(Release(world.b, reload=True))
    assert world.breaks() == before
    assert held(other) is None
    assert [went_on(each) for each in (one, other)] == [False, True]
    assert not world.is_paused()


def test_who_was_resumed_by_hand_before_the_reload_is_led_all_the_same(world: HoldWorld) -> None:
    target = world.begin()
    hold(world, target)
    target.take(Write(route(world.b)))
    world.operator("RESUME")
    assert world.query().server() == world.a
    target.take(Release(world.b, reload=True))
    assert world.query().server() == world.b


def test_a_watched_server_that_dies_is_held_for_at_once(world: HoldWorld) -> None:
    target = world.begin()
    target.take(Watch(world.a))
    assert target.last is not None
    assert target.last.guard == world.a
    world.crash()
    settle(lambda: held(target) is not None, "clients are held without our word")
    query = world.query()
    assert query.waits()
    target.take(Write(route(world.b)))
    target.take(Release(world.b, reload=True))
    assert query.server() == world.b


def bounded(world: HoldWorld, monkeypatch: pytest.MonkeyPatch) -> Target:
    """One more target, whose agent may go to the servers of this world and to no other."""
    words = ["--block", BLOCK, "--allow", world.a.host, "--allow", world.b.host]
    monkeypatch.setattr(target_worlds, "options", lambda real: [*options(real), *words])
    target = world.another()
    if isinstance(target, FakeTarget):
        target.forbidden.add(NOWHERE)
    return target


@pytest.mark.parametrize("step", [Watch(NOWHERE), WatchReaders((NOWHERE,))])
def test_a_guard_that_is_refused_says_nothing_against_what_is_known(
    world: HoldWorld, step: Watch | WatchReaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.begin(reads=world.b)
    target = bounded(world, monkeypatch)
    before = target.last
    target.take(Watch(world.a))
    target.take(WatchReaders((world.b,)))
    with pytest.raises(TargetRefused, match="--allow"):
        target.take(step)
    assert target.last is not None
    there = (target.last.guard, target.last.read_guards)
    assert there == ((None, (world.b,)) if isinstance(step, Watch) else (world.a, ()))
    assert replace(target.last, guard=None, read_guards=()) == before
    hold(world, target)
    assert world.is_paused()
    target.take(Release(world.a))
    assert not world.is_paused()


@pytest.mark.parametrize("step", [Watch(Endpoint("10.0.0.1", 5432)), WatchReaders(())])
def test_where_a_guard_could_not_be_asked_for_nothing_is_known(
    world: HoldWorld, step: Watch | WatchReaders
) -> None:
    target = world.begin()
    target.close()
    world.stop_pgbouncer()
    with pytest.raises(TargetUnreachable):
        target.take(step)
    assert target.last is None
    world.start_pgbouncer()


def test_nor_where_there_is_no_agent_to_be_asked(
    real_world: RealHoldWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = real_world.begin()
    target.close()
    assert isinstance(target, Pooler)

    def refuses(word: str) -> NoReturn:
        raise TargetRefused("target", f"no {word} here")

    monkeypatch.setattr(target._place, "open", refuses)
    with pytest.raises(TargetRefused):
        target.take(Watch(real_world.a))
    assert target.last is None


def test_a_database_that_came_into_use_after_the_watch_is_held_too(world: HoldWorld) -> None:
    """PgBouncer makes it from `*` when its first client comes."""
    target = world.begin("*", in_use=False)
    target.take(Watch(world.a))
    with world.use():
        world.crash()
        settle(lambda: held(target) is not None, "clients are held without our word")
        assert still(target).databases == ("app",)
        assert world.query().waits()


def test_one_made_from_the_star_that_nobody_uses_goes_on_where_it_is_led(world: HoldWorld) -> None:
    """PgBouncer shows it no more, and keeps its pause for the next client, for ever."""
    target = world.begin("*")
    hold(world, target)
    world.leave()
    target.take(Release(world.a))
    assert not went_on(target)
    assert world.query().server() == world.a


def test_one_made_from_the_star_that_nobody_uses_goes_on_elsewhere(world: HoldWorld) -> None:
    target = world.begin("*")
    hold(world, target)
    world.leave()
    world.let_pass(COMPARED)
    assert still(target).databases == ("app",)
    target.take(Write(route(world.b)))
    target.take(Release(world.b, reload=True))
    assert not went_on(target)
    assert world.query().server() == world.b


def test_one_that_another_file_defines_keeps_those_made_from_the_star_from_nothing(
    real_world: RealHoldWorld,
) -> None:
    """It looks as if it had been made from `*`, and is led nowhere."""
    target = real_world.begin("*")
    with real_world.use(), real_world.defined_elsewhere("kept"):
        target.read()
        hold(real_world, target)
        assert real_world.is_paused("kept")
        target.take(Write(route(real_world.b)))
        target.take(Release(real_world.b, reload=True))
        assert real_world.leads_to("kept") == real_world.a
        assert real_world.leads_to("app") == real_world.b


def test_who_comes_back_to_one_made_from_the_star_waits_too(world: HoldWorld) -> None:
    target = world.begin("*")
    hold(world, target)
    world.leave()
    world.let_pass(COMPARED)
    query = world.query()
    assert query.waits()
    target.take(Write(route(world.b)))
    target.take(Release(world.b, reload=True))
    assert query.server() == world.b


def test_the_limit_ends_the_hold_of_one_made_from_the_star_that_nobody_uses(world: HoldWorld) -> None:
    target = world.begin("*")
    hold(world, target, SHORT)
    world.leave()
    world.let_pass(SHORT + SLACK)
    assert world.query().server() == world.a


def test_one_made_from_the_star_that_nobody_uses_is_let_go(world: HoldWorld) -> None:
    target = world.begin("*")
    hold(world, target)
    world.leave()
    target.let_go(world.a)
    assert held(target) is None
    assert world.query().server() == world.a


# --- agents that are frozen or killed ---------------------------------------------------------------


def test_who_gives_up_beside_one_that_is_frozen_sees_to_its_end(real_world: RealHoldWorld) -> None:
    one = real_world.begin()
    other = real_world.another()
    hold(real_world, one, AMPLE)
    with frozen(real_world):
        hold(real_world, other, SHORT)
        other.take(Release())
        assert real_world.is_paused()
        settle(lambda: not real_world.is_paused(), "nobody waits")


def test_who_holds_beside_one_that_is_frozen_sees_to_its_end_at_the_limit(real_world: RealHoldWorld) -> None:
    one = real_world.begin()
    other = real_world.another()
    hold(real_world, one, SHORT)
    with frozen(real_world):
        hold(real_world, other, SHORT)
        settle(lambda: held(other) is None, "its own is over")
        settle(lambda: not real_world.is_paused(), "nobody waits")


@pytest.mark.parametrize("is_there_before", [True, False])
def test_who_looks_ends_what_one_that_is_frozen_holds_past_its_limit(
    real_world: RealHoldWorld, is_there_before: bool
) -> None:
    one = real_world.begin()
    other = real_world.another() if is_there_before else None
    hold(real_world, one, SHORT)
    with frozen(real_world):
        (other or real_world.another()).read()
        settle(lambda: not real_world.is_paused(), "nobody waits")
        settle(lambda: real_world.heard.left == [("app",)], "that is told")


def test_who_begins_beside_one_that_is_frozen_sees_to_its_end(real_world: RealHoldWorld) -> None:
    """By its own clock, not only when it is looked at the next time."""
    one = real_world.begin()
    hold(real_world, one, AMPLE)
    with frozen(real_world):
        real_world.another()
        assert real_world.is_paused()
        settle(lambda: not real_world.is_paused(), "nobody waits")


def test_who_looks_ends_what_one_that_was_killed_has_left(real_world: RealHoldWorld) -> None:
    one = real_world.begin()
    other = real_world.another()
    hold(real_world, one)
    kill_holder(real_world)
    assert real_world.is_paused()
    other.read()
    assert not real_world.is_paused()
    assert real_world.heard.left == [("app",)]


def test_what_was_resumed_since_is_not_said_to_have_been_left(real_world: RealHoldWorld) -> None:
    one = real_world.begin()
    hold(real_world, one)
    kill_holder(real_world)
    real_world.operator("RESUME")
    real_world.another()
    assert real_world.heard.left == []


def test_what_one_that_was_killed_has_left_another_may_hold_still(real_world: RealHoldWorld) -> None:
    one = real_world.begin()
    hold(real_world, one)
    first = holder(real_world)
    other = real_world.another()
    hold(real_world, other)
    first.kill()
    first.wait(LIMIT)
    real_world.another()
    assert real_world.is_paused()
    other.take(Release(real_world.a))
    assert not real_world.is_paused()


def test_whoever_ends_what_another_has_left_goes_on_holding_the_same(real_world: RealHoldWorld) -> None:
    one = real_world.begin()
    hold(real_world, one, SHORT)
    with frozen(real_world):
        other = real_world.another()
        hold(real_world, other)
        real_world.let_pass(SHORT + COMPARED + SLACK)  # past its limit, and a look at who was resumed
        other.read()
        assert real_world.is_paused()
        assert still(other).databases == ("app",)
        other.take(Release(real_world.a))
        assert not real_world.is_paused()


def test_a_hold_that_is_over_for_all_counts_for_no_later_one(real_world: RealHoldWorld) -> None:
    one = real_world.begin()
    other = real_world.another()
    hold(real_world, one)
    with frozen(real_world):
        hold(real_world, other)
        other.take(Release(real_world.a))
        assert not real_world.is_paused()
        real_world.let_pass(SHORT)
        began = real_world.now()
        hold(real_world, other)
        assert still(other).since >= began
        other.take(Release(real_world.a))


@pytest.mark.parametrize("is_killed", [True, False])
def test_who_holds_takes_over_what_a_dead_agent_has_left(real_world: RealHoldWorld, is_killed: bool) -> None:
    """It is no operator's pause, and the next look lets nobody go."""
    one = real_world.begin()
    other = real_world.another()
    hold(real_world, one, SHORT)
    began = still(one).since
    with killed(real_world) if is_killed else frozen(real_world):
        real_world.let_pass(0.0 if is_killed else SHORT + GRACE + OVERDUE + 0.2)
        hold(real_world, other)
        assert still(other).databases == ("app",)
        assert still(other).since < began + SLACK
        other.read()
        assert real_world.is_paused()
        other.take(Release(real_world.a))
        assert not real_world.is_paused()


@pytest.mark.parametrize("when", ["it begins", "it holds"])
def test_where_an_agent_could_not_write_beside_the_file_the_next_knows_its_hold(
    real_world: RealHoldWorld, when: str
) -> None:
    """It is no operator's pause."""
    folder, one = real_world.pgbouncer.folder, real_world.begin()
    write_again = make_read_only(folder)
    try:
        if when == "it begins":
            one = real_world.another()
        else:
            hold(real_world, one)
    finally:
        write_again()
    if when == "it begins":
        hold(real_world, one)
    other = real_world.another()
    hold(real_world, other)
    assert still(other).databases == ("app",)
    one.close()
    other.read()
    assert real_world.is_paused()
    other.take(Release(real_world.a))
    assert not real_world.is_paused()
    settle(lambda: not records_of(real_world), "nothing is left")


@pytest.mark.parametrize("by", ["the same", "another"])
def test_an_operators_pause_outlives_a_record_that_could_not_be_removed(
    real_world: RealHoldWorld, by: str
) -> None:
    """The folder was read-only when the hold ended, and is not any more."""
    target = real_world.begin()
    hold(real_world, target)
    real_world.let_pass(COMPARED)  # what the agent writes is written
    write_again = make_read_only(real_world.pgbouncer.folder)
    try:
        target.take(Release(real_world.a))
        real_world.let_pass(COMPARED)  # what was set for the release is put back
        real_world.operator("PAUSE")
    finally:
        write_again()
    if by == "another":
        target.close()
    for _ in range(2):
        (target if by == "the same" else real_world.another()).read()
    assert real_world.is_paused()
    assert not records_of(real_world)
    real_world.operator("RESUME")


@pytest.mark.parametrize("is_writable_again", [True, False])
def test_an_operators_pause_outlives_the_record_of_a_dead_agent_that_could_not_be_removed(
    real_world: RealHoldWorld, is_writable_again: bool
) -> None:
    """Whoever begins after the one that ended the hold knows that it is over; nothing stays for ever."""
    target = real_world.begin()
    hold(real_world, target)
    real_world.let_pass(COMPARED)  # what the agent writes is written
    with killed(real_world):
        write_again = make_read_only(real_world.pgbouncer.folder)
        try:
            real_world.another()
            assert not real_world.is_paused()
            real_world.operator("PAUSE")
            if not is_writable_again:
                real_world.another()
                assert real_world.is_paused()
        finally:
            write_again()
        real_world.another()
        assert real_world.is_paused()
        assert not records_of(real_world)
    real_world.operator("RESUME")


def test_one_thawed_in_a_folder_that_became_read_only_leaves_an_operators_pause_and_may_hold_again(
    real_world: RealHoldWorld,
) -> None:
    one = real_world.begin()
    other = real_world.another()
    hold(real_world, one, COMPARED + SLACK)
    real_world.let_pass(COMPARED)  # what the agent writes is written
    with frozen(real_world):
        write_again = make_read_only(real_world.pgbouncer.folder)
        try:
            settle(lambda: (other.read(), not real_world.is_paused())[1], "nobody waits")
            real_world.operator("PAUSE")
        except BaseException:
            write_again()
            raise
    try:
        settle(lambda: held(one) is None, "its hold is over")
        assert real_world.is_paused()
        real_world.operator("RESUME")
        hold(real_world, one)
        hold(real_world, other)
        assert still(other).databases == ("app",)
        other.take(Release(real_world.a))
        assert not real_world.is_paused()
    finally:
        write_again()
    real_world.another()
    settle(lambda: not records_of(real_world), "nothing is left")


def test_what_a_killed_agent_held_goes_on_though_its_record_cannot_be_written(
    real_world: RealHoldWorld,
) -> None:
    target = real_world.begin()
    hold(real_world, target)
    with killed(real_world):
        write_again = make_read_only(real_world.pgbouncer.folder)
        try:
            other = real_world.another()
            settle(lambda: not real_world.is_paused(), "nobody waits")
            real_world.operator("PAUSE")
            other.read()
            assert real_world.is_paused()  # once is enough
            real_world.operator("RESUME")
            hold(real_world, other)
            other.take(Release(real_world.a))
            assert not real_world.is_paused()
        finally:
            write_again()


@pytest.mark.parametrize("is_at_its_limit", [True, False])
def test_a_hold_ends_though_its_record_was_swept_away(
    real_world: RealHoldWorld, is_at_its_limit: bool
) -> None:
    """By who clears temporary files, or by a mount."""
    target = real_world.begin()
    hold(real_world, target, COMPARED + SLACK if is_at_its_limit else LONG)
    real_world.let_pass(COMPARED)  # once all wait it is written anew
    for record in records_of(real_world):
        record.unlink()
    if not is_at_its_limit:
        target.take(Release(real_world.a))
    settle(lambda: not real_world.is_paused(), "nobody waits")


@pytest.mark.parametrize("is_killed", [True, False])
def test_an_operators_pause_after_a_hold_stays(real_world: RealHoldWorld, is_killed: bool) -> None:
    one = real_world.begin()
    other = real_world.another()
    hold(real_world, one, SHORT)
    with killed(real_world) if is_killed else frozen(real_world):
        hold(real_world, other)
        other.take(Release(real_world.a))
        real_world.operator("PAUSE")
        real_world.let_pass(0.0 if is_killed else SHORT + GRACE + 2 * OVERDUE + 0.2)
        other.read()
        assert real_world.is_paused()
    real_world.let_pass(SLACK)  # one that is thawed ends its own hold
    assert real_world.is_paused()
    real_world.operator("RESUME")


def test_one_that_is_asked_to_hold_on_while_it_is_frozen_leaves_an_operators_pause(
    real_world: RealHoldWorld,
) -> None:
    """It hears that before it looks at its own limit."""
    one = real_world.begin()
    other = real_world.another()
    hold(real_world, one, SHORT)
    with ThreadPoolExecutor() as pool:
        with frozen(real_world):
            asked = pool.submit(hold, real_world, one)
            other.read()
            settle(lambda: not real_world.is_paused(), "nobody waits")
            real_world.operator("PAUSE")
        asked.result(LIMIT)
    assert still(one).databases == ()
    one.close()
    assert real_world.is_paused()
    real_world.operator("RESUME")


def test_one_that_is_thawed_too_late_leaves_an_operators_pause(
    real_world: RealHoldWorld,
) -> None:
    one = real_world.begin()
    other = real_world.another()
    hold(real_world, one, SHORT)
    with frozen(real_world):
        other.read()
        settle(lambda: not real_world.is_paused(), "nobody waits")
        real_world.operator("PAUSE")
    real_world.let_pass(SLACK)
    assert real_world.is_paused()
    real_world.operator("RESUME")


@pytest.mark.parametrize(
    ("how", "who_looks"), [("killed", "a third"), ("killed", "the last"), ("gives up", "a third")]
)
def test_a_setting_that_two_have_changed_is_put_back_by_the_last(
    real_world: RealHoldWorld, how: str, who_looks: str
) -> None:
    """A paused pool that is to be filled goes on logging in."""
    before = real_world.settings()
    one = real_world.begin()
    real_world.pgbouncer.console("SET min_pool_size='3'")
    other, third = real_world.another(), real_world.another()
    hold(real_world, one)
    first = holder(real_world)
    hold(real_world, other)
    if how == "killed":
        first.kill()
        first.wait(LIMIT)
    else:
        one.take(Release())
    (third if who_looks == "a third" else other).read()
    assert real_world.settings()["min_pool_size"] == "0"
    other.take(Release(real_world.a))
    settle(lambda: real_world.settings()["min_pool_size"] == "3", "it is put back")
    real_world.pgbouncer.console(f"SET min_pool_size='{before['min_pool_size']}'")


def holder(world: RealHoldWorld) -> psutil.Process:
    """The agent that holds: it has a record open, and writes it anew at times."""

    def has_record(agent: psutil.Process) -> bool:
        return any(".watcher-hold-" in file.path for file in agent.open_files())

    return wait_for(
        lambda: next(filter(has_record, world.agents("hold")), None), LIMIT, "an agent that holds"
    )


def records_of(world: RealHoldWorld) -> list[Path]:
    folder = world.pgbouncer.folder
    elsewhere = str(folder).strip("/").replace("/", "-")
    away = Path("/tmp")
    return [
        *folder.glob(".*.watcher-hold-*"),
        *away.glob(f".pgbouncer-watcher-*/.{elsewhere}-*.watcher-hold-*"),
        *away.glob(f".pgbouncer-watcher-*/.{elsewhere}-*.watcher-hold.undone-*"),
    ]


def kill_holder(world: RealHoldWorld) -> None:
    agent = holder(world)
    agent.kill()
    agent.wait(LIMIT)


@contextmanager
def killed(world: RealHoldWorld) -> Iterator[None]:
    kill_holder(world)
    yield


@contextmanager
def frozen(world: RealHoldWorld) -> Iterator[None]:
    agent = holder(world)
    agent.suspend()
    try:
        yield
    finally:
        agent.resume()


def test_what_a_killed_agent_held_goes_on_though_nobody_uses_it(real_world: RealHoldWorld) -> None:
    target = real_world.begin("*")
    hold(real_world, target)
    real_world.leave()
    kill_holder(real_world)
    real_world.another()
    assert real_world.query().server() == real_world.a


def test_a_pgbouncer_that_is_gone_is_said_to_be_and_held_again_once_it_is_back(world: HoldWorld) -> None:
    target = world.begin()
    world.stop_pgbouncer()
    with pytest.raises(TargetError):
        hold(world, target)
    world.start_pgbouncer()
    actual = target.read()
    assert replace(actual, hold_problem=None) == actual
    hold(world, target)
    assert world.query().waits()
    target.take(Release(world.a))


# --- databases for reads ------------------------------------------------------------------------------


def test_those_for_reads_are_not_held(world: HoldWorld) -> None:
    target = world.begin(reads=world.b)
    hold(world, target)
    assert (world.is_paused("app"), world.is_paused("ro")) == (True, False)


def test_those_for_reads_wait_where_they_lead_to_the_primary(world: HoldWorld) -> None:
    target = world.begin(reads=world.a)
    hold(world, target)
    assert (world.is_paused("app"), world.is_paused("ro")) == (True, True)
    target.take(Release(world.a))
    assert (world.is_paused("app"), world.is_paused("ro")) == (False, False)


def test_the_release_leads_those_for_reads_elsewhere_too(world: HoldWorld) -> None:
    target, before = world.begin(reads=world.b), world.settings()
    hold(world, target)
    target.take(Write(replace(route(world.b), readers=world.a)))
    assert world.leads_to("ro") == world.b
    target.take(Release(world.b, reload=True))
    assert (world.leads_to("app"), world.leads_to("ro")) == (world.b, world.a)
    assert (world.is_paused("app"), world.is_paused("ro")) == (False, False)
    settle(lambda: world.settings() == before, "PgBouncer's settings are as they were")


def test_those_for_reads_are_led_elsewhere_without_a_hold(world: HoldWorld) -> None:
    target, before = world.begin(reads=world.b), world.settings()
    target.take(
        Write(replace(route(world.a), readers=Endpoint(f"{world.b.host},{world.a.host}", world.a.port)))
    )
    target.take(Reload())
    assert world.leads_to("ro").host == f"{world.b.host},{world.a.host}"
    assert not world.is_paused("ro")
    assert held(target) is None
    settle(lambda: world.settings() == before, "PgBouncer's settings are as they were")


def test_what_runs_is_not_waited_for_when_reads_are_led_elsewhere(world: HoldWorld) -> None:
    target = world.begin(reads=world.b)
    target.take(Write(replace(route(world.a), readers=world.a)))
    with world.transaction("ro"):
        began = world.now()
        target.take(Reload())
        assert world.leads_to("ro") == world.a
        assert world.now() - began < LONG / 2


def test_while_another_watcher_holds_nothing_is_led_elsewhere(world: HoldWorld) -> None:
    """A reload amid its hold would turn its clients away."""
    target = world.begin(reads=world.b)
    other = world.another()
    hold(world, other)
    target.take(Write(replace(route(world.a), readers=world.a)))
    with pytest.raises(TargetRefused, match="held"):
        target.take(Reload())
    assert world.leads_to("ro") == world.b
    other.take(Release(world.a))
    target.read()
    target.take(Reload())
    assert world.leads_to("ro") == world.a


def test_an_operators_pause_of_reads_stays(world: HoldWorld) -> None:
    target = world.begin(reads=world.b)
    world.operator("PAUSE", "ro")
    target.take(Write(replace(route(world.a), readers=world.a)))
    target.take(Reload())
    assert (world.leads_to("ro"), world.is_paused("ro")) == (world.a, True)
    world.operator("RESUME", "ro")


def test_a_server_for_reads_that_dies_is_told_and_its_clients_wait_for_a_moment(
    real_world: RealHoldWorld,
) -> None:
    target, before = real_world.begin(reads=real_world.a), real_world.settings()
    target.take(Write(replace(route(real_world.b), readers=real_world.a)))
    target.take(Reload())
    target.take(WatchReaders((real_world.a, real_world.b)))
    real_world.crash()
    settle(lambda: (real_world.a, True) in real_world.heard.readers, "the agent says it")
    assert held(target) is None
    target.take(Write(replace(route(real_world.b), readers=real_world.b)))
    target.take(Reload())
    assert (real_world.leads_to("ro"), real_world.is_paused("ro")) == (real_world.b, False)
    assert real_world.heard.alarms == []
    settle(lambda: real_world.settings() == before, "PgBouncer's settings are as they were")


def test_whoever_makes_reads_wait_for_a_moment_keeps_nobody_else_from_leading_them_elsewhere(
    real_world: RealHoldWorld,
) -> None:
    """Two watchers hear of a dead replica at the same time, and each would wait for the other's moment."""
    target, before = real_world.begin(reads=real_world.a), real_world.settings()
    other = real_world.another()
    other.take(WatchReaders((real_world.a,)))
    real_world.let_pass(0.3)  # the guard has its wire
    real_world.crash()
    settle(lambda: real_world.is_paused("ro"), "clients wait, by the other's word")
    target.take(Write(replace(route(real_world.b), readers=real_world.b)))
    target.take(Reload())
    assert (real_world.leads_to("ro"), real_world.is_paused("ro")) == (real_world.b, False)
    settle(lambda: real_world.settings() == before, "PgBouncer's settings are as they were")


def test_the_moment_ends_by_itself(real_world: RealHoldWorld) -> None:
    target, before = real_world.begin(reads=real_world.a), real_world.settings()
    target.take(WatchReaders((real_world.a,)))
    real_world.let_pass(0.3)  # the guard has its wire
    real_world.crash()
    settle(lambda: real_world.is_paused("ro"), "clients wait")
    settle(lambda: not real_world.is_paused("ro"), "they go on")
    settle(lambda: real_world.settings() == before, "PgBouncer's settings are as they were")


# --- a look while nothing happens -----------------------------------------------------------------


def alone(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nobody but the agent that holds is asked."""
    assert isinstance(target, Pooler)
    monkeypatch.setattr(target, "_whole_look", lambda: pytest.fail("it looked at file and console"))


def test_while_nothing_happens_a_look_is_a_word_of_the_agent_that_holds(
    real_world: RealHoldWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = real_world.begin()
    before = target.last
    alone(target, monkeypatch)
    for _ in range(3):
        assert target.read() == before
    hold(real_world, target)
    assert [row.paused for row in target.read().shown or () if row.name == "app"] == [True]
    target.take(Release(real_world.a))
    assert [row.paused for row in target.read().shown or () if row.name == "app"] == [False]


def test_after_a_minute_the_look_is_a_whole_one(
    real_world: RealHoldWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = real_world.begin()
    target.read()
    monkeypatch.setattr(pooler_module, "WHOLE_LOOK_EVERY", 0.0)
    alone(target, monkeypatch)
    with pytest.raises(pytest.fail.Exception):
        target.read()


def watched(world: HoldWorld, target: Target) -> None:
    """It is looked at as often as makes its agent look itself."""
    for _ in range(2):
        target.read()
    assert target.is_watched
    world.let_pass(2.5 * LOOK_EVERY)
    assert target.is_watched


@pytest.mark.parametrize(
    ("happens", "undo"),
    [
        (lambda world: world.operator("PAUSE"), lambda world: world.operator("RESUME")),
        (lambda world: world.add("other = host=127.0.0.1 port=1"), lambda _: None),
        (lambda world: world.unmark(), lambda _: None),
        (lambda world: world.stop_pgbouncer(), lambda world: world.start_pgbouncer()),
    ],
    ids=["a pause", "another database", "no block", "no PgBouncer"],
)
def test_what_another_hand_does_ends_that_all_is_taken_for_as_it_was(
    world: HoldWorld, happens: Callable[[HoldWorld], None], undo: Callable[[HoldWorld], None]
) -> None:
    target = world.begin()
    watched(world, target)
    happens(world)
    try:
        world.let_pass(LOOK_EVERY)
        settle(lambda: not target.is_watched, "it is told")
    finally:
        undo(world)


def test_where_the_file_is_gone_that_is_told(real_world: RealHoldWorld) -> None:
    target, file = real_world.begin(), real_world.pgbouncer.config_file
    watched(real_world, target)
    gone = file.rename(file.with_suffix(".gone"))
    try:
        settle(lambda: not target.is_watched, "it is told")
    finally:
        gone.rename(file)


@pytest.mark.parametrize("by", ["a write", "a step", "a hold that is let go"])
def test_after_what_we_did_ourselves_it_is_watched_again_from_the_next_look_on(
    world: HoldWorld, by: str
) -> None:
    target = world.begin()
    hold(world, target)
    watched(world, target)
    if by == "a write":
        target.take(Write(route(world.b)))
    elif by == "a step":
        target.take(Release(world.a))
    else:
        target.let_go(world.a)
    assert not target.is_watched
    target.read()
    watched(world, target)


def test_what_we_did_ourselves_is_no_news(real_world: RealHoldWorld) -> None:
    target = real_world.begin()
    watched(real_world, target)
    hold(real_world, target)
    real_world.let_pass(3 * LOOK_EVERY)
    target.take(Release(real_world.a))
    assert real_world.heard.differs == []


def test_who_makes_clients_wait_of_itself_tells_that_this_is_new(world: HoldWorld) -> None:
    """And is asked again, or it would watch no more."""
    target = world.begin()
    target.take(Watch(world.a))
    watched(world, target)
    world.let_pass(0.3)  # the guard has its wire
    world.crash()
    settle(world.is_paused, "clients wait")
    world.let_pass(LOOK_EVERY)
    settle(lambda: not target.is_watched, "it is told")
    target.take(Release())


def test_that_something_is_otherwise_is_told_once(real_world: RealHoldWorld) -> None:
    target = real_world.begin()
    watched(real_world, target)
    assert real_world.heard.differs == []
    real_world.operator("PAUSE")
    settle(lambda: real_world.heard.differs, "it is told")
    real_world.let_pass(3 * LOOK_EVERY)
    real_world.operator("RESUME")
    assert (real_world.heard.differs, target.is_watched) == ([True], False)


def test_what_an_agent_told_before_our_step_makes_no_later_look_stale(real_world: RealHoldWorld) -> None:
    target = real_world.begin()
    watched(real_world, target)
    real_world.operator("PAUSE")
    settle(lambda: not target.is_watched, "it is told")
    real_world.operator("RESUME")
    watched(real_world, target)


def test_who_watches_and_hangs_is_believed_for_a_minute_at_most(
    real_world: RealHoldWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = real_world.begin()
    watched(real_world, target)
    (agent,) = real_world.agents("hold")
    agent.suspend()
    try:
        real_world.pgbouncer.write_block(real_world.b.host, real_world.b.port)
        real_world.let_pass(2 * LOOK_EVERY)
        assert target.is_watched
        monkeypatch.setattr(pooler_module, "WHOLE_LOOK_EVERY", 0.0)
        assert not target.is_watched
    finally:
        agent.resume()


def test_who_watches_and_dies_is_noticed(real_world: RealHoldWorld) -> None:
    target = real_world.begin()
    watched(real_world, target)
    (agent,) = real_world.agents("hold")
    agent.kill()
    settle(lambda: not target.is_watched, "it is noticed")
    assert not target.connected


def test_what_another_hand_did_is_seen_at_the_next_look(real_world: RealHoldWorld) -> None:
    target = real_world.begin()
    target.read()
    real_world.pgbouncer.write_block(real_world.b.host, real_world.b.port)
    assert {database.endpoint for database in target.read().databases} == {real_world.b}
    assert {row.host for row in target.read().shown or () if row.name == "app"} == {real_world.a.host}
    real_world.pgbouncer.reload()
    assert {row.host for row in target.read().shown or () if row.name == "app"} == {real_world.b.host}


def test_what_is_as_it_was_before_our_steps_is_news(real_world: RealHoldWorld) -> None:
    """A tool puts the file of yesterday in its place, to the letter, and PgBouncer reads it."""
    target = real_world.begin()
    target.read()
    target.read()
    yesterday = real_world.pgbouncer.config_file.read_bytes()
    target.take(Write(route(real_world.b)))
    hold(real_world, target)
    target.take(Release(real_world.b, reload=True))
    real_world.pgbouncer.config_file.write_bytes(yesterday)
    real_world.pgbouncer.reload()
    seen = target.read()
    assert {database.endpoint for database in seen.databases} == {real_world.a}
    assert {row.host for row in seen.shown or () if row.name == "app"} == {real_world.a.host}
    assert plan(seen, wish(real_world.b)) != ()


def test_an_agent_of_the_file_that_ended_is_noticed_and_replaced_while_clients_are_held(
    real_world: RealHoldWorld,
) -> None:
    target = real_world.begin()
    hold(real_world, target)
    assert target.connected
    for agent in real_world.agents("file"):
        agent.kill()
    settle(lambda: not target.connected, "it is noticed")
    target.take(Write(route(real_world.b)))
    assert target.connected
    assert held(target) is not None
    target.take(Release(real_world.b, reload=True))
    assert real_world.leads_to("app") == real_world.b


def test_an_older_agent_is_looked_at_as_before(
    real_world: RealHoldWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = real_world.begin()
    assert isinstance(target, Pooler)
    assert target._holding is not None
    ask = target._holding._ask

    def older(**request: object) -> dict[str, object]:
        return ask(**{**request, "verb": "frob"} if request["verb"] == "look" else request)

    monkeypatch.setattr(target._holding, "_ask", older)
    before = target.last
    assert target.read() == before
    assert not target.is_watched
    real_world.pgbouncer.write_block(real_world.b.host, real_world.b.port)
    assert {database.endpoint for database in target.read().databases} == {real_world.b}
