"""What clients that only read meet while one of two replicas dies, is drained, lags, or becomes the leader.

On the whole bed, PgBouncer with the recommended settings; reads go to both replicas until then.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Figures
from tests.support.bed import Bed
from tests.support.folders import bed_folder
from tests.support.reads import ReadStage, Seen

EVENTS = ("killed", "drained", "lagging", "switchover")
OWNED = ("replicas",)
PROMISED = tuple(
    f"replicas.{event}.{figure}" for event in EVENTS for figure in ("failed", "transactions", "longest_ms")
)


def measure(bench: Bench) -> tuple[Figures, Figures]:
    """The promised figures: sums, and the longest of all times."""
    found: dict[str, list[Seen]] = {event: [] for event in EVENTS}
    count = bench.counts.reads
    bench.say("the whole bed, with databases for reads")
    with Bed() as bed, bed_folder() as folder, ReadStage(bed, folder) as stage:
        for number in range(count):
            for event, play in PLAYS.items():
                seen = play(stage)
                found[event].append(seen)
                bench.progress(event, number + 1, count, seen)
    return {"replicas": {event: _figures(seen) for event, seen in found.items()}}, {"times_each": count}


def _figures(seen: Sequence[Seen]) -> Figures:
    return {
        "times": len(seen),
        "transactions": sum(len(one.attempts) for one in seen),
        "failed": sum(len(one.failures) for one in seen),
        "longest_ms": round(max(one.longest for one in seen) * 1000, 1),
    }


def _killed(stage: ReadStage) -> Seen:
    victim, *rest = stage.ready()
    seen, _ = stage.seen(victim.kill, lambda: rest)
    victim.start()
    return seen


def _drained(stage: ReadStage) -> Seen:
    victim, *rest = stage.ready()
    with ExitStack() as stack:
        seen, _ = stage.seen(partial(stack.enter_context, stage.drained([victim])), lambda: rest)
    return seen


def _lagging(stage: ReadStage) -> Seen:
    victim, *rest = stage.ready()
    seen, _ = stage.seen(partial(stage.make_lag, victim), lambda: rest)
    stage.catch_up(victim)
    return seen


def _switchover(stage: ReadStage) -> Seen:
    old = stage.bed.leader()
    candidate, other = stage.ready()
    seen, _ = stage.seen(partial(stage.bed.patroni.switchover, candidate), lambda: [other, old])
    return seen


PLAYS: dict[str, Callable[[ReadStage], Seen]] = {
    "killed": _killed,
    "drained": _drained,
    "lagging": _lagging,
    "switchover": _switchover,
}
