"""The second source: every node's own word, over REST, gathered into rounds.

A round asks all nodes at once and is over after the limit, whoever has not answered. A node that still
owes an answer is not asked again for a minute, so threads pile up slowly where one hangs in the resolver.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from functools import partial
from typing import Protocol

from watcher.decide.errors import SourceError, WatcherError
from watcher.decide.model import Endpoint, HealthRound, NodeReport, Role
from watcher.observe.patroni_rest import node_url

MAX_NODES = 64
"""Nodes asked in one round; more than that is a mistake in the settings or in the member keys."""

_TICK = 0.1
_OWED_LIMIT = 60.0  # seconds: then its thread hangs in the resolver, or has died without memory


class Rest(Protocol):
    """What of `PatroniRest` is needed here. Both raise WatcherError, in bounded time."""

    def report(self, url: str) -> NodeReport: ...

    def endpoints(self, url: str) -> dict[str, Endpoint]: ...


def _never(_: str) -> bool:
    return False


class HealthProbe:
    """Posts a HealthRound every `interval` seconds, every `interval_when_needed` while it may be gone by.

    `nodes` gives the nodes' URLs each time; two that lead to the same node count once. `names` gives the
    members by their api_url, for Patroni 3.0 and before, which does not tell its node's name.
    `needs_conn(name)` says whether the address of that primary is known from nowhere else.
    `limit` bounds a round in seconds. `needed_in` tells in how many seconds that may be, if etcd stays
    unheard.
    """

    def __init__(
        self,
        rest: Rest,
        nodes: Callable[[], Iterable[str]],
        post: Callable[[HealthRound], None],
        interval: float = 5.0,
        interval_when_needed: float = 1.0,
        needed_in: Callable[[], float] = lambda: math.inf,
        needs_conn: Callable[[str], bool] = _never,
        limit: float = 2.5,
        names: Callable[[], Mapping[str, str]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rest = rest
        self._nodes = nodes
        self._post = post
        self._interval = interval
        self._interval_when_needed = interval_when_needed
        self._needed_in = needed_in
        self._needs_conn = needs_conn
        self._limit = limit
        self._names = names
        self._clock = clock
        self._asked: dict[str, tuple[Future[NodeReport], float]] = {}

    def run(self, stop: threading.Event) -> None:
        """Blocks until `stop` is set, and for at most a fraction of a second more."""
        while not stop.is_set():
            self.step(stop)

    def step(self, stop: threading.Event) -> None:
        """One round, posted, and the wait for the next."""
        began = self._clock()
        found = self.look_once(stop)
        if not stop.is_set():
            self._post(found)
            self._rest_from(began, stop)

    def look_once(self, stop: threading.Event | None = None) -> HealthRound:
        """One round. `at` is its beginning, so that a report is never older than it seems."""
        stop = stop or threading.Event()
        at = self._clock()
        failures: dict[str, str] = {}
        questions = {url: partial(self._rest.report, url) for url in self._urls(failures)}
        answers = self._gather(questions, at + self._limit, stop, failures)
        reports = self._with_conn(
            _each_once(self._named(answers, failures)), at + 2 * self._limit, stop, failures
        )
        return HealthRound(reports, failures, at, self._clock() - at)

    def _rest_from(self, began: float, stop: threading.Event) -> None:
        """Waits out the interval, the short one as soon as rounds are needed."""
        due = began + self._interval
        while True:
            pause = max(self._interval_when_needed, self._needed_in())
            if stop.wait(max(0.0, min(pause, due - self._clock()))):
                return
            if self._needed_in() <= 0 or self._clock() >= due:
                return

    def _urls(self, failures: dict[str, str]) -> list[str]:
        urls: dict[str, None] = {}
        for text in self._nodes():
            try:
                urls[node_url(text)] = None
            except WatcherError as error:
                failures[text] = error.problem
        failures.update(
            (url, f"not asked: there are more than {MAX_NODES}") for url in list(urls)[MAX_NODES:]
        )
        return list(urls)[:MAX_NODES]

    def _named(self, reports: Iterable[NodeReport], failures: dict[str, str]) -> Iterable[NodeReport]:
        """A node that nobody can name still counts, for it may be a second primary."""
        names = {_root(url): name for url, name in self._names().items()}
        for report in reports:
            name = report.name or names.get(report.api_url, "")
            if not name:
                failures[report.api_url] = "does not tell its name, and no member key has this URL"
            yield replace(report, name=name)

    def _with_conn(
        self, reports: list[NodeReport], until: float, stop: threading.Event, failures: dict[str, str]
    ) -> tuple[NodeReport, ...]:
        """The sole primary asked for its address too, where nobody else told it."""
        primaries = [report for report in reports if report.role is Role.PRIMARY]
        if len(primaries) != 1 or not self._needs_conn(primaries[0].name):
            return tuple(reports)
        node = primaries[0]
        place = f"{node.api_url}/cluster"
        told = self._gather({place: lambda: self._told_by(node)}, until, stop, failures)
        return tuple(told[0] if told and report is node else report for report in reports)

    def _told_by(self, node: NodeReport) -> NodeReport:
        return replace(node, conn=self._rest.endpoints(node.api_url).get(node.name))

    # --- asking -----------------------------------------------------------------------------------

    def _gather(
        self,
        questions: Mapping[str, Callable[[], NodeReport]],
        until: float,
        stop: threading.Event,
        failures: dict[str, str],
    ) -> list[NodeReport]:
        """The answers that came until then, in the order of the questions; why the others did not."""
        asked = {place: self._ask(place, question) for place, question in questions.items()}
        self._await([answer for answer in asked.values() if answer is not None], until, stop)
        reports: list[NodeReport] = []
        for place, answer in asked.items():
            if answer is None:
                failures[place] = "still owes the answer of an earlier round"
                continue
            try:
                reports.append(answer.result(timeout=0))
            except WatcherError as error:
                failures[place] = error.problem
            except TimeoutError:
                failures[place] = f"has not answered within {self._limit} s"
        return reports

    def _ask(self, place: str, question: Callable[[], NodeReport]) -> Future[NodeReport] | None:
        """None while the answer of an earlier round is owed: it would be older than this round."""
        owed, now = self._asked.get(place), self._clock()
        if owed is not None and not owed[0].done() and now - owed[1] < _OWED_LIMIT:
            return None
        try:
            answer = _in_thread(question)
        except RuntimeError as error:  # there is no thread to be had
            answer = Future[NodeReport]()
            answer.set_exception(SourceError(place, str(error)))
        self._asked[place] = answer, now
        return answer

    def _await(self, answers: Iterable[Future[NodeReport]], until: float, stop: threading.Event) -> None:
        pending = set(answers)
        while pending and not stop.is_set() and (left := until - self._clock()) > 0:
            _, pending = wait(pending, min(left, _TICK), FIRST_COMPLETED)


def _root(url: str) -> str:
    """The URL as a report has it; what is none stays as it is and matches nothing."""
    try:
        return node_url(url)
    except WatcherError:
        return url


def _each_once(reports: Iterable[NodeReport]) -> list[NodeReport]:
    """Two URLs of one node count once. If they disagree they are two, and the decision sees that."""
    found: dict[NodeReport, NodeReport] = {}
    for report in reports:
        found.setdefault(replace(report, api_url="" if report.name else report.api_url), report)
    return list(found.values())


def _in_thread(question: Callable[[], NodeReport]) -> Future[NodeReport]:
    """The answer to come, from a daemon thread of its own: one stuck in the resolver holds up no exit."""
    answer: Future[NodeReport] = Future()

    def ask() -> None:
        try:
            answer.set_result(question())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=ask, name="health question", daemon=True).start()
    return answer
