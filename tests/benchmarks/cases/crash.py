"""Crashes of the leader's host under load: killed, frozen, and cut off so that its packets vanish.

Every Patroni node is on a network of its own, as a host is. What may fail is what was in flight at that
instant, transactions of a second among it.
"""

from functools import partial

from tests.benchmarks.bench import Bench
from tests.benchmarks.contenders import watcher
from tests.benchmarks.episodes import Episode, crash_figures
from tests.benchmarks.figures import Figures
from tests.benchmarks.series import CRASH_SECONDS, explained, in_a_row, keep_sample
from tests.benchmarks.stage import DEEDS, stage
from tests.support.pgbouncer import RECOMMENDED

FIGURES = (
    "crashes",
    "failed",
    "in_flight",
    "failed_not_in_flight",
    "stuck",
    "first_commit_after_writable_ms.p50",
    "first_commit_after_writable_ms.max",
    "stall_s.p50",
    "stall_s.max",
    "patroni_s.p50",
)
OWNED = ("crash",)
PROMISED = tuple(
    f"crash.{where}{figure}" for where in ("", *(f"{deed}." for deed in DEEDS)) for figure in FIGURES
)


def measure(bench: Bench) -> tuple[Figures, Figures]:
    """The promised figures, of `crashes` crashes of each kind."""
    count = bench.counts.crashes
    episodes: dict[str, list[Episode]] = {}
    bench.say("the whole bed, each node on a network of its own")
    with stage(watcher, ini=RECOMMENDED, networks=True) as scene, explained(bench, scene):
        for deed in DEEDS:
            episodes[deed] = in_a_row(bench, deed, count, partial(scene.crash, deed))
            if deed == "kill":
                keep_sample("crash-watcher", "this watcher", scene, episodes[deed][-1], CRASH_SECONDS)
    of_deeds = {deed: crash_figures(some) for deed, some in episodes.items()}
    every = [one for some in episodes.values() for one in some]
    return {"crash": crash_figures(every) | of_deeds}, {"crashes_of_each_kind": count}
