"""What is seen of a watcher from outside: the chronicle, the metrics, and the pages made from them.

It outlives a re-read of the settings, so that counters go on; `show` says whose state it shows from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from watcher.decide.model import View
from watcher.decide.precedence import Standing
from watcher.expose import page
from watcher.expose.audience import Listener, everyone
from watcher.expose.calendar import Calendar
from watcher.expose.chronicle import Chronicle, Wish, nobody_knows
from watcher.expose.metrics import Facts, Metrics, exposition
from watcher.expose.server import Answer, Page
from watcher.expose.status import Status, health_of, status_of

STARTUP_LIMIT = 30.0
"""Seconds after which a watcher counts as started although no target was ever in sync: it works on it, and
its probes must not have it killed for what is wrong elsewhere."""

_JSON = "application/json; charset=utf-8"
_HTML = "text/html; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Shown:
    """Whose state is shown. `ailing` says why it does not work, empty if it does."""

    view: Callable[[], View]
    ailing: Callable[[], str]
    certificates: Callable[[], Mapping[str, float]]
    wish: Wish = nobody_knows
    standing: Callable[[], Standing] = lambda: Standing.TOGETHER


NO_SUCH_TARGET = Answer(b"no target has that name\n", status=404)


class Window:
    """Safe between threads."""

    def __init__(self, scope: str, targets: Iterable[str], shown: Shown, calendar: Calendar) -> None:
        names = tuple(targets)
        self.scope = scope
        self._calendar = calendar
        self._shown = shown
        self._started_at = calendar.wall()
        self._read_at = calendar.wall()
        self._refused_at: float | None = None
        self._was_ready = False
        self.chronicle = Chronicle(names, calendar)
        facts = Facts(
            view=lambda: self._shown.view(),
            chronicle=self.chronicle,
            wish=lambda target: self._shown.wish(target),
            certificates=lambda: self._shown.certificates(),
            settings_read=lambda: (self._refused_at is None, self._read_at),
            standing=lambda: self._shown.standing(),
        )
        self.metrics = Metrics(scope, names, facts, calendar)
        self.listener: Listener = everyone(self.chronicle, self.metrics)

    def show(self, targets: Iterable[str], shown: Shown, gone: Iterable[str] = ()) -> None:
        """The settings were read anew, and this is at work now; the sources that are `gone` are not asked."""
        names = tuple(targets)
        self._shown = shown
        self.chronicle.keep_only(names, gone)
        self.metrics.serve(names)
        self._read_at, self._refused_at = self._calendar.wall(), None

    def settings_refused(self) -> None:
        """The settings were read anew, and have a fault; what is at work stays."""
        self._refused_at = self._calendar.wall()

    def viewed(self, view: View) -> None:
        """Told of every view, in order."""
        self.chronicle.viewed(view)
        self.metrics.viewed(view)

    @property
    def status(self) -> Status:
        return status_of(
            self.scope,
            self._shown.view(),
            self.chronicle,
            self._calendar,
            self._started_at,
            self._shown.wish,
            self._refused_at,
            self._shown.standing(),
        )

    def pages(self) -> Mapping[str, Page]:
        """Every page of this cluster alone, by its path."""
        return {
            "/": lambda *_: html(page.page_of(self.status)),
            "/status": lambda *_: json_of(self.status),
            "/metrics": lambda _, accept: Answer(*exposition([self.metrics], accept)),
            "/livez": lambda *_: verdict(self.ailing()),
            "/readyz": lambda *_: verdict(self.ailing() or self.unready()),
            "/startupz": lambda *_: verdict(self.unready()),
            "/targets/*": lambda name, _: self.of_target(name),
        }

    def ailing(self) -> str:
        """Why what is shown does not work, empty if it does."""
        return self._shown.ailing()

    def unready(self) -> str:
        """Why it is not ready yet. Once ready it stays so: whatever happens to etcd later, PgBouncer beside
        us serves on.
        """
        waited = self._calendar.wall() - self._started_at
        if waited >= STARTUP_LIMIT or all(target.well_at for target in self.chronicle.targets):
            self._was_ready = True
        return "" if self._was_ready else "not every target was in sync yet"

    def has_target(self, name: str) -> bool:
        """Whether a target of this cluster is named so, by the settings of now."""
        return any(state.name == name for state in self.chronicle.targets)

    def of_target(self, name: str) -> Answer:
        """For a load balancer in front: 503 where PgBouncer is known not to lead to the primary."""
        states = self.chronicle.judged(self._shown.wish)
        state = next((state for state in states if state.name == name), None)
        if state is None:
            return NO_SUCH_TARGET
        health, words = health_of(state)
        return Answer(f"{health}: {words}\n".encode(), status=503 if health == "wrong" else 200)


def html(document: str) -> Answer:
    return Answer(document.encode(), _HTML, headers=page.HEADERS)


def json_of(document: BaseModel) -> Answer:
    return Answer(document.model_dump_json(indent=1).encode() + b"\n", _JSON)


def verdict(problem: str) -> Answer:
    """Of a probe: 503 with the problem if there is one."""
    return Answer(f"{problem}\n".encode(), status=503) if problem else Answer(b"ok\n")
