"""Pauses between tries."""

import pytest

from watcher.decide.backoff import Backoff


def test_pauses_double_up_to_the_limit() -> None:
    backoff = Backoff(first=0.1, limit=2.0)
    pauses = [backoff.delay(n, lambda: 1.0) for n in range(7)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])


def test_chance_takes_away_half_at_most() -> None:
    backoff = Backoff(first=0.1, limit=2.0)
    assert backoff.delay(3, lambda: 0.0) == pytest.approx(0.4)
    assert backoff.delay(3, lambda: 0.5) == pytest.approx(0.6)


def test_any_number_of_failures_is_bearable() -> None:
    assert Backoff().delay(10**9, lambda: 1.0) == 2.0
