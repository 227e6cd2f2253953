"""Who asks etcd to be the active watcher, on an etcd in memory: it gets it once, keeps it, and loses it."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle

import pytest

from tests.contracts.fake_etcd import FakeClient, FakeEtcd
from tests.support.waiting import wait_for
from watcher.decide.backoff import Backoff
from watcher.decide.errors import SourceError
from watcher.decide.model import ACTIVE_KEY
from watcher.expose.candidate import Candidate

P, Q = "/service/demo/", "/service/other/"
LIMIT = 10.0
TWO = json.dumps({"watcher": "two", "name": "two"})


class Client(FakeClient):
    """Of a bed, where time goes by until a lease's answer comes, and a test may act before a claim's does."""

    def __init__(self, bed: "Bed", endpoint: str) -> None:
        super().__init__(bed.etcd, endpoint)
        self._bed = bed

    def grant(self, seconds: int) -> int:
        lease = super().grant(seconds)
        self._bed.now += self._bed.answers_after
        return lease

    def keep_alive(self, lease: int) -> bool:
        lives = super().keep_alive(lease)
        self._bed.now += self._bed.answers_after
        return lives

    def claim(self, key: str, value: str, lease: int) -> bool:
        is_ours = super().claim(key, value, lease)
        self._bed.claims.append(key.removesuffix(ACTIVE_KEY))
        self._bed.while_it_claims()
        return is_ours


class Bed:
    """An etcd of two members, and candidates whose watch is the test's own hand."""

    def __init__(self) -> None:
        self.etcd = FakeEtcd()
        self.answers_after = 0.0
        self.claims: list[str] = []
        self.while_it_claims: Callable[[], None] = lambda: None
        self.states: list[tuple[bool, str]] = []
        self.connects = 0
        self.now = 1000.0
        self._turn = cycle(("one:1", "two:2"))
        self.stop = threading.Event()

    def candidate(self, name: str, ttl: float = 60.0) -> Candidate:
        return Candidate(
            name,
            self._connect,
            self._note,
            ttl=ttl,
            watcher=name,
            backoff=Backoff(0.01, 0.02),
            clock=lambda: self.now,
        )

    def _connect(self, _: Callable[[], bool]) -> FakeClient:
        self.connects += 1
        return Client(self, next(self._turn))

    def _note(self, connected: bool, _: str, problem: SourceError | None) -> None:
        self.states.append((connected, problem.problem if problem else ""))

    @contextmanager
    def running(self, *candidates: Candidate) -> Iterator[None]:
        threads = [threading.Thread(target=each.run, args=(self.stop,), daemon=True) for each in candidates]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for each in candidates:
                each.nudge()
            for thread in threads:
                thread.join(LIMIT)
                assert not thread.is_alive()

    def active(self, prefix: str = P) -> str:
        """Who the key names, nobody where there is none."""
        found = self.etcd.listing(prefix + ACTIVE_KEY).keys
        return str(json.loads(found[0].value)["watcher"]) if found else ""

    def tell(self, *candidates: Candidate, prefixes: tuple[str, ...] = (P,)) -> None:
        """The watch's word, as it is now."""
        for candidate in candidates:
            for prefix in prefixes:
                candidate.hear(prefix, self.active(prefix))

    def goes_by(self, seconds: float, candidate: Candidate) -> None:
        """A third of its `ttl` at least, so that it keeps its lease alive."""
        before = candidate.lease.kept_until
        self.now += seconds
        candidate.nudge()
        wait_for(lambda: candidate.lease.kept_until != before, LIMIT, "the lease is kept", poll=0.002)

    def comes_to(self, name: str, prefix: str = P) -> None:
        wait_for(lambda: self.active(prefix) == name, LIMIT, f"{name or 'nobody'} is active", poll=0.002)


@pytest.fixture
def bed() -> Bed:
    return Bed()


def test_one_of_two_gets_the_key_and_the_other_asks_no_more(bed: Bed) -> None:
    one, two = bed.candidate("one"), bed.candidate("two")
    with bed.running(one, two):
        bed.tell(one)
        bed.comes_to("one")
        bed.tell(one, two)
        bed.now += 600
        bed.tell(one, two)
        one.nudge()
        two.nudge()
        wait_for(lambda: one.lease.kept_until > bed.now, LIMIT, "the lease is kept", poll=0.002)
        assert bed.active() == "one"
        assert bed.connects == 1, "a standby asks etcd nothing"


def test_who_loses_the_race_for_the_key_gives_its_lease_back(bed: Bed) -> None:
    one, two = bed.candidate("one"), bed.candidate("two")
    with bed.running(one, two):
        bed.tell(one, two)
        wait_for(lambda: bed.active() != "", LIMIT, "one is active", poll=0.002)
        bed.tell(one, two)
        wait_for(lambda: len(bed.etcd.leases) == 1, LIMIT, "one lease is left", poll=0.002)


def test_the_other_gets_it_when_the_lease_of_the_first_has_ended(bed: Bed) -> None:
    one, two = bed.candidate("one"), bed.candidate("two")
    with bed.running(one, two):
        bed.tell(one)
        bed.comes_to("one")
        bed.tell(one, two)
        bed.etcd.end_lease(next(iter(bed.etcd.leases)))
        bed.tell(two)
        bed.comes_to("two")
        bed.tell(one, two)
        bed.now += 60
        one.nudge()
        wait_for(lambda: one.lease.kept_until < bed.now, LIMIT, "one knows that it is not", poll=0.002)


def test_the_key_is_gone_at_once_when_it_is_stopped(bed: Bed) -> None:
    one = bed.candidate("one")
    with bed.running(one):
        bed.tell(one)
        bed.comes_to("one")
    assert bed.active() == ""
    assert bed.etcd.leases == {}


def test_all_clusters_hang_on_one_lease(bed: Bed) -> None:
    one = bed.candidate("one")
    prefixes = tuple(f"/service/c{number}/" for number in range(200))
    with bed.running(one):
        bed.tell(one, prefixes=prefixes)
        wait_for(lambda: all(map(bed.active, prefixes)), LIMIT, "all are asked for", poll=0.01)
        assert len(bed.etcd.leases) == 1
        assert bed.connects == 1


def test_a_cluster_that_another_has_is_left_to_it_and_the_rest_kept(bed: Bed) -> None:
    one, two = bed.candidate("one"), bed.candidate("two")
    with bed.running(one, two):
        bed.tell(two, prefixes=(Q,))
        bed.comes_to("two", Q)
        bed.tell(one, prefixes=(P, Q))
        bed.comes_to("one", P)
        bed.tell(one, two, prefixes=(P, Q))
        assert (bed.active(P), bed.active(Q)) == ("one", "two")


def test_the_lease_outlives_the_member_of_etcd_that_it_was_kept_by(bed: Bed) -> None:
    one = bed.candidate("one")
    with bed.running(one):
        bed.tell(one)
        bed.comes_to("one")
        bed.tell(one)
        (lease,) = bed.etcd.leases
        bed.etcd.down.add("one:1")
        bed.now += 20
        one.nudge()
        wait_for(lambda: one.lease.kept_until == bed.now + 60, LIMIT, "it is kept again", poll=0.002)
        assert list(bed.etcd.leases) == [lease]
        assert bed.active() == "one"
    assert (False, "Connection refused") in bed.states


def test_its_time_counts_from_when_it_was_asked_for(bed: Bed) -> None:
    """Whoever is slow to answer must not make it seem longer than it is."""
    one = bed.candidate("one")
    bed.answers_after = 5.0
    with bed.running(one):
        bed.tell(one)
        bed.comes_to("one")
        assert (one.lease.kept_until, bed.now) == (1060.0, 1005.0)
        bed.goes_by(20, one)
        assert (one.lease.kept_until, bed.now) == (1085.0, 1030.0)


def test_a_key_that_is_not_there_although_it_was_claimed_is_claimed_again(bed: Bed) -> None:
    """An etcd restored from a backup has forgotten it, and no event tells of that."""
    one = bed.candidate("one")
    with bed.running(one):
        bed.tell(one)
        bed.comes_to("one")
        bed.etcd.delete(P + ACTIVE_KEY)
        one.hear(P, "")
        bed.now += 61
        one.hear(P, "")
        bed.comes_to("one")


def test_a_word_that_comes_before_that_of_a_claim_asks_for_it_no_second_time(bed: Bed) -> None:
    """etcd is heard several times a second, and may be slow to say that the key is there."""
    one = bed.candidate("one")
    with bed.running(one):
        bed.tell(one)
        bed.comes_to("one")
        for _ in range(20):
            one.hear(P, "")
        for _ in range(2):  # a whole round of it at least
            bed.goes_by(20, one)
        assert bed.claims == [P]


def test_a_key_that_comes_free_is_asked_for_at_once_though_it_was_a_moment_ago(bed: Bed) -> None:
    one = bed.candidate("one")
    bed.etcd.put(P + ACTIVE_KEY, TWO)
    with bed.running(one):
        one.hear(P, "")
        wait_for(lambda: bed.claims and not bed.etcd.leases, LIMIT, "it has lost", poll=0.002)
        bed.tell(one)
        bed.now += 1
        bed.etcd.delete(P + ACTIVE_KEY)
        bed.tell(one)
        bed.comes_to("one")


def test_a_key_that_another_has_by_now_is_not_asked_for(bed: Bed) -> None:
    one = bed.candidate("one")
    for holder in ("", "two"):
        one.hear(P, holder)
    with bed.running(one):
        bed.tell(one, prefixes=(Q,))
        bed.comes_to("one", Q)
        for _ in range(2):  # a whole round of it at least
            bed.goes_by(20, one)
        assert bed.claims == [Q]


def test_who_gets_none_of_many_keys_asks_for_all_in_one_session_and_then_for_nothing(bed: Bed) -> None:
    one = bed.candidate("one")
    prefixes = {f"/service/c{number}/" for number in range(20)}
    for prefix in prefixes:
        bed.etcd.put(prefix + ACTIVE_KEY, TWO)
        one.hear(prefix, "")
    one.step(bed.stop)
    assert (set(bed.claims), bed.etcd.leases) == (prefixes, {})
    one.nudge()
    one.step(bed.stop)
    assert bed.connects == 1


def test_who_is_told_that_its_lease_has_gone_knows_it_at_once_and_takes_another(bed: Bed) -> None:
    one = bed.candidate("one")
    with bed.running(one):
        bed.tell(one)
        bed.comes_to("one")
        bed.tell(one)
        bed.etcd.end_lease(next(iter(bed.etcd.leases)))
        bed.goes_by(20, one)
        assert one.lease.kept_until < bed.now
        bed.tell(one)
        bed.comes_to("one")
        assert all(connected for connected, _ in bed.states)


def test_who_hears_of_another_before_its_claim_is_answered_gives_its_lease_back(bed: Bed) -> None:
    one = bed.candidate("one")
    bed.while_it_claims = lambda: one.hear(P, "two")
    with bed.running(one):
        bed.tell(one)
        wait_for(lambda: bed.claims and not bed.etcd.leases, LIMIT, "no lease is left", poll=0.002)


def test_a_claim_that_is_lost_is_made_again_by_itself(bed: Bed) -> None:
    """At the next member, and without another word of etcd's."""
    one = bed.candidate("one")
    failures = [SourceError("etcd one:1", "Socket closed", "it is tried again")]

    def fail_once() -> None:
        if failures:
            bed.etcd.delete(P + ACTIVE_KEY)
            raise failures.pop()

    bed.while_it_claims = fail_once
    with bed.running(one):
        bed.tell(one)
        bed.comes_to("one")
        wait_for(lambda: bed.claims == [P, P], LIMIT, "it was asked for twice", poll=0.002)


def test_an_etcd_that_denies_it_is_told_of_and_asked_again(bed: Bed) -> None:
    one = bed.candidate("one")
    bed.etcd.denied = True
    with bed.running(one):
        bed.tell(one)
        wait_for(lambda: bed.connects > 3, LIMIT, "it is tried again", poll=0.002)
        assert set(bed.states) == {(False, "permission denied")}
        bed.etcd.denied = False
        bed.comes_to("one")
        wait_for(lambda: bed.states[-1] == (True, ""), LIMIT, "that it is heard is told", poll=0.002)


def test_who_may_not_write_says_no_word_of_success_and_asks_less_and_less(bed: Bed) -> None:
    """etcd grants a lease to everybody, so that alone is no success."""
    bed.etcd.read_only = True
    one = bed.candidate("one")
    bed.tell(one)
    with bed.running(one):
        wait_for(lambda: bed.connects > 3, LIMIT, "it has tried again and again", poll=0.002)
        assert set(bed.states) == {(False, "permission denied")}
        assert one._failures > 2
        bed.etcd.read_only = False
        bed.comes_to("one")
        wait_for(lambda: bed.states[-1] == (True, ""), LIMIT, "that is told", poll=0.002)
