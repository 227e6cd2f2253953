"""Tells `watcher barrier` through etcd which targets this watcher serves, and for which stop each is held.

    {prefix}pgbouncer-watcher/targets/<target>/<watcher>   {"watcher": "<id>", "held_for": "<id of a stop>"}

A thread of its own brings etcd to what was told last; a session is a fresh client, a fresh lease and all keys
anew, so that an etcd that was away, or was restored from a backup, comes right without further ado.
"""

from __future__ import annotations

import json
import random as _random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType

from watcher.decide.backoff import Backoff
from watcher.expose.leased import Client, Connect, Leased, OnState, new_id
from watcher.mailbox import Mailbox

_MOST_KEYS = 100  # in one write; etcd's own limit is 128


class Herald(Leased):
    """Keeps etcd at what was told last. `run` in a thread of its own; all else from any, and never waits."""

    _WHAT = "barrier"

    def __init__(
        self,
        prefix: str,
        connect: Connect,
        on_state: OnState = lambda *_: None,
        *,
        ttl: float = 15.0,
        watcher: str | None = None,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        super().__init__(connect, on_state, ttl=ttl, backoff=backoff, clock=clock, random=random)
        self.watcher = watcher or new_id()
        self._keys = f"{prefix}pgbouncer-watcher/targets/"
        self._lock = threading.Lock()
        self._wish: Mailbox[Mapping[str, str]] = Mailbox(MappingProxyType({}))

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

    # --- inside -----------------------------------------------------------------------------------

    def _put(self, wish: Mapping[str, str]) -> None:
        if wish != self._wish.peek():
            self._wish.put(MappingProxyType(dict(wish)))

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


def _in_parts(items: Mapping[str, str], size: int) -> Iterator[dict[str, str]]:
    """
    >>> list(_in_parts({"a": "1", "b": "2", "c": "3"}, 2))
    [{'a': '1', 'b': '2'}, {'c': '3'}]
    """
    rest = iter(items.items())
    while part := dict(islice(rest, size)):
        yield part
