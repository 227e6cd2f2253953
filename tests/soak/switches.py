"""One planned switchover after the other, clients on every PgBouncer, the barrier before each stop."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.cases.barrier import install_barrier
from tests.e2e.hold_stage import watching
from tests.soak.flatness import Sample, Trend, after_warm_up, trend
from tests.soak.footprint import ALLOWANCES, footprint
from tests.support.bed import Bed
from tests.support.crowd import Crowd, said
from tests.support.pgbouncer import RECOMMENDED
from tests.support.watcher import WatcherProcess

WARM_UP_SHARE = 0.2
"""Of the whole run: caches and pools fill, the allocator finds its size."""
LEADER_SECONDS = 90.0
SAMPLE_EVERY = 5.0

Say = Callable[[str], None]


@dataclass
class Record:
    """What has come of a run so far."""

    switchovers: int = 0
    transactions: int = 0
    failures: list[str] = field(default_factory=list)
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def note(self, at: float, figures: dict[str, float]) -> None:
        """One look at what everybody holds."""
        for name, amount in figures.items():
            self.samples.setdefault(name, []).append((at, amount))

    def trends(self, warm_up: float) -> dict[str, Trend]:
        """Of every figure, after so many seconds."""
        return {name: trend(after_warm_up(series, warm_up)) for name, series in self.samples.items()}


@dataclass(frozen=True)
class Scene:
    """Who takes part."""

    bed: Bed
    watcher: WatcherProcess
    clients: Crowd


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    """All started: the bed with the barrier, a watcher that is ready to hold, clients that are served."""
    bed = Bed(ini_extra=RECOMMENDED)
    install_barrier(bed)
    with (
        bed,
        watching(bed, folder, barrier={"enabled": True}) as watcher,
        Crowd(folder, bed.bouncers) as clients,
    ):
        yield Scene(bed, watcher, clients)


def run(of: Scene, seconds: float, say: Say) -> Record:
    """Switchovers for so long, each as soon as the cluster is in good health again."""
    record, began = Record(), time.monotonic()
    told = sampled = began
    while (now := time.monotonic()) - began < seconds:
        if now - sampled >= SAMPLE_EVERY or not record.samples:
            sampled = now
            record.note(now, footprint(of.watcher, of.bed))
        _switch_over(of)
        record.switchovers += 1
        if now - told >= 60:
            told = now
            say(_line(of, record, now - began))
    record.note(time.monotonic(), footprint(of.watcher, of.bed))
    _count(of, record)
    return record


def _switch_over(of: Scene) -> None:
    """Until every client that stays has committed on the new leader."""
    of.bed.patroni.wait_for_replicas(timeout=LEADER_SECONDS)
    old = of.bed.leader()
    of.bed.patroni.switchover()
    new = of.bed.patroni.wait_for_leader(other_than=old)
    of.clients.settle(time.monotonic(), new.host, timeout=LEADER_SECONDS)


def _count(of: Scene, record: Record) -> None:
    attempts = of.clients.attempts()
    record.transactions = len(attempts.all)
    record.failures = said(attempts.failures)


def _line(of: Scene, record: Record, seconds: float) -> str:
    _count(of, record)
    last = {name: series[-1][1] for name, series in record.samples.items()}
    return (
        f"{seconds / 60:5.1f} min  {record.switchovers:4} switchovers  {record.transactions:8,} transactions"
        f"  {len(record.failures)} failed  watcher {last['watcher.mib']:.1f} MiB"
        f" {last['watcher.threads']:.0f} threads {last['watcher.descriptors']:.0f} descriptors"
        f"  agents {last['agents.mib']:.1f} MiB"
    )


def report(record: Record, seconds: float) -> tuple[str, bool]:
    """The table of trends, and whether all is flat and nobody failed."""
    trends = record.trends(seconds * WARM_UP_SHARE)
    allowed = {name: ALLOWANCES[name.rpartition(".")[2]] for name in trends}
    rows = [
        f"{name:24}{one.level:10.2f}{one.gain:+10.2f}{one.per_hour:+12.2f}   "
        + (
            "flat"
            if one.is_flat(allowed[name])
            else f"GROWS by more than {allowed[name].for_level(one.level):.2f}"
        )
        for name, one in trends.items()
    ]
    head = f"{'':24}{'median':>10}{'gain':>10}{'by the hour':>12}"
    told = f"{record.switchovers} switchovers, {record.transactions:,} transactions"
    told += f", {len(record.failures)} failed"
    flat = all(one.is_flat(allowed[name]) for name, one in trends.items())
    return "\n".join([told, *record.failures[:20], head, *rows]), flat and not record.failures
