"""How long to wait before the next try."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential from `first` to `limit` seconds, with full-range jitter in the upper half.

    >>> b = Backoff(first=0.1, limit=2.0)
    >>> [b.delay(n, lambda: 1.0) for n in range(7)]
    [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    >>> b.delay(3, lambda: 0.0)
    0.4
    """

    first: float = 0.1
    limit: float = 2.0

    def delay(self, failures: int, random: Callable[[], float]) -> float:
        """Seconds to wait after `failures` earlier tries; `random` gives a number in [0, 1)."""
        whole = min(self.limit, self.first * 2.0 ** min(failures, 32))
        return whole * (0.5 + random() / 2)
