"""Event to confirmed: from the etcd response with the leader key to SHOW DATABASES with the new host.

The figures are the watcher's own (`duration_ms` and `parts_ms` of its log line `switch`), one sample for
each PgBouncer and switch. `own_clock_ms` is a check on them by a clock that is not the watcher's, in
further switches, because asking PgBouncer all the time costs the watcher some of its processor. It begins
with the request to etcd, so the write within etcd is in it; `own_clock_put_ms` is how long that took.
"""

import random
import time
from collections.abc import Iterable

from tests.benchmarks.bench import Bench
from tests.benchmarks.consoles import Consoles
from tests.benchmarks.figures import Figures, MissingFigureError, spread, spreads
from tests.benchmarks.lines import Line, LogTail, written_at
from tests.benchmarks.switch_bed import NAMES, SwitchBed
from tests.support.etcd_gateway import Written
from tests.support.waiting import BedError
from tests.support.watcher import WatcherProcess

PARTS = ("decide", "write", "ready", "release")
OWNED = ("switch",)
PROMISED = spreads(
    [
        "switch.confirmed_ms",
        "switch.all_confirmed_ms",
        "switch.own_clock_ms",
        "switch.own_clock_put_ms",
        *(f"switch.parts_ms.{part}" for part in PARTS),
    ]
)
NO_LEADER_SECONDS = 0.14
"""Between DELETE and PUT of the leader key, as Patroni has it in a planned switchover."""
PAUSE_SECONDS = (0.05, 0.35)
"""Between two switches; at random, so that they fall anywhere in the rhythms of watcher and servers."""
TIMEOUT = 15.0
POLL = 0.001


class Hand:
    """Changes the leader from `a` to `b` and back, and gathers what the watcher says of it. `leader` is who
    leads now.
    """

    def __init__(
        self,
        bed: SwitchBed,
        log: LogTail,
        *,
        timeout: float = TIMEOUT,
        pause: tuple[float, float] = PAUSE_SECONDS,
        leader: str = NAMES[0],
    ) -> None:
        self._bed = bed
        self._log = log
        self._timeout = timeout
        self._pause = pause
        self._random = random.Random(1)  # noqa: S311 - no secret
        self.leader = leader

    def first(self) -> None:
        """Lead everybody away from where PgBouncer was led at its start, and wait for it."""
        self._lines(self._put())

    def switch(self) -> list[Line]:
        """One switch: the watcher's line for each target."""
        self._let_go()
        return self._lines(self._put())

    def switch_seen_by(self, consoles: Consoles) -> tuple[float, list[float]]:
        """One switch: milliseconds from the request to etcd until its answer, and until each PgBouncer
        shows the new host.
        """
        self._let_go()
        put = self._put()
        host = self._bed.node(self.leader).host
        seen = consoles.when_all_show(host, poll=POLL, timeout=TIMEOUT)
        self._lines(put)
        return (put.answered - put.sent) * 1000, [(at - put.sent) * 1000 for at in seen.values()]

    def switch_once_held(self) -> tuple[float, float]:
        """One switch whose leader begins when all wait: milliseconds until the last PgBouncer was held, from
        the request to etcd on, and until the last was confirmed.
        """
        asked_at = self._end_reign()
        held = self._log.collect("hold", len(self._bed.bouncers), self._timeout)
        confirmed = self._lines(self._put())
        held_ms = (max(map(written_at, held)) - asked_at) * 1000
        return held_ms, max(float(line["duration_ms"]) for line in confirmed)

    def _let_go(self) -> None:
        self._end_reign()
        time.sleep(NO_LEADER_SECONDS)

    def _end_reign(self) -> float:
        """At a random moment; Unix time of the request."""
        time.sleep(self._random.uniform(*self._pause))
        asked_at = time.time()
        self._bed.end_reign()
        return asked_at

    def _put(self) -> Written:
        self.leader = NAMES[1 - NAMES.index(self.leader)]
        return self._bed.begin_reign(self.leader)

    def _lines(self, put: Written) -> list[Line]:
        lines = self._log.collect("switch", len(self._bed.bouncers), self._timeout)
        if any(line["revision"] != put.revision for line in lines):
            raise BedError(f"a line of another switch than that of revision {put.revision}: {lines}")
        return lines


def measure(bench: Bench) -> tuple[Figures, Figures]:
    """The promised figures, of `switches` switches on two targets."""
    counts = bench.counts
    bench.say("two Patroni clusters of one node, etcd of three, two PgBouncers each with its sshd")
    with SwitchBed() as bed, WatcherProcess(bed.folder / "watcher", bed.settings()) as watcher:
        hand = Hand(bed, LogTail(watcher.log))
        hand.first()
        bench.say(f"{counts.warm_up} switches to warm up, {counts.switches} to measure")
        for _ in range(counts.warm_up):
            hand.switch()
        switches = [hand.switch() for _ in range(counts.switches)]
        bench.say(f"{counts.own_clock} more by the benchmark's own clock")
        with Consoles(bed.bouncers) as consoles:
            seen = [hand.switch_seen_by(consoles) for _ in range(counts.own_clock)]
    figures = figures_of(switches) | figures_of_own_clock(seen)
    conditions = {"switches": counts.switches, "targets": 2, "samples": 2 * counts.switches}
    return {"switch": figures}, conditions | {"own_clock_switches": counts.own_clock}


def figures_of(switches: Iterable[list[Line]]) -> Figures:
    """Spreads of the watcher's own figures; `all_confirmed_ms` is the slower target of each switch."""
    lines = list(switches)
    each = [line for pair in lines for line in pair]
    slower = [max(float(line["duration_ms"]) for line in pair) for pair in lines]
    parts = {part: spread([_part(line, part) for line in each]) for part in PARTS}
    return {
        "confirmed_ms": spread([float(line["duration_ms"]) for line in each]),
        "all_confirmed_ms": spread(slower),
        "parts_ms": parts,
    }


def _part(line: Line, part: str) -> float:
    try:
        return float(line["parts_ms"][part])
    except KeyError as error:
        raise MissingFigureError(f"no part {part!r} in {line}") from error


def figures_of_own_clock(seen: Iterable[tuple[float, list[float]]]) -> Figures:
    """Spreads of what `switch_seen_by` saw."""
    puts, confirmed = zip(*seen, strict=True)
    return {
        "own_clock_ms": spread([ms for each in confirmed for ms in each]),
        "own_clock_put_ms": spread(puts),
    }
