"""A bed whose PgBouncers have a database for reads, with clients on it and a watcher that leads it, and what
those clients meet while replicas come and go.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tests.support.attempts import Attempt, Attempts
from tests.support.bed import Bed
from tests.support.crowd import Crowd, said
from tests.support.patroni import Node
from tests.support.waiting import wait_for
from tests.support.watcher import WatcherProcess, settings_for

READS = "app_ro"
MIX: Mapping[str, int] = {"simple": 4, "extended": 3, "several": 2, "reconnecting": 3, "long": 2}
SETTLE = 2.0
MAX_LAG = 1 << 20
TURN_SECONDS = 60.0
_MUCH_WAL = "SELECT pg_logical_emit_message(true, 'bed', repeat('x', 1 << 20)) FROM generate_series(1, 4)"


@dataclass(frozen=True)
class Seen:
    """What clients met from `start` to `end` (monotonic), and who was in flight when it began."""

    attempts: Attempts
    in_flight: list[Attempt]
    start: float
    end: float

    @property
    def failures(self) -> list[Attempt]:
        """Those that were not answered."""
        return self.attempts.failures

    @property
    def longest(self) -> float:
        """The longest that any client went without its answer, in seconds; transactions of a second aside."""
        return self.attempts.longest_stall(self.end)

    def on(self, node: Node, after: float) -> list[Attempt]:
        """What that node answered of what began later than `after`."""
        return [
            one for one in self.attempts.all if one.start > after and one.server.startswith(f"{node.host}:")
        ]

    def __str__(self) -> str:
        failed = "".join(f"\n    {line}" for line in said(self.failures))
        longest = f"longest {self.longest * 1e3:.0f} ms"
        return f"{len(self.attempts)} tried, {longest}, {len(self.failures)} failed{failed}"


class ReadStage(AbstractContextManager["ReadStage"]):
    """On a healthy bed. `settings` are the watcher's `replicas`. Entering waits until reads go to replicas,
    and every client was served.
    """

    def __init__(self, bed: Bed, folder: Path, **settings: Any) -> None:
        self.bed = bed
        replicas = {"settle": SETTLE, "max_lag": MAX_LAG, **settings}
        self.watcher = WatcherProcess(folder, settings_for(bed, replicas=replicas), "reads")
        self.clients = Crowd(folder, bed.bouncers, MIX, database=READS, reads=True)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(_marked(self.bed))
            stack.enter_context(self.watcher)
            replicas = {node.host for node in self.bed.patroni.wait_for_replicas()}
            wait_for(
                lambda: self.led_to() <= replicas, TURN_SECONDS, "reads on replicas", logs=[self.watcher.log]
            )
            stack.enter_context(self.clients)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # --- where reads go -------------------------------------------------------------------------------

    def led_to(self) -> set[str]:
        """The hosts of the list in every PgBouncer, by its own word; of both while they differ."""
        lists = (host.pgbouncer.route(READS)[0] for host in self.bed.bouncers)
        return {one for hosts in lists for one in hosts.split(",")}

    def wait_until_led(self, nodes: list[Node], timeout: float = TURN_SECONDS) -> float:
        """Until PgBouncers lead reads to these and no others; when that was seen."""
        wanted = {node.host for node in nodes}
        names = ", ".join(node.name for node in nodes)
        wait_for(
            lambda: self.led_to() == wanted, timeout, f"reads on {names}", logs=[self.watcher.log], poll=0.02
        )
        return time.monotonic()

    def ready(self) -> list[Node]:
        """Waits until all replicas serve reads; they."""
        replicas = self.bed.patroni.wait_for_replicas()
        self.wait_until_led(replicas)
        return replicas

    # --- what clients meet ----------------------------------------------------------------------------

    def seen(self, deed: Callable[[], object], until_led: Callable[[], list[Node]]) -> tuple[Seen, float]:
        """What clients met from just before `deed` until they were all served by the nodes of `until_led`;
        and when PgBouncers led there. What a PgBouncer sends before it can have read the end of its server's
        connections was in flight too.
        """
        time.sleep(1.0)
        start = time.monotonic()
        deed()
        self.led_to()  # to log in takes a PgBouncer several turns of its loop: it has read what came before
        done = time.monotonic()
        led_at = self.wait_until_led(until_led())
        self.clients.settle(after=led_at)
        time.sleep(1.5)  # the transactions of a second, and one turn more of each client
        end = time.monotonic()
        flight = self.clients.in_flight(start, done)
        return Seen(self.clients.attempts().during(start, end), flight, start, end), led_at

    @contextmanager
    def drained(self, nodes: Iterable[Node]) -> Iterator[None]:
        """These have the tag `noloadbalance` meanwhile. It takes Patroni a turn of its loop to read that, so
        clients may have met it before this goes on: enter it as the deed of `seen`.
        """
        names = {node.name for node in nodes}

        def tagged(node: Node) -> Mapping[str, Any]:
            return {"tags": {"noloadbalance": True}} if node.name in names else {}

        with self.bed.patroni.configured(tagged):
            yield

    def make_lag(self, node: Node) -> None:
        """It receives, and does not replay, and the leader writes four times `MAX_LAG`. Not by
        `pg_wal_replay_pause`, which Patroni takes back (ha.py, handle_parameter_change).
        """
        replays(node).suspend()
        self.bed.leader().sql(_MUCH_WAL)

    def catch_up(self, node: Node) -> None:
        """It replays again."""
        replays(node).resume()


def replays(node: Node) -> psutil.Process:
    """The process of the replica that replays WAL."""
    postmaster = psutil.Process(node.postmaster_pid())
    return next(one for one in postmaster.children() if "startup" in " ".join(one.cmdline()))


@contextmanager
def _marked(bed: Bed) -> Iterator[None]:
    """With a marked line in every block, which leads to the primary at first."""
    for host in bed.bouncers:
        host.pgbouncer.reads = (READS,)
    try:
        bed.point_at_leader()
        yield
    finally:
        for host in bed.bouncers:
            host.pgbouncer.reads = ()
        bed.point_at_leader()
