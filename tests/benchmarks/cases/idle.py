"""What the watcher costs while nothing happens: a cluster of three nodes with writes, two targets.

The writes are there because Patroni rewrites its member keys only while the WAL moves, and each of them
is an event that the watcher hears.
"""

from typing import Any

import psutil

from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Figures
from tests.benchmarks.usage import USAGE, mib, usage_over
from tests.support.bed import Bed, BouncerHost
from tests.support.etcd_gateway import KeyWatch
from tests.support.waiting import BedError
from tests.support.watcher import WatcherProcess, settings_for

OWNED = ("idle",)
PROMISED = (*(f"idle.{name}" for name in USAGE), "idle.agent_rss_mib")
WRITES: dict[str, Any] = {"clients": 1, "pause": 0.1}


def measure(bench: Bench) -> tuple[Figures, Figures]:
    """The promised figures, over `idle` seconds."""
    bench.say("etcd of three, Patroni of three, two PgBouncers, one client that writes ten rows a second")
    with (
        Bed(ttl=30, loop_wait=10) as bed,  # Patroni's own defaults, for they set how often keys are written
        WatcherProcess(bed.folder / "watcher", settings_for(bed)) as watcher,
        bed.load(**WRITES),
    ):
        watcher.wait_for_line("wish", reason="leader")
        bench.count_down("settling", bench.counts.settle)
        usage, heard = usage_with_events(bench, bed, watcher.process.pid)
        usage["agent_rss_mib"] = max(_agents_rss(host) for host in bed.bouncers)
        if moved := watcher.lines("switch"):
            raise BedError(f"it was not idle: {moved}")
    return {"idle": usage}, {"seconds": bench.counts.idle, "targets": 2, "member_key_writes": heard}


def usage_with_events(bench: Bench, bed: Bed, pid: int) -> tuple[Figures, int]:
    """The usage of a process, and how many member keys were written meanwhile."""
    with KeyWatch(bed.etcd.endpoints[0], bed.patroni.prefix) as keys:
        bench.say(f"measuring: {bench.counts.idle:g} s")
        usage = usage_over(pid, bench.counts.idle)
        return usage, sum(event.key.startswith("members/") for event in keys.events)


def _agents_rss(host: BouncerHost) -> float:
    """What the watcher keeps running on a PgBouncer's host: its agents, sshd's own processes left out."""
    sessions = [psutil.Process(pid) for pid in host.sshd.session_pids()]
    return mib(sum(one.memory_info().rss for one in sessions if one.name().startswith("python")))
