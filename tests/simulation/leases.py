"""Leases of the simulated etcd, and the client by which a watcher asks for one: each call takes its time."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tests.simulation.etcd import Etcd, Link
from tests.simulation.loop import Fiber, Loop
from watcher.decide.errors import SourceError
from watcher.decide.model import ACTIVE_KEY, ActiveWatcher

TICK = 0.5
"""Virtual seconds between two looks of etcd's for leases that are over."""


class Leases:
    """A lease may hold the key of the active watcher. Those of a backup live on after it is restored."""

    def __init__(self, loop: Loop, etcd: Etcd) -> None:
        self._loop, self._etcd = loop, etcd
        self._ends: dict[int, float] = {}
        self._ttl: dict[int, float] = {}
        self._holder: dict[str, int] = {}
        loop.after(TICK, self._look)

    def grant(self, ttl: float) -> int:
        lease = len(self._ttl) + 1
        self._ttl[lease] = ttl
        self._ends[lease] = self._loop.now + ttl
        return lease

    def keep(self, lease: int) -> bool:
        lives = lease in self._ends
        if lives:
            self._ends[lease] = self._loop.now + self._ttl[lease]
        return lives

    def claim(self, value: ActiveWatcher, lease: int) -> bool:
        is_free = ACTIVE_KEY not in self._etcd.entries and lease in self._ends
        if is_free:
            self._holder[value.id] = lease
            self._etcd.put(**{ACTIVE_KEY.replace("/", "__"): value})
        return is_free

    def end(self, lease: int) -> None:
        self._ends.pop(lease, None)
        entry = self._etcd.entries.get(ACTIVE_KEY)
        if entry is not None and self._holder.get(getattr(entry.value, "id", "")) == lease:
            self._etcd.delete(ACTIVE_KEY)

    def _look(self) -> None:
        entry = self._etcd.entries.get(ACTIVE_KEY)
        if entry is not None:  # out of a backup, perhaps
            self._ends.setdefault(self._holder[getattr(entry.value, "id", "")], self._loop.now + 2 * TICK)
        for lease in [lease for lease, ends in self._ends.items() if ends <= self._loop.now]:
            self.end(lease)
        self._loop.after(TICK, self._look)


class LeaseClient:
    """One session with etcd, on the watcher's own link."""

    place = "etcd"

    def __init__(self, leases: Leases, link: Link, fiber: Fiber, name: str) -> None:
        self._leases, self._link, self._fiber = leases, link, fiber
        self._value = ActiveWatcher(name, name)

    def authenticate(self) -> None:
        """Nobody is asked who they are."""

    def grant(self, seconds: int) -> int:
        return int(self._call(lambda: self._leases.grant(float(seconds))))

    def claim(self, key: str, value: str, lease: int) -> bool:
        del key, value  # there is one
        return bool(self._call(lambda: self._leases.claim(self._value, lease)))

    def keep_alive(self, lease: int) -> bool:
        return bool(self._call(lambda: self._leases.keep(lease)))

    def revoke(self, lease: int) -> None:
        self._call(lambda: self._leases.end(lease))

    def write(self, puts: Mapping[str, str], deletes: Iterable[str], lease: int) -> None:
        """The barrier has no part here."""

    def close(self) -> None:
        """Nothing to close."""

    def _call(self, what: Callable[[], Any]) -> Any:
        """The answer may be lost, though it was done."""
        self._cross()
        said = what()
        self._cross()
        return said

    def _cross(self) -> None:
        self._fiber.wait(self._link.draw_lag())
        if self._link.is_cut:
            raise SourceError(self.place, "no answer", "it is asked again")
