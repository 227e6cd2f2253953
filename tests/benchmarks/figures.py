"""Figures as a tree of numbers: made from samples, addressed by dotted path, merged from run to run."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Figures = dict[str, Any]
PERCENTILES = (50, 95, 99)


class MissingFigureError(Exception):
    """A case did not give a figure that it promised."""


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: always one of the samples, never a value between two.

    >>> percentile([4, 1, 3, 2], 50), percentile([4, 1, 3, 2], 95)
    (2, 4)
    """
    if not samples:
        raise MissingFigureError("no samples")
    rank = max(1, math.ceil(percent / 100 * len(samples)))
    return sorted(samples)[rank - 1]


def spread(samples: Sequence[float]) -> Figures:
    """p50, p95 and p99. Of fewer than 20 samples p95 and p99 are the largest.

    >>> spread([2.0, 1.0, 3.0])
    {'p50': 2.0, 'p95': 3.0, 'p99': 3.0}
    """
    return {f"p{percent}": round(percentile(samples, percent), 3) for percent in PERCENTILES}


def spreads(names: Iterable[str]) -> tuple[str, ...]:
    """The paths of the spreads below `names`.

    >>> spreads(["switch.confirmed_ms"])
    ('switch.confirmed_ms.p50', 'switch.confirmed_ms.p95', 'switch.confirmed_ms.p99')
    """
    return tuple(f"{name}.p{percent}" for name in names for percent in PERCENTILES)


def at(figures: Mapping[str, Any], path: str) -> float | None:
    """The number at a dotted path, or None where there is none."""
    value: Any = figures
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None


def require(figures: Mapping[str, Any], paths: Iterable[str]) -> None:
    """Raise MissingFigureError with the paths that have no number."""
    missing = [path for path in paths if at(figures, path) is None]
    if missing:
        raise MissingFigureError(f"not measured: {', '.join(missing)}")


def merged(old: Mapping[str, Any], new: Mapping[str, Any], owned: Iterable[str]) -> Figures:
    """`old` with `new` laid over it. What `old` has below the `owned` paths goes first.

    >>> merged({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"x": 5}}, ["a"])
    {'b': 3, 'a': {'x': 5}}
    """
    result = dict(old)
    for path in owned:
        result = _without(result, path.split("."))
    return _laid_over(result, new)


def _without(tree: Mapping[str, Any], path: Sequence[str]) -> Figures:
    head, *rest = path
    if head not in tree:
        return dict(tree)
    if not rest or not isinstance(tree[head], Mapping):
        return {key: value for key, value in tree.items() if key != head}
    return {**tree, head: _without(tree[head], rest)}


def _laid_over(base: Mapping[str, Any], top: Mapping[str, Any]) -> Figures:
    result = dict(base)
    for key, value in top.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = _laid_over(below, value) if both and below is not None else value
    return result
