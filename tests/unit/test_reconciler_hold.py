"""The loop of one target while clients wait: held, written, released, told; and what may fail."""

import threading
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from tests.support.fake_target import NODES, POLICY, FakeTarget, led_by
from tests.support.waiting import wait_for
from tests.unit.test_reconciler import AT_NODE3_WITH_READS, RESYNC, World, lost
from watcher.decide.decision import HoldPolicy, ReadyBy
from watcher.decide.errors import BlockError, PrimaryRefuses, TargetRefused
from watcher.decide.model import (
    PAUSE_KEY,
    STOP_KEYS,
    Alarm,
    Desired,
    Entry,
    Failover,
    Hold,
    Leadership,
    Paused,
    Readiness,
    Reason,
    Role,
    Route,
    Source,
    Stamp,
    Step,
    StopRequest,
    Value,
    Verdict,
    View,
    Watch,
)
from watcher.reconciler import Relief
from watcher.rush import LONGEST

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


def test_whom_another_watcher_made_wait_before_waits_no_longer_by_us(world: Holding) -> None:
    world.turn(with_key(led_by("node1", 5, world.now), "failover", Failover(None, None, None)))
    other = FakeTarget(world.pgbouncer, clock=world.clock)
    other.read()
    other.take(Hold(world.now + 20))
    world.now += 15
    world.turn(led_by("node1", 5, world.now))
    world.turn(nobody(world.now))
    assert world.target.last is not None
    assert world.target.last.held is not None
    assert (world.target.last.held.since, world.target.last.held.until) == (1000.0, 1020.0)


# --- a file that cannot be used ------------------------------------------------------------------------


def without_marks(world: Holding) -> None:
    world.pgbouncer.text = "[databases]\napp = host=10.0.0.1 port=5432\n"
    world.now += RESYNC


def test_who_was_led_right_goes_on_though_the_file_cannot_be_used(world: Holding) -> None:
    world.turn(refused(led_by("node1", 5, world.now), world.now))
    without_marks(world)
    world.turn(refused(led_by("node1", 5, world.now), world.now))
    assert world.waits
    world.target.fail("let_go", PrimaryRefuses("fake", "starting up", ""))
    for is_over in (False, True):
        world.now += 2
        world.turn(led_by("node1", 5, world.now))
        assert world.waits is not is_over
    assert isinstance(world.reports.failures[-1], BlockError)
    assert world.target.calls["release"] == 0


def test_a_hold_is_told_of_though_the_file_cannot_be_used(world: Holding) -> None:
    without_marks(world)
    world.turn(led_by("node1", 5, world.now))
    agent = world.target._agent
    assert agent is not None
    agent.hear(NODES["node1"])
    view = refused(led_by("node1", 5, world.now), world.now)
    world.turn(view)
    assert [wish.reason for wish in world.reports.holds] == [Reason.PRIMARY_REFUSES]
    (*_, (_, actual, error)) = world.reports.looks
    assert isinstance(error, BlockError)
    assert actual is not None
    assert actual.held is not None
    world.now += 3
    for _ in range(2):
        world.now += 2
        world.turn(led_by("node1", 5, world.now))
    assert not world.waits
    assert len(world.reports.releases) == 1


def test_who_was_led_wrong_waits_while_the_file_cannot_be_used(world: Holding) -> None:
    world.turn(nobody(world.now))
    without_marks(world)
    world.turn(led_by("node2", 7, world.now))
    assert world.waits


def test_where_nobody_knows_the_way_clients_go_on_though_the_file_cannot_be_used(world: Holding) -> None:
    world.turn(refused(led_by("node1", 5, world.now), world.now))
    without_marks(world)
    world.turn(replace(led_by("node1", 5, world.now), contact_at=world.now - 100, silence_limit=10.0))
    assert not world.waits


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
        assert [seconds for _, seconds in world.reports.releases] == [None]  # told at once, and not again
    world.turn(led_by("node2", 7, world.now))
    assert world.reports.failures == []
    assert [seconds for _, seconds in world.reports.releases] == [None]


def test_the_hold_after_one_that_an_operator_ended_is_told_as_any(world: Holding) -> None:
    world.turn(nobody(world.now))
    world.pgbouncer.paused.clear()
    world.turn(nobody(world.now))
    world.turn(led_by("node2", 7, world.now))
    world.now += 1
    world.turn(nobody(world.now))
    world.now += 1
    world.turn(led_by("node1", 9, world.now))
    assert len(world.reports.holds) == 2
    assert [seconds is None for _, seconds in world.reports.releases] == [True, False]


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


def test_a_hold_that_ended_while_something_fails_is_told_then_and_keeps_nobody_waiting_any_more() -> None:
    world = Holding()
    world.turn(nobody(world.now))
    began, world.target.fail_always["write"] = world.now, TargetRefused("fake", "not in --allow", "see there")
    world.now += 3.0
    world.turn(led_by("node2", 7, world.now))
    world.now = began + 20.5
    world.reconciler.hold_ended(20.2)
    world.turn()
    assert [seconds for _, seconds in world.reports.releases] == [20.5]
    world.target.fail_always.clear()
    world.now += 60.0
    world.turn()
    assert len(world.reports.releases) == 1
    (switch,) = world.reports.switches
    assert switch.held_since is None


def test_at_its_limit_a_hold_ends_without_a_word_to_the_primary(world: Holding) -> None:
    """It takes no login: whoever is released to it only once it does is not released at all."""
    view = refused(led_by("node1", 5, world.now), world.now)
    world.turn(view)
    world.pgbouncer.closed.add(NODES["node1"])
    world.now += 20.0
    world.turn(view)
    assert world.pgbouncer.paused == set()
    assert world.reports.failures == []


def handed_over(world: Holding, relieves: threading.Event, wish: Desired | None = None) -> threading.Thread:
    """Its loop, at its end: somebody else is on the way to its place, and wishes so once he is there."""
    world.reconciler.relief = lambda: Relief(wish) if relieves.is_set() else None
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


GOES_ON = Desired(
    Reason.LEADER, "node1 leads", Route(NODES["node1"], Stamp(1, "", 5, None, "node1"), Source.ETCD)
)


@pytest.mark.parametrize("is_looked_at", [True, False])
def test_who_may_go_on_by_the_word_of_who_takes_our_place_is_let_go_there(is_looked_at: bool) -> None:
    """Greeted, as at any release; also where our last look has failed."""
    world, there = Holding(), threading.Event()
    world.turn(nobody(world.now))
    if not is_looked_at:
        without_marks(world)
        world.turn()
    there.set()
    handed_over(world, there, GOES_ON).join(5)
    assert not world.waits
    assert world.target.calls["let_go"] == 1
    assert [wish for wish, _ in world.reports.releases] == [GOES_ON]


BLIND = Desired(Reason.BLIND, "etcd is silent, and no node says that it is the primary", guard=NODES["node1"])


@pytest.mark.parametrize("wish", [GOES_ON, BLIND])
def test_who_is_not_to_go_on_there_yet_waits_until_that_takes_logins(wish: Desired) -> None:
    """Who takes our place believes so until a guard of his own has found out; or knows of nobody, and guards
    where PgBouncer leads.
    """
    world, there = Holding(), threading.Event()
    world.turn(nobody(world.now))
    world.pgbouncer.closed.add(NODES["node1"])
    there.set()
    thread = handed_over(world, there, wish)
    thread.join(0.3)
    assert thread.is_alive()
    assert world.waits
    assert world.reports.releases == []
    assert world.target.calls["let_go"] > 1
    world.pgbouncer.closed.clear()
    thread.join(5)
    assert not world.waits
    assert [wish for wish, _ in world.reports.releases] == [wish]


@pytest.mark.parametrize("wish", [GOES_ON, BLIND])
def test_where_we_may_not_greet_who_takes_our_place_vouches_for_it_once_pgbouncer_leads_there(
    wish: Desired,
) -> None:
    """The line of authorized_keys that we came in by did not name it; his does."""
    world, there = Holding(), threading.Event()
    world.turn(nobody(world.now))
    world.target.forbidden.add(NODES["node1"])
    world.pgbouncer.shown["app"] = NODES["node2"]
    there.set()
    thread = handed_over(world, there, wish)
    thread.join(0.3)
    assert thread.is_alive()
    assert world.waits
    world.pgbouncer.shown["app"] = NODES["node1"]
    thread.join(5)
    assert not world.waits
    assert [wish for wish, _ in world.reports.releases] == [wish]


def test_whom_a_successor_gave_up_on_goes_on_without_a_word_to_the_primary() -> None:
    world, there = Holding(), threading.Event()
    world.turn(nobody(world.now))
    world.pgbouncer.closed.add(NODES["node1"])
    there.set()
    handed_over(world, there, replace(BLIND, gave_up=True)).join(5)
    assert not world.waits


def test_or_until_who_takes_our_place_holds_the_same() -> None:
    world, wishes = Holding(), [Relief(GOES_ON)]
    other = FakeTarget(world.pgbouncer, clock=lambda: world.now)
    world.turn(nobody(world.now))
    world.pgbouncer.closed.add(NODES["node1"])
    world.reconciler.relief = lambda: wishes[-1]
    stop = threading.Event()
    stop.set()
    thread = threading.Thread(target=world.reconciler.run, args=(stop,), daemon=True)
    thread.start()
    wait_for(lambda: world.target.calls["let_go"] > 1, 5, "it is tried again")
    other.read()
    other.take(Hold(world.now + 20))
    wishes.append(Relief())
    thread.join(5)
    assert not thread.is_alive()
    assert world.waits
    assert world.reports.releases == []


@pytest.mark.parametrize("wish", [None, GOES_ON])
def test_a_hold_that_nobody_takes_over_ends_as_any_at_the_end_and_that_is_told(wish: Desired | None) -> None:
    """Who was to take our place has left himself, perhaps before he had his first look."""
    world, stop = Holding(last_hold=5.0), threading.Event()
    world.turn(nobody(world.now))
    world.pgbouncer.closed.add(NODES["node1"])
    world.reconciler.relief = lambda: Relief(wish, is_last=True)
    stop.set()
    thread = threading.Thread(target=world.reconciler.run, args=(stop,), daemon=True)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    assert world.waits
    world.now += 5.0
    thread.join(5)
    assert not thread.is_alive()
    assert not world.waits
    assert [seconds for _, seconds in world.reports.releases] == [5.0]


def test_whom_an_operator_let_go_is_not_held_anew_by_who_takes_our_place(world: Holding) -> None:
    world.turn(nobody(world.now))
    world.pgbouncer.paused.clear()
    world.turn(nobody(world.now))
    third = successor = Holding()
    for before in (world, successor):  # who comes after that one knows it too
        third = Holding()
        third.now = world.now
        third.reconciler.follow(before.reconciler)
        third.turn(nobody(world.now))
        assert not third.waits
        assert third.reports.wishes[-1].detail.endswith("; somebody else let clients go on")
        successor.reconciler.follow(before.reconciler)
    third.turn(led_by("node1", 7, third.now))
    third.turn(nobody(third.now))
    assert third.waits


def test_who_cannot_use_the_block_is_in_place_once_clients_may_go_on(world: Holding) -> None:
    without_marks(world)
    world.now += RESYNC
    for view, relief in (
        (nobody(world.now), None),
        (led_by("node1", 7, world.now), Reason.LEADER),
        (nobody(world.now), None),
    ):
        world.turn(view)
        found = world.reconciler.in_place
        assert (found and found.wish and found.wish.reason) == relief


def test_a_hold_that_is_not_finished_when_we_stop_is_told_to_be_over() -> None:
    world, stop = Holding(last_hold=0.0), threading.Event()
    world.turn(nobody(world.now))
    world.now += 3
    stop.set()
    world.reconciler.run(stop)
    assert not world.waits
    assert [seconds for _, seconds in world.reports.releases] == [3.0]


def test_a_hold_that_is_handed_over_is_told_once(world: Holding) -> None:
    world.turn(nobody(world.now))
    assert len(world.reports.holds) == 1
    successor = Holding()
    successor.now = world.now
    successor.reconciler.follow(world.reconciler)
    successor.turn(nobody(successor.now))
    assert successor.waits
    assert successor.reports.holds == []
    successor.now += 1
    successor.turn(led_by("node2", 7, successor.now))
    assert [seconds for _, seconds in successor.reports.releases] == [1.0]
    successor.turn(nobody(successor.now))
    assert len(successor.reports.holds) == 1


@pytest.mark.parametrize("at_limit", [False, True])
def test_a_hold_after_one_that_was_over_is_told_by_who_follows(at_limit: bool) -> None:
    world, successor, there = Holding(), Holding(), threading.Event()
    world.turn(nobody(world.now))
    successor.now = world.now
    successor.reconciler.follow(world.reconciler)
    if at_limit:
        world.now += 20
    else:
        there.set()
    handed_over(world, there, GOES_ON).join(5)
    assert not world.waits
    successor.turn(led_by("node1", 7, successor.now))
    successor.turn(nobody(successor.now))
    assert len(successor.reports.holds) == 1


def test_one_that_follows_who_follows_tells_of_it_neither(world: Holding) -> None:
    world.turn(nobody(world.now))
    second, third = Holding(), Holding()
    second.reconciler.follow(world.reconciler)
    third.now = world.now
    third.reconciler.follow(second.reconciler)
    third.turn(nobody(third.now))
    assert third.waits
    assert third.reports.holds == []


def test_what_a_new_connection_may_mend_is_told_apart(world: Holding) -> None:
    world.target.watches = False
    led = led_by("node1", 5, world.now)
    assert not world.reconciler.may_mend_anew
    for call, error, may in (
        ("read", lost(), True),
        ("read", TargetRefused("fake", "not by this key [bounds]", ""), True),
        ("write", PrimaryRefuses("fake", "starting up", ""), False),
        ("read", BlockError("fake", "no marks", ""), False),
    ):
        world.target.fail(call, error)
        world.now += RESYNC
        world.turn(led_by("node2", 6, world.now) if call == "write" else led)
        assert world.reconciler.may_mend_anew is may
        world.now += RESYNC
        world.turn(led)
        assert not world.reconciler.may_mend_anew
    seen = world.reconciler.seen
    assert seen is not None
    for ailing in (replace(seen, hold_problem=lost()), replace(seen, console_problem=lost())):
        world.reconciler.seen = ailing
        assert world.reconciler.may_mend_anew


def test_who_is_in_place_and_holds_tells_of_no_wish(world: Holding) -> None:
    world.turn(nobody(world.now))
    assert world.reconciler.in_place == Relief()


def test_who_holds_as_another_does_is_corrected_once(world: Holding) -> None:
    other = FakeTarget(world.pgbouncer, clock=lambda: world.now)
    other.read()
    other.take(Hold(world.now + 20))
    world.now += 5
    for _ in range(3):
        world.turn(nobody(world.now))
    assert world.target.held is not None
    assert world.target.held.until == world.now + 15
    assert world.target.calls["hold"] == 2


def test_clients_whose_file_cannot_be_used_wait_for_who_takes_our_place() -> None:
    world, there = Holding(), threading.Event()
    world.turn(nobody(world.now))
    without_marks(world)
    world.turn()
    assert world.target.last is None
    thread = handed_over(world, there)
    thread.join(0.3)
    assert thread.is_alive()
    assert world.waits
    there.set()
    thread.join(5)
    assert not world.waits


def test_who_takes_a_place_holds_for_the_same_trouble_no_longer(world: Holding) -> None:
    world.turn(nobody(world.now))
    world.now += 25
    world.turn(nobody(world.now))
    assert not world.waits
    successor = Holding()
    successor.now = world.now
    successor.reconciler.follow(world.reconciler)
    successor.turn(nobody(world.now))
    assert not successor.waits


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
    assert world.reconciler.in_place == Relief(world.reports.wishes[-1])
    assert not world.reconciler.is_failing
    world.target.fail("read", lost())
    world.now += RESYNC
    world.turn()
    assert world.reconciler.is_failing


# --- a guard that is refused ---------------------------------------------------------------------------


@pytest.fixture(params=[False, True])
def unguarded(request: pytest.FixtureRequest) -> Holding:
    """Led to a leader that its agent may not watch; it was asked some times already."""
    world = Holding(in_a_rush=request.param)
    world.target.forbidden.add(NODES["node1"])
    world.pgbouncer.restart()
    world.now += RESYNC
    world.reconciler.in_place = None
    world.run_for(60)
    assert len(world.reports.failures) > 5
    assert world.target.held is None
    world.acknowledged.clear()
    world.target.calls.clear()
    return world


def test_a_stop_is_acknowledged_though_the_guard_is_refused(unguarded: Holding) -> None:
    unguarded.pgbouncer.busy = True
    unguarded.turn(stopping(unguarded))
    assert unguarded.waits
    unguarded.pgbouncer.busy = False
    unguarded.now += 0.01
    unguarded.turn()  # the agent wakes it
    assert unguarded.acknowledged == ["stop-1"]


def test_who_has_all_but_its_guard_is_in_place_and_fails_and_may_be_mended_anew(unguarded: Holding) -> None:
    wish, seen, failure = unguarded.reports.looks[-1]
    assert unguarded.reconciler.in_place == Relief(wish)
    assert unguarded.reconciler.is_failing
    assert unguarded.reconciler.may_mend_anew
    assert seen is not None
    assert isinstance(failure, TargetRefused)


def test_a_refused_guard_is_asked_for_ever_less_often_and_nothing_is_looked_at_for_it(
    unguarded: Holding,
) -> None:
    assert unguarded.run_for(3600) < 2 * 3600 / RESYNC
    assert 110 < unguarded.target.calls["watch"] < 140
    assert unguarded.target.calls["read"] <= 3600 / RESYNC
    for _ in range(20):
        unguarded.turn(led_by("node1", 5, unguarded.now))  # woken
    assert unguarded.target.calls["watch"] < 140


def test_a_guard_that_is_allowed_by_now_ends_the_failure(unguarded: Holding) -> None:
    unguarded.target.forbidden.clear()
    synced = len(unguarded.reports.synced)
    unguarded.run_for(5)
    assert len(unguarded.reports.synced) == synced
    unguarded.run_for(30)
    assert len(unguarded.reports.synced) > synced
    assert unguarded.reports.looks[-1][2] is None
    assert not unguarded.reconciler.is_failing
    assert not unguarded.reconciler.may_mend_anew


def test_reads_that_are_led_back_are_told_though_the_guard_is_refused() -> None:
    world = World(AT_NODE3_WITH_READS, policy=HELD)
    world.target.forbidden.add(NODES["node1"])
    world.run_for(10)
    assert isinstance(world.reports.looks[-1][2], TargetRefused)
    assert world.reports.synced == []
    world.pgbouncer.text = world.pgbouncer.text.replace("reads = host=10.0.0.1", "reads = host=10.0.0.3")
    world.run_for(RESYNC)
    assert world.reports.reads == [(NODES["node1"],)] * 2


def test_another_guard_is_asked_for_at_once(unguarded: Holding) -> None:
    unguarded.turn(led_by("node2", 7, unguarded.now))
    unguarded.now += LONGEST
    unguarded.turn()
    assert unguarded.target.last is not None
    assert unguarded.target.last.guard == NODES["node2"]
    unguarded.turn()
    assert not unguarded.reconciler.is_failing


def test_another_guard_that_is_refused_is_asked_for_often_at_first(unguarded: Holding) -> None:
    unguarded.target.forbidden.add(NODES["node2"])
    unguarded.turn(led_by("node2", 7, unguarded.now))
    unguarded.now += LONGEST
    assert unguarded.turn() < 1


def test_a_refused_guard_that_waits_for_a_rush_to_end_does_not_spin(unguarded: Holding) -> None:
    unguarded.now += 30
    unguarded.rush.hurried()  # where it is heeded
    assert unguarded.turn() > 0.1


def test_where_the_agent_is_gone_that_was_asked_for_a_guard_it_is_looked_at_anew(world: Holding) -> None:
    world.pgbouncer.restart()
    world.reconciler.in_place = None
    world.target.fail("watch", lost())
    world.now += RESYNC
    again = world.turn()
    assert again == pytest.approx(0.1)
    assert world.reconciler.in_place is None
    world.now += again
    world.turn()
    assert world.target.calls["read"] == 2
    assert world.reconciler.in_place is not None
