"""What an error tells whoever catches it."""

import pickle

import pytest

from watcher.decide.errors import TargetRefused, WatcherError


@pytest.mark.parametrize(
    ("hint", "text"), [("look", "pgb1: is full\n  HINT: look"), ("", "pgb1: is full")], ids=["a hint", "none"]
)
def test_an_error_says_where_why_and_what_to_do(hint: str, text: str) -> None:
    assert str(WatcherError("pgb1", "is full", hint)) == text


def test_an_error_without_a_hint_says_none() -> None:
    assert WatcherError("pgb1", "is full").hint == ""


def test_an_error_is_the_same_after_a_journey() -> None:
    error = pickle.loads(pickle.dumps(TargetRefused("pgb1", "is full", "look")))  # noqa: S301 - our own
    assert isinstance(error, TargetRefused)
    assert (error.place, error.problem, error.hint) == ("pgb1", "is full", "look")


def test_an_error_shows_all_that_it_carries_where_it_is_shown_as_a_value() -> None:
    assert repr(TargetRefused("pgb1", "is full", "look")) == "TargetRefused('pgb1', 'is full', 'look')"
