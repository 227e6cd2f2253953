"""Who is told what happens: the log, the metrics, and the record that the status page shows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from watcher.decide.errors import WatcherError
from watcher.decide.model import Actual, Desired, Endpoint, Switch
from watcher.decide.precedence import Standing


class Listener:
    """All that can happen, each heeded by whoever overrides it. Called from every thread; must be quick, must
    not wait and must not raise.
    """

    def wished(self, wish: Desired) -> None:
        """What is wished for has changed, or why; every target's worker says so."""

    def looked(self, target: str, wish: Desired, actual: Actual | None, failure: WatcherError | None) -> None:
        """A turn of the target's worker is over: what it wished for, what is there as far as that is known,
        and what kept the one from the other.
        """

    def held(self, target: str, wish: Desired) -> None:
        """Clients of the target wait from now on."""

    def released(self, target: str, wish: Desired, seconds: float | None) -> None:
        """They go on, after so long; None where somebody else let them go, and it is not known when."""

    def hold_ended(self, target: str, why: str, seconds: float) -> None:
        """A hold was ended on PgBouncer's host, not by us."""

    def left(self, target: str, databases: tuple[str, ...]) -> None:
        """A hold was found that an agent of ours had left when it was killed; it is over now."""

    def cut(self, target: str, count: int, how: str) -> None:
        """Connections to a server that clients were led away from were still in use, and were ended."""

    def in_sync(self, target: str, actual: Actual) -> None:
        """PgBouncer itself leads where it should; told at each look."""

    def switched(self, switch: Switch) -> None:
        """A target's clients were led elsewhere."""

    def reads_led(self, target: str, wish: Desired, to: tuple[Endpoint, ...]) -> None:
        """The target's databases for reads lead to these servers from now on; told at the first look too."""

    def failed(self, target: str, error: WatcherError, failures: int) -> None:
        """A turn failed, so many in a row by now."""

    def connected(self, target: str, problem: WatcherError | None) -> None:
        """A connection to the target's host was tried for, and made where there is no problem."""

    def source_state(
        self, source: str, connected: bool, place: str, problem: WatcherError | None, reason: str = ""
    ) -> None:
        """A source of knowledge (`etcd`, `other_site`), or a way to tell something there (`barrier`,
        `controller`), came or went; `reason` is of a closed set.
        """

    def stands(self, standing: Standing, first: str) -> None:
        """Who of several watchers goes first has changed: what this one is among them, and the name of the
        active one, empty where nobody is known to be.
        """


def everyone(*listeners: Listener) -> Listener:
    """One who passes on what it hears, to each in turn."""
    return _Everyone(listeners)


class _Everyone(Listener):
    def __init__(self, listeners: tuple[Listener, ...]) -> None:
        for name in _HAPPENINGS:
            heeding = [getattr(listener, name) for listener in listeners if _heeds(listener, name)]
            setattr(self, name, functools.partial(_tell, heeding))


def _heeds(listener: Listener, name: str) -> bool:
    return getattr(getattr(listener, name), "__func__", None) is not getattr(Listener, name)


def _tell(heeding: list[Callable[..., None]], *told: Any, **more: Any) -> None:
    for listener in heeding:
        listener(*told, **more)


_HAPPENINGS = [name for name in vars(Listener) if not name.startswith("_")]
