"""What the watcher, its agents and PgBouncer hold: memory of their own, threads, descriptors."""

import contextlib
from collections.abc import Iterable, Mapping

import psutil

from tests.soak.flatness import COUNT, MIB, Allowance
from tests.support.bed import Bed
from tests.support.watcher import WatcherProcess

MIB_BYTES = 2**20
ALLOWANCES: Mapping[str, Allowance] = {"mib": MIB, "threads": COUNT, "descriptors": COUNT}
"""By kind of figure, which is the last word of its name."""

Footprint = dict[str, float]
"""By name: whose, and what."""


def footprint(watcher: WatcherProcess, bed: Bed) -> Footprint:
    """Now; of agents and PgBouncers the sum over all hosts."""
    agents = [member for host in bed.bouncers for member in host.sshd.process.members() if _is_agent(member)]
    poolers = [member for host in bed.bouncers for member in host.pgbouncer.process.members()]
    whose = {"watcher": [psutil.Process(watcher.process.pid)], "agents": agents, "pgbouncers": poolers}
    return {f"{name}.{what}": amount for name, of in whose.items() for what, amount in _figures(of).items()}


def _is_agent(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.name().startswith("python")
    return False


def _figures(processes: Iterable[psutil.Process]) -> Footprint:
    """Unique set size: what would be free if they ended."""
    total = {"mib": 0.0, "threads": 0.0, "descriptors": 0.0}
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess), process.oneshot():
            total["mib"] += process.memory_full_info().uss / MIB_BYTES
            total["threads"] += process.num_threads()
            total["descriptors"] += process.num_fds()
    return total
