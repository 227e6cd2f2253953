"""What a process and its children cost while nothing happens."""

import time
from dataclasses import dataclass
from typing import Self

import psutil

from tests.benchmarks.figures import Figures

USAGE = ("rss_mib", "cpu_s_per_min", "threads", "connections")


@dataclass(frozen=True)
class Usage:
    """Processor time so far, in seconds, of a process and of its children that have ended."""

    at: float
    cpu: float

    @classmethod
    def of(cls, process: psutil.Process) -> Self:
        """Now."""
        times = process.cpu_times()
        return cls(time.monotonic(), times.user + times.system + times.children_user + times.children_system)


def usage_over(pid: int, seconds: float) -> Figures:
    """RSS (the larger of begin and end), processor time by the minute, threads and open connections."""
    process = psutil.Process(pid)
    before, rss = Usage.of(process), process.memory_info().rss
    time.sleep(seconds)
    after = Usage.of(process)
    return {
        "rss_mib": mib(max(rss, process.memory_info().rss)),
        "cpu_s_per_min": round((after.cpu - before.cpu) / (after.at - before.at) * 60, 3),
        "threads": process.num_threads(),
        "connections": _connections(process),
    }


def percent_of_a_core(usage: Figures) -> float:
    """The processor time of `usage_over`, to a hundredth of a percent."""
    return round(float(usage["cpu_s_per_min"]) / 60 * 100, 2)


def mib(size: int) -> float:
    """Bytes as MiB, to a tenth."""
    return round(size / 2**20, 1)


def _connections(process: psutil.Process) -> int:
    return sum(link.status == psutil.CONN_ESTABLISHED for link in process.net_connections("inet"))
