"""One greeting of a new primary for all who would greet it at the same moment.

For each, the postmaster starts a process, in the very moment in which every client comes to it. The agents of
a fleet would have it start one each, and whoever waits for their word waits in that queue.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from watcher.decide.model import Endpoint

FRESH = 0.2
"""Seconds for which the answer that one agent got holds for the others, who greet at the same moment; counted
from when it came, since it is slow where all of them are. Then one of them asks again, as the first clients
there may have taken its last connection.
"""

OLDEST = 1.0
"""Seconds that an answer, and what followed it there, may have taken to hold for anybody else: it is told
once that release is over, and the server may have died since it took the login.
"""

PATIENCE = 0.1
"""Seconds for which they wait for it, before each asks for itself: the host of the one who asks may be cut
off, and no other."""

TOGETHER = 8
"""How many then ask at a time. What a server has not taken up yet waits in its kernel's queue, and where that
is full (`listen_backlog`, twice `max_connections` in PostgreSQL) whoever comes is told nothing: a fleet that
asks all at once is refused by a server that is well, and asks again.
"""

ROOM_LIMIT = 0.5
"""Seconds for which whoever must ask waits for room among those, as each may be on a host that is cut off; so
many more for every eight who wait already, for if all went on at once they would be a crowd again.
"""

LONGEST = 2.0
"""Seconds for which nobody waits for room: who asked in vain before has an answer by then."""


class Greeting:
    """`is_needed`: nobody vouches for the server. Who greets it says so, where it `took` a login."""

    def __init__(self, is_needed: bool) -> None:
        self.is_needed = is_needed
        self.took = False


class Greetings:
    """Shared by all targets of one cluster, each with a thread of its own."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._asking: Counter[Endpoint] = Counter()
        self._hopeful: Counter[Endpoint] = Counter()  # of those: not refused before
        self._waiting: Counter[Endpoint] = Counter()  # for room
        self._last: tuple[Endpoint, float, float] | None = None
        self._refusals = 0

    def refused(self) -> None:
        """A server takes no logins: the next is asked, whoever vouched for it, or is about to."""
        with self._changed:
            self._refusals += 1
            self._last = None

    @contextmanager
    def greeting(self, endpoint: Endpoint, since: float, *, itself: bool = False) -> Iterator[Greeting]:
        """For clients who have waited `since` then; what was asked before tells nothing of why they do. While
        its block lasts, others who come for the same server wait for what is told. Who is refused says so,
        and asks `itself` from then on.
        """

        def is_spared() -> bool:
            return not itself and self._is_vouched_for(endpoint, since)

        with self._changed:
            if not itself:
                self._changed.wait_for(lambda: is_spared() or not self._hopeful[endpoint], PATIENCE)
            with self._queued(endpoint) as limit:
                self._changed.wait_for(lambda: is_spared() or self._asking[endpoint] < TOGETHER, limit)
            greeting, asked_at, refusals = Greeting(not is_spared()), self._clock(), self._refusals
            self._asking[endpoint] += greeting.is_needed
            self._hopeful[endpoint] += greeting.is_needed and not itself
        try:
            yield greeting
        finally:
            if greeting.is_needed:
                with self._changed:
                    told_at = self._clock()
                    if greeting.took and refusals == self._refusals and told_at - asked_at < OLDEST:
                        self._last = endpoint, asked_at, told_at
                    self._asking[endpoint] -= 1
                    self._hopeful[endpoint] -= not itself
                    self._changed.notify_all()

    @contextmanager
    def _queued(self, endpoint: Endpoint) -> Iterator[float]:
        """For how many seconds to wait for room, by how many do already."""
        limit = min(ROOM_LIMIT * (1 + self._waiting[endpoint] // TOGETHER), LONGEST)
        self._waiting[endpoint] += 1
        try:
            yield limit
        finally:
            self._waiting[endpoint] -= 1

    def _is_vouched_for(self, endpoint: Endpoint, since: float) -> bool:
        if self._last is None:
            return False
        whom, asked_at, told_at = self._last
        return whom == endpoint and since <= asked_at and self._clock() - told_at < FRESH


def greeting(
    greetings: Greetings | None, endpoint: Endpoint | None, since: float | None, *, itself: bool = False
) -> AbstractContextManager[Greeting]:
    """By the word of others, where there may be any; nobody is greeted where it is to none."""
    if endpoint is None or greetings is None or since is None:
        return nullcontext(Greeting(is_needed=endpoint is not None))
    return greetings.greeting(endpoint, since, itself=itself)
