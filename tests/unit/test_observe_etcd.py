"""Sessions with an etcd in memory: what a real one does too rarely to be tested by it."""

import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.contracts.fake_etcd import FakeEtcd
from tests.support.waiting import wait_for
from watcher.decide.backoff import Backoff
from watcher.decide.errors import AccessDenied, SourceError
from watcher.decide.model import Change, Listing, Sighting
from watcher.observe.etcd import EtcdAccess, EtcdState, EtcdWatch, Reason

P = "/service/demo/"
ACCESS = EtcdAccess(
    ("a:1", "b:2", "c:3"),
    reread_interval=0.05,
    missed_limit=0.1,
    first_response_limit=0.2,
    backoff=Backoff(first=0.01, limit=0.02),
)


class Bed:
    def __init__(self, access: EtcdAccess = ACCESS) -> None:
        self.etcd = FakeEtcd()
        self.etcd.put(P + "leader", "node1")
        self.sightings: list[Sighting] = []
        self.states: list[EtcdState] = []
        self.stop = threading.Event()
        self.post = self.sightings.append
        self.watch = EtcdWatch(
            access,
            P,
            lambda sighting: self.post(sighting),
            self.states.append,
            connect=self.etcd.client,
        )
        self.thread = threading.Thread(target=self.watch.run, args=(self.stop,))

    @property
    def reasons(self) -> list[Reason]:
        return [state.reason for state in self.states]

    def comes_to(self, *reasons: Reason) -> None:
        wait_for(lambda: self.reasons[: len(reasons)] == list(reasons), 10, f"{reasons}, was {self.states}")


@pytest.fixture
def bed() -> Iterator[Bed]:
    made = Bed()
    made.thread.start()
    yield made
    made.stop.set()
    made.thread.join(1)
    assert not made.thread.is_alive()


def test_an_event_that_the_watch_lost_is_healed_by_a_read_and_the_watch_renewed(bed: Bed) -> None:
    bed.comes_to(Reason.STARTED)
    bed.etcd.lossy = True
    revision = bed.etcd.put(P + "leader", "node2")
    bed.comes_to(Reason.STARTED, Reason.MISSED, Reason.STARTED)
    assert any(isinstance(s, Listing) and s.revision == revision for s in bed.sightings)
    assert not any(isinstance(s, Change) for s in bed.sightings)


def test_a_lost_deletion_is_noticed_too(bed: Bed) -> None:
    bed.comes_to(Reason.STARTED)
    bed.etcd.lossy = True
    bed.etcd.delete(P + "leader")
    bed.comes_to(Reason.STARTED, Reason.MISSED, Reason.STARTED)


def test_events_that_arrive_are_not_taken_for_lost(bed: Bed) -> None:
    bed.comes_to(Reason.STARTED)
    for number in range(50):
        bed.etcd.put(P + "leader", f"node{number}")
        bed.etcd.put(P + "members/x", "{}")
        bed.etcd.delete(P + "members/x")
        time.sleep(0.01)
    assert bed.reasons == [Reason.STARTED]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [("term", 1, Reason.LAGGING), ("revision", 1, Reason.RESTORED), ("cluster_id", 8, Reason.RESTORED)],
)
def test_an_etcd_that_falls_back_ends_the_session(bed: Bed, field: str, value: int, reason: Reason) -> None:
    bed.comes_to(Reason.STARTED)
    setattr(bed.etcd, field, value)
    bed.comes_to(Reason.STARTED, reason, Reason.STARTED)


def test_a_watch_of_another_cluster_ends_the_session(bed: Bed) -> None:
    bed.comes_to(Reason.STARTED)
    wait_for(lambda: bed.etcd.streams, 10, "a stream")
    bed.etcd.streams[0].items.put(type(bed.etcd.said())(99, 1, 2, ()))
    bed.comes_to(Reason.STARTED, Reason.RESTORED, Reason.STARTED)


def test_a_watch_that_is_never_accepted_is_given_up(bed: Bed) -> None:
    bed.comes_to(Reason.STARTED)
    bed.etcd.mute = True
    bed.etcd.end_streams()
    wait_for(lambda: Reason.SILENT in bed.reasons, 10, "silence")
    bed.etcd.mute = False
    wait_for(lambda: bed.states[-1].connected, 10, "a session")


def test_each_session_takes_the_next_endpoint(bed: Bed) -> None:
    def watches_again(sessions: int) -> bool:
        return bed.reasons.count(Reason.STARTED) == sessions and bool(bed.etcd.streams)

    for number in range(5):
        wait_for(partial(watches_again, number + 1), 10, "a session")
        bed.etcd.end_streams()
    assert bed.etcd.opened[:5] == ["a:1", "b:2", "c:3", "a:1", "b:2"]


def test_a_problem_is_told_once_for_each_endpoint_until_a_session_begins(bed: Bed) -> None:
    bed.comes_to(Reason.STARTED)
    bed.etcd.down = {"a:1", "b:2", "c:3"}
    wait_for(lambda: len(bed.etcd.opened) > 30, 10, "many attempts")
    told = [(state.endpoint, state.reason) for state in bed.states]
    assert len(told) == len(set(told))
    bed.etcd.down = set()
    wait_for(lambda: bed.states[-1].connected, 10, "a session")
    bed.etcd.down = {"a:1", "b:2", "c:3"}
    wait_for(lambda: bed.reasons.count(Reason.REFUSED) >= 4, 10, "told anew")


def test_attempts_back_off_by_rounds_and_a_good_session_starts_over() -> None:
    watch = Bed(EtcdAccess(("a", "b"), backoff=Backoff(0.1, 2.0))).watch
    watch._random = lambda: 1.0
    pauses = [watch._pause() for _ in range(12)]
    assert pauses == pytest.approx([0, 0.1, 0, 0.2, 0, 0.4, 0, 0.8, 0, 1.6, 0, 2.0])


@pytest.mark.parametrize("kind", [Change, Listing])
def test_a_consumer_that_fails_is_told_and_does_not_end_the_watch(bed: Bed, kind: type[Sighting]) -> None:
    bed.comes_to(Reason.STARTED)
    failing = threading.Event()

    def post(sighting: Sighting) -> None:
        if isinstance(sighting, kind) and not failing.is_set():
            failing.set()
            raise RuntimeError("of the consumer")
        bed.sightings.append(sighting)

    bed.post = post
    bed.etcd.end_streams()
    wait_for(lambda: bed.reasons.count(Reason.STARTED) == 2, 10, "a session")
    bed.etcd.put(P + "leader", "node2")
    wait_for(lambda: Reason.BROKEN in bed.reasons and bed.states[-1].connected, 10, "a session after it")
    assert any("of the consumer" in str(state.problem) for state in bed.states)


def test_one_read_takes_the_first_endpoint_that_answers() -> None:
    bed = Bed()
    bed.etcd.down = {"a:1"}
    assert bed.watch.read_once().revision == 2
    assert bed.etcd.opened == ["a:1", "b:2"]


def test_one_read_that_nobody_answers_names_them_all() -> None:
    bed = Bed()
    bed.etcd.down = {"a:1", "b:2", "c:3"}
    with pytest.raises(SourceError, match=r"etcd a:1: .*etcd b:2: .*etcd c:3"):
        bed.watch.read_once()


def test_one_read_that_is_refused_is_told_as_a_refusal() -> None:
    bed = Bed()
    bed.etcd.down = {"a:1"}
    bed.etcd.denied = True
    with pytest.raises(AccessDenied, match="permission denied"):
        bed.watch.read_once()


def test_a_session_that_was_refused_rereads_with_fresh_credentials(bed: Bed) -> None:
    bed.comes_to(Reason.STARTED)
    bed.etcd.denied = True
    wait_for(lambda: Reason.DENIED in bed.reasons, 10, "a refusal")
    assert isinstance(bed.states[1].problem, AccessDenied)
    bed.etcd.denied = False
    wait_for(lambda: bed.states[-1].connected, 10, "a session")
