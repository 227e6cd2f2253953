"""Two watchers of one PgBouncer with clients on it, and planned switchovers in which the one that acts is
killed, frozen or cut off (from etcd, from PgBouncer's host), at each of its points in turn: what fails, and
how long does it take?

`seconds` are from that moment, or from the new leader's key if that came later, until a client has committed
on the new primary; what the first watcher had done before it was struck is not among them. Keys are put by
hand, so no promotion is in the figures; the old primary cannot be reached any more once it was «stopped», as
with the barrier. `takeover.failed` are transactions, of both modes (docs/controllers.md).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Figures, spread, spreads
from tests.support.folders import bed_folder
from tests.support.stage import Ground, Stage
from tests.support.takeover import FAULTS, MODES, Mode, Takeover
from tests.support.waiting import BedError

OWNED = ("takeover",)
PROMISED = (
    "takeover.failed",
    *(f"takeover.{mode}.{figure}" for mode in MODES for figure in ("failed", "transactions", "takeovers")),
    *spreads(f"takeover.{mode}.seconds" for mode in MODES),
)
_ROUNDS = 20


@dataclass
class Outcome:
    """What came of many, in one mode."""

    failed: int = 0
    transactions: int = 0
    takeovers: int = 0
    seconds: list[float] = field(default_factory=list)

    def figures(self) -> Figures:
        """BedError where nothing was left to do for the second watcher in any of them."""
        if not self.seconds:
            raise BedError(f"in none of {self.takeovers} takeovers there was anything to take over")
        counts = {"failed": self.failed, "transactions": self.transactions, "takeovers": self.takeovers}
        return {**counts, "seconds": spread(self.seconds) | {"max": round(max(self.seconds), 3)}}


def measure(bench: Bench) -> tuple[Figures, Figures]:
    """The promised figures."""
    with bed_folder() as folder, Ground(folder) as ground, Stage(ground, 0) as stage:
        outcomes = {mode: _of_mode(bench, stage, mode) for mode in MODES}
    figures: Figures = {mode: outcome.figures() for mode, outcome in outcomes.items()}
    figures["failed"] = sum(outcome.failed for outcome in outcomes.values())
    bench.say(str(figures))
    return {"takeover": figures}, {"takeovers_of_each_mode": bench.counts.takeovers}


def _of_mode(bench: Bench, stage: Stage, mode: Mode) -> Outcome:
    outcome, wanted = Outcome(), bench.counts.takeovers
    for fault, point in _struck(stage, mode, wanted):
        _strike(stage, mode, fault, point, outcome)
        bench.progress(f"{mode}, {fault} at point {point}:", outcome.takeovers, wanted, outcome.failed)
        if outcome.takeovers == wanted:
            break
    return outcome


def _struck(stage: Stage, mode: Mode, wanted: int) -> Iterator[tuple[str, int]]:
    """Every point by a fault, then by the next; fewer points where few are wanted. Some are not met, so there
    are more than wanted.
    """
    with Takeover(stage, mode) as undisturbed:
        undisturbed.reach()
        undisturbed.finish()
        count = len(undisturbed.trail.points("watcher"))
    faults = tuple(FAULTS)
    for number in range(_ROUNDS):
        for point in range(1, count + 1, max(1, count // wanted)):
            yield faults[(point + number) % len(faults)], point


def _strike(stage: Stage, mode: Mode, fault: str, point: int, outcome: Outcome) -> None:
    with Takeover(stage, mode, point) as takeover:
        if not takeover.reach():
            return
        FAULTS[fault](takeover)
        takeover.finish()
        takeover.heal()
        takeover.await_right_end()
        outcome.takeovers += 1
        outcome.failed += len(takeover.errors)
        outcome.transactions += takeover.transactions
        if (seconds := takeover.seconds) is not None:
            outcome.seconds.append(seconds)
