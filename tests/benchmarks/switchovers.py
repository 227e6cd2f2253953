"""Real switchovers, timed from outside in one way for whoever is to follow them."""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.benchmarks.bench import Bench
from tests.benchmarks.consoles import Consoles
from tests.support.bed import Bed
from tests.support.etcd_gateway import KeyWatch

POLL = 0.005
TIMEOUT = 60.0
LONGEST_PAUSE = 5.0
"""The rival looks every 5 s: where in that the switchover falls must be left to chance."""


@dataclass(frozen=True)
class Followed:
    """The leader key was heard at `at` (monotonic); each PgBouncer showed the new host so much later."""

    at: float
    confirmed_ms: tuple[float, ...]


def follow_switchovers(
    bench: Bench, bed: Bed, count: int, seed: int = 1, timeout: float = TIMEOUT
) -> Iterator[Followed]:
    """`count` planned switchovers, each with a cluster in good health and at a moment left to chance."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    with KeyWatch(bed.etcd.endpoints[0], bed.patroni.prefix) as keys, Consoles(bed.bouncers) as consoles:
        for number in range(count):
            bed.patroni.wait_for_replicas()
            time.sleep(chance.uniform(0, LONGEST_PAUSE))
            followed = _follow_one(bed, keys, consoles, timeout)
            slowest = max(followed.confirmed_ms)
            bench.say(f"switchover {number + 1} of {count}: confirmed by all after {slowest:.0f} ms")
            yield followed


def _follow_one(bed: Bed, keys: KeyWatch, consoles: Consoles, timeout: float) -> Followed:
    """The order returns only when the switchover is over, too late to look on: hence the thread."""
    old, known = bed.leader(), len(keys.events)
    with ThreadPoolExecutor(1) as pool:
        order = pool.submit(bed.patroni.switchover)
        event = keys.wait_for("leader", after=known, other_than=old.name)
        new = bed.patroni[event.value or ""]
        seen = consoles.when_all_show(new.host, poll=POLL, timeout=timeout)
        order.result()
    return Followed(event.at, tuple((at - event.at) * 1000 for at in seen.values()))
