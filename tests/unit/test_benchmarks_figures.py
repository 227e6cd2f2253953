"""Figures are taken, found again, merged and missed as promised."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks.figures import MissingFigureError, at, merged, percentile, require, spread, spreads

SAMPLES = st.lists(st.floats(min_value=0, max_value=1e6), min_size=1)


@pytest.mark.parametrize(("percent", "expected"), [(50, 100), (95, 190), (99, 198), (100, 200), (0, 1)])
def test_a_percentile_is_the_sample_of_the_nearest_rank(percent: float, expected: int) -> None:
    assert percentile(list(range(200, 0, -1)), percent) == expected


@given(SAMPLES, st.floats(min_value=0.1, max_value=100))
def test_so_many_of_the_samples_are_no_larger_than_a_percentile(samples: list[float], percent: float) -> None:
    value = percentile(samples, percent)
    assert value in samples
    assert sum(one <= value for one in samples) * 100 >= percent * len(samples) - 1e-6


def test_of_few_samples_the_high_percentiles_are_the_largest() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"p50": 2.0, "p95": 3.0, "p99": 3.0}


def test_no_samples_are_a_missing_figure() -> None:
    with pytest.raises(MissingFigureError, match="no samples"):
        spread([])


@pytest.mark.parametrize(
    "figures",
    [
        {},
        {"a": 1},
        {"a": {"b": None}},
        {"a": {"b": "12"}},
        {"a": {"b": True}},
        {"a": {"b": float("nan")}},
        {"a": {"b": {}}},
    ],
)
def test_what_is_no_number_is_missing(figures: dict[str, Any]) -> None:
    assert at(figures, "a.b") is None
    with pytest.raises(MissingFigureError, match=r"a\.b"):
        require(figures, ["a.b"])


def test_every_missing_figure_is_named() -> None:
    with pytest.raises(MissingFigureError, match=r"not measured: x\.p95, x\.p99"):
        require({"x": {"p50": 0.0}}, spreads(["x"]))


def test_one_case_is_replaced_whole_and_the_others_are_kept() -> None:
    old = {
        "switch": {"p50": 1, "gone": 2},
        "rivals": {"poll": {"idle": 3}, "other": 4},
        "conditions": {"switch": {"n": 1}, "idle": {"n": 2}},
    }
    new = {"switch": {"p50": 5}, "conditions": {"switch": {"n": 6}}}
    assert merged(old, new, ["switch", "conditions.switch"]) == {
        "switch": {"p50": 5},
        "rivals": {"poll": {"idle": 3}, "other": 4},
        "conditions": {"switch": {"n": 6}, "idle": {"n": 2}},
    }


def test_a_rival_is_replaced_beside_the_other_rivals() -> None:
    old = {"rivals": {"a": {"x": 1, "y": 1}, "b": {"x": 2}}}
    assert merged(old, {"rivals": {"a": {"x": 3}}}, ["rivals.a"]) == {
        "rivals": {"a": {"x": 3}, "b": {"x": 2}}
    }


def test_a_first_run_has_nothing_to_replace() -> None:
    assert merged({}, {"a": {"b": 1}}, ["a", "conditions.a"]) == {"a": {"b": 1}}
