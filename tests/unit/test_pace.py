"""Who may log in next: as many as there is room for, the most urgent first, and nobody waits for ever."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.support.waiting import wait_for
from watcher.pace import Pace, Turn

LIMIT = 3.0


class Room:
    """A pace of two, its clock, and those who came to it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pace = Pace(2, lambda: self.now)
        self.pool = ThreadPoolExecutor(16)
        self.asked: list[Future[bool]] = []
        self.leaving = threading.Event()

    def come(self, urgency: float = 0.0) -> tuple[Turn, Future[bool]]:
        """One more, who waits if he has to; those who came before him wait already."""
        turn = Turn(lambda: urgency, self.leaving.is_set)
        known = len(self.pace._waiting) + len(self.pace._going)
        future = self.pool.submit(self.pace.begin, turn)
        wait_for(lambda: len(self.pace._waiting) + len(self.pace._going) > known, 10, "he is there")
        self.asked.append(future)
        return turn, future


@pytest.fixture
def room() -> Iterator[Room]:
    room = Room()
    with room.pool:
        yield room
        room.leaving.set()


def goes(future: Future[bool]) -> bool:
    return future.result(timeout=10)


def waits(future: Future[bool]) -> bool:
    """Long enough for several looks."""
    with pytest.raises(TimeoutError):
        future.result(timeout=0.3)
    return True


def test_as_many_go_on_as_there_is_room_for(room: Room) -> None:
    (first, one), (_, two), (_, three) = (room.come() for _ in range(3))
    assert goes(one)
    assert goes(two)
    assert waits(three)
    room.pace.end(first)
    assert goes(three)


def test_the_most_urgent_goes_first_and_then_who_came_first(room: Room) -> None:
    begun = [room.come()[0] for _ in range(2)]
    (_, late), (most, urgent), (_, later) = room.come(), room.come(5.0), room.come()
    room.pace.end(begun[0])
    assert goes(urgent)
    assert waits(late)
    assert not later.done()
    room.pace.end(most)
    assert goes(late)
    assert not later.done()


def test_nobody_else_begins_while_a_more_urgent_one_goes_on(room: Room) -> None:
    urgent, first = room.come(5.0)
    _, other = room.come(1.0)
    _, as_urgent = room.come(5.0)
    assert goes(first)
    assert goes(as_urgent)
    assert waits(other)
    room.pace.end(urgent)
    assert waits(other)


def test_urgency_may_come_while_one_waits(room: Room) -> None:
    begun = [room.come()[0] for _ in range(2)]
    room.come()
    changes = {"urgency": 0.0}
    turn = Turn(lambda: changes["urgency"], room.leaving.is_set)
    future = room.pool.submit(room.pace.begin, turn)
    wait_for(lambda: turn in room.pace._waiting, 10, "it waits")
    changes["urgency"] = 1.0
    room.pace.end(begun[0])
    assert goes(future)


def test_who_takes_too_long_no_longer_counts(room: Room) -> None:
    for urgency in (9.0, 9.0):
        room.come(urgency)
    _, waiting = room.come()
    assert waits(waiting)
    room.now += LIMIT
    assert goes(waiting)


def test_who_is_to_stop_does_not_begin_and_leaves_his_place(room: Room) -> None:
    begun = [room.come()[0] for _ in range(2)]
    _, waiting = room.come()
    room.leaving.set()
    assert not goes(waiting)
    for turn in begun:
        room.pace.end(turn)
    assert room.pace._waiting == room.pace._going == []


def test_a_turn_may_be_taken_again_and_ended_twice(room: Room) -> None:
    turn, future = room.come()
    assert goes(future)
    room.pace.end(turn)
    room.pace.end(turn)
    assert room.pace.begin(turn)
    assert room.pace._going == [turn]


def test_who_comes_again_waits_as_others_do(room: Room) -> None:
    turn, future = room.come()
    assert goes(future)
    room.pace.end(turn)
    for _ in range(2):
        room.come()
    again = room.pool.submit(room.pace.begin, turn)
    assert waits(again)


def test_all_that_there_is_room_for_begin_when_one_ends_without_another_look(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watcher.pace._LOOK_AGAIN", 60.0)
    (first, _), _, (_, third), (_, fourth) = (room.come() for _ in range(4))
    room.pace.at_once = 3
    room.pace.end(first)
    assert goes(third)
    assert goes(fourth)


def test_more_room_is_room_at_once(room: Room) -> None:
    for _ in range(2):
        room.come()
    _, waiting = room.come()
    room.pace.at_once = 3
    assert goes(waiting)
