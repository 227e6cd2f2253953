"""What it costs the others that one target goes first: event to all confirmed, with a canary and without.

The bed, the switches and the clock are those of the case `switch`, with four PgBouncers whose clients are
held; after so many switches without a canary as many with one.
"""

from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.cases.switch import Hand
from tests.benchmarks.figures import Figures, spread, spreads
from tests.benchmarks.lines import LogTail
from tests.benchmarks.switch_bed import NAMES, SwitchBed
from tests.support.watcher import WatcherProcess

OWNED = ("canary",)
WAYS = ("without", "with")
PROMISED = spreads(f"canary.{way}.all_confirmed_ms" for way in WAYS)
TARGETS = 4


def measure(bench: Bench) -> tuple[Figures, Figures]:
    """The promised figures, of `fleet_switches` switches each."""
    counts = bench.counts
    bench.say(f"{TARGETS} PgBouncers, without a canary and with one")
    with SwitchBed(TARGETS) as bed:
        first = bed.bouncers[0].name
        settings: dict[str, dict[str, Any]] = {"without": {}, "with": {"canary": {"targets": [first]}}}
        leader, figures = NAMES[0], {}
        for way in WAYS:
            leader, figures[way] = _confirmed(bench, bed, settings[way], leader, way)
    conditions = {"switches_each": counts.fleet_switches, "targets": TARGETS}
    return {"canary": figures}, conditions


def _confirmed(
    bench: Bench, bed: SwitchBed, more: dict[str, Any], leader: str, name: str
) -> tuple[str, Figures]:
    """Who leads in the end, and the figures."""
    with WatcherProcess(bed.folder / name, bed.settings() | more) as watcher:
        hand = Hand(bed, LogTail(watcher.log), leader=leader)
        hand.first()
        for _ in range(bench.counts.warm_up):
            hand.switch()
        switches = [hand.switch() for _ in range(bench.counts.fleet_switches)]
    bed.end_reign()  # so that the next watcher's first leader key is a new one
    last = [max(float(line["duration_ms"]) for line in lines) for lines in switches]
    return hand.leader, {"all_confirmed_ms": spread(last)}
