"""Etcd as its clients see it: one history of revisions, and links to it that may be slow or cut."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.simulation.loop import Loop
from watcher.decide.model import (
    Change,
    Contact,
    Deletion,
    Entry,
    Leader,
    Listing,
    Sighting,
    Stamp,
    Value,
)

REREAD = 5.0
HEARTBEAT = 2.0


class Etcd:
    """The keys of one cluster, strictly serial. `on_reign` hears of each leader key that comes to be, and
    whether it came out of a backup.
    """

    def __init__(self, on_reign: Callable[[str, int, int, bool], None]) -> None:
        self.cluster_id = 0xE7CD
        self.revision = 100
        self.entries: dict[str, Entry] = {}
        self.links: list[Link] = []
        self._on_reign = on_reign
        self._backup = (self.revision, dict(self.entries))
        self._history: dict[tuple[int, int], dict[str, Entry]] = {}
        self.compacted = 0
        """The revision before which no watch can begin any more."""
        self._log: list[tuple[int, int, tuple[Entry | Deletion, ...]]] = []
        self._note()

    def _note(self) -> None:
        self._history[self.cluster_id, self.revision] = dict(self.entries)

    def was(self, cluster_id: int, revision: int) -> dict[str, Entry] | None:
        """All keys as they were at that revision; None if it never was."""
        return self._history.get((cluster_id, revision))

    def has_written(self, stamp: Stamp | None) -> bool:
        """Whether it is that of the reign that is."""
        reign = self.entries.get("leader")
        if stamp is None or reign is None:
            return False
        return (stamp.cluster_id, stamp.revision) == (self.cluster_id, reign.create_revision)

    def since(self, cluster_id: int, revision: int) -> list[tuple[Entry | Deletion, ...]]:
        """What happened after that revision, transaction by transaction."""
        return [events for cluster, at, events in self._log if cluster == cluster_id and at > revision]

    def put(self, **values: Value) -> None:
        """One transaction. Keys by name, `__` for a slash."""
        self.revision += 1
        events = [self._put(key.replace("__", "/"), value) for key, value in values.items()]
        self._tell(tuple(events))

    def _put(self, key: str, value: Value) -> Entry:
        known = self.entries.get(key)
        same = known is not None and known.value == value
        created = known.create_revision if known is not None and (key != "leader" or same) else self.revision
        entry = self.entries[key] = Entry(key, value, created, self.revision)
        if isinstance(value, Leader) and created == self.revision:
            self._on_reign(value.name, created, self.cluster_id, False)
        return entry

    def delete(self, *keys: str) -> None:
        gone = [key for key in keys if self.entries.pop(key, None) is not None]
        if gone:
            self.revision += 1
            self._tell(tuple(Deletion(key, self.revision) for key in gone))

    def _tell(self, events: tuple[Entry | Deletion, ...]) -> None:
        self._note()
        self._log.append((self.cluster_id, self.revision, events))
        for link in self.links:
            link.tell(events)

    def back_up(self) -> None:
        self._backup = (self.revision, dict(self.entries))

    def restore(self) -> None:
        """As it was at the last backup, as a new cluster; every stream breaks."""
        self.cluster_id += 1
        self.compacted = 0
        self.revision, self.entries = self._backup[0], dict(self._backup[1])
        self._note()
        leader = self.entries.get("leader")
        if leader is not None and isinstance(leader.value, Leader):
            self._on_reign(leader.value.name, leader.create_revision, self.cluster_id, True)
        for link in self.links:
            link.break_off()


@dataclass
class Lag:
    """Seconds that a message takes, at least and at most."""

    least: float = 0.001
    most: float = 0.02

    def draw(self, chance: random.Random) -> float:
        return chance.uniform(self.least, self.most)


class Link:
    """One watcher's stream: list, watch from there, list again every few seconds, on any doubt anew."""

    def __init__(
        self, loop: Loop, etcd: Etcd, chance: random.Random, post: Callable[[Callable[[], Sighting]], None]
    ) -> None:
        self._loop, self._etcd, self._chance, self._post = loop, etcd, chance, post
        self.lag = Lag()
        self.doubles = False
        self._cut = False
        self._stream = 0
        self._watching = False
        self._last_arrival = 0.0
        self.ended = False
        etcd.links.append(self)
        self._connect()
        self._beat()

    def end(self) -> None:
        """Its watcher is gone."""
        self.ended = True
        self._etcd.links.remove(self)

    def hand_over(self, post: Callable[[Callable[[], Sighting]], None]) -> None:
        """The next watcher's of the same host, which connects anew, as well as that host can."""
        self._post = post
        self.break_off()

    def break_off(self) -> None:
        """The stream ends; what was under way in it is lost. It connects anew."""
        self._stream += 1
        self._watching = False
        if not self._cut:
            self._loop.after(self._chance.uniform(0.05, 1.0), self._connect)

    def cut(self) -> None:
        self._cut = True
        self.break_off()

    def mend(self) -> None:
        self._cut = False
        self.break_off()

    def tell(self, events: tuple[Entry | Deletion, ...]) -> None:
        """By the watch, in order."""
        if self._watching and not self._cut:
            cluster = self._etcd.cluster_id
            for _ in range(1 + self.doubles):
                self._send(lambda: Change(cluster, events, self._loop.now))

    def _send(self, make: Callable[[], Sighting]) -> None:
        stream = self._stream
        self._last_arrival = max(self._last_arrival, self._loop.now + self._lag())
        self._loop.at(self._last_arrival, lambda: self._arrive(stream, make))

    def _arrive(self, stream: int, make: Callable[[], Sighting]) -> None:
        """What is read when it is read: a frozen watcher does so when it is thawed."""
        if stream == self._stream and not self.ended:
            self._post(make)

    def _connect(self) -> None:
        """List; from where that ends, watch; and list again now and then."""
        stream = self._stream
        if not (self._cut or self.ended or self._watching):
            self._list(stream, lambda said: self._loop.after(self._lag(), lambda: self._watch(stream, said)))
            self._loop.after(REREAD, lambda: self._reread(stream))

    def _watch(self, stream: int, said: Listing) -> None:
        """What has happened since then is delivered first."""
        if stream != self._stream or self.ended or self._watching:
            return
        if said.cluster_id != self._etcd.cluster_id or said.revision < self._etcd.compacted:
            self.break_off()
            return
        self._watching = True
        for events in self._etcd.since(said.cluster_id, said.revision):
            self.tell(events)

    def _reread(self, stream: int) -> None:
        """On a connection of its own: it may be overtaken by the watch, and may overtake it."""
        if stream == self._stream and not self.ended:
            self._list(stream, lambda _: None)
            self._loop.after(REREAD, lambda: self._reread(stream))

    def _list(self, stream: int, then: Callable[[Listing], None]) -> None:
        """A linearizable read."""
        asked_at = self._loop.now

        def answer() -> None:
            etcd = self._etcd
            said = Listing(etcd.cluster_id, etcd.revision, tuple(etcd.entries.values()), asked_at, 0.0)
            self._loop.after(self._lag(), lambda: arrive(said))

        def arrive(said: Listing) -> None:
            self._arrive(stream, lambda: replace(said, at=self._loop.now))
            then(said)

        self._loop.after(self._lag(), answer)

    def _lag(self) -> float:
        return self.lag.draw(self._chance)

    @property
    def is_cut(self) -> bool:
        return self._cut

    def draw_lag(self) -> float:
        """What the next message takes."""
        return self._lag()

    def _beat(self) -> None:
        """The progress that etcd tells on a stream that has nothing new."""
        if self.ended:
            return
        if self._watching and not self._cut:
            self._send(lambda: Contact(self._loop.now))
        self._loop.after(HEARTBEAT, self._beat)
