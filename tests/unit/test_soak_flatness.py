"""The judge of long runs: a leak is seen through noise, noise is no leak."""

import math
import random

import pytest

from tests.soak.flatness import COUNT, HOUR, MIB, Sample, after_warm_up, trend
from tests.soak.switches import Record, report

SECONDS = 600


def series(level: float, by_the_hour: float, noise: float = 0.0, seed: int = 1) -> list[Sample]:
    chance = random.Random(seed)  # noqa: S311 - no secret
    return [
        (t, level + by_the_hour * t / HOUR + chance.uniform(-noise, noise)) for t in range(0, SECONDS + 1, 5)
    ]


def test_a_leak_is_measured_through_noise_three_times_its_size() -> None:
    found = trend(series(85, by_the_hour=30, noise=15))
    assert found.per_hour == pytest.approx(30, rel=0.6)
    assert not found.is_flat(MIB)


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_flat(seed: int) -> None:
    assert trend(series(85, by_the_hour=0, noise=2, seed=seed)).is_flat(MIB)


def test_a_thread_that_is_left_behind_every_ten_minutes_is_seen() -> None:
    grows = [(t, 18.0 + math.floor(t / 150)) for t in range(0, SECONDS, 5)]
    assert not trend(grows).is_flat(COUNT)
    assert trend([(t, 18.0) for t in range(0, SECONDS, 5)]).is_flat(COUNT)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.75, 0.9])
def test_a_thread_that_is_left_behind_once_is_seen(share: float) -> None:
    steps = [(t, 18.0 + (t >= share * SECONDS)) for t in range(0, SECONDS, 5)]
    assert trend(steps).is_flat(COUNT) is False


def test_a_few_odd_samples_move_nothing() -> None:
    odd = [(t, 500.0 if t % 100 == 0 else value) for t, value in series(85, 0)]
    assert trend(odd).per_hour == 0


def test_what_shrinks_is_flat() -> None:
    assert trend(series(85, by_the_hour=-100)).is_flat(MIB)


def test_the_warm_up_does_not_count() -> None:
    warm = [(t, min(85.0, t)) for t in range(0, SECONDS, 5)]
    assert trend(after_warm_up(warm, 100)).gain == 0


def test_one_moment_is_no_trend() -> None:
    with pytest.raises(ValueError, match="two samples"):
        trend([(1.0, 2.0)])


def record(**changes: object) -> Record:
    calm = Record(switchovers=3, transactions=100)
    calm.samples["watcher.mib"] = series(85, 0)
    calm.samples["watcher.threads"] = series(18, 0)
    for name, value in changes.items():
        setattr(calm, name, value)
    return calm


def test_a_run_is_well_where_nothing_grows_and_nobody_fails() -> None:
    text, is_well = report(record(), SECONDS)
    assert is_well
    assert text.startswith("3 switchovers, 100 transactions, 0 failed")


def test_one_failure_or_one_figure_that_grows_is_not_well() -> None:
    assert not report(record(failures=["simple 1: gone"]), SECONDS)[1]
    grown = record()
    grown.samples["watcher.threads"] = series(18, by_the_hour=12)
    text, is_well = report(grown, SECONDS)
    assert not is_well
    assert "GROWS by more than 0.50" in text
