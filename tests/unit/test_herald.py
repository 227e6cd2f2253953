"""The herald on an etcd in memory: what etcd holds is what was told last, whatever happens to etcd."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle

from tests.contracts.fake_etcd import FakeClient, FakeEtcd
from tests.support.waiting import wait_for
from watcher.decide.backoff import Backoff
from watcher.decide.errors import SourceError
from watcher.expose.herald import Herald

P = "/service/demo/"
AT = P + "pgbouncer-watcher/targets/"
LIMIT = 10.0

State = tuple[bool, str, str]


class Bed:
    """An etcd of two members, and one herald."""

    def __init__(self, ttl: float = 60.0) -> None:
        self.etcd = FakeEtcd()
        self.states: list[State] = []
        self.connects = 0
        self._turn = cycle(("one:1", "two:2"))
        self.herald = Herald(P, self._connect, self._note, ttl=ttl, watcher="w1", backoff=Backoff(0.01, 0.02))
        self.stop = threading.Event()

    def _connect(self, _: Callable[[], bool]) -> FakeClient:
        self.connects += 1
        return FakeClient(self.etcd, next(self._turn))

    def _note(self, connected: bool, place: str, problem: SourceError | None) -> None:
        self.states.append((connected, place, problem.problem if problem else ""))

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.herald.run, args=(self.stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.end()
            thread.join(LIMIT)
            assert not thread.is_alive()

    def end(self) -> None:
        self.stop.set()
        self.herald.nudge()

    def told(self) -> dict[str, str]:
        """Target → what its key says it is held for."""
        said = {kv.key.decode().removeprefix(AT): json.loads(kv.value) for kv in self.etcd.listing(AT).keys}
        assert all(value["watcher"] == "w1" for value in said.values())
        return {key.removesuffix("/w1"): value["held_for"] for key, value in said.items()}

    def comes_to(self, wanted: dict[str, str]) -> None:
        wait_for(lambda: self.told() == wanted, LIMIT, f"etcd says {wanted}", poll=0.002)


def test_targets_and_what_they_are_held_for_are_told_as_they_change() -> None:
    bed = Bed()
    bed.herald.tell("a")
    with bed.running():
        bed.comes_to({"a": ""})
        bed.herald.tell("b", "stop-1")
        bed.comes_to({"a": "", "b": "stop-1"})
        bed.herald.tell("b")
        bed.herald.withdraw("a")
        bed.comes_to({"b": ""})


def test_what_is_told_again_as_it_was_is_not_written_again() -> None:
    bed = Bed()
    bed.herald.tell("a", "stop-1")
    with bed.running():
        bed.comes_to({"a": "stop-1"})
        before = bed.etcd.revision
        bed.herald.tell("a", "stop-1")
        bed.herald.withdraw("never told of")
        bed.herald.tell("b")
        bed.comes_to({"a": "stop-1", "b": ""})
        assert bed.etcd.revision == before + 1


def test_more_targets_than_one_write_takes_are_all_told() -> None:
    bed = Bed()
    wanted = {f"t{n}": "" for n in range(250)}
    for target in wanted:
        bed.herald.tell(target)
    with bed.running():
        bed.comes_to(wanted)


def test_its_keys_are_gone_at_once_when_it_is_stopped() -> None:
    bed = Bed()
    bed.herald.tell("a")
    with bed.running():
        bed.comes_to({"a": ""})
    assert bed.told() == {}
    assert bed.etcd.leases == {}


def test_a_lease_that_ran_out_is_replaced_and_everything_told_anew() -> None:
    bed = Bed(ttl=0.05)  # rounded up for etcd, but it is kept alive thrice a second
    bed.herald.tell("a", "stop-1")
    with bed.running():
        bed.comes_to({"a": "stop-1"})
        bed.etcd.end_lease(next(iter(bed.etcd.leases)))
        assert bed.told() == {}
        bed.comes_to({"a": "stop-1"})
    assert bed.states == [(True, "etcd one:1", "")]


def test_a_change_after_the_lease_ran_out_is_told_all_the_same() -> None:
    bed = Bed()
    bed.herald.tell("a")
    with bed.running():
        bed.comes_to({"a": ""})
        bed.etcd.end_lease(next(iter(bed.etcd.leases)))
        bed.herald.tell("b", "stop-1")
        bed.comes_to({"a": "", "b": "stop-1"})


def test_the_next_member_is_asked_when_one_does_not_answer() -> None:
    bed = Bed()
    bed.etcd.down = {"one:1"}
    bed.herald.tell("a")
    with bed.running():
        bed.comes_to({"a": ""})
    assert bed.states == [(False, "etcd one:1", "Connection refused"), (True, "etcd two:2", "")]


def test_a_problem_is_said_once_however_long_it_lasts_and_so_is_its_end() -> None:
    bed = Bed()
    bed.etcd.denied = True
    bed._turn = cycle(("one:1",))
    bed.herald.tell("a")
    with bed.running():
        wait_for(lambda: bed.connects > 5, LIMIT, "it tries again")
        assert bed.states == [(False, "etcd one:1", "permission denied")]
        bed.etcd.denied = False
        bed.comes_to({"a": ""})
    assert bed.states[1:] == [(True, "etcd one:1", "")]


def test_an_error_that_nobody_foresaw_is_said_and_survived() -> None:
    bed = Bed()
    broken = iter([ZeroDivisionError("x")])

    def connect(_: Callable[[], bool]) -> FakeClient:
        for error in broken:
            raise error
        return FakeClient(bed.etcd, "one:1")

    bed.herald = Herald(P, connect, bed._note, watcher="w1", backoff=Backoff(0.01, 0.02))
    bed.herald.tell("a")
    with bed.running():
        bed.comes_to({"a": ""})
    assert bed.states[0] == (False, "barrier", "unexpected ZeroDivisionError('x')")


def test_two_heralds_never_have_the_same_name() -> None:
    bed = Bed()
    names = {Herald(P, bed._connect).watcher for _ in range(3)}
    assert len(names) == 3
    assert not any("/" in name for name in names)
