"""Every cluster of the settings: a `Watcher` each, and one watch on etcd for all of a namespace."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence

from watcher.app import Watcher, candidate, etcd_access, tell_of_etcd
from watcher.decide.errors import SourceError
from watcher.expose.logs import LogReporter
from watcher.expose.window import Window
from watcher.lasting import LastingThread
from watcher.observe.etcd import EtcdState, EtcdWatch
from watcher.pace import Pace
from watcher.settings import Settings, mark_of


class Fleet:
    """All that runs for one reading of the settings. `start` returns at once, `stop` within `stop_limit`.

    Of the fleet before it, whose place it takes, it keeps what goes on as it was: the watchers of clusters
    for which nothing has changed but targets, neither in the settings nor in a file that they name, and the
    windows of all that are still followed. Nothing of that fleet changes until `start`.
    """

    def __init__(self, clusters: Sequence[Settings], before: Fleet | None = None) -> None:
        self._stop = threading.Event()
        self._before = before
        self._at_once = clusters[0].connect_at_once
        self._pace: Pace = Pace(self._at_once) if before is None else before._pace
        self._settings = {each.cluster.name: each for each in clusters}
        self._marks = {each.cluster.name: mark_of(each, _NOT_ITS_OWN) for each in clusters}
        self.watchers = {each.cluster.name: self._watcher(each) for each in clusters}
        self._sources = [
            _Source([self.watchers[each.cluster.name] for each in group], self._stop)
            for group in by_namespace(clusters)
        ]

    def _watcher(self, settings: Settings) -> Watcher:
        name, before = settings.cluster.name, self._before
        known = None if before is None else before.watchers.get(name)
        if before is None or known is None:
            return Watcher(settings, pace=self._pace)
        return (
            known if before._marks[name] == self._marks[name] else Watcher(settings, known.window, self._pace)
        )

    @property
    def windows(self) -> list[Window]:
        """In the order of the settings."""
        return [watcher.window for watcher in self.watchers.values()]

    def threads_to_begin(self) -> int:
        """How many `start` begins."""
        known = {} if self._before is None else self._before.watchers
        hired = (
            watcher.threads_to_begin(self._settings[name] if watcher is known.get(name) else None)
            for name, watcher in self.watchers.items()
        )
        return sum(hired) + sum(len(source.threads) for source in self._sources)

    def start(self) -> None:
        """What is new begins, and what it replaces is asked to end; it is not waited for, since a target that
        hangs in it must delay no other.
        """
        before, self._before = self._before, None
        self._pace.at_once = self._at_once
        replaced = {} if before is None else before.watchers
        if before is not None:
            before.ask_to_stop(self)
        for name, watcher in self.watchers.items():
            if watcher is replaced.get(name):
                watcher.go_on_with(self._settings[name])
            else:
                watcher.start(replaced.get(name))
        for source in self._sources:
            source.start()

    def ask_to_stop(self, successor: Fleet | None = None) -> None:
        """Every thread ends at the end of what it is about; nothing new is begun. What the `successor` has of
        us goes on.
        """
        kept = set() if successor is None else set(successor.watchers.values())
        self._stop.set()
        for source in self._sources:
            source.nudge()
        for name, watcher in self.watchers.items():
            if watcher not in kept:
                watcher.ask_to_stop(None if successor is None else successor.watchers.get(name))

    def stop(self) -> tuple[str, ...]:
        """Asks every thread to end and waits; the names of those that were still busy at the limit."""
        self.ask_to_stop()
        until = time.monotonic() + max(each.settings.stop_limit for each in self.watchers.values())
        busy = [name for watcher in self.watchers.values() for name in watcher.busy_at(until)]
        busy += [source.name for source in self._sources if source.is_busy_at(until)]
        return tuple(dict.fromkeys(busy))


_NOT_ITS_OWN = ("http", "log", "connect_at_once", "targets")
"""Of a cluster's settings: what its watcher does not depend on, or looks after by itself."""


class _Source:
    """One watch on etcd, for one cluster or for all of a namespace; and one lease where it is wanted."""

    def __init__(self, watchers: Sequence[Watcher], stop: threading.Event) -> None:
        first, *others = watchers
        self._watchers = watchers
        self._stop = stop
        cluster, post = first.settings.cluster, first.board.post
        if others:
            prefix, known_as = cluster.namespace_prefix, cluster.namespace.strip("/")
            self.name = f"etcd {prefix}"
            posts = {each.settings.cluster.name: each.board.post for each in watchers}
            watch = EtcdWatch(etcd_access(first.settings), prefix, posts, self._on_state)
        else:
            known_as, self.name = cluster.name, "etcd"
            watch = EtcdWatch(etcd_access(first.settings), cluster.prefix, post, self._on_state)
        self._log = LogReporter(known_as, time.monotonic)
        leased = first.settings.controller.mode == "lease"
        self._candidate = candidate(first.settings, self._on_lease) if leased else None
        jobs = [(self.name, watch.run)]
        if self._candidate is not None:
            jobs.append((f"lease of {self.name}", self._candidate.run))
        self.threads = [LastingThread(run, stop, name) for name, run in jobs]

    def start(self) -> None:
        for watcher in self._watchers:
            watcher.source_ails = self.ails
            watcher.stand(self._candidate)
        for thread in self.threads:
            thread.start()

    def nudge(self) -> None:
        """Looks at once whether to stop."""
        if self._candidate is not None:
            self._candidate.nudge()

    def ails(self) -> str:
        """Why etcd is not listened to, empty if it is."""
        return "" if self._stop.is_set() else next(filter(None, (each.ails for each in self.threads)), "")

    def is_busy_at(self, until: float) -> bool:
        """Whether it has not ended by then, having been asked to."""
        for thread in self.threads:
            thread.join(max(0.0, until - time.monotonic()))
        return any(thread.is_alive() for thread in self.threads)

    def _on_lease(self, connected: bool, place: str, problem: SourceError | None) -> None:
        for listener in (self._log, *(watcher.window.listener for watcher in self._watchers)):
            listener.source_state("controller", connected, place, problem)

    def _on_state(self, state: EtcdState) -> None:
        tell_of_etcd(self._log, state)
        for watcher in self._watchers:
            watcher.on_etcd(state)


def by_namespace(clusters: Iterable[Settings]) -> list[list[Settings]]:
    """Those that one watch can serve: of one namespace in one etcd."""
    groups: list[list[Settings]] = []
    for each in clusters:
        known = next((group for group in groups if _same_source(group[0], each)), None)
        if known is None:
            groups.append([each])
        else:
            known.append(each)
    return groups


def _same_source(one: Settings, other: Settings) -> bool:
    return one.etcd == other.etcd and one.cluster.namespace_prefix == other.cluster.namespace_prefix
