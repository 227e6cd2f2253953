"""While nothing happens, nothing is done."""

from functools import partial
from pathlib import Path

import psutil

from tests.e2e.test_stage import at, settled, stays, traces
from tests.support.bed import Bed
from tests.support.waiting import wait_for
from tests.support.watcher import WatcherProcess, settings_for

CALM_SECONDS = 15
HEALTH_CHECK_THREADS = 3  # one for each node, for some milliseconds every five seconds


def test_a_calm_cluster_costs_no_write_no_reload_no_login_no_thread(bed: Bed, tmp_path: Path) -> None:
    with WatcherProcess(tmp_path, settings_for(bed)) as watcher:
        settled(watcher, bed, at(bed.leader()))
        process = psutil.Process(watcher.process.pid)
        for host in bed.bouncers:
            wait_for(partial(_is_told, watcher, host.name), 5, f"{host.name} is in sync", logs=[watcher.log])
        before, threads, said = traces(bed), process.num_threads(), len(watcher.lines())
        began = process.cpu_times()
        stays(lambda: traces(bed) == before, CALM_SECONDS, "nobody writes, reloads or logs in")
        ended = process.cpu_times()
        assert abs(process.num_threads() - threads) <= HEALTH_CHECK_THREADS
        assert ended.user + ended.system - began.user - began.system < 0.05 * CALM_SECONDS
        assert watcher.lines()[said:] == []
        assert not process.children()


def _is_told(watcher: WatcherProcess, target: str) -> bool:
    """Whether the log has the last word of the target's start."""
    return any(line.get("target") == target for line in watcher.lines("in_sync") + watcher.lines("switch"))
