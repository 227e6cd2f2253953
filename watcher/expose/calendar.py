"""One moment by two clocks: everything happens by the monotonic one, and is told by the calendar's."""

from __future__ import annotations

import time
from collections.abc import Callable


class Calendar:
    """Turns moments of the monotonic clock into seconds since the epoch, as the calendar stands now."""

    def __init__(
        self, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self.now = monotonic
        self.wall = wall

    def of(self, moment: float) -> float:
        """Seconds since the epoch."""
        return self.wall() - (self.now() - moment)
