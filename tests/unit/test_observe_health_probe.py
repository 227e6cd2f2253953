"""A round of the health check ends in time, whatever the nodes do, and counts each node once."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.support.waiting import wait_for
from watcher.decide.errors import SourceError
from watcher.decide.model import Endpoint, HealthRound, NodeReport, Role
from watcher.observe.health_probe import MAX_NODES, HealthProbe


def report(name: str, url: str, role: Role = Role.REPLICA) -> NodeReport:
    return NodeReport(name, url, role, "running", timeline=1)


@dataclass
class FakeRest:
    """Answers by URL; a node in `slow` only after `thaw` is set."""

    nodes: dict[str, NodeReport] = field(default_factory=dict)
    slow: set[str] = field(default_factory=set)
    thaw: threading.Event = field(default_factory=threading.Event)
    cluster: dict[str, Endpoint] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def report(self, url: str) -> NodeReport:
        self.asked.append(url)
        if url in self.slow:
            self.thaw.wait(30)
        if url not in self.nodes:
            raise SourceError(url, "no connection")
        return self.nodes[url]

    def endpoints(self, url: str) -> dict[str, Endpoint]:
        self.asked.append(url + "/cluster")
        if not self.cluster:
            raise SourceError(url, "no cluster")
        return self.cluster


A, B, C = "http://a:8008", "http://b:8008", "http://c:8008"


@pytest.fixture
def rest() -> FakeRest:
    return FakeRest({A: report("a", A, Role.PRIMARY), B: report("b", B)})


def probe(
    rest: FakeRest, *urls: str, limit: float = 0.3, needs_conn: Callable[[str], bool] = lambda _: False
) -> HealthProbe:
    return HealthProbe(rest, lambda: urls, lambda _: None, limit=limit, needs_conn=needs_conn)


def names(found: HealthRound) -> list[str]:
    return [node.name for node in found.reports]


def test_every_node_is_asked_and_failures_say_why(rest: FakeRest) -> None:
    found = probe(rest, A, B, C, "nonsense").look_once()
    assert names(found) == ["a", "b"]
    assert found.failures == {C: "no connection", "nonsense": "is not an http(s) URL"}


def test_a_url_written_twice_is_asked_once(rest: FakeRest) -> None:
    probe(rest, A, A + "/patroni", "HTTP://A:8008/").look_once()
    assert rest.asked == [A]


def test_two_urls_of_one_node_count_once(rest: FakeRest) -> None:
    rest.nodes[C] = report("a", C, Role.PRIMARY)
    found = probe(rest, A, B, C).look_once()
    assert names(found) == ["a", "b"]
    assert found.reports[0].api_url == A


def test_two_urls_of_one_name_that_disagree_count_as_two(rest: FakeRest) -> None:
    rest.nodes[C] = NodeReport("a", C, Role.PRIMARY, "running", timeline=2)
    assert names(probe(rest, A, C).look_once()) == ["a", "a"]


def test_a_slow_node_does_not_delay_the_round_beyond_its_limit(rest: FakeRest) -> None:
    rest.slow = {B}
    began = time.monotonic()
    found = probe(rest, A, B).look_once()
    assert time.monotonic() - began < 5
    assert names(found) == ["a"]
    assert found.failures == {B: "has not answered within 0.3 s"}
    rest.thaw.set()


def test_a_node_that_owes_an_answer_is_not_asked_again_until_it_gave_it(rest: FakeRest) -> None:
    rest.slow = {B}
    looking = probe(rest, A, B, limit=0.05)
    threads = set(threading.enumerate())
    for _ in range(5):
        found = looking.look_once()
    assert found.failures == {B: "still owes the answer of an earlier round"}
    assert rest.asked.count(B) == 1
    wait_for(lambda: len(set(threading.enumerate()) - threads) == 1, 10, "no thread but the one that asks B")
    rest.thaw.set()
    wait_for(lambda: looking.look_once().failures == {}, 10, "the node to be asked again")
    assert rest.asked.count(B) == 2


def test_the_sole_primary_is_asked_for_its_address_where_nobody_told_it(rest: FakeRest) -> None:
    rest.cluster = {"a": Endpoint("10.0.0.1", 5432), "b": Endpoint("10.0.0.2", 5432)}
    found = probe(rest, A, B, needs_conn=lambda name: name == "a").look_once()
    assert [node.conn for node in found.reports] == [Endpoint("10.0.0.1", 5432), None]


def test_nobody_is_asked_for_an_address_that_is_known(rest: FakeRest) -> None:
    probe(rest, A, B).look_once()
    assert sorted(rest.asked) == [A, B]


def test_two_primaries_are_not_asked_for_their_addresses(rest: FakeRest) -> None:
    rest.nodes[B] = report("b", B, Role.PRIMARY)
    probe(rest, A, B, needs_conn=lambda _: True).look_once()
    assert sorted(rest.asked) == [A, B]


def test_an_answer_that_is_owed_for_a_minute_is_given_up(
    rest: FakeRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread may have died."""
    monkeypatch.setattr(threading.Thread, "start", lambda _: None)
    now = [100.0]
    checked = HealthProbe(rest, lambda: (A,), lambda _: None, limit=0.0, clock=lambda: now[0])
    assert checked.look_once().failures == {A: "has not answered within 0.0 s"}
    now[0] += 59
    assert checked.look_once().failures == {A: "still owes the answer of an earlier round"}
    monkeypatch.undo()
    now[0] += 1
    checked.look_once()
    wait_for(lambda: rest.asked == [A], 30, "it is asked")


def test_where_no_thread_is_to_be_had_the_node_is_not_heard(
    rest: FakeRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    checked = probe(rest, A)
    monkeypatch.setattr(threading.Thread, "start", cannot)
    assert checked.look_once().failures == {A: "can't start new thread"}
    monkeypatch.undo()
    assert names(checked.look_once()) == ["a"]


def test_a_primary_that_does_not_tell_its_address_still_counts(rest: FakeRest) -> None:
    found = probe(rest, A, B, needs_conn=lambda _: True).look_once()
    assert names(found) == ["a", "b"]
    assert found.failures == {f"{A}/cluster": "no cluster"}


def test_too_many_nodes_are_cut_off_and_said_so(rest: FakeRest) -> None:
    urls = [f"http://n{number}:8008" for number in range(MAX_NODES + 1)]
    found = probe(rest, *urls).look_once()
    assert len(rest.asked) == MAX_NODES
    assert found.failures[urls[-1]] == f"not asked: there are more than {MAX_NODES}"


def test_a_round_is_dated_by_its_beginning(rest: FakeRest) -> None:
    rest.slow = {B}
    began = time.monotonic()
    assert probe(rest, A, B).look_once().at - began < 0.1
    rest.thaw.set()


def test_rounds_follow_the_interval_and_come_faster_while_they_are_needed(rest: FakeRest) -> None:
    rounds: list[HealthRound] = []
    needed = threading.Event()
    stop = threading.Event()
    looking = HealthProbe(
        rest,
        lambda: [A],
        rounds.append,
        interval=30,
        interval_when_needed=0.05,
        needed_in=lambda: 0.0 if needed.is_set() else 0.05,
    )
    thread = threading.Thread(target=looking.run, args=(stop,))
    thread.start()
    time.sleep(0.4)
    assert len(rounds) == 1
    needed.set()
    wait_for(lambda: len(rounds) >= 4, 10, "rounds that are needed")
    needed.clear()
    stop.set()
    thread.join(1)
    assert not thread.is_alive()


def test_a_stop_does_not_wait_for_a_slow_node(rest: FakeRest) -> None:
    rest.slow = {A}
    stop = threading.Event()
    looking = HealthProbe(rest, lambda: [A], lambda _: None, limit=20)
    thread = threading.Thread(target=looking.run, args=(stop,))
    thread.start()
    time.sleep(0.1)
    stop.set()
    thread.join(0.5)
    assert not thread.is_alive()
    rest.thaw.set()


def test_an_old_patroni_that_tells_no_name_is_named_by_the_member_key_with_its_url(rest: FakeRest) -> None:
    rest.nodes = {A: report("", A, Role.PRIMARY), B: report("", B)}
    looking = HealthProbe(
        rest, lambda: [A, B], lambda _: None, names=lambda: {A + "/patroni": "node1", "nonsense": "node9"}
    )
    found = looking.look_once()
    assert names(found) == ["node1", ""]
    assert found.failures == {B: "does not tell its name, and no member key has this URL"}


def test_nodes_without_a_name_are_never_taken_for_one(rest: FakeRest) -> None:
    rest.nodes = {A: report("", A, Role.PRIMARY), B: report("", B, Role.PRIMARY)}
    assert len(probe(rest, A, B).look_once().reports) == 2
