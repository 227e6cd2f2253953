"""`python -m tests.soak.by_keys --switches 1500`: more than two hours of Patroni's switches, in four minutes.

Patroni's keys are written by hand; etcd, SSH and PgBouncer are real, and each switch is announced, held for,
led and released. The watcher runs inside this program, so that its memory can be told after a full
collection: CPython keeps freed tuples for reuse, up to 2,000 of each length, until the next one, which a
watcher comes to after thousands of switches only. 1 if it grew all the same.
"""

import argparse
import gc
import json
import os
import sys
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import yaml

from tests.e2e.test_stage import Keys, file_route
from tests.soak.flatness import COUNT, MIB, Allowance, Sample, after_warm_up, trend
from tests.soak.footprint import MIB_BYTES
from tests.support.folders import bed_folder
from tests.support.stage import Ground, Stage
from tests.support.waiting import wait_for
from watcher.expose import logs
from watcher.fleet import Fleet
from watcher.settings import load

SAMPLE_EVERY = 25
WARM_UP_SHARE = 0.5
LEAST = 8 * SAMPLE_EVERY
LED_SECONDS = 20.0
ANNOUNCED_SECONDS = 0.02
BLOCKS = Allowance(0.0, 0.001)
"""Of what Python has allocated, some 400,000: what a list of past events may take more or less."""
ALLOWANCES = {"MiB": MIB, "blocks": BLOCKS, "threads": COUNT, "descriptors": COUNT}


class Scene:
    """The stage, and the hand that does what Patroni does to its keys."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.keys = Keys(stage.ground.etcd)

    def switch(self, old: str, new: str) -> None:
        """Until PgBouncer leads to the new one and nobody waits."""
        self.keys.put("failover", json.dumps({"leader": old, "member": new}))
        time.sleep(ANNOUNCED_SECONDS)
        self.keys.end_reign()
        self.keys.put("leader", new)
        self.keys.put("failover", "{}")
        self.wait_until_led(new)

    def wait_until_led(self, name: str) -> None:
        """By file and PgBouncer itself."""
        stage, endpoint = self._stage, self._stage.ground.endpoint(name)
        wait_for(
            lambda: stage.shown_route() == endpoint == file_route(stage.host) and not stage.is_paused(),
            LED_SECONDS,
            f"PgBouncer leads to {name}",
        )


@contextmanager
def watched() -> Iterator[Scene]:
    """A watcher in this process has led the stage's PgBouncer to `a`."""
    with bed_folder() as folder, Ground(folder) as ground, Stage(ground, 0) as stage:
        stage.reset()
        scene, config = Scene(stage), folder / "watcher.yaml"
        config.write_text(yaml.safe_dump(stage.settings("ssh", scene.keys.scope)))
        scene.keys.put("leader", "a")
        logs.set_up("ERROR", "text")
        watcher = Fleet(load({}, config).fleet)
        watcher.start()
        try:
            scene.wait_until_led("a")
            yield scene
        finally:
            watcher.stop()


def footprint() -> dict[str, float]:
    """Of this process, after a full collection."""
    gc.collect()
    memory = psutil.Process().memory_full_info().uss / MIB_BYTES
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # names of descriptors, no paths
    counts = {"threads": threading.active_count(), "descriptors": descriptors}
    return {"MiB": memory, "blocks": sys.getallocatedblocks(), **counts}


def run(switches: int) -> dict[str, list[Sample]]:
    """What this process held, by the number of switches that were made."""
    held = {what: array("d") for what in ALLOWANCES}  # which takes no block of its own for each sample
    with watched() as scene:
        for number in range(switches):
            scene.switch(*("ab" if number % 2 == 0 else "ba"))
            if number % SAMPLE_EVERY == 0:
                for what, amount in footprint().items():
                    held[what].append(amount)
    return {
        what: [(float(number * SAMPLE_EVERY), amount) for number, amount in enumerate(amounts)]
        for what, amounts in held.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.by_keys", description=__doc__)
    parser.add_argument("--switches", type=int, default=1500, help="how many; 1500 unless said")
    switches, began = parser.parse_args().switches, time.monotonic()
    if switches < LEAST:
        parser.error(f"a trend takes at least {LEAST} switches")
    held = run(switches)
    print(
        f"{switches} switches in {time.monotonic() - began:.0f} s, trends from {WARM_UP_SHARE:.0%} of them on"
    )
    print(f"{'':14}{'median':>12}{'by slope':>10}{'by step':>10}{'allowed':>10}")
    grows = False
    for what, series in held.items():
        one = trend(after_warm_up(series, switches * WARM_UP_SHARE))
        is_flat, allowed = one.is_flat(ALLOWANCES[what]), ALLOWANCES[what].for_level(one.level)
        grows |= not is_flat
        gains = f"{one.gain:+10.2f}{one.step:+10.2f}{allowed:10.2f}"
        print(f"{what:14}{one.level:12.2f}{gains}   {'flat' if is_flat else 'GROWS'}")
    return int(grows)


if __name__ == "__main__":
    sys.exit(main())
