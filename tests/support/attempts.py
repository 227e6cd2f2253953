"""What clients met, as values: every transaction that was tried, and what follows from all of them. Pure.

Stamps are time.monotonic() in seconds, which on Linux is one clock for all processes.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

LONG = "long"
FRESH = "fresh"
NOISE = "noise"
"""Not a transaction: how late the load itself was. See `Traffic`."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One transaction that was tried: when, by whom, and with what result.

    `server` is host:port of the server that committed it, `error` the text if it did not.
    """

    kind: str
    client: int
    start: float
    end: float
    server: str = ""
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was committed."""
        return not self.error

    def overlaps(self, start: float, end: float) -> bool:
        """Whether it was under way at any moment of the span."""
        return self.start < end and self.end > start


@dataclass(frozen=True)
class Stall:
    """A client asked at `start` and had its commit at `end`, failed attempts in between included."""

    client: int
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long the client went without what it had asked for."""
        return self.end - self.start


@dataclass(frozen=True)
class Attempts:
    """Attempts in the order in which they began."""

    all: tuple[Attempt, ...]

    @classmethod
    def of(cls, attempts: Iterable[Attempt]) -> "Attempts":
        """In order, the load's own noise left out."""
        kept = (one for one in attempts if one.kind != NOISE)
        return cls(tuple(sorted(kept, key=lambda one: one.start)))

    def __len__(self) -> int:
        return len(self.all)

    @property
    def failures(self) -> list[Attempt]:
        """Those that were not committed, attempts to connect included."""
        return [one for one in self.all if not one.ok]

    @property
    def failed(self) -> int:
        """How many those are."""
        return len(self.failures)

    @property
    def errors(self) -> Counter[str]:
        """The texts of the errors, counted."""
        return Counter(one.error for one in self.failures)

    def only(self, *kinds: str) -> "Attempts":
        """Those of these kinds."""
        return Attempts(tuple(one for one in self.all if one.kind in kinds))

    def without(self, *kinds: str) -> "Attempts":
        """Those of other kinds."""
        return Attempts(tuple(one for one in self.all if one.kind not in kinds))

    def during(self, start: float, end: float) -> "Attempts":
        """Those under way at any moment of the span: for an instant, those in flight."""
        return Attempts(tuple(one for one in self.all if one.overlaps(start, end)))

    def begun(self, start: float, end: float) -> "Attempts":
        """Those that began within the span."""
        return Attempts(tuple(one for one in self.all if start <= one.start < end))

    def first_commit(self, host: str, after: float) -> Attempt | None:
        """The commit on `host` that ended first after that moment."""
        fitting = (
            one for one in self.all if one.ok and one.end > after and one.server.startswith(f"{host}:")
        )
        return min(fitting, key=lambda one: one.end, default=None)

    def stalls(self, until: float) -> Iterator[Stall]:
        """What each client waited for each commit. Who still waits has waited `until` then.

        Think time is no stall. A fresh client goes after one attempt, so if that failed it did not wait.
        """
        by_client: dict[int, list[Attempt]] = defaultdict(list)
        for one in self.all:
            by_client[one.client].append(one)
        for client, attempts in by_client.items():
            yield from _stalls(client, attempts, until)

    def longest_stall(self, until: float) -> float:
        """Of any client, in seconds; long transactions are left out, for they last as long as they last."""
        return max((one.seconds for one in self.without(LONG).stalls(until)), default=0.0)


def _stalls(client: int, attempts: Iterable[Attempt], until: float) -> Iterator[Stall]:
    asked: float | None = None
    kind = ""
    for one in attempts:
        asked, kind = one.start if asked is None else asked, one.kind
        if one.ok:
            yield Stall(client, asked, one.end)
            asked = None
    if asked is not None and kind != FRESH:
        yield Stall(client, asked, until)


@dataclass(frozen=True)
class Gap:
    """Nobody acknowledged a write between `start`, the last before, and `end`, the first after."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long."""
        return self.end - self.start


def longest_gap(acknowledged: Iterable[float]) -> Gap:
    """The longest time between two acknowledged writes next to each other. ValueError if there are not two.

    >>> longest_gap([1.0, 1.25, 3.5, 3.75])
    Gap(start=1.25, end=3.5)
    """
    pairs = [Gap(earlier, later) for earlier, later in pairwise(sorted(acknowledged))]
    if not pairs:
        raise ValueError("fewer than two acknowledged writes")
    return max(pairs, key=lambda gap: gap.seconds)
