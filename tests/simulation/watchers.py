"""A whole watcher in virtual time: real board, mailboxes and reconcilers, observers that are simulated."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from tests.simulation.cluster import Cluster, Node
from tests.simulation.etcd import Etcd, Link
from tests.simulation.hosts import Host, Way
from tests.simulation.knowledge import Knowledge
from tests.simulation.leases import LeaseClient, Leases
from tests.simulation.loop import Fiber, Loop
from tests.simulation.witness import Broken, Witness
from tests.support.fake_target import Reports
from watcher.apply.greetings import Greetings
from watcher.board import Board
from watcher.decide.backoff import Backoff
from watcher.decide.decision import CanaryPolicy, HoldPolicy, Policy
from watcher.decide.errors import WatcherError
from watcher.decide.model import (
    Actual,
    Alarm,
    Confirmed,
    Desired,
    Endpoint,
    Handover,
    HealthRound,
    Leadership,
    Readiness,
    Role,
    Sighting,
    Verdict,
    View,
)
from watcher.decide.precedence import Standing, in_words
from watcher.decide.readiness import Want, wanted
from watcher.expose.audience import Listener
from watcher.expose.candidate import Candidate
from watcher.expose.rank import Rank
from watcher.mailbox import Mailbox
from watcher.reconciler import Reconciler, Relief

LIMIT = 20.0
POLICY = Policy(hold=HoldPolicy(limit=LIMIT, announced_limit=8.0))
CANARY_FIRST = replace(POLICY, canary=CanaryPolicy(frozenset({"pgb0"}), limit=2.0))
PATIENCE = 2.0
ASK_EVERY = 0.1
ROUND_EVERY, CALM_ROUND_EVERY = 1.0, 30.0


@dataclass
class Telling(Reports):
    """To the story. Memory is not needed, and a bug of the reconciler's is no failure among others."""

    who: str = ""
    witness: Witness | None = None
    host: Host | None = None
    way: Way | None = None

    def wished(self, wish: Desired) -> None:
        self._say(f"wishes {wish.reason}{', held' if wish.held else ''}: {wish.detail}")
        if self.way is not None:
            was, self.way.in_trouble = self.way.in_trouble, wish.held or wish.gave_up
            if not was:
                self.way.waited = 0.0

    def looked(self, target: str, wish: Desired, actual: Actual | None, failure: WatcherError | None) -> None:
        pass

    def held(self, target: str, wish: Desired) -> None:
        del target
        self._say(f"clients wait: {wish.reason}")

    def released(self, target: str, wish: Desired, seconds: float | None) -> None:
        del target
        after = "by another's word" if seconds is None else f"after {seconds:.1f} s"
        self._say(f"clients go on {after}: {wish.reason}")

    def in_sync(self, target: str, actual: Actual) -> None:
        """Invariant 5: it counts when PgBouncer shows it."""
        ends = {(row.host, row.port) for row in actual.shown or ()}
        led = {(one.endpoint.host, one.endpoint.port) for one in actual.databases}
        if not ends or ends != led:
            raise Broken(f"{target} is said to be in sync, but shows {ends} where the file says {led}")

    def failed(self, target: str, error: WatcherError, failures: int) -> None:
        del failures
        if error.__cause__ is not None and "this is a bug" in str(error):
            raise Broken(f"{target}: {error}") from error
        self._say(f"failed: {error}")

    def _say(self, text: str) -> None:
        if self.witness is not None and self.host is not None:
            self.witness.say(f"{self.who} {self.host.name}: {text}")


class _Standing(Listener):
    """To the story."""

    def __init__(self, who: str, witness: Witness) -> None:
        self._who, self._witness = who, witness

    def stands(self, standing: Standing, first: str) -> None:
        self._witness.say(f"{self._who} {in_words(standing, first)}")


class _Stop(threading.Event):
    """To wait for it takes virtual time."""

    fiber: Fiber

    def wait(self, timeout: float | None = None) -> bool:
        self.fiber.wait(timeout or 0.0)
        return self.is_set()


class Bell:
    """What a mailbox waits on: its one reader is a fiber, woken in virtual time."""

    A_MOMENT, MOST_LOOKS = 0.01, 80

    def __init__(self, loop: Loop, chance: random.Random) -> None:
        self.fiber: Fiber | None = None
        self._loop, self._chance = loop, chance
        self._looked_at, self._looks = loop.now, 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def notify(self) -> None:
        if self.fiber is not None:
            self.fiber.wake(self._chance.uniform(0.0001, 0.002))

    def wait_for(self, is_so: Callable[[], bool], timeout: float) -> bool:
        self._must_not_spin()
        until = self._loop.now + timeout
        while not is_so() and self._loop.now < until:
            assert self.fiber is not None
            self.fiber.idle = True
            self.fiber.wait(until - self._loop.now)
            self.fiber.idle = False
        return is_so()

    def _must_not_spin(self) -> None:
        """A turn takes time; a few without any are what rounding makes of a moment that has just come."""
        if self._loop.now > self._looked_at + self.A_MOMENT:
            self._looked_at, self._looks = self._loop.now, 0
        self._looks += 1
        if self._looks > self.MOST_LOOKS:
            raise Broken("a worker turns and turns, and has nothing to do")
        if self._looks > self.MOST_LOOKS / 4:
            assert self.fiber is not None
            self.fiber.wait(self.A_MOMENT / self.MOST_LOOKS)


@dataclass
class Parts:
    """What a watcher is put into."""

    loop: Loop
    etcd: Etcd
    cluster: Cluster
    hosts: list[Host]
    witness: Witness
    chance: random.Random
    resync: float
    """`resync_interval`, in virtual seconds."""
    policy: Policy = POLICY
    leases: Leases | None = None
    """Where watchers ask to be the active one; None: all act."""


class Watcher:
    """One process, from its start to its end; after `kill` make another."""

    def __init__(self, name: str, parts: Parts, before: "Watcher | None" = None) -> None:
        """Alone, or in the place of another, by other settings."""
        self.name = name
        self._before = before
        self._parts, self._loop = parts, parts.loop
        self.dead = self.frozen = False
        self._backlog: list[Callable[[], None]] = []
        self._stop = threading.Event()
        self._resign: Callable[[], None] = lambda: None
        self.board = Board(self._loop.now, silence_limit=POLICY.silence_limit)
        self.ways: dict[str, Way] = {}
        self._fibers: list[Fiber] = []
        self._workers: dict[str, Reconciler] = {}
        self._boxes: dict[str, Mailbox[View]] = {}
        self._alarmed: dict[str, Alarm] = {}
        self._holds: dict[str, float] = {}
        self.jump = 0.0
        self._asks = False
        self._round_at = self._loop.now
        self.knowledge = Knowledge(self._loop.clock)
        self._greetings = Greetings(self._loop.clock)
        self.board.listen(self._learns)
        self.rank = Rank("", POLICY.silence_limit, _Standing(name, parts.witness), self._loop.clock)
        self.board.listen(self.rank.viewed)
        for host in parts.hosts:
            self._serve(host)
        if before is None:
            self.link = Link(self._loop, parts.etcd, parts.chance, self._read)
        else:
            self.link = before.link
            self.link.hand_over(self._read)
        if parts.leases is not None:
            self._stand(parts.leases)
        if before is not None:
            before.give_way_to(self)
        self._round()

    # --- life ------------------------------------------------------------------------------------------

    def kill(self) -> None:
        self.dead = True
        if not self._stop.is_set():
            self.link.end()
        for fiber in self._fibers:
            fiber.kill()
        for way in self.ways.values():
            way.lose_agent()
        if self._before is not None and not self._before.dead:
            self._before.kill()

    def give_way_to(self, successor: "Watcher") -> None:
        """As `Fleet.start` does it: nothing is begun any more, and who waits is handed over."""
        self._stop.set()
        self._resign()
        successor.board.post(Handover(self.board.view, self._loop.now))
        for name, worker in self._workers.items():
            self.ways[name].give_way_to(successor.ways[name])
            successor._workers[name].follow(worker)
            worker.relief = partial(successor.in_place, name)
            self._boxes[name].nudge()

    def in_place(self, target: str) -> Relief | None:
        return self._workers[target].in_place

    def freeze(self) -> None:
        self.frozen = self.knowledge.is_frozen = True
        for fiber in self._fibers:
            fiber.frozen = True
        if self._before is not None:
            self._before.freeze()

    def thaw(self) -> None:
        """It goes on where it stood; what arrived meanwhile is read now."""
        self.frozen = self.knowledge.is_frozen = False
        self.knowledge.thawed_at = self._loop.now
        backlog, self._backlog = self._backlog, []
        for event in backlog:
            event()
        for fiber in self._fibers:
            fiber.thaw()
        if self._before is not None:
            self._before.thaw()

    # --- the targets -------------------------------------------------------------------------------------

    def _serve(self, host: Host) -> None:
        parts = self._parts
        way = self.ways[host.name] = Way(
            host, self._loop, parts.chance, LIMIT, self.knowledge, self._greetings
        )
        box = self._boxes[host.name] = Mailbox(self.board.view)
        bell = box._changed = Bell(self._loop, parts.chance)  # type: ignore[assignment] # stands for a Condition
        worker = self._workers[host.name] = Reconciler(
            way,
            box,
            parts.policy,
            Telling(who=self.name, witness=parts.witness, host=host, way=way),
            resync_interval=parts.resync,
            backoff=Backoff(),
            clock=self._loop.clock,
            random=parts.chance.random,
            wall=lambda: self._loop.now + self.jump,
            confirm=partial(self._confirm, host.name),
            standing=self.rank.standing,
            patience=PATIENCE,
        )
        fiber = bell.fiber = way.fiber = Fiber(self._loop, partial(worker.run, self._stop))
        self._fibers.append(fiber)
        self.board.listen(box.put)
        fiber.resume()

    def _confirm(self, target: str, reign: Leadership) -> None:
        canary = self._parts.policy.canary
        if canary is not None and target in canary.targets:
            self.post(Confirmed(target, reign))

    def _stand(self, leases: Leases) -> None:
        """As one of several, by a candidate in a fiber of its own."""
        stop = _Stop()
        name = f"{self.name}@{self._loop.now:.3f}"
        candidate = Candidate(
            self.name,
            lambda _: LeaseClient(leases, self.link, stop.fiber, name),
            ttl=PATIENCE,
            watcher=name,
            backoff=Backoff(),
            clock=self._loop.clock,
            random=self._parts.chance.random,
        )
        bell = candidate._bell._changed = Bell(self._loop, self._parts.chance)  # type: ignore[assignment] # as above
        stop.fiber = bell.fiber = Fiber(self._loop, partial(candidate.run, stop))
        self._fibers.append(stop.fiber)
        self.rank.stand(candidate, self.board.view)
        stop.fiber.resume()

        def resign() -> None:
            stop.set()
            candidate.nudge()

        self._resign = resign

    def _later(self, event: Callable[[], None]) -> None:
        """Now, or once it is thawed; never if it is dead, or has given way to another."""
        if self.frozen:
            self._backlog.append(event)
        elif not (self.dead or self._stop.is_set()):
            event()

    def _learns(self, view: View, is_news: bool) -> None:
        self._parts.witness.believes(self.name, view, self.knowledge.position)
        self.knowledge.learn(view)
        if is_news and not self._asks:
            self._ask()

    # --- what it observes ----------------------------------------------------------------------------------

    def post(self, sighting: Sighting) -> None:
        self._later(lambda: self.board.post(sighting))

    def _read(self, make: Callable[[], Sighting]) -> None:
        self._later(lambda: self.board.post(make()))

    def _ask(self) -> None:
        """The leader, whether it is ready, for as long as that is wanted."""
        want = None if self.dead or self._stop.is_set() else wanted(self.board.view, POLICY)
        self._asks = want is not None and bool(want.api_urls)
        if want is None or not self._asks:
            return
        if not self.frozen:
            node = self._parts.cluster.node_at(want.api_urls[-1])
            self._loop.after(self._parts.chance.uniform(0.001, 0.01), partial(self._answered, want, node))
        self._loop.after(ASK_EVERY, self._ask)

    def _answered(self, want: Want, node: Node) -> None:
        verdict, role, timeline = Verdict.UNKNOWN, Role.OTHER, None
        if node.answers and self.name not in node.hidden_from:
            is_ready = node.takes_logins and node.role is want.role
            verdict, role, timeline = (
                (Verdict.READY if is_ready else Verdict.NOT_YET),
                node.role,
                node.timeline,
            )
        self.post(Readiness(want.leadership, verdict, role, timeline, self._loop.now, f"it is {role}"))

    def _round(self) -> None:
        """Every node is asked what it is: often while etcd is not heard, else now and then."""
        if self.dead or self._stop.is_set():
            return
        self._loop.after(ROUND_EVERY, self._round)
        asked_at, heard_at = self._loop.now, self.board.view.contact_at
        is_calm = heard_at is not None and asked_at - heard_at < POLICY.silence_limit - 2 * ROUND_EVERY
        if is_calm and asked_at - self._round_at < CALM_ROUND_EVERY:
            return
        self._round_at = asked_at
        heard = [
            n for n in self._parts.cluster.nodes.values() if n.answers and self.name not in n.hidden_from
        ]
        reports = tuple(node.report() for node in heard)
        self._loop.after(
            self._parts.chance.uniform(0.001, 0.3), lambda: self.post(HealthRound(reports, {}, asked_at))
        )

    def guards_look(self) -> None:
        """What the agents beside the PgBouncers see of the server that they watch."""
        for host in self._parts.hosts:
            way = self.ways[host.name]
            self._note_end_of_hold(host, way)
            endpoint, known = way.agent_guards if way.connected else None, self._alarmed.get(host.name)
            if known is not None and known.refuses and known.endpoint != endpoint:
                self._alarm(host, known.endpoint, refuses=False)  # its guard has gone, or is elsewhere
                known = None
            if endpoint is None:
                continue
            refuses = endpoint in host.closed
            if refuses:
                way.refused_at[endpoint] = self._loop.now
            if (known.refuses if known and known.endpoint == endpoint else False) != refuses:
                if refuses and way._agent is not None:
                    way._agent.hear(endpoint)
                self._alarm(host, endpoint, refuses=refuses)

    def _alarm(self, host: Host, endpoint: Endpoint, *, refuses: bool) -> None:
        alarm = Alarm(host.name, endpoint, refuses, self._loop.now, "refused")
        self._alarmed[host.name] = alarm
        self.post(alarm)

    def _note_end_of_hold(self, host: Host, way: Way) -> None:
        """The agent tells of a hold that it ended by itself."""
        now_since = way.agent_holds_since
        since = self._holds.pop(host.name, None)
        if now_since is not None:
            self._holds[host.name] = now_since
        elif since is not None and self._loop.now - since >= LIMIT - 1:
            seconds = self._loop.now - since
            self._later(lambda: self._workers[host.name].hold_ended(seconds))
            self._later(self._boxes[host.name].nudge)
