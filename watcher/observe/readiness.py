"""Asks a new leader until it takes clients, as fast as is decent; asks nobody in between.

A leader key is written before the promotion ends, so clients that follow the key at once meet a server
that refuses their writes. The leader's own word ends that wait some ten milliseconds after it is true.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from watcher.decide.decision import ReadyBy
from watcher.decide.errors import WatcherError
from watcher.decide.model import Endpoint, NodeReport, Readiness, Role, Verdict
from watcher.decide.readiness import Want
from watcher.observe.postgres import SqlAnswer

FAST = 0.01
SLOW = 0.25
PATIENCE = 3.0
"""Seconds: between questions at first, later, and from when on. Clients wait for the answer."""

_STOP_TICK = 10.0


class Rest(Protocol):
    """What of `PatroniRest` is needed here."""

    def report(self, url: str) -> NodeReport: ...


class Sql(Protocol):
    """What of `Postgres` is needed here."""

    def ask(self, endpoint: Endpoint) -> SqlAnswer: ...

    def close(self) -> None: ...


class ReadinessProbe:
    """Posts a `Readiness` at each change of the verdict or its reason, READY included.

    `want` says whom to ask, by the view as it is; `wake` is to be set whenever that may have changed, and
    is cleared here. `nodes` are URLs to try where the leader's own do not answer. `sql` is needed where
    somebody is wanted by SQL.
    """

    def __init__(
        self,
        rest: Rest,
        want: Callable[[], Want | None],
        wake: threading.Event,
        post: Callable[[Readiness], None],
        sql: Sql | None = None,
        nodes: Callable[[], Iterable[str]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rest = rest
        self._want = want
        self._wake = wake
        self._post = post
        self._sql = sql
        self._nodes = nodes
        self._clock = clock
        self._last_good = ""

    def run(self, stop: threading.Event) -> None:
        """Blocks until `stop` is set; set `wake` after it, or it takes `_STOP_TICK` seconds more."""
        while not stop.is_set():
            self.step(stop)  # first: who is begun anew may have been woken for it before
            self._wake.wait(_STOP_TICK)
            self._wake.clear()

    def step(self, stop: threading.Event) -> None:
        """Asks until nobody is wanted any more; returns at once if nobody is."""
        want = self._want()
        began = self._clock()
        told: Readiness | None = None
        while want is not None and not stop.is_set():
            found = self.look_once(want)
            if told is None or want.again or _differs(found, told):
                told = found
                self._post(found)
            before, want = want, self._want()
            if want is not None and want.leadership != before.leadership:
                began = self._clock()
            if want is not None:
                stop.wait(FAST if self._clock() - began < PATIENCE else SLOW)
        self._end_chase()

    def _end_chase(self) -> None:
        self._last_good = ""
        if self._sql is not None:
            self._sql.close()

    def look_once(self, want: Want) -> Readiness:
        """One question, and what its answer means for `want`."""
        try:
            verdict, role, timeline, problem = self._ask(want)
        except WatcherError as error:
            verdict, role, timeline, problem = (
                Verdict.UNKNOWN,
                Role.OTHER,
                None,
                f"{error.place}: {error.problem}",
            )
        return Readiness(want.leadership, verdict, role, timeline, self._clock(), problem)

    def _ask(self, want: Want) -> tuple[Verdict, Role, int | None, str]:
        return self._by_sql(want) if want.by is ReadyBy.SQL else self._by_rest(want)

    # --- by SQL -----------------------------------------------------------------------------------

    def _by_sql(self, want: Want) -> tuple[Verdict, Role, int | None, str]:
        """A standby leader is a server in recovery that holds the leader key: SQL knows no more of it."""
        if self._sql is None or isinstance(want.endpoint, str):
            problem = "no SQL login is set" if self._sql is None else str(want.endpoint)
            return Verdict.UNKNOWN, Role.OTHER, None, problem
        answer = self._sql.ask(want.endpoint)
        role = _role_in_recovery(want.role) if answer.in_recovery else Role.PRIMARY
        if role is want.role:
            return Verdict.READY, role, answer.timeline, ""
        return Verdict.NOT_YET, role, answer.timeline, f"PostgreSQL at {want.endpoint} is still {role}"

    # --- by REST ----------------------------------------------------------------------------------

    def _by_rest(self, want: Want) -> tuple[Verdict, Role, int | None, str]:
        report = self._report_of(want)
        if report.role is want.role and report.state == "running":
            return Verdict.READY, report.role, report.timeline, ""
        problem = (
            f"{want.leadership.name} says that it is {report.role}, {report.state or 'in no known state'}"
        )
        return Verdict.NOT_YET, report.role, report.timeline, problem

    def _report_of(self, want: Want) -> NodeReport:
        """The leader's own report, by the first URL that leads to it. WatcherError if none does: what became
        of its own URLs, where it has any, rather than of the other nodes'.
        """
        name = want.leadership.name
        failure = WatcherError(f"Patroni of {name}", "no URL of its REST API is known", _NO_URL)
        own_has_failed = False
        for url in self._candidates(want):
            is_own = url in want.api_urls
            try:
                report = self._rest.report(url)
            except WatcherError as error:
                problem = error
            else:
                if report.name == name or (not report.name and is_own):  # Patroni 3.0 has none
                    self._last_good = url
                    return report
                whose = report.name or "a nameless node"
                problem = WatcherError(url, f"answers for {whose}, not for {name}", _OTHER_NAME)
            if is_own or not own_has_failed:
                failure = problem
            own_has_failed |= is_own
        raise failure

    def _candidates(self, want: Want) -> Iterable[str]:
        every = dict.fromkeys((*want.api_urls, *self._nodes()))
        return sorted(every, key=lambda url: url != self._last_good)


_NO_URL = "name the nodes in `patroni.nodes`, or see why the member key has no api_url"
_OTHER_NAME = "correct restapi.connect_address on the member"


def _role_in_recovery(wanted: Role) -> Role:
    return Role.STANDBY_LEADER if wanted is Role.STANDBY_LEADER else Role.REPLICA


def _differs(found: Readiness, told: Readiness) -> bool:
    return (found.leadership, found.verdict, found.role) != (told.leadership, told.verdict, told.role)
