"""Does a series of measurements grow? Slope by Theil and Sen, which a few odd samples do not move; and the
last sixth beside the first, which shows a step that such a slope does not see.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

HOUR = 3600.0
MOST_PAIRS = 400
"""So many samples are compared with each other; more are thinned evenly."""

Sample = tuple[float, float]
"""When, in seconds of one clock, and how much."""


@dataclass(frozen=True)
class Allowance:
    """What may be gained over the whole window before it counts as growth: so much, or this share of the
    median, whichever is more.
    """

    amount: float
    share: float = 0.0

    def for_level(self, level: float) -> float:
        """In units of what is measured."""
        return max(self.amount, self.share * level)


COUNT = Allowance(0.5)
"""Threads, descriptors: half of one."""
MIB = Allowance(1.0, 0.02)
"""Memory: one MiB or two per cent, which is what an allocator's arenas do by themselves."""


@dataclass(frozen=True)
class Trend:
    """What a series does over `seconds`: its median, what it gains in that time and by the hour."""

    level: float
    gain: float
    seconds: float
    step: float = 0.0
    """By how much the median of the last sixth is above that of the first."""

    @property
    def per_hour(self) -> float:
        """The slope."""
        return self.gain / self.seconds * HOUR

    def is_flat(self, allowance: Allowance) -> bool:
        """Whether neither its slope nor its end gains more than is allowed. What shrinks is flat."""
        return max(self.gain, self.step) <= allowance.for_level(self.level)


def trend(samples: Sequence[Sample]) -> Trend:
    """Of at least two samples at different moments. ValueError where there are fewer."""
    few = samples[:: len(samples) // MOST_PAIRS + 1]
    slopes = [(b - a) / (t - s) for (s, a), (t, b) in combinations(few, 2) if t > s]
    if not slopes:
        raise ValueError("a trend takes two samples at different moments")
    seconds = samples[-1][0] - samples[0][0]
    level = median(value for _, value in samples)
    return Trend(level, median(slopes) * seconds, seconds, _step(samples))


def _step(samples: Sequence[Sample]) -> float:
    part = max(1, len(samples) // 6)
    first, last = (median(value for _, value in some) for some in (samples[:part], samples[-part:]))
    return last - first


def after_warm_up(samples: Sequence[Sample], seconds: float) -> list[Sample]:
    """Those later than `seconds` after the first."""
    return [sample for sample in samples if sample[0] - samples[0][0] >= seconds]
