"""Clients of every sort on several PgBouncers at once, and what became of each of their transactions."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.attempts import FRESH, LONG, Attempt, Attempts
from tests.support.bed import BouncerHost
from tests.support.traffic import Plan, Traffic
from tests.support.waiting import wait_for

MIX: Mapping[str, int] = {"simple": 2, "extended": 2, "several": 2, "reconnecting": 2}
WITH_LONG: Mapping[str, int] = {**MIX, LONG: 2}
PAUSE = 0.05
FRESH_EVERY = 0.1
SETTLED_SECONDS = 40.0


class Crowd(AbstractContextManager["Crowd"]):
    """The same clients on each of `hosts`: those of `mix`, and fresh ones all the while. See `Traffic`.

    Entering waits for a commit of each that stays; leaving ends them, and who still waits has not failed.
    """

    def __init__(
        self,
        folder: Path,
        hosts: Iterable[BouncerHost],
        mix: Mapping[str, int] = MIX,
        pause: float = PAUSE,
        fresh_every: float | None = FRESH_EVERY,
        **plan: Any,
    ) -> None:
        self._of = {
            host.pgbouncer.address: Traffic(
                folder,
                Plan(
                    host.pgbouncer.address,
                    host.pgbouncer.port,
                    mix=dict(mix),
                    pause=pause,
                    fresh_every=fresh_every,
                    **plan,
                ),
            )
            for host in hosts
        }
        self._each = list(self._of.values())
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for traffic in self._each:
                stack.enter_context(traffic)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def settle(self, after: float, host: str = "", timeout: float = SETTLED_SECONDS) -> None:
        """Until every client that stays has committed (on `host`) what it began later than `after`."""
        for traffic in self._each:
            traffic.wait_for_all(after=after, host=host, timeout=timeout)

    def attempts(self) -> Attempts:
        """All that have ended, of all PgBouncers."""
        return Attempts.of(one for traffic in self._each for one in traffic.all())

    def failures(self, on: BouncerHost | None = None) -> list[Attempt]:
        """Those that failed, of all or of one PgBouncer; an empty list is what most tests are about."""
        if on is not None:
            return Attempts.of(self._of[on.pgbouncer.address].all()).failures
        return self.attempts().failures

    def in_flight(self, began: float, ended: float) -> list[Attempt]:
        """Who was in a transaction, or waited for one, at any moment of that span; failed or not.

        To be asked once they have ended.
        """
        return list(self.attempts().during(began, ended).all)

    def waiting(self, after: float) -> int:
        """How many of those that stay have ended nothing that began later than `after`."""
        return sum(len(traffic.waiting_clients(after=after)) for traffic in self._each)

    def wait_until_failed(self, count: int, timeout: float) -> list[Attempt]:
        """The failures, once there are so many."""
        wait_for(lambda: len(self.failures()) >= count, timeout, f"{count} failures", poll=0.1)
        return self.failures()

    @property
    def size(self) -> int:
        """How many clients stay, on all PgBouncers."""
        return sum(sum(traffic.plan.mix.values()) for traffic in self._each)


def said(failures: Iterable[Attempt]) -> list[str]:
    """For an assertion's message: kind, client, how long, and the error."""
    return [
        f"{one.kind} {one.client} at {one.start:.2f} for {one.end - one.start:.2f} s: {one.error}"
        for one in failures
    ]


__all__ = ["FRESH", "LONG", "MIX", "WITH_LONG", "Crowd", "said"]
