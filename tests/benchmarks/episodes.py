"""One change of leader as its clients met it, and the figures of many. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tests.benchmarks.figures import Figures, percentile
from tests.support.attempts import LONG, Attempts, Gap


@dataclass(frozen=True)
class Episode:
    """From a second before the deed until a second after every client was served. Monotonic seconds."""

    struck: tuple[float, float]
    """When the deed was begun and when it was done; the same where it is only asked for."""
    announced: float | None
    """PUT failover."""
    gone: float | None
    """DELETE leader."""
    put: float
    """PUT leader."""
    writable: float
    """The reference's first acknowledged write on the new primary."""
    gap: Gap
    """The reference's: Patroni had no writable primary so long."""
    new_host: str
    end: float
    attempts: Attempts
    noise: float
    """The most that the load itself was late."""
    late: Attempts = field(default=Attempts(()))
    """Transactions that were in flight at the deed and were stuck until the dead host was back."""

    def with_late(self, known_now: Attempts) -> "Episode":
        """The same, with those that are known only now: they ended after the episode."""
        late = (one for one in known_now.during(*self.instant).all if one.end > self.end)
        return replace(self, late=Attempts(tuple(late)))

    @property
    def instant(self) -> tuple[float, float]:
        """The deed as a span that is not empty."""
        return self.struck[0], self.struck[1] + 1e-6

    @property
    def is_crash(self) -> bool:
        """Whether it came without a word."""
        return self.announced is None

    @property
    def in_flight(self) -> int:
        """Transactions under way at the deed, those that are stuck included."""
        return len(self.attempts.during(*self.instant)) + len(self.late)

    @property
    def failed(self) -> int:
        """Transactions that failed, those among them that were stuck first."""
        return self.attempts.failed + self.late.failed

    @property
    def failed_not_in_flight(self) -> int:
        """Of all that failed, those that began after the deed or had ended before it."""
        return self.attempts.failed - self.attempts.during(*self.instant).failed

    @property
    def stall(self) -> float:
        """The longest of any client, in seconds."""
        return self.attempts.longest_stall(self.end)

    @property
    def stall_over_patroni(self) -> float:
        """What that is more than Patroni had without a writable primary, in seconds."""
        return self.stall - self.gap.seconds

    @property
    def lead(self) -> float | None:
        """Seconds from the announcement to the last write before the gap."""
        return None if self.announced is None else self.gap.start - self.announced

    @property
    def first_commit_after_writable(self) -> float:
        """Seconds from the reference's first write to a client's first commit; 0 if that came sooner."""
        first = self.attempts.first_commit(self.new_host, self.struck[1])
        return max(0.0, first.end - self.writable) if first else self.end - self.writable

    def __str__(self) -> str:
        long = self.attempts.only(LONG).failed
        stuck = f", {len(self.late)} stuck" if len(self.late) else ""
        return (
            f"{self.failed - long} failed{stuck}{f' (and {long} long)' if long else ''}, "
            f"stall {self.stall:.3f} s, Patroni {self.gap.seconds:.3f} s, "
            f"first commit {self.first_commit_after_writable * 1000:.0f} ms after it was writable"
        )


def median_and_most(samples: Sequence[float], digits: int = 1) -> Figures:
    """p50 and max.

    >>> median_and_most([1.0, 3.0, 2.0])
    {'p50': 2.0, 'max': 3.0}
    """
    return {"p50": round(percentile(samples, 50), digits), "max": round(max(samples), digits)}


_FIRST_COMMIT = "first_commit_after_writable_ms"


def _first_commits(episodes: Sequence[Episode]) -> Figures:
    return median_and_most([one.first_commit_after_writable * 1000 for one in episodes])


def planned_figures(episodes: Sequence[Episode], met: Attempts) -> Figures:
    """Of switchovers in a row; `met` is all that clients met from first to last, in between included."""
    short, long = met.without(LONG), met.only(LONG)
    return {
        "switchovers": len(episodes),
        "transactions": len(short),
        "failed": short.failed,
        "failed_by_kind": failed_by_kind(short),
        "long": {"transactions": len(long), "failed": long.failed},
        **waits(episodes),
    }


def waits(episodes: Sequence[Episode]) -> Figures:
    """How long clients and Patroni were without, and where the difference comes from."""
    return {
        "stall_over_patroni_ms": median_and_most([one.stall_over_patroni * 1000 for one in episodes]),
        "stall_s": median_and_most([one.stall for one in episodes], 3),
        "patroni_s": median_and_most([one.gap.seconds for one in episodes], 3),
        "lead_ms": median_and_most([one.lead * 1000 for one in episodes if one.lead is not None]),
        _FIRST_COMMIT: _first_commits(episodes),
        "load_late_ms": round(max(one.noise for one in episodes) * 1000, 1),
    }


def crash_figures(episodes: Sequence[Episode]) -> Figures:
    """Of crashes; long transactions are counted like all others."""
    return {
        "crashes": len(episodes),
        "transactions": sum(len(one.attempts) for one in episodes),
        "failed": sum(one.failed for one in episodes),
        "in_flight": sum(one.in_flight for one in episodes),
        "failed_not_in_flight": sum(one.failed_not_in_flight for one in episodes),
        "stuck": sum(len(one.late) for one in episodes),
        _FIRST_COMMIT: _first_commits(episodes),
        "stall_s": median_and_most([one.stall for one in episodes], 3),
        "patroni_s": median_and_most([one.gap.seconds for one in episodes], 3),
    }


def failed_by_kind(attempts: Attempts) -> Figures:
    """How many of each kind of transaction failed."""
    kinds = sorted({one.kind for one in attempts.all})
    return {kind: attempts.only(kind).failed for kind in kinds}
