"""Under which conditions a figure was taken: machine and versions."""

import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from tests.benchmarks.figures import Figures
from tests.support import install
from tests.support.postgres import bin_dir
from tests.support.processes import run


def conditions() -> Figures:
    """What is the same for every case of a run."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "network": "loopback",
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of everything that takes part."""
    return {
        "watcher": version("pgbouncer-watcher"),
        "python": platform.python_version(),
        "etcd": _said(["etcd", "--version"]),
        "patroni": _said([install.PATRONI_VENV / "bin/patroni", "--version"]),
        "postgresql": _said([bin_dir() / "postgres", "--version"]),
        "pgbouncer": _said(["/usr/sbin/pgbouncer", "--version"]),
        "haproxy": _said(["/usr/sbin/haproxy", "-v"]),
        "openssh": _said(["ssh", "-V"]),
    }


def _said(command: list[str | Path]) -> str:
    """The first number with dots in what a program says of itself."""
    done = run(command, check=False)
    found = re.search(r"\d+(\.\d+)+\w*", done.stdout + done.stderr)
    return found[0] if found else "unknown"


def _cpu() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()
