"""A thread that has keys in etcd which live with it: sessions one after another, each a fresh client.

The keys hang on one lease, so they go by themselves when the watcher dies, and nobody waits for it longer.
What is said there, and when, is for those who build on this: `herald` and `candidate`.
"""

from __future__ import annotations

import math
import os
import random as _random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeAlias

from watcher.decide.backoff import Backoff
from watcher.decide.errors import SourceError


class Client(Protocol):
    """One connection to one member of etcd, every call bounded. Everything may raise SourceError."""

    place: str

    def authenticate(self) -> None: ...

    def grant(self, seconds: int) -> int: ...

    def write(self, puts: Mapping[str, str], deletes: Iterable[str], lease: int) -> None: ...

    def claim(self, key: str, value: str, lease: int) -> bool: ...

    def keep_alive(self, lease: int) -> bool: ...

    def revoke(self, lease: int) -> None: ...

    def close(self) -> None: ...


Connect: TypeAlias = Callable[[Callable[[], bool]], Client]
"""A fresh client, of the next endpoint each time; it is given what tells whether answers are still wanted."""

OnState: TypeAlias = Callable[[bool, str, SourceError | None], None]
"""Hears (True, place, None) when etcd is reached, and (False, place, problem) once for each new problem."""


def new_id(host: str | None = None) -> str:
    """Of one life of one watcher: nobody else has it, and an operator sees where that watcher runs."""
    return f"{host or socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"


class Leased:
    """`run` in a thread of its own. `ttl`: seconds after which the keys of a watcher that died are gone; etcd
    is spoken to three times in it, and else only when something changes.
    """

    _WHAT = "lease"

    def __init__(
        self,
        connect: Connect,
        on_state: OnState = lambda *_: None,
        *,
        ttl: float,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._connect = connect
        self._on_state = on_state
        self._ttl = math.ceil(ttl)
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._random = random
        self._failures = 0
        self._said = ""

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

    # --- for those who build on it ----------------------------------------------------------------

    def _lease_for(self, client: Client) -> int:
        """The lease of a session that begins."""
        return client.grant(self._ttl)

    def _serve(self, client: Client, lease: int, stop: threading.Event) -> None:
        """A session, until stopped or until the lease has gone."""
        raise NotImplementedError

    def _tell_reached(self, place: str) -> None:
        if self._failures or not self._said:
            self._failures, self._said = 0, place
            self._on_state(True, place, None)

    # --- inside -----------------------------------------------------------------------------------

    def _problem_of(self, stop: threading.Event) -> SourceError | None:
        """What ended a session; None if it was stopped, or has to begin anew."""
        try:
            self._hold_session(stop)
        except SourceError as error:
            return error
        except Exception as error:
            unexpected = SourceError(self._WHAT, f"unexpected {error!r}", "report it; it is tried again")
            unexpected.__cause__ = error
            return unexpected
        return None

    def _hold_session(self, stop: threading.Event) -> None:
        at_work = True
        client = self._connect(lambda: not (at_work and stop.is_set()))
        try:
            client.authenticate()
            lease = self._lease_for(client)
            self._serve(client, lease, stop)
            at_work = False  # the last word is wanted although we are to stop
            if stop.is_set():
                client.revoke(lease)
        finally:
            client.close()

    def _tell_problem(self, error: SourceError) -> None:
        if self._said != str(error):
            self._said = str(error)
            self._on_state(False, error.place, error)

    def _pause(self) -> float:
        delay = self._backoff.delay(self._failures, self._random)
        self._failures += 1
        return delay
