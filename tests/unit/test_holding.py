"""What an agent says is noted in the order in which it says it, however late the asker reads the answer."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from watcher.apply.console import ConsoleAccess
from watcher.apply.holding import Ear, Holding, Terms
from watcher.decide.model import Endpoint

HELD = {"held": True, "databases": ["app"], "age": 0.0, "left": 10.0, "complete": False}
FREE = {"held": False, "databases": [], "age": 0.0, "left": 0.0, "complete": False}


class _Place:
    name = "fake"
    connected = True

    def open(self, word: str) -> Any:
        raise AssertionError(word)

    def close(self) -> None:
        """Nothing is open."""


class _Agent:
    """A stream whose agent has answered, and said something more, before anybody reads the answer."""

    def __init__(self, said: Callable[[str], None], *lines: dict[str, Any]) -> None:
        self._said = said
        self._lines = lines

    def sendall(self, data: bytes) -> None:
        del data
        for line in self._lines:
            self._said(json.dumps(line))

    def close(self) -> None:
        """Over."""


@pytest.fixture
def holding() -> Holding:
    access = ConsoleAccess(user="pgbouncer", password=None, unix_socket="/s")
    terms = Terms(on_refusal=None, close_sessions=True, cut_after=None, login_as="x")
    return Holding(_Place(), access, terms, 1.0, Ear(), lambda: 100.0)


def saying(holding: Holding, *lines: dict[str, Any]) -> None:
    stream: Any = _Agent(lambda line: holding._hear(line.encode(), stream, holding._replies), *lines)
    holding._stream = stream


def test_a_hold_that_is_complete_right_behind_the_answer_stays_complete(holding: Holding) -> None:
    """Else `watcher barrier` would wait for it to its limit."""
    saying(holding, HELD, {**HELD, "complete": True, "event": "complete"})
    holding.hold(["app"], None, 110.0)
    assert holding.held is not None
    assert holding.held.complete


def test_a_hold_that_ends_right_behind_the_answer_is_over(holding: Holding) -> None:
    saying(holding, HELD, {"event": "ended", "why": "gone", "held_for": 0.0, "complete": False})
    holding.hold(["app"], None, 110.0)
    assert holding.held is None


def test_a_hold_that_begins_right_behind_a_release_is_known(holding: Holding) -> None:
    alarm = {"event": "alarm", "refuses": True, "why": "refused", "host": "10.0.0.1", "port": 5432}
    saying(holding, {**FREE, "was_held": True, "held_for": 1.0, "shown": []}, {**HELD, **alarm})
    assert (
        holding.release(Endpoint("10.0.0.1", 5432), reload=False, goals={"app": Endpoint("10.0.0.1", 5432)})
        == []
    )
    assert holding.held is not None


def test_a_release_ends_what_was_held(holding: Holding) -> None:
    saying(holding, HELD)
    holding.hold(["app"], None, 110.0)
    saying(holding, {**FREE, "was_held": True, "held_for": 1.0, "shown": []})
    holding.release(None, reload=False, goals={"app": Endpoint("10.0.0.1", 5432)})
    assert holding.held is None
