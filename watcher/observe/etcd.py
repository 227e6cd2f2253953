"""etcd → sightings: a session after another, each a listing, a watch from there on, and re-reads.

    session:  next endpoint → fresh client → listing at R → watch from R+1 → re-read every few seconds

A watch alone is not enough. Patroni writes the leader key once and then only refreshes its lease, so an
event that is lost is never repeated, and a watch on a frozen member is silent for ever. The re-read bounds
both: whatever the watch does, what is posted is at most `reread_interval` + `reread_limit` seconds old,
or the session ends and the next endpoint is asked.

Threads: the caller's own (sessions, re-reads) and one reader for each session, which lets an event through
while a re-read waits. `post` is called from both.
"""

from __future__ import annotations

import random as _random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from watcher.decide.errors import AccessDenied, SourceError, WatcherError
from watcher.decide.model import Change, Contact, Deletion, Entry, Listing, Sighting
from watcher.decide.patroni import read_entry
from watcher.observe.etcd_access import EtcdAccess, EtcdEndpoint
from watcher.observe.etcd_client import (
    EtcdClient,
    EtcdDenied,
    EtcdUnheard,
    KeyValue,
    Reason,
    Said,
)

_STOP_TICK = 0.9
"""Seconds between two looks whether to stop, where nothing else wakes the caller's thread."""

__all__ = ["EtcdAccess", "EtcdState", "EtcdWatch", "Reason"]


class Stream(Protocol):
    """A watch: its first item says that it was accepted; every end is raised as EtcdUnheard."""

    def __iter__(self) -> Iterator[Said]: ...

    def cancel(self) -> None: ...


class Client(Protocol):
    """One connection to one member. Everything may raise EtcdUnheard; `close()` ends what is under way."""

    def authenticate(self) -> None: ...

    def list_keys(self, prefix: str, limit: float) -> Said: ...

    def watch(self, prefix: str, revision: int) -> Stream: ...

    def close(self) -> None: ...


Connect: TypeAlias = Callable[[EtcdAccess, EtcdEndpoint, Callable[[], bool]], Client]


@dataclass(frozen=True, slots=True)
class EtcdState:
    """Told when a session begins, and when one ends or cannot begin; there once for each new problem."""

    connected: bool
    endpoint: str
    problem: WatcherError | None
    reason: Reason
    at: float


def _unheeded(_: EtcdState) -> None:
    """For those who ask no more than sightings."""


Post: TypeAlias = Callable[[Sighting], None]


class EtcdWatch:
    """Posts all that etcd says below `prefix` (`/{namespace}/{scope}/`), from any number of endpoints.

    Where `post` is one for each cluster's name, `prefix` is that of their namespace, and each gets what is
    below its own name: every Listing, and a Change where there is one. A `post` gets a Listing at the begin
    of each session and at each re-read, a Change for each response of the watch, a Contact for every other
    sign of life. It is called from two threads and must be quick. Each session takes the next endpoint with
    a fresh client, and so authenticates anew.
    """

    def __init__(
        self,
        access: EtcdAccess,
        prefix: str,
        post: Post | Mapping[str, Post],
        on_state: Callable[[EtcdState], None] = _unheeded,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
        connect: Connect = EtcdClient,
    ) -> None:
        self._access = access
        self._prefix = prefix
        self._delivery = _ToMany(prefix, post) if isinstance(post, Mapping) else _ToOne(prefix, post)
        self._on_state = on_state
        self._clock = clock
        self._random = random
        self._connect = connect
        self._endpoints = access.parsed()
        self._turn = 0
        self._failures = 0
        self._told: dict[str, Reason] = {}

    def run(self, stop: threading.Event) -> None:
        """Blocks until `stop` is set, and for at most a second more. Raises nothing of etcd's."""
        while not stop.is_set():
            self.step(stop)

    def step(self, stop: threading.Event) -> None:
        """One session with the next endpoint, to its end, and the pause after it."""
        endpoint = self._endpoints[self._turn % len(self._endpoints)]
        self._turn += 1
        failure = self._failure_of(endpoint, stop)
        if failure is not None and not stop.is_set():
            self._tell(EtcdState(False, str(endpoint), failure, failure.reason, self._clock()))
            stop.wait(self._pause())

    def read_once(self) -> Listing:
        """One linearizable listing, by the first endpoint that answers; each is asked once.

        SourceError if none does; AccessDenied if one of them refused us.
        """
        errors: list[EtcdUnheard] = []
        for endpoint in self._endpoints:
            try:
                return self._read_at(endpoint)
            except EtcdUnheard as error:
                errors.append(error)
        raise _together(errors)

    # --- inside -----------------------------------------------------------------------------------

    def _read_at(self, endpoint: EtcdEndpoint) -> Listing:
        client = self._connect(self._access, endpoint, lambda: True)
        try:
            client.authenticate()
            asked_at = self._clock()
            said = client.list_keys(self._prefix, self._access.timeout)
            return listing_of(said, self._prefix, asked_at, self._clock())
        finally:
            client.close()

    def _failure_of(self, endpoint: EtcdEndpoint, stop: threading.Event) -> EtcdUnheard | None:
        """What ended a session; None if it was stopped."""
        try:
            self._hold_session(endpoint, stop)
        except EtcdUnheard as error:
            return error
        except Exception as error:
            return _broken(f"etcd {endpoint}", error)
        return None

    def _hold_session(self, endpoint: EtcdEndpoint, stop: threading.Event) -> None:
        session = _Session(
            self._access, endpoint, self._prefix, self._delivery, self._clock, self._connect, stop
        )
        try:
            session.begin()
            self._tell(EtcdState(True, str(endpoint), None, Reason.STARTED, self._clock()))
            while session.wait(self._access.reread_interval * (1 - self._random() / 4)):
                session.reread()
                self._failures = 0
        finally:
            session.close()

    def _tell(self, state: EtcdState) -> None:
        """A problem is told once for each endpoint, until it changes or a session begins."""
        if state.connected:
            self._told.clear()
        elif self._told.get(state.endpoint) is state.reason:
            return
        else:
            self._told[state.endpoint] = state.reason
        self._on_state(state)

    def _pause(self) -> float:
        """Seconds until the next session: none while endpoints are left that were not tried since the
        last good session, then a back-off after each round through all of them.
        """
        self._failures += 1
        rounds, rest = divmod(self._failures, len(self._endpoints))
        return 0.0 if rest else self._access.backoff.delay(rounds - 1, self._random)


def _together(errors: list[EtcdUnheard]) -> SourceError:
    denied = next((error for error in errors if isinstance(error, EtcdDenied)), None)
    kind, first = (SourceError, errors[0]) if denied is None else (AccessDenied, denied)
    if len(errors) == 1:
        return kind(first.place, first.problem, first.hint)
    every = "; ".join(f"{error.place}: {error.problem}" for error in errors)
    return kind("etcd", f"no endpoint answered: {every}", first.hint)


def _broken(place: str, error: Exception) -> EtcdUnheard:
    """A fault of our own: told like any other problem, since a thread that dies of it would be silent."""
    failure = EtcdUnheard(place, f"a sighting could not be passed on: {error!r}", "report this as a bug")
    failure.__cause__ = error
    return failure


# --- a session ------------------------------------------------------------------------------------


class _Session:
    """One client's life. Every method but the reader's runs in the caller's thread and raises EtcdUnheard
    once the session cannot go on; `close()` leaves no thread behind.
    """

    def __init__(
        self,
        access: EtcdAccess,
        endpoint: EtcdEndpoint,
        prefix: str,
        delivery: _Delivery,
        clock: Callable[[], float],
        connect: Connect,
        stop: threading.Event,
    ) -> None:
        self._access = access
        self._prefix = prefix
        self._delivery = delivery
        self._clock = clock
        self._stop = stop
        self._news = threading.Condition()
        self._accepted = False
        self._failure: EtcdUnheard | None = None
        self._seen = _Seen()
        self._stream: Stream | None = None
        self._reader: threading.Thread | None = None
        self._client = connect(access, endpoint, self._is_wanted)
        self._place = f"etcd {endpoint}"

    def begin(self) -> None:
        """Authenticate, list, watch; returns when the watch is accepted."""
        self._client.authenticate()
        said = self._list(self._access.timeout)
        self._seen.start(said)
        stream = self._client.watch(self._prefix, said.revision + 1)
        self._stream = stream
        reader = threading.Thread(target=self._read, args=(stream,), name="etcd-watch", daemon=True)
        reader.start()
        self._reader = reader
        if not self._await(lambda: self._accepted, self._access.first_response_limit):
            problem = f"the watch was not accepted within {self._access.first_response_limit} s"
            raise self._ended(problem, Reason.SILENT)

    def wait(self, seconds: float) -> bool:
        """True after `seconds`, False once stopped; raises what ended the session meanwhile."""
        self._await(lambda: False, seconds)
        return not self._stop.is_set()

    def reread(self) -> None:
        """List again, post it, and see that the watch delivered as much."""
        with self._news:
            before = self._seen.latest
        said = self._list(self._access.reread_limit)
        self._raise_if(before.denies(said))
        if not self._await(lambda: not self._seen.lacks(said), self._access.missed_limit):
            raise self._ended("the watch did not deliver what a read shows", Reason.MISSED)
        with self._news:
            self._seen.forget_deletions(said.revision)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
        self._client.close()
        if self._reader is not None:
            self._reader.join(timeout=1.0)

    def _list(self, limit: float) -> Said:
        asked_at = self._clock()
        try:
            said = self._client.list_keys(self._prefix, limit)
        except EtcdUnheard as error:  # given up because the watch ended: then that is the news
            raise self._failure or error from error.__cause__
        self._delivery.listed(said, asked_at, self._clock())
        return said

    def _raise_if(self, problem: tuple[str, Reason] | None) -> None:
        if problem is not None:
            raise self._ended(*problem)

    def _ended(self, problem: str, reason: Reason) -> EtcdUnheard:
        if self._stop.is_set():
            return EtcdUnheard(self._place, "stopped", reason=Reason.CLOSED)
        return EtcdUnheard(self._place, problem, "nothing to do: the next endpoint is asked", reason)

    def _is_wanted(self) -> bool:
        return self._failure is None and not self._stop.is_set()

    def _await(self, satisfied: Callable[[], bool], seconds: float) -> bool:
        """Whether it came true in time; looks for `stop` every STOP_TICK seconds."""
        until = self._clock() + seconds
        with self._news:
            while not satisfied():
                if self._failure is not None:
                    raise self._failure
                left = until - self._clock()
                if left <= 0 or self._stop.is_set():
                    return False
                self._news.wait(min(left, _STOP_TICK))
        return True

    # --- the reader's thread ----------------------------------------------------------------------

    def _read(self, stream: Stream) -> None:
        try:
            for said in stream:
                self._receive(said)
        except EtcdUnheard as error:
            self._fail(error)
        except Exception as error:
            self._fail(_broken(self._place, error))

    def _receive(self, said: Said) -> None:
        """Post first, book-keeping after: this is where the time to react is spent."""
        self._delivery.heard(said, self._clock())
        with self._news:
            self._raise_if(self._seen.latest.denies(said, even_revision=False))
            self._seen.add(said)
            self._accepted = True
            self._news.notify_all()

    def _fail(self, error: EtcdUnheard) -> None:
        with self._news:
            self._failure = error
            self._news.notify_all()


@dataclass(frozen=True, slots=True)
class _Mark:
    """How far an etcd had come."""

    cluster_id: int
    revision: int
    term: int

    def denies(self, said: Said, even_revision: bool = True) -> tuple[str, Reason] | None:
        """Why `said`, asked for after this mark, cannot be: a restored backup, a member that fell back."""
        if said.cluster_id != self.cluster_id:
            return f"the cluster id is {said.cluster_id:x}, no longer {self.cluster_id:x}", Reason.RESTORED
        if even_revision and said.revision < self.revision:
            return f"revision {said.revision} is before {self.revision}, seen earlier", Reason.RESTORED
        if said.term < self.term:
            return f"raft term {said.term} is before {self.term}, seen earlier", Reason.LAGGING
        return None


class _Seen:
    """What the watch of a session has delivered so far, to hold a re-read against."""

    def __init__(self) -> None:
        self.latest = _Mark(0, 0, 0)
        self._keys: dict[bytes, KeyValue] = {}

    def start(self, said: Said) -> None:
        self.latest = _Mark(said.cluster_id, said.revision, said.term)
        self._keys = {kv.key: kv for kv in said.keys}

    def add(self, said: Said) -> None:
        revision = max((kv.mod_revision for kv in said.keys), default=self.latest.revision)
        self.latest = _Mark(said.cluster_id, revision, said.term)
        self._keys.update((kv.key, kv) for kv in said.keys)

    def lacks(self, listed: Said) -> bool:
        """Whether a listing shows a write or a deletion that was not seen."""
        present = {kv.key: kv.mod_revision for kv in listed.keys}
        written = any(self._revision_of(key) < revision for key, revision in present.items())
        return written or any(
            kv.key not in present and not kv.deleted and kv.mod_revision <= listed.revision
            for kv in self._keys.values()
        )

    def _revision_of(self, key: bytes) -> int:
        known = self._keys.get(key)
        return 0 if known is None else known.mod_revision

    def forget_deletions(self, revision: int) -> None:
        """Deletions up to `revision` can no longer be contradicted by a later listing."""
        self._keys = {k: kv for k, kv in self._keys.items() if not kv.deleted or kv.mod_revision > revision}


# --- raw → domain ---------------------------------------------------------------------------------


class _Delivery(Protocol):
    """Who gets what etcd said."""

    def listed(self, said: Said, asked_at: float, at: float) -> None: ...

    def heard(self, said: Said, at: float) -> None: ...


class _ToOne:
    """All to the one cluster whose prefix is watched."""

    def __init__(self, prefix: str, post: Post) -> None:
        self._prefix = prefix
        self._post = post

    def listed(self, said: Said, asked_at: float, at: float) -> None:
        self._post(listing_of(said, self._prefix, asked_at, at))

    def heard(self, said: Said, at: float) -> None:
        events = tuple(_events(said.keys, self._prefix))
        self._post(Change(said.cluster_id, events, at) if events else Contact(at))


class _ToMany:
    """To each cluster of a namespace what is below its own scope. A listing goes to all of them, and tells
    those that etcd was heard which a change does not concern.
    """

    def __init__(self, prefix: str, posts: Mapping[str, Post]) -> None:
        self._prefix = prefix.encode()
        self._clusters = {scope.encode(): _ToOne(f"{prefix}{scope}/", post) for scope, post in posts.items()}

    def listed(self, said: Said, asked_at: float, at: float) -> None:
        parts = self._parts(said)
        for scope, cluster in self._clusters.items():
            cluster.listed(replace(said, keys=tuple(parts.get(scope, ()))), asked_at, at)

    def heard(self, said: Said, at: float) -> None:
        if not said.keys:
            for cluster in self._clusters.values():
                cluster.heard(said, at)
        for scope, keys in self._parts(said).items():
            self._clusters[scope].heard(replace(said, keys=tuple(keys)), at)

    def _parts(self, said: Said) -> dict[bytes, list[KeyValue]]:
        parts: dict[bytes, list[KeyValue]] = {}
        for kv in said.keys:
            cluster = self._cluster_of(kv.key.removeprefix(self._prefix))
            if cluster is not None:
                parts.setdefault(cluster, []).append(kv)
        return parts

    def _cluster_of(self, key: bytes) -> bytes | None:
        """`scope`, or `scope/group` in Citus (Patroni dcs/__init__.py, client_path)."""
        scope, slash, below = key.partition(b"/")
        group, deeper, _ = below.partition(b"/")
        candidates = ((scope + slash + group, deeper), (scope, slash))
        return next((name for name, ended in candidates if ended and name in self._clusters), None)


def listing_of(said: Said, prefix: str, asked_at: float, at: float) -> Listing:
    entries = (_entry(kv, prefix) for kv in said.keys)
    return Listing(
        cluster_id=said.cluster_id,
        revision=said.revision,
        entries=tuple(entry for entry in entries if entry is not None),
        asked_at=asked_at,
        at=at,
    )


def _events(keys: Iterable[KeyValue], prefix: str) -> Iterable[Entry | Deletion]:
    for kv in keys:
        if kv.deleted:
            yield Deletion(_relative(kv, prefix), kv.mod_revision)
            continue
        entry = _entry(kv, prefix)
        if entry is not None:
            yield entry


def _entry(kv: KeyValue, prefix: str) -> Entry | None:
    key = _relative(kv, prefix)
    return read_entry(key, kv.value, kv.create_revision, kv.mod_revision, f"etcd key {prefix}{key}")


def _relative(kv: KeyValue, prefix: str) -> str:
    return kv.key.decode(errors="backslashreplace").removeprefix(prefix)
