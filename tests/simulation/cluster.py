"""Patroni's nodes as far as anybody outside sees them: the keys they write, whom PostgreSQL lets in, REST."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

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

    # --- what befalls it --------------------------------------------------------------------------------

    def switch_over(self) -> None:
        """Announced, stopped, handed over, promoted."""
        old = self._begin()
        if old is None:
            return
        new = self._chance.choice([node for node in self.nodes.values() if node is not old and node.answers])
        self._etcd.put(failover=Failover(old.name, new.name, None))
        self._later(0.2, lambda: self._stop(old))
        self._later(0.6, lambda: self._hand_over(old, new))

    def withdraw(self) -> None:
        """Announced, and nothing comes of it."""
        if self.leader is not None and not self.busy:
            self._etcd.put(failover=Failover(self.leader.name, None, None))
            self._later(self._chance.uniform(0.5, 12), lambda: self._etcd.delete("failover"))

    def crash(self, rogue: float = 0.0) -> None:
        """The leader's host dies. As a `rogue` it comes back once the new one is there, and says for so many
        seconds that it is what it was.
        """
        old = self._begin()
        if old is None:
            return
        new = self._chance.choice([node for node in self.nodes.values() if node is not old and node.answers])
        old.takes_logins = old.answers = False
        self._later(TTL, lambda: self._hand_over(old, new, rogue))

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

    def _hand_over(self, old: Node, new: Node, rogue: float = 0.0) -> None:
        old.takes_logins = False
        self._etcd.delete("leader", "failover")
        self.leader = None
        self._later(self._chance.uniform(0.02, 1.5), lambda: self._take(old, new, rogue))

    def _take(self, old: Node, new: Node, rogue: float) -> None:
        self._acquire(new)
        self._later(self._chance.uniform(0.1, 2.5), lambda: self._promote(old, new, rogue))

    def _promote(self, old: Node, new: Node, rogue: float) -> None:
        new.timeline = max(node.timeline for node in self.nodes.values()) + 1
        self._promoted(new)
        self.tell()
        if rogue:
            old.takes_logins = old.answers = True  # and still takes itself for the primary
            self._later(rogue, lambda: self._rejoin(old, new))
        else:
            self._later(self._chance.uniform(0.5, 5), lambda: self._rejoin(old, new))

    def _rejoin(self, old: Node, new: Node) -> None:
        old.role, old.timeline = Role.REPLICA, new.timeline
        old.takes_logins = old.answers = True
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
