"""One greeting of a new primary for all who would greet it at the same moment.

For each, the postmaster starts a process, in the very moment in which every client comes to it. The agents of
a fleet would have it start one each, and whoever waits for their word waits in that queue.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from watcher.decide.model import Endpoint

FRESH = 0.2
"""Seconds for which the answer that one agent got holds for the others, who greet at the same moment. Then
one of them asks again, since the first clients there may have taken its last connection.
"""

PATIENCE = 0.1
"""Seconds for which they wait for it, before each asks for itself: the host of the one who asks may be cut
off, and no other."""


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
        self._under_way: Endpoint | None = None
        self._last: tuple[Endpoint, float] | None = None
        self._refusals = 0

    def refused(self) -> None:
        """A server takes no logins: the next is asked, whoever vouched for it, or is about to."""
        with self._changed:
            self._refusals += 1
            self._last = None

    @contextmanager
    def greeting(self, endpoint: Endpoint, since: float) -> Iterator[Greeting]:
        """For clients who have waited `since` then; what was asked before tells nothing of why they do. While
        its block lasts, others who come for the same server wait for what is told. Who is refused says so.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_vouched_for(endpoint, since) or self._under_way != endpoint, PATIENCE
            )
            greeting, asked_at = Greeting(not self._is_vouched_for(endpoint, since)), self._clock()
            refusals = self._refusals
            if greeting.is_needed:
                self._under_way = endpoint
        try:
            yield greeting
        finally:
            if greeting.is_needed:
                with self._changed:
                    if greeting.took and refusals == self._refusals:
                        self._last = endpoint, asked_at
                    self._under_way = None
                    self._changed.notify_all()

    def _is_vouched_for(self, endpoint: Endpoint, since: float) -> bool:
        if self._last is None:
            return False
        whom, asked_at = self._last
        return whom == endpoint and since <= asked_at and self._clock() - asked_at < FRESH


def greeting(
    greetings: Greetings | None, endpoint: Endpoint | None, since: float | None
) -> AbstractContextManager[Greeting]:
    """By the word of others, where there may be any; nobody is greeted where it is to none."""
    if endpoint is None or greetings is None or since is None:
        return nullcontext(Greeting(is_needed=endpoint is not None))
    return greetings.greeting(endpoint, since)
