"""What clients meet: a bed, a contender at work on it, clients through its door, and the reference beside.

`Stage.switch_over` and `Stage.crash` do a deed and wait, bounded, until every client is served again.
"""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.benchmarks.contenders import Contender
from tests.benchmarks.episodes import Episode
from tests.support.attempts import Attempts
from tests.support.bed import Bed
from tests.support.etcd_gateway import Event, KeyWatch
from tests.support.network import Segment, own_network
from tests.support.patroni import Node, with_room_for
from tests.support.reference import ReferenceWriter
from tests.support.traffic import Plan, Traffic
from tests.support.waiting import BedError, BedTimeoutError, wait_for

Deed = Literal["kill", "freeze", "drop"]
DEEDS: tuple[Deed, ...] = ("kill", "freeze", "drop")
ROOM = {"max_client_conn": "2000"}
"""For every contender: in a crash some four hundred fresh clients come and wait, and how many may wait (100
by default) is the operator's choice and no property of a switch."""
LEADER_SECONDS = 90.0
SERVED_SECONDS = 90.0
STUCK_SECONDS = 20.0
BEFORE, AFTER = 1.0, 1.0
"""Seconds of undisturbed traffic that belong to an episode, on each side."""
LONGEST_PAUSE = 5.0
"""Between two deeds, so that chance decides where in a rival's rhythm they fall."""


@dataclass(frozen=True)
class Stage:
    """All that takes part."""

    bed: Bed
    traffic: Traffic
    reference: ReferenceWriter
    keys: KeyWatch
    segments: Mapping[str, Segment] = field(default_factory=dict)
    chance: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311 - no secret

    # --- deeds ----------------------------------------------------------------------------------------

    def switch_over(self) -> Episode:
        """One planned switchover, ordered from Patroni's REST API. BedError where Patroni refuses."""
        old = self.ready()
        known, asked = len(self.keys.events), time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            order = pool.submit(self.bed.patroni.switchover)
            put = self._new_leader(known, old, order)
            order.result()
        new = self.bed.patroni[put.value or ""]
        self.traffic.wait_for_all(after=put.at, host=new.host, timeout=SERVED_SECONDS)
        return self._episode((asked, asked), known, put, new)

    def crash(self, deed: Deed) -> Episode:
        """One crash of the leader's host, and its return once clients are served, or known to be stuck."""
        old = self.ready()
        known = len(self.keys.events)
        before, after = self._strike(deed, old)
        put = self._new_leader(known, old)
        new = self.bed.patroni[put.value or ""]
        writable = self.reference.wait_for_node(new.name, after=after, timeout=LEADER_SECONDS)
        served = self._served(new, writable)
        episode = self._episode((before, after), known, put, new)
        self._heal(deed, old)
        if not served:
            self.traffic.wait_for_all(after=time.monotonic(), timeout=SERVED_SECONDS)
        return episode.with_late(self.traffic.between(before, episode.end))

    def ready(self) -> Node:
        """Wait for good health, then a moment left to chance. The leader."""
        self.traffic.require_alive()
        self.bed.patroni.wait_for_replicas(timeout=LEADER_SECONDS)
        time.sleep(BEFORE + self.chance.uniform(0, LONGEST_PAUSE))
        return self.bed.leader()

    def _strike(self, deed: Deed, node: Node) -> tuple[float, float]:
        """When it began and when it was done: a moment, or more would be in flight than were.

        All victims are looked up before, and what they may have forked meanwhile is seen to after.
        """
        victims = [member.pid for member in node.process.members()]
        before = time.monotonic()
        if deed == "drop":
            self.segments[node.name].drop()
        else:
            _signal_all(victims, signal.SIGKILL if deed == "kill" else signal.SIGSTOP)
        after = time.monotonic()
        if deed != "drop":
            node.kill() if deed == "kill" else node.freeze()
        return before, after

    def _heal(self, deed: Deed, node: Node) -> None:
        if deed == "kill":
            node.start()
        elif deed == "freeze":
            node.thaw()
        else:
            self.segments[node.name].mend()

    def _served(self, new: Node, writable: float) -> bool:
        """Whether every client is; False once it is clear that some hang on the dead server."""
        self.traffic_reaches(new, writable)
        with contextlib.suppress(BedTimeoutError):
            self.traffic.wait_for_all(after=writable, host=new.host, timeout=STUCK_SECONDS)
            return True
        return False

    def traffic_reaches(self, node: Node, after: float) -> None:
        """Wait for a first commit of anybody on that node."""
        wait_for(
            lambda: self.traffic.between(after, time.monotonic()).first_commit(node.host, after),
            SERVED_SECONDS,
            f"a commit on {node.name}",
            logs=[self.traffic.log],
        )

    # --- what came of it ------------------------------------------------------------------------------

    def _new_leader(self, known: int, old: Node, order: "Future[str] | None" = None) -> Event:
        def heard() -> tuple[Event | None, BaseException | None] | None:
            puts = [one for one in self.keys.events[known:] if one.key == "leader" and one.value]
            put = next((one for one in puts if one.value != old.name), None)
            refusal = order.exception() if order is not None and order.done() else None
            return (put, refusal) if put or refusal else None

        put, refusal = wait_for(heard, LEADER_SECONDS, "another leader key", logs=self.bed.patroni.logs)
        if put is None:
            raise BedError(f"Patroni refused: {refusal}")
        return put

    def _episode(self, struck: tuple[float, float], known: int, put: Event, new: Node) -> Episode:
        time.sleep(AFTER)
        start, end = struck[0] - BEFORE, time.monotonic()
        events = self.keys.events[known:]
        announced = [e.at for e in events if e.key == "failover" and e.value not in (None, "", "{}")]
        gone = [e.at for e in events if e.key == "leader" and e.value is None and e.at <= put.at]
        return Episode(
            struck=struck,
            announced=next(iter(announced), None),
            gone=next(iter(gone), None),
            put=put.at,
            writable=self.reference.wait_for_node(new.name, after=struck[1], timeout=LEADER_SECONDS),
            gap=self.reference.gap(start, end),
            new_host=new.host,
            end=end,
            attempts=self.traffic.between(start, end),
            noise=self.traffic.noise(start, end),
        )

    def met(self) -> Attempts:
        """Everything since all clients were served for the first time."""
        return self.traffic.between(self.traffic.started, time.monotonic())


def _signal_all(victims: Iterable[int], number: signal.Signals) -> None:
    for victim in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, number)


@contextmanager
def stage(
    contender: Contender,
    *,
    ini: Mapping[str, str],
    pool_mode: str = "transaction",
    networks: bool = False,
    plan: Mapping[str, Any] | None = None,
    prepare: Callable[[Bed], None] = lambda _: None,
    fleet: int = 0,
) -> Iterator[Stage]:
    """Everything started, all clients served. PgBouncer has the settings of `ini`, and ROOM.

    With `networks` each Patroni node has a network of its own; `prepare` is given the bed before it starts.
    A `fleet` is so many PgBouncers, with the clients of the plan at each of them.
    """
    with ExitStack() as stack:
        if networks:
            stack.enter_context(own_network())
        bed = Bed(ini_extra={**ini, **ROOM}, pool_mode=pool_mode, **(_of_fleet(fleet) if fleet else {}))
        prepare(bed)
        segments = {
            node.name: stack.enter_context(_housed(bed, node)) for node in bed.patroni.nodes * networks
        }
        stack.enter_context(bed)
        door = stack.enter_context(contender(bed))
        keys = stack.enter_context(KeyWatch(bed.etcd.endpoints[0], bed.patroni.prefix))
        others = [(host.pgbouncer.address, host.pgbouncer.port) for host in bed.bouncers[1:]] if fleet else []
        traffic = stack.enter_context(Traffic(bed.folder, Plan(*door, doors=others, **(plan or {}))))
        reference = stack.enter_context(ReferenceWriter(bed.folder, bed.patroni))
        yield Stage(bed, traffic, reference, keys, segments)


def _of_fleet(size: int) -> dict[str, Any]:
    return {"bouncers": size, "patroni_options": {"dcs": with_room_for(size)}}


@contextmanager
def _housed(bed: Bed, node: Node) -> Iterator[Segment]:
    with Segment(bed.folder, node.host) as segment:
        segment.house(node.process)
        yield segment
