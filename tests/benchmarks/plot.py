"""The latency of each transaction over the time since the deed, a panel for each contender, as an SVG. Pure.

A dot is a transaction: at the moment when its client asked, as high as it took. Blue ones were committed,
red ones failed. The band is the time in which Patroni had no writable primary at all.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

Sample = Mapping[str, Any]
"""As `series.sample` makes it."""

WIDTH, LEFT, RIGHT = 860, 64, 16
HEAD, TITLE, PANEL, BETWEEN, FOOT = 54, 20, 104, 40, 46
CELL = 2.5
"""Dots that would lie nearer to each other than that are one, or the file would have megabytes."""
FIRST = -1.0
LOWEST, HIGHEST = 0.0003, 60.0
LEVELS = ((0.001, "1 ms"), (0.01, "10 ms"), (0.1, "100 ms"), (1.0, "1 s"), (10.0, "10 s"))
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-size: 16px; font-weight: 600 } .name { font-weight: 600 }
.axis { font-size: 11px; fill: #57606a } .end { text-anchor: end } .middle { text-anchor: middle }
.bad { fill: #c4161c; font-weight: 600 } .good { fill: #116329; font-weight: 600 }
.grid { stroke: #d0d7de; stroke-width: 1; fill: none } .gap { fill: #8c959f; fill-opacity: .22 }
.ok, .failed { stroke-linecap: round; fill: none }
.ok { stroke: #2f6fb5; stroke-width: 2.4 } .failed { stroke: #d1242f; stroke-width: 3.4 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .axis { fill: #9aa4ae } .bad { fill: #ff7b72 } .good { fill: #56d364 }
  .grid { stroke: #30363d } .ok { stroke: #6cb0f5 } .failed { stroke: #ff6a61 }
}
"""


@dataclass(frozen=True)
class Scale:
    """From seconds to pixels of one panel whose upper edge is at `top`."""

    last: float
    top: float

    def x(self, seconds: float) -> float:
        """Since the deed."""
        return LEFT + (seconds - FIRST) / (self.last - FIRST) * (WIDTH - LEFT - RIGHT)

    def y(self, seconds: float) -> float:
        """That a transaction took; by its logarithm."""
        within = min(max(seconds, LOWEST), HIGHEST)
        return self.top + PANEL * (1 - math.log(within / LOWEST) / math.log(HIGHEST / LOWEST))


def svg(title: str, axis: str, samples: Sequence[Sample], last: float) -> str:
    """The picture of these contenders, from a second before the deed until `last` seconds after it."""
    height = HEAD + TITLE + len(samples) * (PANEL + BETWEEN) - BETWEEN + FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-labelledby="title description">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="description">{escape(described(samples))}</desc>',
        f"<style>{STYLE}</style>",
        _text(LEFT, 22, title, "title"),
        *_legend(),
    ]
    for number, sample in enumerate(samples):
        parts += _panel(sample, Scale(last, HEAD + TITLE + number * (PANEL + BETWEEN)))
    parts += _seconds(Scale(last, 0), height, axis)
    return "\n".join([*parts, "</svg>", ""])


def verdict(sample: Sample) -> str:
    """What failed and how long clients waited, in a line.

    >>> verdict({"failed": 1200, "failed_long": 2, "all_in_flight": False, "stall_s": 1.52})
    '1,200 failed, and 2 of a second · longest stall 1.5 s'
    >>> verdict({"failed": 9, "failed_long": 0, "all_in_flight": True, "stall_s": 18})
    '9 failed, all in flight at that instant · longest stall 18.0 s'
    """
    long = f", and {sample['failed_long']} of a second" if sample["failed_long"] else ""
    flight = ", all in flight at that instant" if sample["all_in_flight"] else ""
    return f"{sample['failed']:,} failed{long}{flight} · longest stall {sample['stall_s']:.1f} s"


def described(samples: Sequence[Sample]) -> str:
    """What the picture shows, for those who cannot see it.

    >>> one = {"failed": 0, "failed_long": 0, "all_in_flight": False, "stall_s": 1.5, "gap": [0.25, 1.5]}
    >>> described([{"title": "a", **one}])
    'Latency of each transaction. a: 0 failed · longest stall 1.5 s, Patroni without a primary for 1.2 s.'
    """
    each = (
        f"{one['title']}: {verdict(one)}, Patroni without a primary for {_length(one):.1f} s."
        for one in samples
    )
    return " ".join(["Latency of each transaction.", *each])


def _length(sample: Sample) -> float:
    start, end = sample["gap"]
    return float(end - start)


def _legend() -> Iterator[str]:
    y = 42
    yield f'<path class="ok" d="M{LEFT + 3} {y - 4}h0m6 0h0m6 0h0"/>' + _text(
        LEFT + 24, y, "committed", "axis"
    )
    yield f'<path class="failed" d="M{LEFT + 93} {y - 4}h0m6 0h0m6 0h0"/>' + _text(
        LEFT + 114, y, "failed", "axis"
    )
    yield f'<rect class="gap" x="{LEFT + 162}" y="{y - 11}" width="18" height="13"/>' + _text(
        LEFT + 186, y, "Patroni had no writable primary", "axis"
    )


def _panel(sample: Sample, scale: Scale) -> Iterator[str]:
    start, end = (scale.x(min(moment, scale.last)) for moment in sample["gap"])
    yield f'<rect class="gap" x="{start:.1f}" y="{scale.top}" width="{end - start:.1f}" height="{PANEL}"/>'
    for level, label in LEVELS:
        y = scale.y(level)
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        yield _text(LEFT - 6, y + 4, label, "axis end")
    for name, wanted in (("ok", True), ("failed", False)):
        yield f'<path class="{name}" d="{_dots(sample["transactions"], scale, wanted)}"/>'
    yield _text(LEFT, scale.top - 6, sample["title"], "name")
    mood = "bad" if sample["failed"] and not sample["all_in_flight"] else "good"
    yield _text(WIDTH - RIGHT, scale.top - 6, verdict(sample), f"{mood} end")


def _dots(transactions: Iterable[Sequence[Any]], scale: Scale, wanted: bool) -> str:
    cells = {
        (round(scale.x(start) / CELL), round(scale.y(took) / CELL))
        for _, start, took, ok in transactions
        if ok is wanted and FIRST <= start <= scale.last
    }
    return "".join(f"M{x * CELL:g} {y * CELL:g}h0" for x, y in sorted(cells))


def _seconds(scale: Scale, height: int, axis: str) -> Iterator[str]:
    step = 2 if scale.last <= 20 else 5
    for second in range(0, math.floor(scale.last) + 1, step):
        yield _text(scale.x(second), height - 26, f"{second} s", "axis middle")
    yield _text(LEFT, height - 8, f"{axis}; height: how long the transaction took", "axis")


def _text(x: float, y: float, text: str, kinds: str) -> str:
    return f'<text class="{kinds}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
