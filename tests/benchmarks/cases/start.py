"""From the start of the process to the first confirmed route on both targets, which lead elsewhere at first.

By wall clock: from when the process has its id to its second line `switch`.
"""

import time
from collections.abc import Callable

from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Figures, spread, spreads
from tests.benchmarks.lines import LogTail, written_at
from tests.support.bed import Bed
from tests.support.watcher import WatcherProcess, settings_for

OWNED = ("start",)
PROMISED = spreads(["start.confirmed_s"])
NOWHERE = ("127.0.0.77", 5432)
TIMEOUT = 30.0


def measure(bench: Bench) -> tuple[Figures, Figures]:
    """The promised figures, of `starts` starts."""
    starts = bench.counts.starts
    bench.say(f"the whole bed, {starts} starts")
    with Bed() as bed:
        samples = repeated_starts(bed, starts, lambda number: _start(bed, number))
    return {"start": {"confirmed_s": spread(samples)}}, {"starts": starts, "targets": 2}


def repeated_starts(bed: Bed, count: int, start: Callable[[int], float]) -> list[float]:
    """Lead every PgBouncer nowhere, start, and again. The first start, with cold caches, is not counted."""
    samples = []
    for number in range(count + 1):
        for host in bed.bouncers:
            host.pgbouncer.point_at(*NOWHERE)
        samples.append(start(number))
    return samples[1:]


def _start(bed: Bed, number: int) -> float:
    watcher = WatcherProcess(bed.folder / f"watcher-{number}", settings_for(bed))
    with watcher:
        began = time.time()
        lines = LogTail(watcher.log).collect("switch", len(bed.bouncers), TIMEOUT)
        watcher.process.terminate()
    return max(written_at(line) for line in lines) - began
