"""A watcher of 64 PgBouncers is started, and one cluster changes its leader just then.

Each has its own sshd. One cluster has 63 of them and is in sync all the while; the other has one. The
leader key of that one is deleted, and put again for the other member, as soon as the watcher listens to etcd,
which is when all connect. `switch_s` is by wall clock from the request to etcd until the log says that
PgBouncer shows the new leader, `all_in_sync_s` from when the process has its id until the last of the 64 was
seen in sync. `paced` is by the settings as they come, `at_once` with all logins at the same time.
"""

import itertools
import time
from collections.abc import Iterator

from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Figures, spread, spreads
from tests.benchmarks.lines import LogTail, written_at
from tests.benchmarks.switch_bed import NAMES, NAMESPACE, SwitchBed
from tests.support.waiting import wait_for
from tests.support.watcher import Settings, WatcherProcess, ssh_target

SIZE = 64
CROWD, ONE = "crowd", "one"
WAYS: dict[str, Settings] = {"paced": {}, "at_once": {"connect_at_once": 1000}}
OWNED = ("fleet_start",)
PROMISED = spreads(f"fleet_start.{way}.{name}" for way in WAYS for name in ("switch_s", "all_in_sync_s"))
LIMIT = 120.0


def measure(bench: Bench) -> tuple[Figures, Figures]:
    """The promised figures, of `rival_starts` starts each way, in turn."""
    bench.say(f"{SIZE} PgBouncers, each with its sshd")
    took: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    leaders = itertools.cycle(reversed(NAMES))
    with SwitchBed(SIZE) as bed:
        for scope in (CROWD, ONE):
            bed.join_and_lead(NAMES[0], scope)
        for number in range(bench.counts.rival_starts):
            for way, changes in WAYS.items():
                took[way].append(_start(bed, f"{way}-{number}", changes, next(leaders)))
                switch_s, in_sync_s = took[way][-1]
                said = f"switched after {switch_s:.2f} s, all in sync after {in_sync_s:.2f} s"
                bench.progress(way, number + 1, bench.counts.rival_starts, said)
    return {"fleet_start": {way: _spreads(seconds) for way, seconds in took.items()}}, {
        "starts": bench.counts.rival_starts,
        "targets": SIZE,
    }


def _spreads(took: list[tuple[float, float]]) -> Figures:
    switches, syncs = zip(*took, strict=True)
    return {"switch_s": spread(switches), "all_in_sync_s": spread(syncs)}


def _start(bed: SwitchBed, name: str, changes: Settings, leader: str) -> tuple[float, float]:
    """Seconds of the switch, and until all were in sync."""
    with WatcherProcess(bed.folder / name, {**_settings(bed), **changes}) as watcher:
        began, log = time.time(), LogTail(watcher.log)
        wait_for(lambda: log.new("source"), LIMIT, "etcd is heard", logs=[watcher.log])
        bed.end_reign(ONE)
        asked_at = time.time()
        bed.begin_reign(leader, ONE)
        switched, synced = _both(watcher, bed.bouncers[-1].name)
    return switched - asked_at, synced - began


def _both(watcher: WatcherProcess, name: str) -> tuple[float, float]:
    """When the one was switched, and when the last was in sync; by the log's own clock."""

    def done() -> tuple[float, float] | None:
        lines = watcher.lines()
        synced = {(line["cluster"], line["target"]): line for line in lines if line.get("event") == "in_sync"}
        moved = [line for line in lines if line.get("event") == "switch" and line["target"] == name]
        if len(synced) < SIZE - 1 or not moved:  # a switch says itself that it is in sync
            return None
        return written_at(moved[-1]), max(map(written_at, [*synced.values(), moved[-1]]))

    return wait_for(done, LIMIT, "all are in sync", logs=[watcher.log])


def _settings(bed: SwitchBed) -> Settings:
    return {
        "etcd": {"endpoints": bed.etcd.endpoints},
        "log": {"format": "json"},
        "clusters": list(_sections(bed)),
    }


def _sections(bed: SwitchBed) -> Iterator[Settings]:
    *crowd, one = bed.bouncers
    for scope, hosts in ((CROWD, crowd), (ONE, [one])):
        cluster = {"scope": scope, "namespace": NAMESPACE, "ready_by": "leader_key"}
        yield {"cluster": cluster, "targets": [ssh_target(host) for host in hosts]}
