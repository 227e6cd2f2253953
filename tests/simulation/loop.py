"""Time that passes only when told: events in their order, and fibers that sleep in it.

A fiber is a greenlet: it runs until it waits, and nothing runs beside it, so a schedule comes out the same
however busy the machine is.
"""

import heapq
from collections.abc import Callable
from contextlib import suppress
from itertools import count

from greenlet import getcurrent, greenlet


class Killed(BaseException):
    """Raised in a fiber wherever it waits: its process is gone."""


class Loop:
    """Virtual seconds, and what is due."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def clock(self) -> float:
        return self.now

    def at(self, moment: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._due, (max(moment, self.now), next(self._number), event))

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        self.at(self.now + seconds, event)

    def run_until(self, moment: float) -> None:
        while self._due and self._due[0][0] <= moment:
            self.now, _, event = heapq.heappop(self._due)
            event()
        self.now = moment


class Fiber:
    """One thread of a watcher. `body` runs until it returns or the fiber is killed."""

    def __init__(self, loop: Loop, body: Callable[[], None]) -> None:
        self._loop = loop
        self._body = body
        self._greenlet = greenlet(self._run)
        self._ticket = 0
        self._late = False
        self.frozen = False
        self.dead = False
        self.idle = False
        """Whether it waits for news rather than for an answer; whoever waits sets it."""

    def _run(self) -> None:
        if not self.dead:
            with suppress(Killed):
                self._body()
        self.dead = True

    # --- from the loop -------------------------------------------------------------------------------

    def resume(self) -> None:
        """Let it run until it waits again. A frozen one does so once it is thawed."""
        if self.dead:
            return
        if self.frozen:
            self._late = True
            return
        self._switch()

    def _switch(self) -> None:
        self._greenlet.parent = getcurrent()
        self._greenlet.switch()

    def thaw(self) -> None:
        self.frozen = False
        if self._late:
            self._late = False
            self.resume()

    def kill(self) -> None:
        """It ends where it stands."""
        if not self.dead:
            self.dead = True
            self._switch()

    # --- from within ----------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Until so many seconds have passed or `wake` was called."""
        self._ticket += 1
        ticket = self._ticket
        self._loop.after(seconds, lambda: self._wake_for(ticket))
        parent = self._greenlet.parent
        assert parent is not None
        parent.switch()
        if self.dead:
            raise Killed
        self._ticket += 1

    def wake(self, seconds: float) -> None:
        """End its present wait for news so many seconds from now."""
        ticket = self._ticket
        if self.idle:
            self._loop.after(seconds, lambda: self._wake_for(ticket))

    def _wake_for(self, ticket: int) -> None:
        if ticket == self._ticket:
            self.resume()
