"""One watcher, many PgBouncers, each with its own sshd: what a switch and a hold take until the last of them
is there, and what the watcher costs while nothing happens.

Each switch is the leader key deleted, every PgBouncer held, and the key put again for the other cluster.
`hold_ms` is from the request to etcd until the watcher's log says that clients wait, of the last PgBouncer;
`confirmed_ms` is the watcher's own `duration_ms`, from the etcd response to SHOW DATABASES with the new host,
of the last one too. No client is there: what clients meet is measured by `planned` and `crash`.
"""

from tests.benchmarks.bench import Bench
from tests.benchmarks.cases.switch import Hand
from tests.benchmarks.figures import Figures, spread, spreads
from tests.benchmarks.lines import LogTail
from tests.benchmarks.switch_bed import SwitchBed
from tests.benchmarks.usage import percent_of_a_core, usage_over
from tests.support.watcher import WatcherProcess

SIZES = (1, 8, 64, 256)
_SPREADS = ("confirmed_ms", "hold_ms")
_COSTS = ("rss_mib", "idle_cpu_percent", "threads")
OWNED = ("fleet",)
PROMISED = (
    *spreads(f"fleet.{size}.{name}" for size in SIZES for name in _SPREADS),
    *(f"fleet.{size}.{name}" for size in SIZES for name in _COSTS),
)
TIMEOUT = 400.0
"""The first includes three agents' starts for each PgBouncer, all on this machine."""
PAUSE_SECONDS = (2.5, 3.0)
PAUSE_FOR_EACH = 1 / 64
"""Between two switches, and as much more for each PgBouncer, so that one does not begin while the last one's
guards are still being set up."""


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
        shortest, longest = (seconds + size * PAUSE_FOR_EACH for seconds in PAUSE_SECONDS)
        hand = Hand(bed, LogTail(watcher.log), timeout=TIMEOUT, pause=(shortest, longest))
        hand.first()
        for _ in range(counts.warm_up):
            hand.switch_once_held()
        bench.say(f"{counts.fleet_switches} switches")
        held, confirmed = zip(*(hand.switch_once_held() for _ in range(counts.fleet_switches)), strict=True)
        bench.count_down("settling", counts.settle)
        bench.say(f"idle: {counts.fleet_idle:g} s")
        usage = usage_over(watcher.process.pid, counts.fleet_idle)
    figures = {
        "hold_ms": spread(held),
        "confirmed_ms": spread(confirmed),
        "rss_mib": usage["rss_mib"],
        "idle_cpu_percent": percent_of_a_core(usage),
        "threads": usage["threads"],
    }
    bench.say(f"{size}: {figures}")
    return figures
