"""What a watcher knew, and since when: it may do nothing that this does not bear out."""

from collections import deque
from collections.abc import Callable

from watcher.decide.model import HealthRound, Leadership, View
from watcher.decide.view import leadership, paused

LONG_AGO = 30.0
"""Virtual seconds for which a watcher that was frozen, or a way that was slow, may carry out what is old."""
ROUNDS_FOR = 8.0
"""… for which a round of the health check may be used, and some to carry it out."""


class Knowledge:
    """Learns from each view of one watcher."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.is_frozen = False
        self.thawed_at = float("-inf")
        self.paused_since: float | None = None
        self.resumed_at = float("-inf")
        self.leader: str | None = None
        """Who reigned when etcd was heard last."""
        self.has_seen_a_primary = False
        """In the silence: one node alone, by the health check."""
        self._seen: HealthRound | None = None
        self._heard_at = float("inf")
        self.position = (0, 0)
        """Etcd's cluster id, and the revision of it, as heard last."""
        self._rounds: deque[tuple[float, HealthRound]] = deque()

    def learn(self, view: View) -> None:
        now = self._clock()
        if paused(view) is None:
            self.resumed_at = self.resumed_at if self.paused_since is None else now
            self.paused_since = None
        elif self.paused_since is None:
            self.paused_since = now
        reign = leadership(view)
        self.leader = reign.name if isinstance(reign, Leadership) else None
        seen = view.primary_seen
        self._seen, self._heard_at = seen, view.contact_at or view.began_at
        self.has_seen_a_primary = seen is not None and seen.at > (view.contact_at or 0.0)
        self.position = (view.cluster_id or 0, view.revision)
        if view.health is not None and (not self._rounds or self._rounds[-1][1] is not view.health):
            self._rounds.append((now, view.health))
        while self._rounds and self._rounds[0][0] < now - LONG_AGO:
            self._rounds.popleft()

    def followed(self, silence_limit: float) -> str | None:
        """Who is to be followed by the health check, now that etcd has been silent for so long."""
        seen = self._seen
        is_silent = self._clock() > self._heard_at + silence_limit
        return seen.primaries[0].name if seen is not None and is_silent and seen.at > self._heard_at else None

    def alone_is_primary(self, name: str) -> bool:
        """Whether a round that may still be used showed that node, and no other, as a primary that runs."""
        lately = [round_ for at, round_ in self._rounds if at >= self._clock() - ROUNDS_FOR]
        for one in lately:
            primaries = [node for node in one.reports if node.role.value == "primary"]
            if [node.name for node in primaries] == [name] and primaries[0].accepts_writes:
                return True
        return False
