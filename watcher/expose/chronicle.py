"""What is known of each target by now, what happened last, and the last switches. Kept in memory, bounded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeAlias

from watcher.decide.decision import is_in_sync
from watcher.decide.errors import WatcherError
from watcher.decide.model import Actual, Desired, Endpoint, Leadership, Switch, View
from watcher.decide.precedence import Standing, in_words
from watcher.decide.view import leadership
from watcher.expose.audience import Listener
from watcher.expose.calendar import Calendar
from watcher.expose.units import after

_SWITCHES = 10
_HAPPENINGS = 200


@dataclass(frozen=True, slots=True)
class TargetState:
    """One target as its worker last told of it. Moments are seconds since the epoch, None is never.

    A target that cannot be looked at counts as in sync as long as what it showed last is what is wished for;
    and while it is not known where clients belong, as it did before.
    """

    name: str
    wish: Desired | None = None
    actual: Actual | None = None
    failure: WatcherError | None = None
    failing_since: float | None = None
    in_sync_since: float | None = None
    seen_at: float | None = None
    well_at: float | None = None
    held_since: float | None = None


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that an operator may want to know of. `about` is a target, a source, or the cluster."""

    at: float
    about: str
    text: str
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """A switch, and when it was confirmed, in seconds since the epoch."""

    at: float
    switch: Switch


@dataclass(frozen=True, slots=True)
class SourceState:
    """A source of knowledge, and since when it is heard or not, in seconds since the epoch."""

    connected: bool
    place: str
    since: float
    problem: WatcherError | None = None


Wish: TypeAlias = Callable[[str], "Desired | None"]
"""What is wished for a target just now, None where only its worker knows."""


def nobody_knows(_: str) -> None:
    """A `Wish` that leaves it to the workers."""


class Chronicle(Listener):
    """Safe between threads; what it hands out does not change any more."""

    def __init__(self, targets: Iterable[str], calendar: Calendar) -> None:
        self._lock = threading.Lock()
        self._calendar = calendar
        self._targets = {name: TargetState(name) for name in targets}
        self._sources: dict[str, SourceState] = {}
        self._switches: deque[dict[str, Told]] = deque(maxlen=_SWITCHES)
        self._reign: Leadership | None = None
        self._reign_since: float | None = None
        self._happenings: deque[Happening] = deque(maxlen=_HAPPENINGS)

    # --- what is known ----------------------------------------------------------------------------

    @property
    def targets(self) -> tuple[TargetState, ...]:
        with self._lock:
            return tuple(self._targets.values())

    def judged(self, wish: Wish) -> tuple[TargetState, ...]:
        """The same by what is wished for now: a worker may be busy with, or stuck at, what was before."""
        return tuple(_judged(state, wish(state.name)) for state in self.targets)

    @property
    def reign_since(self) -> float | None:
        """Since when the present leader leads, seconds since the epoch; None if it did before this began."""
        with self._lock:
            return self._reign_since

    @property
    def sources(self) -> Mapping[str, SourceState]:
        with self._lock:
            return MappingProxyType(dict(self._sources))

    @property
    def switches(self) -> tuple[tuple[Told, ...], ...]:
        """The last ones, the newest first: of each change of leader what was told of its targets. A target
        that was led there once more, since somebody had changed it, begins anew.
        """
        with self._lock:
            return tuple(tuple(together.values()) for together in reversed(self._switches))

    @property
    def happenings(self) -> tuple[Happening, ...]:
        """The last ones, the newest first."""
        with self._lock:
            return tuple(reversed(self._happenings))

    def keep_only(self, targets: Iterable[str], gone: Iterable[str] = ()) -> None:
        """The settings were read anew: these are the targets from now on, and `gone` sources are none."""
        with self._lock:
            for source in gone:
                self._sources.pop(source, None)
            self._targets = {name: self._targets.get(name, TargetState(name)) for name in targets}

    # --- what happens -----------------------------------------------------------------------------

    def viewed(self, view: View) -> None:
        """Told of every view, in order."""
        reign = leadership(view)
        if not isinstance(reign, Leadership) or reign == self._reign:
            return
        with self._lock:
            is_change = self._reign is not None and view.leader_since is not None
            self._reign_since = self._calendar.of(view.leader_since or 0.0) if is_change else None
            self._reign = reign

    def wished(self, wish: Desired) -> None:
        with self._lock:
            last = next((told for told in reversed(self._happenings) if told.about == _CLUSTER), None)
            if last is None or last.text != wish.detail:
                self._note(_CLUSTER, wish.detail)

    def looked(self, target: str, wish: Desired, actual: Actual | None, failure: WatcherError | None) -> None:
        now = self._calendar.wall()
        with self._lock:
            known = self._targets.get(target)
            if known is None:  # its settings are gone, its worker ends
                return
            latest = actual
            if actual is None and known.actual is not None:  # no look, so nobody is held as far as is known
                latest = replace(known.actual, held=None)
            well = _is_well(known, latest, wish)
            held = None if actual is None else actual.held
            self._targets[target] = replace(
                known,
                wish=wish,
                actual=latest,
                failure=failure,
                failing_since=None if failure is None else (known.failing_since or now),
                in_sync_since=(known.in_sync_since or now) if well else None,
                seen_at=now if actual is not None else known.seen_at,
                well_at=now if well and actual is not None and wish.route is not None else known.well_at,
                held_since=self._calendar.of(held.since) if held is not None and held.is_felt else None,
            )
            if failure is not None and str(failure) != str(known.failure):
                self._note(target, f"{failure.place}: {failure.problem}", bad=True)
            elif failure is None and known.failure is not None:
                self._note(target, "well again" if well else "answers again")

    def held(self, target: str, wish: Desired) -> None:
        with self._lock:
            self._note(target, f"clients wait: {wish.detail}")

    def released(self, target: str, wish: Desired, seconds: float | None) -> None:
        when = after(seconds)
        with self._lock:
            if wish.gave_up:
                self._note(target, f"clients were let go into errors {when}: {wish.detail}", bad=True)
            else:
                self._note(target, f"clients go on {when}: {wish.detail}")

    def hold_ended(self, target: str, why: str, seconds: float) -> None:
        with self._lock:
            self._note(target, f"clients go on after {seconds:.2f} s without our word: {why}", bad=True)

    def left(self, target: str, databases: tuple[str, ...]) -> None:
        with self._lock:
            self._note(target, f"a hold was left behind and is over now: {', '.join(databases)}", bad=True)

    def cut(self, target: str, count: int, how: str) -> None:
        with self._lock:
            self._note(target, f"{count} connections to the old server were ended: {how}", bad=True)

    def switched(self, switch: Switch) -> None:
        with self._lock:
            at = self._calendar.of(switch.confirmed_at)
            told = Told(at, switch)
            known = next((each for each in reversed(self._switches) if _id_of(each) == switch.id), None)
            if known is None or switch.target in known:
                self._switches.append({switch.target: told})
            else:
                known[switch.target] = told
            self._note(switch.target, _led(switch), bad=bool(switch.corrects))

    def reads_led(self, target: str, wish: Desired, to: tuple[Endpoint, ...]) -> None:
        with self._lock:
            self._note(target, f"reads go to {', '.join(map(str, to))}")

    def source_state(
        self, source: str, connected: bool, place: str, problem: WatcherError | None, reason: str = ""
    ) -> None:
        now = self._calendar.wall()
        with self._lock:
            known = self._sources.get(source)
            since = known.since if known is not None and known.connected == connected else now
            self._sources[source] = SourceState(connected, place, since, problem)
            if problem is not None:
                self._note(source, f"{problem.place}: {problem.problem}", bad=True)
            else:
                self._note(source, f"heard at {place}")

    def stands(self, standing: Standing, first: str) -> None:
        with self._lock:
            self._note("watcher", in_words(standing, first))

    def _note(self, about: str, text: str, bad: bool = False) -> None:
        self._happenings.append(Happening(self._calendar.wall(), about, text, bad))


_CLUSTER = "cluster"


def _id_of(together: Mapping[str, Told]) -> str:
    return next(iter(together.values())).switch.id


def _led(switch: Switch) -> str:
    took = (switch.confirmed_at - switch.heard_at) * 1000
    to = f"{switch.route.endpoint} ({switch.route.stamp.leader}), confirmed after {took:.0f} ms"
    if not switch.corrects:
        return f"led to {to}"
    before = ", ".join(map(str, switch.before))
    return f"led back to {to}; somebody else had led it to {before}: {switch.corrects}"


def _judged(state: TargetState, now: Desired | None) -> TargetState:
    known = state.wish
    if now is None or known is None or _where(known) == _where(now):
        return state
    well = _is_well(state, state.actual, now)
    return replace(state, wish=now, in_sync_since=state.in_sync_since if well else None)


def _where(wish: Desired) -> tuple[object, ...]:
    return wish.reason, None if wish.route is None else wish.route.endpoint, wish.belongs


def _is_well(known: TargetState, latest: Actual | None, wish: Desired) -> bool:
    """While it is not known where clients belong it is as it was."""
    if wish.route is None and wish.belongs is None and not wish.held:
        return known.in_sync_since is not None
    return latest is not None and is_in_sync(latest, wish)
