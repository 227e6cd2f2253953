"""Real planned switchovers, from the leader key to SHOW DATABASES, by the benchmark's own clock.

The promotion is in it: the watcher waits until the new leader says that it takes clients. The rival is
timed in the same way.
"""

from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Figures, spread, spreads
from tests.benchmarks.switchovers import follow_switchovers
from tests.support.bed import Bed
from tests.support.watcher import WatcherProcess, settings_for

OWNED = ("switchover",)
PROMISED = spreads(["switchover.confirmed_ms"])


def measure(bench: Bench) -> tuple[Figures, Figures]:
    """The promised figures, of `switchovers` switchovers."""
    count = bench.counts.switchovers
    bench.say(f"the whole bed, {count} switchovers")
    with Bed() as bed, WatcherProcess(bed.folder / "watcher", settings_for(bed)) as watcher:
        watcher.wait_for_line("wish", reason="leader")
        samples = [ms for one in follow_switchovers(bench, bed, count) for ms in one.confirmed_ms]
    figures = {"switchover": {"confirmed_ms": spread(samples)}}
    return figures, {"switchovers": count, "targets": 2, "samples": len(samples)}
