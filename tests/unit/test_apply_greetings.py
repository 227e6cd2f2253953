"""One greeting of a primary for all who release clients to it at the same moment."""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.support.waiting import wait_for
from watcher.apply.greetings import (
    FRESH,
    LONGEST,
    OLDEST,
    ROOM_LIMIT,
    TOGETHER,
    Greeting,
    Greetings,
    greeting,
)
from watcher.decide.errors import TargetUnreachable
from watcher.decide.model import Endpoint

A, B = Endpoint("10.0.0.1", 5432), Endpoint("10.0.0.2", 5432)


class World:
    def __init__(self) -> None:
        self.now = 100.0
        self.greetings = Greetings(lambda: self.now)

    def greet(
        self, endpoint: Endpoint = A, *, since: float = 0.0, took: bool = True, itself: bool = False
    ) -> bool:
        """Whether it had to be asked."""
        with self.greetings.greeting(endpoint, since, itself=itself) as ours:
            ours.took = took
        return ours.is_needed


@pytest.fixture
def world() -> World:
    return World()


def test_who_has_taken_a_login_is_not_asked_again_for_a_moment(world: World) -> None:
    assert world.greet()
    world.now += FRESH - 0.01
    assert not world.greet()
    world.now += 0.02  # it counts from the greeting, whoever has gone by it since
    assert world.greet()


def test_its_word_is_of_that_server_alone(world: World) -> None:
    world.greet(A)
    assert world.greet(B)
    assert world.greet(A)


def test_a_slow_answer_counts_from_when_it_came(world: World) -> None:
    with world.greetings.greeting(A, 0.0) as ours:
        world.now += OLDEST - 0.01
        ours.took = True
    assert not world.greet(since=100.0)
    assert world.greet(since=100.1), "what was asked before clients had to wait"


def test_an_answer_that_is_told_too_late_holds_for_nobody(world: World) -> None:
    with world.greetings.greeting(A, 0.0) as ours:
        world.now += OLDEST
        ours.took = True
    assert world.greet()


def refused(world: World, endpoint: Endpoint = A) -> None:
    with world.greetings.greeting(endpoint, 0.0):
        world.greetings.refused()


def cut_off(world: World, endpoint: Endpoint = A) -> None:
    with pytest.raises(TargetUnreachable), world.greetings.greeting(endpoint, 0.0):
        raise TargetUnreachable("bouncer1", "the host is away", "look at it")


def test_nobody_goes_by_a_greeting_that_came_to_nothing(world: World) -> None:
    refused(world)
    assert world.greet(took=False)
    cut_off(world)
    assert world.greet()


@pytest.mark.parametrize("endpoint", [A, B])
def test_once_anybody_is_refused_nobody_vouches_for_a_server(world: World, endpoint: Endpoint) -> None:
    world.greet()
    refused(world, endpoint)
    assert world.greet()


def test_nor_once_a_guard_has_told(world: World) -> None:
    world.greet()
    world.greetings.refused()
    assert world.greet()


def test_what_was_asked_before_clients_had_to_wait_tells_nothing_of_why_they_do(world: World) -> None:
    world.greet()
    assert not world.greet(since=world.now)
    assert world.greet(since=world.now + 0.01)


def test_a_host_that_is_away_says_nothing_of_a_server(world: World) -> None:
    world.greet()
    cut_off(world)
    assert not world.greet()


def test_who_goes_by_anothers_word_changes_nothing_of_it_whatever_comes_of_that(world: World) -> None:
    world.greet()
    assert not world.greet(took=False)
    assert not world.greet()


def test_a_guard_that_tells_amid_a_greeting_is_not_undone_by_it(world: World) -> None:
    with world.greetings.greeting(A, 0.0) as ours:
        world.greetings.refused()
        ours.took = True
    assert world.greet()


def several(world: World, count: int, pool: ThreadPoolExecutor) -> "list[Future[bool]]":
    """They come while a greeting is under way, and are waiting when this is over."""
    coming = [pool.submit(world.greet) for _ in range(count)]
    waiting = world.greetings._changed._waiters  # type: ignore[attr-defined] # nobody else tells
    wait_for(lambda: len(waiting) == count, 60, "they wait")
    return coming


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a slow machine is no reason to ask."""
    monkeypatch.setattr("watcher.apply.greetings.PATIENCE", 100.0)


@pytest.mark.usefixtures("patient")
def test_who_comes_while_it_is_asked_waits_for_the_answer(world: World) -> None:
    with ThreadPoolExecutor() as pool:
        with world.greetings.greeting(A, 0.0) as ours:
            others = several(world, 4, pool)
            ours.took = True
        assert [other.result(60) for other in others] == [False] * 4


@pytest.mark.usefixtures("patient")
def test_where_it_came_to_nothing_one_of_those_who_waited_asks_next(world: World) -> None:
    with ThreadPoolExecutor() as pool:
        with world.greetings.greeting(A, 0.0):
            others = several(world, 4, pool)
        assert sorted(other.result(60) for other in others) == [False] * 3 + [True]


@pytest.mark.usefixtures("patient")
def test_nobody_waits_for_the_greeting_of_another_server(world: World) -> None:
    with ThreadPoolExecutor() as pool, world.greetings.greeting(A, 0.0):
        assert pool.submit(world.greet, B).result(60)


def test_an_answer_that_stays_away_is_not_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watcher.apply.greetings.PATIENCE", 0.01)
    with ThreadPoolExecutor() as pool, world.greetings.greeting(A, 0.0):
        others = [pool.submit(world.greet) for _ in range(2)]
        assert True in {other.result(60) for other in others}


def test_who_was_refused_asks_itself_and_vouches_for_others_again(world: World) -> None:
    world.greet()
    assert world.greet(itself=True)
    world.now += FRESH + 1
    assert world.greet(itself=True)
    assert not world.greet()


@pytest.mark.usefixtures("patient")
def test_nobody_waits_for_the_word_of_who_was_refused_before(world: World) -> None:
    with ThreadPoolExecutor() as pool, world.greetings.greeting(A, 0.0, itself=True):
        assert pool.submit(world.greet, took=False).result(60)
    with ThreadPoolExecutor() as pool:
        with world.greetings.greeting(A, 0.0) as ours:
            others = several(world, 1, pool)
            ours.took = True
        assert not others[0].result(60), "but of others, also after that"


def test_who_finds_no_room_asks_by_and_by(world: World) -> None:
    with ExitStack() as queue:
        limits = [queue.enter_context(world.greetings._queued(whom)) for whom in [A] * 50 + [B]]
    assert limits[:17] == [ROOM_LIMIT] * 8 + [2 * ROOM_LIMIT] * 8 + [3 * ROOM_LIMIT]
    assert limits[-2:] == [LONGEST, ROOM_LIMIT]
    assert world.greetings._waiting.total() == 0


@pytest.mark.parametrize("itself", [False, True])
def test_no_more_ask_at_a_time_than_a_server_takes_up(
    world: World, monkeypatch: pytest.MonkeyPatch, itself: bool
) -> None:
    monkeypatch.setattr("watcher.apply.greetings.PATIENCE", 0.0)
    monkeypatch.setattr("watcher.apply.greetings.ROOM_LIMIT", 100.0)
    with ThreadPoolExecutor() as pool, ExitStack() as asking:
        first = [asking.enter_context(world.greetings.greeting(A, 0.0)) for _ in range(TOGETHER)]
        assert all(one.is_needed for one in first), "they ask, since nobody tells for so long"
        coming = pool.submit(world.greet, itself=itself)
        waiting = world.greetings._changed._waiters  # type: ignore[attr-defined] # nobody else tells
        wait_for(lambda: len(waiting) == 1, 60, "it waits")
        assert pool.submit(world.greet, B).result(60), "another server's queue is another"
        if not itself:
            first[0].took = True
        asking.pop_all().close()
        assert coming.result(60) is itself


def test_room_is_not_waited_for_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("PATIENCE", "ROOM_LIMIT"):
        monkeypatch.setattr(f"watcher.apply.greetings.{limit}", 0.01)
    with ThreadPoolExecutor() as pool, ExitStack() as asking:
        for _ in range(TOGETHER):
            asking.enter_context(world.greetings.greeting(A, 0.0))
        assert pool.submit(world.greet).result(60)


@pytest.mark.parametrize(("endpoint", "is_needed"), [(A, True), (None, False)])
def test_who_has_nobody_to_go_by_greets_whoever_is_to_take_clients(
    endpoint: Endpoint | None, is_needed: bool
) -> None:
    for _ in range(2):
        with greeting(None, endpoint, 0.0) as ours:
            ours.took = True
        assert ours.is_needed is is_needed


def test_whose_clients_wait_for_nobody_knows_how_long_greets(world: World) -> None:
    world.greet()
    with greeting(world.greetings, A, None) as ours:
        assert ours.is_needed


def test_nobody_is_greeted_where_clients_go_wherever_pgbouncer_leads(world: World) -> None:
    with greeting(world.greetings, None, 0.0) as ours:
        assert isinstance(ours, Greeting)
        assert not ours.is_needed
    assert world.greet()
