"""The replaced design on the same bed: a poll of REST every 5 s, and Ansible over SSH.

Its switches are real switchovers, for it listens to Patroni and not to etcd; they are timed as those of
the case `switchover` are. Idle and start are measured as the watcher's are.
"""

import time

from tests.benchmarks.bench import Bench
from tests.benchmarks.cases.idle import WRITES, usage_with_events
from tests.benchmarks.cases.start import NOWHERE, repeated_starts
from tests.benchmarks.figures import Figures, spread, spreads
from tests.benchmarks.lines import LogTail, written_at
from tests.benchmarks.rivals.environment import INTERVAL, PollAnsible, ansible_version, ensure_ansible
from tests.benchmarks.switchovers import follow_switchovers
from tests.benchmarks.usage import USAGE
from tests.support.bed import Bed

NAME = "rivals.poll_ansible"
OWNED = tuple(f"{NAME}.{what}" for what in ("switch", "start", "idle"))
PROMISED = (
    *spreads([f"{NAME}.{path}" for path in ("switch.confirmed_ms", "switch.parts_ms.playbook")]),
    *spreads([f"{NAME}.start.confirmed_s"]),
    *(f"{NAME}.idle.{name}" for name in USAGE),
)
TIMEOUT = 60.0


def measure(bench: Bench) -> tuple[Figures, Figures]:
    """The promised figures, all on one bed."""
    ensure_ansible(bench.say)
    counts = bench.counts
    bench.say("the whole bed for poll_ansible")
    with Bed() as bed:
        starts = repeated_starts(bed, counts.rival_starts, lambda number: _start(bed, number))
        bench.say(f"{len(starts)} starts: {', '.join(f'{one:.1f} s' for one in starts)}")
        bed.point_at_leader()
        idle, heard = _idle(bench, bed)
        switch = _switches(bench, bed)
    figures = {"switch": switch, "start": {"confirmed_s": spread(starts)}, "idle": idle}
    conditions = {
        "interval_s": INTERVAL,
        "switchovers": counts.switchovers,
        "starts": counts.rival_starts,
        "idle_seconds": counts.idle,
        "member_key_writes": heard,
        "targets": 2,
        "ansible_core": ansible_version(),
    }
    return {"rivals": {"poll_ansible": figures}}, conditions


def _start(bed: Bed, number: int) -> float:
    """Its line `switch` comes after the playbook, whose reload is the last that it does."""
    with PollAnsible(bed, f"start-{number}", NOWHERE[0]) as rival:
        began = time.time()
        (line,) = LogTail(rival.log).collect("switch", 1, TIMEOUT)
    return written_at(line) - began


def _idle(bench: Bench, bed: Bed) -> tuple[Figures, int]:
    with PollAnsible(bed, "idle", bed.leader().host) as rival, bed.load(**WRITES):
        bench.count_down("settling", bench.counts.settle)
        return usage_with_events(bench, bed, rival.process.pid)


def _switches(bench: Bench, bed: Bed) -> Figures:
    with PollAnsible(bed, "switches", bed.leader().host) as rival:
        log = LogTail(rival.log)
        followed = list(follow_switchovers(bench, bed, bench.counts.switchovers))
        lines = log.collect("switch", len(followed), TIMEOUT)
    return {
        "confirmed_ms": spread([ms for one in followed for ms in one.confirmed_ms]),
        "parts_ms": {"playbook": spread([float(line["playbook_ms"]) for line in lines])},
    }
