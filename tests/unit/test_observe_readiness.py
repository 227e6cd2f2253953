"""A new leader is asked until it is ready, and nobody is asked in between."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from tests.support.waiting import wait_for
from watcher.decide.decision import ReadyBy
from watcher.decide.errors import SourceError
from watcher.decide.model import Endpoint, Leadership, NodeReport, Readiness, Role, Verdict
from watcher.decide.readiness import Want
from watcher.observe.postgres import SqlAnswer
from watcher.observe.readiness import ReadinessProbe

A, B = "http://a:8008", "http://b:8008"
WANT = Want(Leadership("node1", 5), Role.PRIMARY, (A,), Endpoint("10.0.0.1", 5432), ReadyBy.REST)


@dataclass
class FakeRest:
    nodes: dict[str, NodeReport] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def report(self, url: str) -> NodeReport:
        self.asked.append(url)
        if url not in self.nodes:
            raise SourceError(url, "no connection")
        return self.nodes[url]

    def becomes(self, role: Role, state: str = "running", name: str = "node1", url: str = A) -> None:
        self.nodes[url] = NodeReport(name, url, role, state, timeline=4)


@dataclass
class FakeSql:
    answer: SqlAnswer | None = None
    asked: list[Endpoint] = field(default_factory=list)
    closed: int = 0

    def ask(self, endpoint: Endpoint) -> SqlAnswer:
        self.asked.append(endpoint)
        if self.answer is None:
            raise SourceError(f"PostgreSQL at {endpoint}", "no connection")
        return self.answer

    def close(self) -> None:
        self.closed += 1


class Bed:
    """The probe beside what a view would be: READY ends the want."""

    def __init__(self, want: Want | None = WANT, nodes: tuple[str, ...] = ()) -> None:
        self.rest, self.sql = FakeRest(), FakeSql()
        self.want = want
        self.posted: list[Readiness] = []
        self.wake, self.stop = threading.Event(), threading.Event()
        self.probe = ReadinessProbe(
            self.rest, lambda: self.want, self.wake, self._post, self.sql, nodes=lambda: nodes
        )
        self.thread = threading.Thread(target=self.probe.run, args=(self.stop,))

    def _post(self, found: Readiness) -> None:
        self.posted.append(found)
        if found.verdict is Verdict.READY:
            self.want = None

    @property
    def verdicts(self) -> list[Verdict]:
        return [found.verdict for found in self.posted]

    def starts(self) -> None:
        self.thread.start()
        self.wake.set()


@pytest.fixture
def make() -> Iterator[Callable[..., Bed]]:
    beds: list[Bed] = []

    def made(*args: object, **kwargs: object) -> Bed:
        beds.append(Bed(*args, **kwargs))  # type: ignore[arg-type]
        return beds[-1]

    yield made
    for bed in beds:
        bed.stop.set()
        bed.wake.set()
        if bed.thread.ident is not None:
            bed.thread.join(1)
        assert not bed.thread.is_alive()


Make = Callable[..., Bed]


def test_a_leader_is_asked_until_it_is_ready_and_each_change_is_told_once(make: Make) -> None:
    bed = make()
    bed.starts()
    wait_for(lambda: bed.verdicts == [Verdict.UNKNOWN], 10, "unknown")
    bed.rest.becomes(Role.REPLICA)
    wait_for(lambda: len(bed.posted) == 2, 10, "not yet")
    bed.rest.becomes(Role.PRIMARY)
    wait_for(lambda: len(bed.posted) == 3, 10, "ready")
    assert bed.verdicts == [Verdict.UNKNOWN, Verdict.NOT_YET, Verdict.READY]
    assert (bed.posted[2].role, bed.posted[2].timeline) == (Role.PRIMARY, 4)
    assert bed.posted[2].leadership == WANT.leadership


def test_once_it_is_ready_nobody_is_asked_any_more(make: Make) -> None:
    bed = make()
    bed.rest.becomes(Role.PRIMARY)
    bed.starts()
    wait_for(lambda: bed.verdicts == [Verdict.READY], 10, "ready")
    asked = len(bed.rest.asked)
    for _ in range(5):
        bed.wake.set()
        time.sleep(0.05)
    assert len(bed.rest.asked) == asked == 1


def test_a_change_of_the_view_wakes_it_at_once(make: Make) -> None:
    bed = make(None)
    bed.starts()
    time.sleep(0.1)
    assert bed.rest.asked == []
    bed.rest.becomes(Role.PRIMARY)
    bed.want = WANT
    began = time.monotonic()
    bed.wake.set()
    wait_for(lambda: bed.posted, 10, "an answer", poll=0.001)
    assert time.monotonic() - began < 0.3


def test_one_that_begins_anew_asks_without_being_woken(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was before, and broke off."""
    monkeypatch.setattr("watcher.observe.readiness._STOP_TICK", 600.0)
    bed = make()
    bed.rest.becomes(Role.PRIMARY)
    bed.thread.start()
    wait_for(lambda: bed.verdicts == [Verdict.READY], 30, "it is asked")


def test_it_forgets_a_leader_that_another_replaced(make: Make) -> None:
    bed = make()
    bed.rest.becomes(Role.REPLICA)
    bed.starts()
    wait_for(lambda: bed.verdicts == [Verdict.NOT_YET], 10, "not yet")
    bed.want = replace(WANT, leadership=Leadership("node2", 6), api_urls=(B,))
    bed.rest.becomes(Role.PRIMARY, name="node2", url=B)
    wait_for(lambda: len(bed.posted) == 2, 10, "the other")
    assert bed.posted[1].leadership.name == "node2"


@pytest.mark.parametrize(
    ("role", "state", "verdict"),
    [
        (Role.PRIMARY, "running", Verdict.READY),
        (Role.PRIMARY, "starting", Verdict.NOT_YET),
        (Role.PRIMARY, "", Verdict.NOT_YET),
        (Role.REPLICA, "running", Verdict.NOT_YET),
        (Role.STANDBY_LEADER, "running", Verdict.NOT_YET),
    ],
)
def test_ready_is_the_wanted_role_and_running(role: Role, state: str, verdict: Verdict) -> None:
    bed = Bed()
    bed.rest.becomes(role, state)
    found = bed.probe.look_once(WANT)
    assert found.verdict is verdict
    assert bool(found.problem) is (verdict is not Verdict.READY)


def test_a_url_that_leads_to_another_node_tells_nothing_of_the_leader() -> None:
    bed = Bed()
    bed.rest.becomes(Role.PRIMARY, name="node2")
    found = bed.probe.look_once(WANT)
    assert found.verdict is Verdict.UNKNOWN
    assert "answers for node2, not for node1" in found.problem


def test_that_the_leader_itself_does_not_answer_is_told_rather_than_who_else_does() -> None:
    bed = Bed(nodes=(B,))
    bed.rest.becomes(Role.PRIMARY, name="node2", url=B)
    found = bed.probe.look_once(WANT)
    assert (found.verdict, bed.rest.asked) == (Verdict.UNKNOWN, [A, B])
    assert found.problem.startswith(f"{A}: ")
    assert "answers for node2, not for node1" in bed.probe.look_once(replace(WANT, api_urls=())).problem


def test_a_node_without_a_name_is_the_leader_only_at_the_leaders_own_url() -> None:
    bed = Bed(nodes=(B,))
    bed.rest.becomes(Role.PRIMARY, name="", url=B)
    assert bed.probe.look_once(WANT).verdict is Verdict.UNKNOWN
    bed.rest.becomes(Role.PRIMARY, name="")
    assert bed.probe.look_once(WANT).verdict is Verdict.READY


def test_the_settings_urls_are_tried_where_the_leaders_own_do_not_answer() -> None:
    bed = Bed(nodes=("http://other:8008", B))
    bed.rest.becomes(Role.PRIMARY, url=B)
    bed.rest.becomes(Role.REPLICA, name="node2", url="http://other:8008")
    assert bed.probe.look_once(WANT).verdict is Verdict.READY
    bed.rest.asked.clear()
    assert bed.probe.look_once(WANT).verdict is Verdict.READY
    assert bed.rest.asked == [B], "the one that worked is asked first from then on"


def test_a_leader_without_any_url_is_unknown() -> None:
    found = Bed().probe.look_once(replace(WANT, api_urls=()))
    assert found.verdict is Verdict.UNKNOWN
    assert "no URL" in found.problem


# --- by SQL ---------------------------------------------------------------------------------------

SQL = replace(WANT, by=ReadyBy.SQL)


@pytest.mark.parametrize(
    ("answer", "role", "verdict"),
    [
        (SqlAnswer(False, 7), Role.PRIMARY, Verdict.READY),
        (SqlAnswer(True, None), Role.PRIMARY, Verdict.NOT_YET),
        (SqlAnswer(True, None), Role.STANDBY_LEADER, Verdict.READY),
        (SqlAnswer(False, 7), Role.STANDBY_LEADER, Verdict.NOT_YET),
        (None, Role.PRIMARY, Verdict.UNKNOWN),
    ],
)
def test_by_sql_recovery_decides(answer: SqlAnswer | None, role: Role, verdict: Verdict) -> None:
    bed = Bed()
    bed.sql.answer = answer
    found = bed.probe.look_once(replace(SQL, role=role))
    assert found.verdict is verdict
    assert bed.sql.asked == [Endpoint("10.0.0.1", 5432)]
    assert bed.rest.asked == []
    assert found.timeline == (answer.timeline if answer else None)


def test_by_sql_an_unknown_address_is_told() -> None:
    found = Bed().probe.look_once(replace(SQL, endpoint="'node1' has no member key"))
    assert (found.verdict, found.problem) == (Verdict.UNKNOWN, "'node1' has no member key")


def test_the_connection_is_closed_at_the_end(make: Make) -> None:
    bed = make(SQL)
    bed.sql.answer = SqlAnswer(False, 7)
    bed.starts()
    wait_for(lambda: bed.sql.closed, 10, "a closed connection")
    assert bed.verdicts == [Verdict.READY]
