"""Planned switchovers of real Patroni with the barrier, 64 PgBouncers, each with its sshd and a client on it.

A client's transaction has four statements, and half a second passes until its next one: two cores hold no
more clients and servers than that. `hold_ms` is from etcd's word that PostgreSQL is about to stop until the
watcher's log says that clients of the last PgBouncer wait; `confirmed_ms` is the watcher's own `duration_ms`
of the last PgBouncer, from the leader key on and so with the promotion.
"""

import time
from collections.abc import Iterator

from tests.benchmarks.bench import Bench
from tests.benchmarks.cases.barrier import LIMIT, install_barrier
from tests.benchmarks.contenders import HOLDS, watcher_with
from tests.benchmarks.episodes import Episode, median_and_most, planned_figures
from tests.benchmarks.figures import Figures, spread, spreads
from tests.benchmarks.lines import Line, LogTail, written_at
from tests.benchmarks.series import explained, in_a_row
from tests.benchmarks.stage import Stage, stage
from tests.support.etcd_gateway import Event
from tests.support.pgbouncer import RECOMMENDED
from tests.support.waiting import BedError
from watcher.decide.model import STOP_KEYS

NAME = "fleet_planned"
OWNED = (NAME,)
PROMISED = (
    *(f"{NAME}.{name}" for name in ("pgbouncers", "switchovers", "transactions", "failed")),
    *spreads([f"{NAME}.hold_ms"]),
    *(f"{NAME}.{name}.{which}" for name in ("confirmed_ms", "stall_s") for which in ("p50", "max")),
)
PLAN = {"mix": {"several": 1}, "pause": 0.5, "fresh_every": None}
FIRST_SECONDS, LINE_SECONDS = 120.0, 30.0


def measure(bench: Bench) -> tuple[Figures, Figures]:
    """The promised figures."""
    count, size = bench.counts.fleet_planned, bench.counts.fleet_bouncers
    contender = watcher_with(hold={**HOLDS, "announced": "at_barrier"}, barrier={"enabled": True})
    bench.say(f"the whole bed with the barrier and {size} PgBouncers")
    with (
        stage(contender, ini=RECOMMENDED, prepare=install_barrier, plan=PLAN, fleet=size) as scene,
        explained(bench, scene),
    ):
        deeds = _Deeds(scene, size)
        episodes = in_a_row(bench, "switchover", count, deeds.switch_over)
        met = planned_figures(episodes, scene.met())
    figures = {
        "pgbouncers": size,
        **met,
        "hold_ms": spread(deeds.held_ms),
        "confirmed_ms": median_and_most(deeds.confirmed_ms),
    }
    bench.say(str(figures))
    return {NAME: figures}, {"switchovers": count, "limit_s": LIMIT, "clients_each": 1}


class _Deeds:
    """Switchovers, and what the watcher said of each."""

    def __init__(self, scene: Stage, size: int) -> None:
        self._scene = scene
        self._size = size
        self._log = LogTail(scene.bed.folder / "watcher/watcher.log")
        self._log.collect("in_sync", size, FIRST_SECONDS)
        self.held_ms: list[float] = []
        self.confirmed_ms: list[float] = []

    def switch_over(self) -> Episode:
        """One, after which the watcher's lines of it are read. BedError where Patroni refuses."""
        self._log.skip()
        heard = len(self._scene.keys.events)
        episode = self._scene.switch_over()
        lines = self._log.lines_of(("hold", "switch"), self._size, LINE_SECONDS)
        stop = _stop_in(self._scene.keys.events[heard:])
        self.held_ms.append((max(map(written_at, lines["hold"])) - _date(stop.at)) * 1000)
        self.confirmed_ms.append(max(_durations(lines["switch"])))
        return episode


def _stop_in(events: list[Event]) -> Event:
    stops = [event for event in events if event.key.startswith(STOP_KEYS) and event.value]
    if not stops:
        raise BedError("nobody announced the stop of PostgreSQL: is the barrier installed?")
    return stops[0]


def _durations(lines: list[Line]) -> Iterator[float]:
    return (float(line["duration_ms"]) for line in lines)


def _date(moment: float) -> float:
    """A moment of the monotonic clock in seconds since the epoch."""
    return time.time() - (time.monotonic() - moment)
