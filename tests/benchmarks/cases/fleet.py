"""One watcher, many PgBouncers, each with its own sshd: what a switch and a hold take until the last of them
is there, and what the watcher costs while nothing happens.

Each switch is the leader key deleted, every PgBouncer held, and the key put again for the other cluster.
`hold_ms` is from the request to etcd until the watcher's log says that clients wait, of the last PgBouncer;
`confirmed_ms` is the watcher's own `duration_ms`, from the etcd response to SHOW DATABASES with the new host,
of the last one too. No client is there: what clients meet is measured by `planned` and `crash`.
"""

import random
import time

from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Figures, spread, spreads
from tests.benchmarks.lines import Line, LogTail, written_at
from tests.benchmarks.switch_bed import NAMES, SwitchBed
from tests.benchmarks.usage import usage_over
from tests.support.etcd_gateway import Written
from tests.support.waiting import BedError
from tests.support.watcher import WatcherProcess

SIZES = (1, 8, 64, 256)
_SPREADS = ("confirmed_ms", "hold_ms")
_COSTS = ("rss_mib", "idle_cpu_percent", "threads")
OWNED = ("fleet",)
PROMISED = (
    *spreads(f"fleet.{size}.{name}" for size in SIZES for name in _SPREADS),
    *(f"fleet.{size}.{name}" for size in SIZES for name in _COSTS),
)
PAUSE_SECONDS = (0.05, 0.35)
TIMEOUT = 60.0


class Reigns:
    """Ends and begins them, and waits until every PgBouncer has followed."""

    def __init__(self, bed: SwitchBed, log: LogTail, seed: int = 1) -> None:
        self._bed = bed
        self._log = log
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._leader = NAMES[0]

    def first(self) -> None:
        """Lead everybody away from where PgBouncer was led at its start."""
        self._begin()

    def change(self) -> tuple[float, float]:
        """Milliseconds until the last PgBouncer was held, and until the last was confirmed."""
        time.sleep(self._random.uniform(*PAUSE_SECONDS))
        asked_at = time.time()
        self._bed.end_reign()
        held = self._lines("hold")
        confirmed = self._begin()
        return (
            (max(map(written_at, held)) - asked_at) * 1000,
            max(float(line["duration_ms"]) for line in confirmed),
        )

    def _begin(self) -> list[Line]:
        self._leader = NAMES[1 - NAMES.index(self._leader)]
        put: Written = self._bed.begin_reign(self._leader)
        lines = self._lines("switch")
        if any(line["revision"] != put.revision for line in lines):
            raise BedError(f"a line of another switch than that of revision {put.revision}: {lines}")
        return lines

    def _lines(self, event: str) -> list[Line]:
        return self._log.collect(event, len(self._bed.bouncers), TIMEOUT)


def measure(bench: Bench) -> tuple[Figures, Figures]:
    """The promised figures of every size."""
    counts = bench.counts
    figures = {str(size): _of_size(bench, size) for size in SIZES}
    return {"fleet": figures}, {"switches": counts.fleet_switches, "idle_seconds": counts.fleet_idle}


def _of_size(bench: Bench, size: int) -> Figures:
    counts = bench.counts
    bench.say(f"{size} PgBouncers, each with its sshd")
    with (
        SwitchBed(size) as bed,
        WatcherProcess(bed.folder / "watcher", bed.settings()) as watcher,
    ):
        reigns = Reigns(bed, LogTail(watcher.log))
        reigns.first()
        for _ in range(counts.warm_up):
            reigns.change()
        bench.say(f"{counts.fleet_switches} switches")
        held, confirmed = zip(*(reigns.change() for _ in range(counts.fleet_switches)), strict=True)
        bench.count_down("settling", counts.settle)
        bench.say(f"idle: {counts.fleet_idle:g} s")
        usage = usage_over(watcher.process.pid, counts.fleet_idle)
    figures = {
        "hold_ms": spread(held),
        "confirmed_ms": spread(confirmed),
        "rss_mib": usage["rss_mib"],
        "idle_cpu_percent": round(usage["cpu_s_per_min"] / 60 * 100, 2),
        "threads": usage["threads"],
    }
    bench.say(f"{size}: {figures}")
    return figures
