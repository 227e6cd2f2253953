"""Patroni's nodes as far as anybody outside sees them: the keys they write, whom PostgreSQL lets in, REST."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.etcd import Etcd
from tests.simulation.loop import Loop
from watcher.decide.model import (
    Config,
    Endpoint,
    Failover,
    Leader,
    Member,
    NodeReport,
    Role,
    SystemId,
)

SYSTEM = "7000000000000000001"
TTL = 6.0


@dataclass
class Node:
    """`role` is PostgreSQL's own; `takes_logins` whether anybody can connect; `answers` whether REST does."""

    name: str
    endpoint: Endpoint
    timeline: int = 1
    role: Role = Role.REPLICA
    takes_logins: bool = True
    answers: bool = True
    hidden_from: set[str] = field(default_factory=set)
    """Watchers that cannot reach its REST."""
    hidden_since: float | None = None
    hidden_at: float = float("-inf")
    """When it last had been from any, or had not answered, for longer than a moment."""
    wrote_at: float = float("-inf")
    """When it last was seen to take writes."""

    @property
    def takes_writes(self) -> bool:
        return self.takes_logins and self.role is Role.PRIMARY

    @property
    def api_url(self) -> str:
        return f"http://{self.endpoint.host}:8008"

    def member(self) -> Member:
        state = "running" if self.takes_logins else "stopped"
        return Member(self.name, self.endpoint, None, self.api_url, self.role, state, self.timeline)

    def report(self) -> NodeReport:
        state = "running" if self.takes_logins else "stopped"
        return NodeReport(
            self.name, self.api_url, self.role, state, self.timeline, SYSTEM, conn=self.endpoint
        )


@dataclass(frozen=True)
class Succession:
    """How a leader is followed by another. Seconds: without any leader key, between the key and the
    promotion, promoted without taking logins, `rogue`, for which the old one comes back as what it was, and
    until it `returns` as a replica, where that is before anybody leads.
    """

    old: Node
    new: Node
    rogue: float = 0.0
    returns: float = 0.0
    leaderless: float = 0.0
    promotion: float = 0.0
    closed: float = 0.0
    forks: bool = False
    """Whether the new timeline has a number that another node gave as well, of which it had not heard."""


class Cluster:
    """Three nodes, one of them the leader. One change of leader at a time; more are refused."""

    def __init__(
        self, loop: Loop, etcd: Etcd, chance: random.Random, on_promotion: Callable[[str, int], None]
    ) -> None:
        self._loop, self._etcd, self._chance = loop, etcd, chance
        self._on_promotion = on_promotion
        self.nodes = {
            name: Node(name, Endpoint(f"10.0.0.{number}", 5432))
            for number, name in enumerate(("node1", "node2", "node3"), 1)
        }
        self.leader: Node | None = None
        self.busy = False
        etcd.put(config=Config(ttl=TTL), initialize=SystemId(SYSTEM))
        self._acquire(self.nodes["node1"])
        self._promoted(self.nodes["node1"])
        self.tell()

    def tell(self) -> None:
        """Every node that is up writes its member key."""
        self._etcd.put(
            **{f"members__{node.name}": node.member() for node in self.nodes.values() if node.answers}
        )

    def node_at(self, url: str) -> Node:
        return next(node for node in self.nodes.values() if node.api_url == url)

    def node_of(self, endpoint: Endpoint) -> Node | None:
        return next((node for node in self.nodes.values() if node.endpoint == endpoint), None)

    # --- what befalls it --------------------------------------------------------------------------------

    def switch_over(self) -> None:
        """Announced, stopped, handed over, promoted."""
        old = self._begin()
        if old is None:
            return
        new = self._another(old)
        self._etcd.put(failover=Failover(old.name, new.name, None))
        self._later(0.2, lambda: self._stop(old))
        self._later(0.6, lambda: self._hand_over(Succession(old, new)))

    def withdraw(self) -> None:
        """Announced, and nothing comes of it."""
        if self.leader is not None and not self.busy:
            self._etcd.put(failover=Failover(self.leader.name, None, None))
            self._later(self._chance.uniform(0.5, 12), lambda: self._etcd.delete("failover"))

    def crash(self, **how: Any) -> None:
        """The leader's host dies; `how` it is followed, see `Succession`."""
        old = self._begin()
        if old is None:
            return
        old.takes_logins = old.answers = False
        to = Succession(old, self._another(old, behind=how.get("forks", False)), **how)
        self._later(TTL, lambda: self._hand_over(to))
        if to.returns:
            self._later(to.returns, lambda: self._return(old))

    def crash_twice(self, within: float = 0.2) -> None:
        """Who takes the key loses it to the third within so many seconds, and was never promoted."""
        old = self._begin()
        if old is None:
            return
        old.takes_logins = old.answers = False
        passing, new = self._chance.sample([node for node in self.nodes.values() if node is not old], 2)

        def pass_on() -> None:
            self._etcd.delete("leader")
            self._acquire(passing)
            self._loop.after(self._chance.uniform(0.0, within), lambda: self._take(Succession(old, new)))

        self._later(TTL, pass_on)

    def restart(self) -> None:
        """PostgreSQL of the leader goes, and comes back under the same key."""
        old = self._begin()
        if old is None:
            return
        self._stop(old)
        self._later(self._chance.uniform(0.5, 4), lambda: self._is_back(old))

    def flap(self) -> None:
        """The leader key runs out, and the same member takes it again."""
        old = self._begin()
        if old is None:
            return
        self._etcd.delete("leader")
        self.leader = None
        self._later(self._chance.uniform(0.1, 3), lambda: self._take_again(old))

    def restored(self) -> None:
        """Etcd is back from a backup: nodes write what they are, who does not lead loses the key."""
        self._later(self._chance.uniform(0.2, 2), self._settle_after_restore)

    # --- its steps -----------------------------------------------------------------------------------------

    def _begin(self) -> Node | None:
        if self.busy or self.leader is None:
            return None
        self.busy = True
        return self.leader

    def _stop(self, node: Node) -> None:
        node.takes_logins = False

    def _is_back(self, node: Node) -> None:
        node.takes_logins = True
        self.busy = False
        self.tell()

    def _take_again(self, node: Node) -> None:
        self._acquire(node)
        self.busy = False

    def _another(self, old: Node, behind: bool = False) -> Node:
        """If there is one that is `behind`, one of those."""
        others = [node for node in self.nodes.values() if node is not old and node.answers]
        late = [node for node in others if node.timeline < old.timeline]
        return self._chance.choice(late if behind and late else others)

    def _return(self, old: Node) -> None:
        old.role, old.takes_logins, old.answers = Role.REPLICA, True, True
        self.tell()

    def _hand_over(self, to: Succession) -> None:
        to.old.takes_logins = to.old.role is Role.REPLICA
        self._etcd.delete("leader", "failover")
        self.leader = None
        self._later(self._chance.uniform(0.02, 1.5) + to.leaderless, lambda: self._take(to))

    def _take(self, to: Succession) -> None:
        self._acquire(to.new)
        self._later(self._chance.uniform(0.1, 2.5) + to.promotion, lambda: self._promote(to))

    def _promote(self, to: Succession) -> None:
        known = max(node.timeline for node in self.nodes.values())
        to.new.timeline = known if to.forks and to.new.timeline < known else known + 1
        to.new.takes_logins = not to.closed
        self._promoted(to.new)
        self.tell()
        if to.closed:
            self._later(to.closed, lambda: self._is_up(to.new))
        if to.rogue:
            to.old.takes_logins = to.old.answers = True  # and still takes itself for the primary
        gone = to.rogue or self._chance.uniform(0.5, 5)
        self._later(max(gone, 2 * to.closed), lambda: self._rejoin(to))

    def _is_up(self, node: Node) -> None:
        node.takes_logins = True
        self.tell()

    def _rejoin(self, to: Succession) -> None:
        to.old.role, to.old.timeline = Role.REPLICA, to.new.timeline
        to.old.takes_logins = to.old.answers = True
        self.busy = False
        self.tell()

    def _acquire(self, node: Node) -> None:
        self.leader = node
        self._etcd.delete("leader")
        self._etcd.put(leader=Leader(node.name))

    def _promoted(self, node: Node) -> None:
        node.role = Role.PRIMARY
        self._on_promotion(node.name, node.timeline)

    def _settle_after_restore(self) -> None:
        entry = self._etcd.entries.get("leader")
        leads = entry is not None and isinstance(entry.value, Leader) and entry.value.name
        if self.leader is not None and leads != self.leader.name:
            self._acquire(self.leader)
        if self.leader is None:
            self._etcd.delete("leader")
        self.tell()

    def _later(self, seconds: float, step: Callable[[], None]) -> None:
        self._loop.after(seconds * self._chance.uniform(0.7, 1.3), step)
