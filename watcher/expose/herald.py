"""Tells `watcher barrier` through etcd which targets this watcher serves, and for which stop each is held.

    {prefix}pgbouncer-watcher/targets/<target>/<watcher>   {"watcher": "<id>", "held_for": "<id of a stop>"}

All keys hang on one lease, so they go by themselves when this watcher dies, and nobody waits for it longer.
A thread of its own brings etcd to what was told last; a session is a fresh client, a fresh lease and all keys
anew, so that an etcd that was away, or was restored from a backup, comes right without further ado.
"""

from __future__ import annotations

import json
import math
import os
import random as _random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Protocol, TypeAlias

from watcher.decide.backoff import Backoff
from watcher.decide.errors import SourceError
from watcher.mailbox import Mailbox

_MOST_KEYS = 100  # in one write; etcd's own limit is 128


class Client(Protocol):
    """One connection to one member of etcd, every call bounded. Everything may raise SourceError."""

    place: str

    def authenticate(self) -> None: ...

    def grant(self, seconds: int) -> int: ...

    def write(self, puts: Mapping[str, str], deletes: Iterable[str], lease: int) -> None: ...

    def keep_alive(self, lease: int) -> bool: ...

    def revoke(self, lease: int) -> None: ...

    def close(self) -> None: ...


Connect: TypeAlias = Callable[[Callable[[], bool]], Client]
"""A fresh client, of the next endpoint each time; it is given what tells whether answers are still wanted."""


def new_id() -> str:
    """Of one life of one watcher: nobody else has it, and an operator sees where that watcher runs."""
    return f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"


class Herald:
    """Keeps etcd at what was told last. `run` in a thread of its own; all else from any, and never waits.

    `ttl`: seconds after which the keys of a watcher that died are gone; etcd is spoken to three times in it,
    and else only when something changes. `on_state` hears (True, place, None) when etcd is reached, and
    (False, place, problem) once for each new problem.
    """

    def __init__(
        self,
        prefix: str,
        connect: Connect,
        on_state: Callable[[bool, str, SourceError | None], None] = lambda *_: None,
        *,
        ttl: float = 15.0,
        watcher: str | None = None,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self.watcher = watcher or new_id()
        self._keys = f"{prefix}pgbouncer-watcher/targets/"
        self._connect = connect
        self._on_state = on_state
        self._ttl = math.ceil(ttl)
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._random = random
        self._lock = threading.Lock()
        self._wish: Mailbox[Mapping[str, str]] = Mailbox(MappingProxyType({}))
        self._failures = 0
        self._said = ""

    def tell(self, target: str, held_for: str = "") -> None:
        """`target` is served by this watcher, and held for that stop; for none where it is empty."""
        with self._lock:
            self._put({**self._wish.peek(), target: held_for})

    def withdraw(self, target: str) -> None:
        """Nobody need wait for `target` on our account; until it is told of again."""
        with self._lock:
            self._put({name: held for name, held in self._wish.peek().items() if name != target})

    def nudge(self) -> None:
        """Looks at once whether to stop."""
        self._wish.nudge()

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set and it was nudged; then takes its keys back, if etcd lets it."""
        while not stop.is_set():
            self.step(stop)

    def step(self, stop: threading.Event) -> None:
        """One session to its end, and the pause after it."""
        problem = self._problem_of(stop)
        if problem is not None and not stop.is_set():
            self._tell_problem(problem)
            stop.wait(self._pause())

    # --- inside -----------------------------------------------------------------------------------

    def _put(self, wish: Mapping[str, str]) -> None:
        if wish != self._wish.peek():
            self._wish.put(MappingProxyType(dict(wish)))

    def _problem_of(self, stop: threading.Event) -> SourceError | None:
        """What ended a session; None if it was stopped, or has to begin anew."""
        try:
            self._hold_session(stop)
        except SourceError as error:
            return error
        except Exception as error:
            unexpected = SourceError("barrier", f"unexpected {error!r}", "report it; it is tried again")
            unexpected.__cause__ = error
            return unexpected
        return None

    def _hold_session(self, stop: threading.Event) -> None:
        at_work = True
        client = self._connect(lambda: not (at_work and stop.is_set()))
        try:
            client.authenticate()
            lease = client.grant(self._ttl)
            self._serve(client, lease, stop)
            at_work = False  # the last word is wanted although we are to stop
            if stop.is_set():
                client.revoke(lease)
        finally:
            client.close()

    def _serve(self, client: Client, lease: int, stop: threading.Event) -> None:
        """Until stopped, or until the lease ran out, as it does while we are frozen."""
        told: Mapping[str, str] = {}
        keep_at = self._clock() + self._ttl / 3
        while not stop.is_set():
            told = self._write_changes(client, lease, told)
            self._tell_reached(client.place)
            if self._clock() >= keep_at:
                if not client.keep_alive(lease):
                    return
                keep_at = self._clock() + self._ttl / 3
            self._wish.take(max(0.0, keep_at - self._clock()))

    def _write_changes(self, client: Client, lease: int, told: Mapping[str, str]) -> Mapping[str, str]:
        wish = self._wish.peek()
        changed = {target: held for target, held in wish.items() if told.get(target) != held}
        gone = [self._key(target) for target in told if target not in wish]
        for some in _in_parts(changed, _MOST_KEYS):
            client.write({self._key(t): self._value(held) for t, held in some.items()}, (), lease)
        if gone:
            client.write({}, gone, lease)
        return wish

    def _key(self, target: str) -> str:
        return f"{self._keys}{target}/{self.watcher}"

    def _value(self, held_for: str) -> str:
        return json.dumps({"watcher": self.watcher, "held_for": held_for})

    def _tell_reached(self, place: str) -> None:
        if self._failures or not self._said:
            self._failures, self._said = 0, place
            self._on_state(True, place, None)

    def _tell_problem(self, error: SourceError) -> None:
        if self._said != str(error):
            self._said = str(error)
            self._on_state(False, error.place, error)

    def _pause(self) -> float:
        delay = self._backoff.delay(self._failures, self._random)
        self._failures += 1
        return delay


def _in_parts(items: Mapping[str, str], size: int) -> Iterator[dict[str, str]]:
    """
    >>> list(_in_parts({"a": "1", "b": "2", "c": "3"}, 2))
    [{'a': '1', 'b': '2'}, {'c': '3'}]
    """
    rest = iter(items.items())
    while part := dict(islice(rest, size)):
        yield part
