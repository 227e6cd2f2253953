"""When the last of a cluster's workers had clients to lead, so that what can wait does not keep them waiting.

A fleet's workers share one interpreter, and their agents perhaps one host. What follows a switch, for each of
its targets, is as much work as the switch; begun at once it is done while others' clients wait.
"""

from __future__ import annotations

from collections.abc import Callable

QUIET = 0.25
"""Seconds without anybody in a hurry until a rush is over."""
LONGEST = 3.0
"""Seconds after which what can wait is done in a rush too."""


class Rush:
    """Shared by workers. Safe between threads: one assignment."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = float("-inf")

    def hurried(self) -> None:
        """Somebody has just taken a step that clients waited for."""
        self._last = self._clock()

    def over_at(self, since: float) -> float:
        """From when on is done what could wait `since` then."""
        return min(self._last + QUIET, since + LONGEST)

    def look_again_at(self, since: float) -> float:
        """When whoever has waited `since` then looks whether it is over: the more seldom the longer that is,
        for hundreds who look would themselves be in the way.
        """
        now = self._clock()
        return min(max(self._last + QUIET, now + (now - since)), since + LONGEST)
