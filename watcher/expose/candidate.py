"""Asks etcd to be the active one of several watchers, of each cluster that it follows, and stays it.

    {prefix}pgbouncer-watcher/active   {"watcher": "<id>", "name": "<name>"}

A key for each cluster, all on one lease: what is kept alive costs the same for two hundred clusters as for
one. Who has the key is heard by the watch that is there anyway, so a standby asks etcd nothing. A lease goes
on over a session with another member of etcd; it ends when the watcher does.
"""

from __future__ import annotations

import json
import random as _random
import threading
import time
from collections.abc import Callable

from watcher.decide.backoff import Backoff
from watcher.decide.model import ACTIVE_KEY
from watcher.decide.precedence import Lease
from watcher.expose.leased import Client, Connect, Leased, OnState, new_id
from watcher.mailbox import Mailbox

_LONGEST_WAIT = 3600.0


class Candidate(Leased):
    """`run` in a thread of its own; all else from any, and never waits."""

    _WHAT = "controller"

    def __init__(
        self,
        name: str,
        connect: Connect,
        on_state: OnState = lambda *_: None,
        *,
        ttl: float = 2.0,
        watcher: str | None = None,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        super().__init__(connect, on_state, ttl=ttl, backoff=backoff, clock=clock, random=random)
        self.id = watcher or new_id(name)
        self._value = json.dumps({"watcher": self.id, "name": name})
        self._lock = threading.Lock()
        self._holders: dict[str, str] = {}
        self._asked_at: dict[str, float] = {}
        self._free: set[str] = set()
        self._ours: set[str] = set()
        self._lease: int | None = None
        self._kept_until = float("-inf")
        self._bell: Mailbox[None] = Mailbox(None)

    @property
    def lease(self) -> Lease:
        return Lease(self.id, self._kept_until)

    def hear(self, prefix: str, holder: str) -> None:
        """By etcd's word `holder` is active there, nobody where it is empty. Said at every word of etcd's: a
        key that was asked for and is not there yet is asked for again after a while.
        """
        with self._lock:
            known, self._holders[prefix] = self._holders.get(prefix), holder
            if holder != known or (not holder and self._is_due(prefix)):
                self._weigh(prefix, holder)

    def nudge(self) -> None:
        """Looks at once whether to stop."""
        self._bell.nudge()

    def step(self, stop: threading.Event) -> None:
        """One session to its end, once there is something to ask for or to keep."""
        if self._lease is not None or self._free:
            super().step(stop)
        else:
            self._bell.take(_LONGEST_WAIT)

    # --- inside -----------------------------------------------------------------------------------

    def _is_due(self, prefix: str) -> bool:
        return self._clock() >= self._asked_at.get(prefix, 0.0) + self._ttl

    def _weigh(self, prefix: str, holder: str) -> None:
        if holder == self.id:  # also where the answer to our claim was lost
            self._ours.add(prefix)
        else:
            self._ours.discard(prefix)
        if holder:
            self._free.discard(prefix)
        else:
            self._free.add(prefix)
            self._asked_at[prefix] = self._clock()
            self._bell.nudge()

    def _lease_for(self, client: Client) -> int:
        """The one we have, if it lives."""
        if self._lease is None or not self._keep(client, self._lease):
            asked_at = self._clock()
            self._lease = client.grant(self._ttl)
            self._kept_until = asked_at + self._ttl
        return self._lease

    def _keep(self, client: Client, lease: int) -> bool:
        """Whether it lives; its time counts from when that was asked."""
        asked_at = self._clock()
        if client.keep_alive(lease):
            self._kept_until = asked_at + self._ttl
            return True
        self._lease, self._kept_until = None, float("-inf")
        return False

    def _serve(self, client: Client, lease: int, stop: threading.Event) -> None:
        """Until stopped, until the lease has gone, or until nothing hangs on it any more."""
        keep_at = self._clock() + self._ttl / 3
        while not stop.is_set():
            self._claim_next(client, lease)
            self._tell_reached(client.place)  # a lease that may hold no key is not enough
            if self._clock() >= keep_at:
                if not self._keep(client, lease):
                    return
                keep_at = self._clock() + self._ttl / 3
            if not (self._free or self._ours):
                self._give_up(client, lease)
                return
            self._bell.take(0.0 if self._free else max(0.0, keep_at - self._clock()))

    def _claim_next(self, client: Client, lease: int) -> None:
        """One at a time: two hundred must not keep us from keeping the lease alive."""
        with self._lock:
            prefix = self._free.pop() if self._free else None
        if prefix is None:
            return
        try:
            is_ours = client.claim(prefix + ACTIVE_KEY, self._value, lease)
        except BaseException:
            with self._lock:
                self._free.add(prefix)
            raise
        with self._lock:
            if is_ours and self._holders.get(prefix) in ("", self.id):
                self._ours.add(prefix)

    def _give_up(self, client: Client, lease: int) -> None:
        self._lease, self._kept_until = None, float("-inf")
        client.revoke(lease)
