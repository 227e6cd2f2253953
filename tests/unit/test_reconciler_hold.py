"""The loop of one target while clients wait: held, written, released, told; and what may fail."""

import threading
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from tests.support.fake_target import NODES, POLICY, led_by
from tests.support.waiting import wait_for
from tests.unit.test_reconciler import RESYNC, World, lost
from watcher.decide.decision import HoldPolicy, ReadyBy
from watcher.decide.errors import PrimaryRefuses, TargetRefused
from watcher.decide.model import (
    PAUSE_KEY,
    STOP_KEYS,
    Alarm,
    Entry,
    Failover,
    Leadership,
    Paused,
    Readiness,
    Reason,
    Role,
    Step,
    StopRequest,
    Value,
    Verdict,
    View,
    Watch,
)

HELD = replace(POLICY, hold=HoldPolicy(limit=20.0, announced_limit=8.0))
ASKED = replace(HELD, ready_by=ReadyBy.REST)


def with_key(view: View, key: str, value: Value, revision: int = 6, seen_at: float = 1000.0) -> View:
    entries = {**view.entries, key: Entry(key, value, revision, revision)}
    return replace(view, entries=entries, seen_at=MappingProxyType({**view.seen_at, key: seen_at}))


def nobody(at: float) -> View:
    """The cluster is there, its leader key is not."""
    return with_key(led_by(None, 6, at), "failover", Failover(None, None, None))


def refused(view: View, at: float, *, refuses: bool = True) -> View:
    return replace(
        view, alarms=MappingProxyType({"fake": Alarm("fake", NODES["node1"], refuses, at, "gone")})
    )


class Holding(World):
    """Settled on node1; what was told by then is forgotten."""

    def __init__(self, **others: Any) -> None:
        self.acknowledged: list[str | None] = []
        options = {"policy": HELD, "acknowledge": self.acknowledged.append, **others}
        super().__init__(**options)
        self.turn()
        assert self.pgbouncer.shown == {"app": NODES["node1"]}
        self.reports.switches.clear()
        self.target.calls.clear()
        self.acknowledged.clear()

    @property
    def waits(self) -> bool:
        return self.pgbouncer.waits("app")


@pytest.fixture
def world() -> Holding:
    return Holding()


# --- a switch ----------------------------------------------------------------------------------------


def test_clients_wait_from_the_end_of_the_leader_key_until_the_new_leader_is_confirmed(
    world: Holding,
) -> None:
    world.turn(nobody(world.now))
    assert world.waits
    assert world.pgbouncer.shown == {"app": NODES["node1"]}
    world.now += 2
    world.turn(led_by("node2", 7, world.now))
    assert not world.waits
    assert world.pgbouncer.shown == {"app": NODES["node2"]}
    assert world.target.calls == {"hold": 1, "write": 1, "release": 1, "watch": 1}
    assert world.reports.failures == []


def test_a_leader_that_is_not_ready_is_written_and_not_yet_released() -> None:
    world = Holding(policy=HELD)
    world.reconciler._policy = ASKED
    view = led_by("node2", 7, world.now)
    world.turn(view)
    assert world.waits
    assert str(NODES["node2"].host) in world.pgbouncer.text
    assert world.pgbouncer.shown == {"app": NODES["node1"]}
    world.now += 1
    ready = Readiness(Leadership("node2", 7), Verdict.READY, Role.PRIMARY, 4, world.now)
    world.turn(replace(view, readiness=ready, pulse=ready))
    assert not world.waits
    assert world.pgbouncer.shown == {"app": NODES["node2"]}
    [switch] = world.reports.switches
    steps = [name for name, _ in switch.steps]
    assert steps == ["hold", "write", "ready", "release", "write"]  # the last for what its stamp learned


def test_a_switch_says_since_when_clients_waited(world: Holding) -> None:
    world.turn(nobody(world.now))
    world.now += 2
    world.turn(led_by("node2", 7, world.now))
    [switch] = world.reports.switches
    assert switch.held_since == 1000.0
    assert switch.confirmed_at == 1002.0
    assert switch.before == (NODES["node1"],)


def test_a_hold_and_its_end_are_told_once_each(world: Holding) -> None:
    for _ in range(3):
        world.now += 1
        world.turn(nobody(world.now))
    world.now += 1
    world.turn(led_by("node2", 7, world.now))
    world.turn(led_by("node2", 7, world.now))
    assert [wish.reason for wish in world.reports.holds] == [Reason.NO_LEADER]
    [(wish, seconds)] = world.reports.releases
    assert (wish.reason, seconds) == (Reason.LEADER, 3.0)


def test_a_false_alarm_releases_everybody_without_a_write_or_a_reload(world: Holding) -> None:
    world.turn(with_key(led_by("node1", 5, world.now), "failover", Failover("node1", None, None)))
    assert world.waits
    world.turn(with_key(led_by("node1", 5, world.now), "failover", Failover(None, None, None)))
    assert not world.waits
    assert world.target.calls == {"hold": 1, "release": 1}
    assert world.reports.switches == []


# --- limits ------------------------------------------------------------------------------------------


def test_a_hold_that_has_lasted_its_limit_ends_and_is_not_begun_again_while_the_trouble_lasts(
    world: Holding,
) -> None:
    view = nobody(world.now)
    world.turn(view)
    assert world.target.last is not None
    assert world.target.last.held is not None
    assert world.target.last.held.until == 1020.0
    for _ in range(400):
        world.now += 0.25
        world.turn(view)
        assert world.waits is (world.now < 1020.0)
    assert world.target.calls["hold"] == 1
    assert world.reports.wishes[-1].held is False
    assert "released" in world.reports.wishes[-1].detail


def test_a_hold_that_a_failed_write_made_us_forget_lasts_no_longer_for_it(world: Holding) -> None:
    world.turn(nobody(world.now))
    world.now += 10
    world.target.fail("write", lost())
    world.turn(led_by("node2", 7, world.now))
    world.now += 1
    world.turn(with_key(led_by(None, 8, world.now), "failover", Failover(None, None, None), 8))
    assert world.target.last is not None
    assert world.target.last.held is not None
    assert (world.target.last.held.since, world.target.last.held.until) == (1000.0, 1020.0)


def test_after_that_the_next_trouble_is_held_for_again(world: Holding) -> None:
    world.turn(nobody(world.now))
    world.now += 30
    world.turn(nobody(world.now))
    world.turn(led_by("node1", 9, world.now))
    assert not world.waits
    world.turn(nobody(world.now))
    assert world.waits
    assert world.target.last is not None
    assert world.target.last.held is not None
    assert world.target.last.held.until == 1050.0


def test_an_announcement_that_the_end_of_the_key_follows_is_held_for_longer_but_once(world: Holding) -> None:
    world.turn(with_key(led_by("node1", 5, world.now), "failover", Failover("node1", None, None)))
    assert world.target.last is not None
    assert world.target.last.held is not None
    assert world.target.last.held.until == 1008.0
    world.now += 3
    world.turn(nobody(world.now))
    assert world.target.last.held is not None
    assert world.target.last.held.until == 1020.0  # from its first moment
    assert [wish.reason for wish in world.reports.holds] == [Reason.ANNOUNCED]
    assert world.reports.releases == []


def test_an_announcement_that_nothing_follows_ends_by_time_alone(world: Holding) -> None:
    view = with_key(led_by("node1", 5, world.now), "failover", Failover("node1", None, None))
    assert world.turn(view) == pytest.approx(8.0)
    world.run_for(8.5)
    assert not world.waits
    assert world.reports.failures == []


def test_the_next_turn_is_no_later_than_the_end_of_the_hold(world: Holding) -> None:
    world.reconciler._resync_interval = 1000.0
    assert world.turn(nobody(world.now)) <= 20.0


# --- a release that is refused -----------------------------------------------------------------------


def test_clients_go_on_waiting_for_a_new_primary_that_takes_no_login_and_it_is_asked_often(
    world: Holding,
) -> None:
    world.turn(nobody(world.now))
    world.pgbouncer.closed.add(NODES["node2"])
    assert world.turn(led_by("node2", 7, world.now)) == pytest.approx(0.05)
    assert world.waits
    assert [type(error) for error in world.reports.failures] == [PrimaryRefuses]
    world.run_for(3)
    assert world.waits
    assert world.target.calls["release"] > 40
    world.pgbouncer.closed.clear()
    world.run_for(0.2)
    assert not world.waits
    assert world.pgbouncer.shown == {"app": NODES["node2"]}
    assert len(world.reports.switches) == 1
    assert world.target.calls["write"] == 1


def test_a_primary_that_never_takes_a_login_keeps_nobody_beyond_the_limit(world: Holding) -> None:
    world.turn(nobody(world.now))
    world.pgbouncer.closed.add(NODES["node2"])
    world.turn(led_by("node2", 7, world.now))
    world.run_for(25)
    assert not world.waits
    assert world.pgbouncer.shown == {"app": NODES["node2"]}


def test_a_pgbouncer_that_does_not_take_the_route_goes_on_holding(world: Holding) -> None:
    world.turn(nobody(world.now))
    world.pgbouncer.deaf = True
    world.turn(led_by("node2", 7, world.now))
    assert world.waits
    assert [type(error) for error in world.reports.failures] == [TargetRefused]
    world.pgbouncer.deaf = False
    world.run_for(3)
    assert not world.waits
    assert world.pgbouncer.shown == {"app": NODES["node2"]}


# --- who cannot be held ------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["hold", "watch"])
def test_who_cannot_be_held_is_led_all_the_same(world: Holding, call: str) -> None:
    world.target.fail_always[call] = lost()
    world.turn(nobody(world.now))
    world.now += 3
    world.turn(led_by("node2", 7, world.now))
    world.run_for(RESYNC)
    assert world.pgbouncer.shown == {"app": NODES["node2"]}
    assert not world.waits
    assert world.reports.failures


def test_a_hold_that_fails_is_tried_again(world: Holding) -> None:
    world.target.fail("hold", lost())
    world.turn(nobody(world.now))
    assert not world.waits
    world.run_for(0.5)
    assert world.waits


def test_a_target_that_cannot_hold_is_led_as_before() -> None:
    world = Holding(console=False)
    world.turn(nobody(world.now))
    world.turn(led_by("node2", 7, world.now))
    assert world.target.calls == {"write": 1, "reload": 1, "confirm": 1}
    assert [name for name, _ in world.reports.switches[0].steps] == ["write", "reload", "confirm"]
    assert world.reports.failures == []


def test_a_console_that_is_gone_is_told_and_the_file_is_written(world: Holding) -> None:
    world.pgbouncer.down = True
    world.now += RESYNC
    world.turn(nobody(world.now))
    assert world.reports.failures
    world.now += 3
    world.turn(led_by("node2", 7, world.now))
    assert str(NODES["node2"].host) in world.pgbouncer.text
    world.pgbouncer.down = False
    world.run_for(3)
    assert world.pgbouncer.shown == {"app": NODES["node2"]}


def test_a_pgbouncer_that_is_restarted_amid_a_hold_is_held_anew(world: Holding) -> None:
    world.turn(nobody(world.now))
    world.now += 1
    world.pgbouncer.restart()
    assert not world.waits
    world.turn(nobody(world.now))
    assert world.waits
    assert len(world.reports.holds) == 2


# --- somebody else -----------------------------------------------------------------------------------


def test_what_an_operator_had_paused_stays_so(world: Holding) -> None:
    world.pgbouncer.paused.add("app")
    world.turn(nobody(world.now))
    world.turn(led_by("node2", 7, world.now))
    assert world.waits
    assert world.pgbouncer.shown == {"app": NODES["node2"]}
    assert world.reports.failures == []


def test_what_an_operator_resumed_stays_so(world: Holding) -> None:
    world.turn(nobody(world.now))
    world.pgbouncer.paused.clear()
    for _ in range(5):
        world.now += 1
        world.turn(nobody(world.now))
        assert not world.waits
    world.turn(led_by("node2", 7, world.now))
    assert world.reports.failures == []


# --- the barrier -------------------------------------------------------------------------------------


def stopping(world: Holding) -> View:
    return with_key(led_by("node1", 5, world.now), f"{STOP_KEYS}node1", StopRequest("stop-1", "node1"))


def test_a_stop_is_acknowledged_once_no_transaction_runs_any_more(world: Holding) -> None:
    world.pgbouncer.busy = True
    world.turn(stopping(world))
    assert world.waits
    assert world.acknowledged == []
    world.pgbouncer.busy = False
    world.turn(stopping(world))
    assert world.acknowledged == ["stop-1"]
    world.turn(stopping(world))
    assert world.acknowledged == ["stop-1"]
    world.turn(led_by("node1", 5, world.now))
    assert world.acknowledged == ["stop-1", ""]


def test_a_hold_that_ended_by_its_limit_acknowledges_nothing(world: Holding) -> None:
    world.turn(stopping(world))
    world.now += 20
    world.turn(stopping(world))
    assert world.acknowledged == ["stop-1", ""]


def test_who_can_be_held_says_so_and_who_cannot_says_that() -> None:
    said: list[str | None] = []
    World(policy=HELD, acknowledge=said.append).turn()
    assert said == [""]
    World(policy=HELD, acknowledge=said.append, console=False).turn()
    assert said == [""]  # None is what it was before


def test_a_target_that_was_lost_acknowledges_nothing_any_more(world: Holding) -> None:
    world.turn(stopping(world))
    world.target.fail("read", lost())
    world.target.connected = False
    world.now += 1
    world.turn(stopping(world))
    assert world.acknowledged[0] == "stop-1"
    assert world.acknowledged[-1] is None


# --- a crash -----------------------------------------------------------------------------------------


def test_a_primary_that_refuses_is_waited_for_and_its_end_releases(world: Holding) -> None:
    view = led_by("node1", 5, world.now)
    world.turn(refused(view, world.now))
    assert world.waits
    world.now += 2
    world.turn(refused(view, world.now, refuses=False))
    assert not world.waits
    assert world.target.calls == {"hold": 1, "release": 1}


def test_a_hold_that_the_agent_began_is_told_and_taken_over(world: Holding) -> None:
    world.now += 1
    world.pgbouncer.refuse(NODES["node1"])
    assert world.waits
    world.turn(refused(led_by("node1", 5, world.now), world.now))
    assert [wish.reason for wish in world.reports.holds] == [Reason.PRIMARY_REFUSES]
    assert world.target.last is not None
    assert world.target.last.held is not None
    assert world.target.last.held.until == 1021.0  # ours, and not the agent's own


def test_a_hold_that_the_agent_begins_while_we_are_at_work_is_told_with_its_reason(
    world: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = world.target.take

    def take_and_hear(step: Step) -> None:
        take(step)
        if isinstance(step, Watch):
            world.pgbouncer.refuse(step.endpoint)

    monkeypatch.setattr(world.target, "take", take_and_hear)
    view = led_by("node2", 7, world.now)
    world.turn(view)
    assert world.waits
    assert world.reports.holds == []
    alarm = Alarm("fake", NODES["node2"], True, world.now, "gone")
    world.turn(replace(view, alarms=MappingProxyType({"fake": alarm})))
    assert [wish.reason for wish in world.reports.holds] == [Reason.PRIMARY_REFUSES]


def test_a_hold_that_nobody_wishes_for_is_released(world: Holding) -> None:
    world.pgbouncer.refuse(NODES["node1"])
    world.pgbouncer.closed.clear()
    assert world.waits
    world.turn(led_by("node1", 5, world.now))
    assert not world.waits


# --- the loop ----------------------------------------------------------------------------------------


def test_a_loop_that_is_stopped_amid_a_switch_finishes_it_and_closes_then() -> None:
    world = Holding(last_hold=5.0)
    world.mailbox.put(nobody(world.now))
    stop = threading.Event()
    thread = threading.Thread(target=world.reconciler.run, args=(stop,))
    thread.start()
    try:
        wait_for(lambda: world.waits, 10, "clients wait", poll=0.001)
        stop.set()
        world.mailbox.nudge()
        assert thread.is_alive()
        world.mailbox.put(led_by("node2", 7, world.now))
    finally:
        stop.set()
        thread.join(5)
    assert not thread.is_alive()
    assert world.pgbouncer.shown == {"app": NODES["node2"]}
    assert not world.waits
    assert world.target.calls["close"] == 1


def test_a_loop_that_is_stopped_amid_a_hold_waits_no_longer_than_it_may() -> None:
    world = Holding(last_hold=5.0)
    world.turn(nobody(world.now))
    stop = threading.Event()
    stop.set()
    thread = threading.Thread(target=world.reconciler.run, args=(stop,))
    thread.start()
    assert world.waits
    world.now += 5
    world.mailbox.nudge()
    thread.join(5)
    assert not thread.is_alive()
    assert not world.waits  # by the end of its agent


def test_a_connection_that_breaks_while_nothing_happens_is_opened_before_it_is_needed(
    world: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watcher.reconciler._LINK_CHECK", 0.01)
    world.mailbox.put(led_by("node1", 5, world.now))
    stop = threading.Event()
    thread = threading.Thread(target=world.reconciler.run, args=(stop,))
    thread.start()
    try:
        world.target.connected = False
        wait_for(lambda: world.target.calls["read"] > 1, 10, "another look", poll=0.001)
    finally:
        stop.set()
        world.mailbox.nudge()
        thread.join(5)
    assert not thread.is_alive()


def test_a_pause_takes_the_promise_back_that_clients_could_be_held_and_resume_gives_it_again(
    world: Holding,
) -> None:
    """Else the barrier would wait for nothing."""
    led = led_by("node1", 5, world.now)
    world.turn(with_key(led, PAUSE_KEY, Paused()))
    world.turn(led)
    assert world.acknowledged == [None, ""]


def test_a_pause_lets_go_whom_we_hold_and_leaves_the_file_alone(world: Holding) -> None:
    world.turn(nobody(world.now))
    assert world.pgbouncer.paused == {"app"}
    world.turn(with_key(led_by("node2", 7, world.now), PAUSE_KEY, Paused()))
    assert world.pgbouncer.paused == set()
    assert world.writes == 0
    assert world.pgbouncer.shown == {"app": NODES["node1"]}


def test_what_was_done_during_a_pause_is_seen_at_once_when_it_is_over(world: Holding) -> None:
    led = led_by("node1", 5, world.now)
    world.turn(with_key(led, PAUSE_KEY, Paused()))
    world.pgbouncer.text = world.pgbouncer.text.replace("10.0.0.1", "10.0.0.3")
    world.pgbouncer.reload()
    world.turn(led)
    assert world.pgbouncer.shown == {"app": NODES["node1"]}


def test_a_hold_that_ended_while_we_were_frozen_counts_from_its_first_moment(world: Holding) -> None:
    """The agent had begun it, and ended it at its limit, before we heard of either."""
    world.turn(refused(led_by("node1", 5, world.now), world.now))
    assert world.pgbouncer.paused == {"app"}
    world.target.close()
    world.reconciler.hold_ended(20.0)
    world.turn()
    assert world.pgbouncer.paused == set()


def test_a_hold_counts_from_when_its_agent_began_it(world: Holding) -> None:
    world.pgbouncer.refuse(NODES["node1"])
    world.now += 15.0
    view = refused(led_by("node1", 5, world.now), world.now)
    world.turn(view)
    assert world.pgbouncer.paused == {"app"}
    world.now += 5.0
    world.turn(view)
    assert world.pgbouncer.paused == set()


def test_at_its_limit_a_hold_ends_without_a_word_to_the_primary(world: Holding) -> None:
    """It takes no login: whoever is released to it only once it does is not released at all."""
    view = refused(led_by("node1", 5, world.now), world.now)
    world.turn(view)
    world.pgbouncer.closed.add(NODES["node1"])
    world.now += 20.0
    world.turn(view)
    assert world.pgbouncer.paused == set()
    assert world.reports.failures == []


def handed_over(world: Holding, relieves: threading.Event) -> threading.Thread:
    """Its loop, at its end: somebody else is on the way to its place."""
    world.reconciler.relief = relieves.is_set
    stop = threading.Event()
    stop.set()
    thread = threading.Thread(target=world.reconciler.run, args=(stop,), daemon=True)
    thread.start()
    return thread


def test_a_hold_is_kept_until_somebody_else_is_in_our_place_whatever_we_hear() -> None:
    world, relieves = Holding(last_hold=5.0), threading.Event()
    world.turn(nobody(world.now))
    thread = handed_over(world, relieves)
    world.now += 10  # longer than `last_hold`
    world.mailbox.put(led_by("node2", 7, world.now))
    thread.join(0.3)
    assert thread.is_alive()
    assert world.waits
    assert world.writes == 0
    relieves.set()
    thread.join(5)
    assert not thread.is_alive()
    assert world.target.calls["close"] == 1


def test_a_hold_that_is_handed_over_lasts_no_longer_than_its_limit() -> None:
    world, never = Holding(), threading.Event()
    world.turn(nobody(world.now))
    thread = handed_over(world, never)
    world.now += 20  # `hold.limit`
    thread.join(5)
    assert not thread.is_alive()
    assert not world.waits


def test_who_leaves_writes_nothing_over_what_somebody_else_has_written_meanwhile() -> None:
    """It may be a worker of another cluster, to which the target was moved."""
    world = Holding(last_hold=5.0)
    world.turn(nobody(world.now))
    theirs = world.pgbouncer.text.replace("10.0.0.1", "10.0.0.3")
    world.pgbouncer.text = theirs
    world.mailbox.put(led_by("node2", 7, world.now))
    world.now += RESYNC
    stop = threading.Event()
    stop.set()
    thread = threading.Thread(target=world.reconciler.run, args=(stop,), daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert world.pgbouncer.text == theirs
    assert world.target.calls["close"] == 1


def test_who_has_taken_a_turn_is_in_place_and_who_failed_is_failing(world: Holding) -> None:
    assert world.reconciler.is_in_place
    assert not world.reconciler.is_failing
    world.target.fail("read", lost())
    world.now += RESYNC
    world.turn()
    assert world.reconciler.is_failing
