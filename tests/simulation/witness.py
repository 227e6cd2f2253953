"""Who sees everything, and says what must not be."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.cluster import Node
from tests.simulation.hosts import BEGIN, END, Host, Way
from tests.simulation.knowledge import LONG_AGO, ROUNDS_FOR, Knowledge
from tests.support.fake_target import read_block
from watcher.decide.fence import UNREADABLE
from watcher.decide.model import Endpoint, Entry, Stamp, View

IN_VAIN = 5.0
"""Virtual seconds for which whoever refused has to be asked again: `cluster.unknown_limit`, and some."""
SOON = 1.0
"""Virtual seconds within which an undisturbed watcher carries out what it knows."""


class Broken(BaseException):
    """An invariant does not hold. No Exception, or the reconciler would take it for a bug and try again."""


@dataclass
class Witness:
    """Every reign has its number in the order in which it truly was; no target goes back to an earlier."""

    clock: Callable[[], float]
    hold_limit: float
    silence_limit: float
    was: Callable[[int, int], dict[str, Entry] | None] = lambda *_: None
    """Etcd's keys as they were, by cluster id and revision."""
    node_at: Callable[[Endpoint], Node | None] = lambda _: None
    story: list[str] = field(default_factory=list)
    by_hand: bool = False
    _era: int = 0
    _reigns: dict[tuple[str, int, int], int] = field(default_factory=dict)
    _promotions: dict[tuple[str, int], int] = field(default_factory=dict)
    _revived: set[int] = field(default_factory=set)
    _led: dict[str, tuple[int, str]] = field(default_factory=dict)
    _waits_since: dict[str, float] = field(default_factory=dict)

    def say(self, text: str) -> None:
        self.story.append(f"{self.clock() - 1000:8.3f}  {text}")

    def reign(self, name: str, revision: int, cluster_id: int, out_of_a_backup: bool) -> None:
        """A leader key came to be. Out of a backup it says who led once; etcd's word counts all the same."""
        self._era += 1
        if out_of_a_backup:
            self._revived.add(self._era)
        self._reigns[name, revision, cluster_id] = self._era
        self.say(f"etcd {cluster_id:x}: {name} leads since revision {revision}")

    def promoted(self, name: str, timeline: int) -> None:
        """A node became primary, in the last reign that was its own."""
        of_its_own = [era for (who, _, _), era in self._reigns.items() if who == name]
        self._promotions[name, timeline] = max(of_its_own, default=0)
        self.say(f"{name} accepts writes on timeline {timeline}")

    def believes(self, who: str, view: View, before: tuple[int, int]) -> None:
        """What a watcher takes for etcd's keys are etcd's keys at that revision, and it never goes back."""
        if view.cluster_id is None:
            return
        if view.cluster_id == before[0] and view.revision < before[1]:
            raise Broken(f"{who} goes back from revision {before[1]} to {view.revision}")
        if dict(view.entries) != self.was(view.cluster_id, view.revision):
            raise Broken(f"{who} believes what etcd never was at revision {view.revision}: {view.entries}")

    # --- the file ---------------------------------------------------------------------------------------

    def written(self, host: Host, before: str, after: str) -> None:
        """Invariants 2 and 4, at each write."""
        if self.by_hand:
            self.say(f"{host.name}: edited by another hand")
            return
        if _outside(before) != _outside(after):
            raise Broken(f"{host.name}: a byte outside the block changed")
        block = read_block(after, host.block, host.name)
        stamp = block.stamp
        if stamp is None or stamp == UNREADABLE:
            raise Broken(f"{host.name}: written without a stamp that can be read")
        self.say(
            f"{host.name}: written for {stamp.leader}, {block.databases[0].endpoint}, stamp {_said(stamp)}"
        )
        self._must_not_go_back(host, stamp)
        if host.hand is not None and not host.hand.may_be_late():
            self._must_be_known(host, host.hand.knowledge, stamp)

    def _must_be_known(self, host: Host, knowledge: Knowledge, stamp: Stamp) -> None:
        """Whoever writes knows no pause, and what it writes is a reign of etcd's or was seen on a node."""
        since = knowledge.paused_since
        if since is not None and self.clock() - since > SOON:
            raise Broken(f"{host.name}: written {self.clock() - since:.1f} s after a pause was heard")
        if stamp.cluster_id == 0 and not knowledge.alone_is_primary(stamp.leader):
            raise Broken(f"{host.name}: written by the health check, which has not seen {stamp.leader} alone")

    def _must_not_go_back(self, host: Host, stamp: Stamp) -> None:
        era = self._era_of(stamp)
        if era is None:
            raise Broken(f"{host.name}: {stamp.leader} never led as the stamp says: {_said(stamp)}")
        known, name = self._led.get(host.name, (0, ""))
        if stamp.cluster_id == 0 and (stamp.leader == name or known in self._revived):
            return  # of further reigns, and of what a backup brought back, the health check knows nothing
        if era < known:
            raise Broken(f"{host.name}: led back from {name} to {stamp.leader}, which led before")
        self._led[host.name] = (era, stamp.leader)

    def _era_of(self, stamp: Stamp) -> int | None:
        """By etcd's word, or by the health check's, whose stamp carries no revision."""
        if stamp.cluster_id == 0:
            return self._promotions.get((stamp.leader, stamp.timeline or 0))
        return self._reigns.get((stamp.leader, stamp.revision, stamp.cluster_id))

    # --- holds ------------------------------------------------------------------------------------------

    def released(self, host: Host, endpoint: Endpoint | None) -> None:
        """Whoever was made to wait is let go to a node that takes writes, or did just now."""
        way = host.hand
        if way is None or way.may_be_late():
            return
        self._must_not_have_refused(host, way, endpoint)
        node = None if endpoint is None else self.node_at(endpoint)
        if node is None or self.clock() - node.hidden_at < LONG_AGO:
            return
        if not node.takes_writes and self.clock() - node.wrote_at > ROUNDS_FOR:
            raise Broken(f"{host.name}: clients were let go to {node.name}, which takes no writes")

    def _must_not_have_refused(self, host: Host, way: Way, endpoint: Endpoint | None) -> None:
        """Nobody is let go to a leader, or without one, where the watcher saw it refuse, and no writes since:
        but by a limit, by an operator, or where a primary was seen in the silence and could not be led to.
        """
        knows = way.knowledge
        was_paused = knows.paused_since is not None or self.clock() - knows.resumed_at <= SOON
        is_right = way.in_trouble or was_paused or knows.has_seen_a_primary
        if endpoint is None and is_right:
            return
        node = self.node_at(endpoint or host.shown["app"])
        if node is None or node.takes_writes or self.clock() - node.hidden_at <= SOON:
            return
        refused = node.wrote_at < way.refused_at.get(node.endpoint, node.wrote_at)
        if refused and way.knowledge.leader in (None, node.name):
            raise Broken(f"{host.name}: clients go to {node.name}, which refused, and took no writes since")

    def waits(self, way: Way, seconds: float) -> None:
        """In one trouble no watcher makes clients wait for longer than its limit, however often it begins."""
        if way.agent_holds_since is None:
            way.waited_in_vain = 0.0
            return
        self._must_not_wait_in_vain(way, seconds)
        way.waited += seconds
        if way.waited > self.hold_limit + 2 and not way.may_be_late():
            raise Broken(f"{way.host.name}: clients were made to wait for {way.waited:.1f} s in one trouble")

    def _must_not_wait_in_vain(self, way: Way, seconds: float) -> None:
        """While etcd is silent nobody waits for long beside a primary that takes writes, and was seen to."""
        node = self.node_at(way.host.shown["app"])
        serves = node is not None and node.takes_writes and node.takes_logins
        followed = way.knowledge.followed(self.silence_limit)
        is_vain = node is not None and serves and node.name == followed and not way.may_be_late()
        is_vain = is_vain and way.host.waits("app")  # an agent may hold who was let go by another
        way.waited_in_vain = way.waited_in_vain + seconds if is_vain else 0.0
        if way.waited_in_vain > IN_VAIN:
            raise Broken(f"{way.host.name}: clients wait beside {followed}, the primary, for nothing")

    def looks(self, host: Host, watchers: int) -> None:
        """Invariant 3: no hold beyond its limit, nor all of them together beyond those of all watchers."""
        for agent in host.agents:
            held = agent.held
            if held is not None and self.clock() - held.since > self.hold_limit + 1:
                raise Broken(f"{host.name}: a hold has lasted {self.clock() - held.since:.1f} s")
        if not host.waits("app"):
            self._waits_since.pop(host.name, None)
            return
        since = self._waits_since.setdefault(host.name, self.clock())
        if self.clock() - since > (self.hold_limit + 1) * (watchers + 1):
            raise Broken(f"{host.name}: clients have waited {self.clock() - since:.1f} s")


def _outside(text: str) -> tuple[str, str]:
    return text[: text.index(BEGIN)], text[text.index(END) :]


def _said(stamp: Stamp) -> str:
    return f"{stamp.cluster_id:x} revision {stamp.revision} timeline {stamp.timeline}"
