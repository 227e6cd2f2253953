"""The one view of a cluster, which observers post to and workers wake by."""

from __future__ import annotations

import threading
from collections.abc import Callable

from watcher.decide.model import MAX_LAG, Sighting, View
from watcher.decide.view import fold, says_the_same


class Board:
    """Folds every sighting into the view and hands the view on. Safe between threads.

    Listeners get the view, and whether it says anything new beyond «etcd was heard again». They run in
    the poster's thread, in order, and must not wait.
    """

    def __init__(self, began_at: float, max_lag: int = MAX_LAG, silence_limit: float = 0.0) -> None:
        """`max_lag` is how many bytes behind a replica may be, and serve reads. Until etcd has been unheard
        for `silence_limit` seconds, it is no news that the health check was told the same again.
        """
        self._lock = threading.Lock()
        self._view = View(began_at, silence_limit=silence_limit, max_lag=max_lag)
        self._listeners: list[Callable[[View, bool], None]] = []

    @property
    def view(self) -> View:
        return self._view

    def listen(self, listener: Callable[[View, bool], None]) -> None:
        """`listener` hears of every view from now on, and at once of the present one."""
        with self._lock:
            self._listeners.append(listener)
            listener(self._view, True)

    def leave(self, listener: Callable[[View, bool], None]) -> None:
        """It hears of nothing more."""
        with self._lock:
            self._listeners.remove(listener)

    def post(self, sighting: Sighting) -> None:
        with self._lock:
            before, self._view = self._view, fold(self._view, sighting)
            is_news = not says_the_same(before, self._view)
            for listener in self._listeners:
                listener(self._view, is_news)
