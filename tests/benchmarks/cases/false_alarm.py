"""What looks like the beginning of a switch and is none, under load: nothing may fail, waiting is allowed.

refused    a `failover` key for a member that does not exist, which Patroni clears
withdrawn  the same, taken back half a second later
restart    the primary restarted in place, by Patroni, with `watcher barrier` installed: nothing else tells of
           it; without it (`restart_without_barrier`, not in the sum) who is in a transaction is cut
probe      the postmaster frozen for a second: new logins hang, sessions go on
packets    every packet to and from the primary's host dropped for 0.3 s
"""

import json
import os
import signal
import time
from collections.abc import Callable, Mapping

from tests.benchmarks.bench import Bench
from tests.benchmarks.cases.barrier import install_barrier
from tests.benchmarks.contenders import HOLDS, watcher, watcher_with
from tests.benchmarks.figures import Figures
from tests.benchmarks.series import explained
from tests.benchmarks.stage import SERVED_SECONDS, Stage, stage
from tests.support.attempts import LONG
from tests.support.etcd_gateway import Gateway
from tests.support.patroni import Node
from tests.support.pgbouncer import RECOMMENDED
from tests.support.waiting import BedError, wait_for

NOBODY = "nobody"
CLEARED = "{}"
WITHDRAWN_AFTER = 0.5
FROZEN_SECONDS = 1.0
LOST_SECONDS = 0.3
AFTER = 12.0
"""Longer than a hold may last for an announcement that nothing follows, so that its end is seen too."""
OWNED = ("false_alarm",)
PROMISED = ("false_alarm.failed", "false_alarm.restart_without_barrier.failed")


def measure(bench: Bench) -> tuple[Figures, Figures]:
    """`failed` altogether, and the same of each kind with its longest stall."""
    times = bench.counts.alarms
    bench.say("the whole bed, each node on a network of its own")
    with stage(watcher, ini=RECOMMENDED, networks=True) as scene, explained(bench, scene):
        kinds = {name: _repeated(bench, scene, name, alarm) for name, alarm in ALARMS.items()}
        without = _repeated(bench, scene, "restart without the barrier", restart)
    bench.say("the whole bed with the barrier")
    guarded = watcher_with(hold=HOLDS, barrier={"enabled": True})
    with stage(guarded, ini=RECOMMENDED, prepare=install_barrier) as scene, explained(bench, scene):
        kinds["restart"] = _repeated(bench, scene, "restart", restart)
    failed = sum(kind["failed"] for kind in kinds.values())
    return {"false_alarm": {"failed": failed, **kinds, "restart_without_barrier": without}}, {
        "times_each": times
    }


def _repeated(bench: Bench, scene: Stage, name: str, alarm: Callable[[Stage, Node], None]) -> Figures:
    figures: Figures = {"times": 0, "transactions": 0, "failed": 0, "long_failed": 0, "stall_s": 0.0}
    for number in range(bench.counts.alarms):
        one = _one(scene, alarm)
        bench.progress(name, number + 1, bench.counts.alarms, one)
        figures = {
            "times": number + 1,
            **{key: figures[key] + one[key] for key in ("transactions", "failed", "long_failed")},
            "stall_s": max(figures["stall_s"], one["stall_s"]),
        }
    return figures


def _one(scene: Stage, alarm: Callable[[Stage, Node], None]) -> Figures:
    leader, began = scene.ready(), time.monotonic()
    alarm(scene, leader)
    scene.traffic.wait_for_all(after=time.monotonic(), timeout=SERVED_SECONDS)
    time.sleep(AFTER)
    if scene.bed.leader() is not leader:
        raise BedError(f"{leader.name} lost its leadership: that was no false alarm")
    met = scene.traffic.between(began, time.monotonic())
    return {
        "transactions": len(met.without(LONG)),
        "failed": met.without(LONG).failed,
        "long_failed": met.only(LONG).failed,
        "stall_s": round(met.longest_stall(time.monotonic()), 3),
    }


# --- the alarms -----------------------------------------------------------------------------------------


def refused(scene: Stage, leader: Node) -> None:
    """Patroni clears it in its next turn."""
    known = len(scene.keys.events)
    _put_failover(scene, json.dumps({"leader": leader.name, "member": NOBODY}))

    def cleared() -> bool:
        puts = [one.value for one in scene.keys.events[known:] if one.key == "failover"]
        return puts[-1:] == [CLEARED]

    wait_for(cleared, SERVED_SECONDS, "Patroni clears the key", logs=scene.bed.patroni.logs)


def withdrawn(scene: Stage, leader: Node) -> None:
    """Before Patroni looks, most of the time."""
    _put_failover(scene, json.dumps({"leader": leader.name, "member": NOBODY}))
    time.sleep(WITHDRAWN_AFTER)
    _put_failover(scene, CLEARED)


def restart(scene: Stage, leader: Node) -> None:
    """Returns when PostgreSQL runs again."""
    scene.bed.patroni.restart(leader)


def probe(scene: Stage, leader: Node) -> None:
    """Whoever tries a login meanwhile waits for it."""
    postmaster = leader.postmaster_pid()
    os.kill(postmaster, signal.SIGSTOP)
    try:
        time.sleep(FROZEN_SECONDS)
    finally:
        os.kill(postmaster, signal.SIGCONT)


def packets(scene: Stage, leader: Node) -> None:
    """TCP sends them again."""
    scene.segments[leader.name].drop()
    try:
        time.sleep(LOST_SECONDS)
    finally:
        scene.segments[leader.name].mend()


ALARMS: Mapping[str, Callable[[Stage, Node], None]] = {
    "refused": refused,
    "withdrawn": withdrawn,
    "probe": probe,
    "packets": packets,
}


def _put_failover(scene: Stage, value: str) -> None:
    gateway = Gateway(scene.bed.etcd.endpoints[0])
    try:
        gateway.put(f"{scene.bed.patroni.prefix}failover", value)
    finally:
        gateway.close()
