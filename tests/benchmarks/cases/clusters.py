"""One watcher, two hundred clusters of one namespace, each with a PgBouncer of its own and each changing its
leader at a random moment: is a change missed, and what does it take until PgBouncer shows the new leader?

The leaders of all are the two real primaries of the bed, which let PgBouncer in; each cluster is led by its
keys alone (`ready_by: leader_key`), so no promotion and no question to Patroni is in the figures. PgBouncers
share sshds, fifty each, and so four hosts; agents, consoles and files are each one's own. `confirmed_ms` is
the watcher's own `duration_ms`, `missed` counts leader keys that no PgBouncer was led by.
"""

import random
import time
from collections.abc import Iterator

from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Figures, spread, spreads
from tests.benchmarks.lines import Line, LogTail
from tests.benchmarks.switch_bed import NAMES, NAMESPACE, SwitchBed
from tests.benchmarks.usage import percent_of_a_core, usage_over
from tests.support.waiting import BedError, wait_for
from tests.support.watcher import Settings, WatcherProcess, ssh_target

OWNED = ("clusters",)
PROMISED = (
    *spreads(["clusters.confirmed_ms"]),
    "clusters.missed",
    "clusters.changes",
    "clusters.rss_mib",
    "clusters.idle_cpu_percent",
)
CHANGES_A_SECOND = 20.0
PATIENCE = 15.0
"""Seconds after which a change counts as missed."""
START_LIMIT = 180.0


class Storm:
    """Changes leaders at random moments, one cluster's no sooner than its last change was followed."""

    def __init__(self, bed: SwitchBed, scopes: list[str], log: LogTail, seed: int = 1) -> None:
        self._bed = bed
        self._log = log
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._leaders = dict.fromkeys(scopes, NAMES[0])
        self._due: dict[int, tuple[str, float]] = {}
        self.confirmed: list[float] = []
        self.missed = 0

    def run(self, changes: int) -> None:
        """So many of them, and the wait for the last ones."""
        for _ in range(changes):
            self._change()
            time.sleep(self._random.expovariate(CHANGES_A_SECOND))
            self._gather()
        until = time.monotonic() + PATIENCE
        while self._due and time.monotonic() < until:
            time.sleep(0.05)
            self._gather()
        self.missed += len(self._due)
        self._due.clear()

    def _change(self) -> None:
        busy = {scope for scope, _ in self._due.values()}
        scope = self._random.choice([one for one in self._leaders if one not in busy])
        self._leaders[scope] = NAMES[1 - NAMES.index(self._leaders[scope])]
        self._bed.end_reign(scope)
        put = self._bed.begin_reign(self._leaders[scope], scope)
        self._due[put.revision] = (scope, time.monotonic())

    def _gather(self) -> None:
        for line in self._log.new("switch"):
            self._take(line)
        late = [revision for revision, (_, at) in self._due.items() if time.monotonic() - at > PATIENCE]
        self.missed += len(late)
        for revision in late:
            del self._due[revision]

    def _take(self, line: Line) -> None:
        if self._due.pop(int(line["revision"]), None) is not None:
            self.confirmed.append(float(line["duration_ms"]))


def measure(bench: Bench) -> tuple[Figures, Figures]:
    """The promised figures."""
    counts = bench.counts
    scopes = [f"bench{number}" for number in range(counts.clusters)]
    bench.say(f"{len(scopes)} clusters, each with a PgBouncer")
    with SwitchBed(len(scopes), sshds=max(1, len(scopes) // 50)) as bed:
        for scope in scopes:
            bed.join_and_lead(NAMES[0], scope)
        with WatcherProcess(bed.folder / "watcher", _settings(bed, scopes)) as watcher:
            log = LogTail(watcher.log)
            met: list[Line] = []
            wait_for(lambda: _all_met(log, met, scopes), START_LIMIT, "all in sync", logs=[watcher.log])
            bench.say(f"{counts.cluster_changes} changes of leader, {CHANGES_A_SECOND:g} a second")
            storm = Storm(bed, scopes, log)
            storm.run(counts.cluster_changes)
            bench.count_down("settling", counts.settle)
            usage = usage_over(watcher.process.pid, counts.fleet_idle)
    figures = {
        "confirmed_ms": spread(storm.confirmed),
        "missed": storm.missed,
        "changes": counts.cluster_changes,
        "rss_mib": usage["rss_mib"],
        "idle_cpu_percent": percent_of_a_core(usage),
    }
    bench.say(str(figures))
    return {"clusters": figures}, {"clusters": len(scopes)}


def _all_met(log: LogTail, met: list[Line], scopes: list[str]) -> bool:
    met += log.new("in_sync")
    return {line["cluster"] for line in met} >= set(scopes)


def _settings(bed: SwitchBed, scopes: list[str]) -> Settings:
    return {
        "etcd": {"endpoints": bed.etcd.endpoints},
        "log": {"format": "json"},
        "clusters": list(_sections(bed, scopes)),
    }


def _sections(bed: SwitchBed, scopes: list[str]) -> Iterator[Settings]:
    if len(bed.bouncers) != len(scopes):
        raise BedError(f"{len(bed.bouncers)} PgBouncers for {len(scopes)} clusters")
    for scope, host in zip(scopes, bed.bouncers, strict=True):
        cluster = {"scope": scope, "namespace": NAMESPACE, "ready_by": "leader_key"}
        yield {"cluster": cluster, "targets": [ssh_target(host)]}
