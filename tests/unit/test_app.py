"""What becomes of a worker's words, its hold and its place in the queue when it is replaced, or fails."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from watcher.app import Watcher, _Worker, pooler
from watcher.decide.model import Alarm, Desired, Endpoint, Handover, Reason, Sighting
from watcher.lasting import LastingThread
from watcher.reconciler import Reconciler, Relief
from watcher.settings import Settings, load

TARGETS = ("kept", "gone")
PRIMARY, READER = Endpoint("10.0.0.1", 5432), Endpoint("10.0.0.2", 5432)
SITES = """\
etcd: {endpoints: [a:2379]}
cluster:
  scope: app
  standby: other_site
  other_site: {scope: there, etcd: {endpoints: [b:2379]}}
"""
LIMIT = 10.0


class World:
    """A watcher that is not started: its workers end when a test lets them."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "watcher.yaml"
        self.watcher = Watcher(self.settings(*TARGETS))

    def settings(self, *names: str, file: str = "/x.ini") -> Settings:
        targets = "\n".join(
            f"  - {{name: {name}, via: local, file: {file}, block: {name}, console: {{socket: /s}}}}"
            for name in names
        )
        self._file.write_text(f"{SITES}targets:\n{targets}\n")
        return load({}, self._file, {}).settings

    def refused(self, target: str, *, at_reader: bool) -> None:
        """As the agent beside it says it."""
        ear = self.watcher._workers[target]._ear()
        (ear.reader if at_reader else ear.alarm)(READER if at_reader else PRIMARY, True, "refused")

    def remove_the_other(self) -> Callable[[], None]:
        """By a re-read; what makes its worker end."""
        self.watcher.go_on_with(self.settings("kept"))
        (leaving,) = self.watcher._leaving

        def end() -> None:
            leaving.thread.start()
            leaving.thread.join(LIMIT)
            assert not leaving.thread.is_alive()

        return end

    def refusing(self, *, at_other_site: bool = False) -> list[str]:
        """By whose word somebody refuses."""
        other = self.watcher._other
        assert other is not None
        view = (other if at_other_site else self.watcher).board.view
        told = (*view.alarms.values(), *view.refusals.values())
        return [alarm.target for alarm in told if alarm.refuses]


def worker_of(watcher: Watcher) -> _Worker:
    return watcher._workers["kept"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# --- its words ---------------------------------------------------------------------------------------


def test_what_an_agent_sees_change_makes_its_worker_look(world: World) -> None:
    worker = worker_of(world.watcher)
    worker.reconciler._read_at = 7.0
    worker._mailbox.take(0)
    ear = worker._ear()
    ear.differs()
    ear.changed()
    assert worker.reconciler._read_at == float("-inf")
    assert worker._mailbox.wait(0)


def test_an_agent_looks_as_often_as_is_asked_for(world: World) -> None:
    settings = world.settings("kept").model_copy(update={"resync_interval": 7.0})
    assert pooler(settings, settings.targets[0])._look_every == 7.0


def test_what_a_target_said_of_a_server_for_reads_does_not_outlive_it(world: World) -> None:
    """Else that server would count as refusing for ever, should the target come back."""
    for target in TARGETS:
        world.refused(target, at_reader=True)
    end = world.remove_the_other()
    assert world.refusing() == ["kept", "gone"]
    end()
    assert world.refusing() == ["kept"]


def test_what_a_target_said_of_a_primary_does_not_outlive_it_at_either_site(world: World) -> None:
    for target in TARGETS:
        world.refused(target, at_reader=False)
    assert world.refusing(at_other_site=True) == ["kept", "gone"]
    world.remove_the_other()()
    assert world.refusing() == world.refusing(at_other_site=True) == ["kept"]


def test_what_its_successor_says_stays_though_who_leaves_is_slow_to_end(world: World) -> None:
    end = world.remove_the_other()
    now = time.monotonic()
    world.watcher.board.post(Alarm("gone", READER, True, now, "refused", of_reader=True))
    world.watcher.board.post(Alarm("gone", PRIMARY, True, now, "refused"))
    end()
    assert world.refusing() == ["gone", "gone"]


# --- its hold ----------------------------------------------------------------------------------------


def test_a_hold_is_handed_over_once_the_successor_is_in_place(world: World) -> None:
    successor = Watcher(world.settings(*TARGETS))
    world.watcher.ask_to_stop(successor)
    relief = worker_of(world.watcher).reconciler.relief
    assert relief is not None
    assert not relief()
    worker_of(successor).reconciler.in_place = Relief()
    assert relief()


def test_a_hold_is_handed_over_to_the_last_of_several_successors(world: World) -> None:
    """As where the settings are read anew twice while hosts are slow to log in to."""
    second, third = (Watcher(world.settings(*TARGETS)) for _ in range(2))
    world.watcher.ask_to_stop(second)
    second.ask_to_stop(third)
    relief = worker_of(world.watcher).reconciler.relief
    assert relief is not None
    assert not relief()
    worker_of(third).reconciler.in_place = Relief()
    assert relief()


def test_a_successor_that_was_replaced_itself_counts_only_while_it_holds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it believed at its first look nobody corrects any more."""
    second, third = (Watcher(world.settings(*TARGETS)) for _ in range(2))
    world.watcher.ask_to_stop(second)
    believes = Relief(Desired(Reason.LEADER, "node1 leads"))
    worker_of(second).reconciler.in_place = believes
    relief = worker_of(world.watcher).reconciler.relief
    assert relief is not None
    assert relief() == believes
    second.ask_to_stop(third)
    assert relief() is None
    with monkeypatch.context() as patch:
        patch.setattr(Reconciler, "is_holding", True)
        assert relief() == Relief()
    worker_of(third).reconciler.in_place = Relief()
    assert relief() == Relief()


def test_a_successor_knows_since_when_clients_wait(world: World) -> None:
    worker_of(world.watcher).reconciler._held_since = 5.0
    successor = Watcher(world.settings(*TARGETS))
    world.watcher.ask_to_stop(successor)
    assert worker_of(successor).reconciler._held_since == 5.0


@pytest.mark.parametrize("is_same", [True, False])
def test_a_successor_knows_what_was_known_of_the_same_other_site_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, is_same: bool
) -> None:
    settings = world.settings(*TARGETS)
    there = settings.cluster.other_site
    assert there is not None
    if not is_same:
        elsewhere = there.model_copy(update={"scope": "elsewhere"})
        cluster = settings.cluster.model_copy(update={"other_site": elsewhere})
        settings = settings.model_copy(update={"cluster": cluster})
    successor = Watcher(settings)
    told: list[Sighting] = []
    assert successor._other is not None
    monkeypatch.setattr(successor._other.board, "post", told.append)
    successor._know_all_of(world.watcher)
    assert [type(event) for event in told] == [Handover] * is_same


def test_nobody_waits_for_a_successor_that_has_left_itself(world: World) -> None:
    successor = Watcher(world.settings(*TARGETS))
    world.watcher.ask_to_stop(successor)
    successor.ask_to_stop()
    relief = worker_of(world.watcher).reconciler.relief
    assert relief is not None
    assert relief() == Relief(is_last=True)


def test_a_target_that_has_changed_alone_hands_its_hold_over_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = worker_of(world.watcher)
    monkeypatch.setattr(LastingThread, "start", lambda _: None)
    world.watcher.go_on_with(world.settings("kept", file="/y.ini"))
    relief = before.reconciler.relief
    assert relief is not None
    assert not relief()
    worker_of(world.watcher).reconciler.in_place = Relief()
    assert relief()


def test_of_a_target_that_is_removed_the_hold_is_handed_to_nobody(world: World) -> None:
    gone = world.watcher._workers["gone"]
    world.watcher.ask_to_stop(Watcher(world.settings("kept")))
    assert gone.reconciler.relief is None
    assert worker_of(world.watcher).reconciler.relief is not None


# --- its place in the queue --------------------------------------------------------------------------


def test_who_has_failed_goes_behind_all_others_and_is_as_urgent_as_before_once_it_is_well(
    world: World,
) -> None:
    worker = worker_of(world.watcher)
    assert worker._urgency() == 0.0
    worker.reconciler._failures = 1
    assert worker._urgency() < 0.0
    worker.reconciler._failures = 0
    assert worker._urgency() == 0.0


# --- its threads ---------------------------------------------------------------------------------------


def test_a_thread_that_is_dead_or_breaks_off_again_and_again_is_told(world: World) -> None:
    world.watcher._threads[0]._breaks, world.watcher._threads[0]._broke_at = 10, time.monotonic()
    for thread in (world.watcher._threads[0], worker_of(world.watcher).thread):
        thread._ident = 1  # type: ignore[attr-defined] # as if it had been begun
    found = world.watcher._ailing()
    assert found == "no longer at work: readiness; no longer at work: target kept"


def test_how_many_threads_a_start_begins_is_known_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(threading.Thread, "start", lambda thread: begun.append(thread.name))
    foretold = [world.watcher.threads_to_begin()]
    world.watcher.start()
    foretold.append(len(begun))
    anew = world.settings("kept", "gone", "new")
    foretold.append(world.watcher.threads_to_begin(anew))
    world.watcher.go_on_with(anew)
    assert foretold == [len(TARGETS) + 5, len(TARGETS) + 5, 1]
    assert len(begun) == len(TARGETS) + 5 + 1
