"""The loop of one target, against a fake target and a fake clock."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.support.fake_target import (
    NODES,
    POLICY,
    WHOLE_LOOK_EVERY,
    FakePgBouncer,
    FakeTarget,
    Reports,
    led_by,
)
from tests.support.waiting import wait_for
from watcher.decide.backoff import Backoff
from watcher.decide.decision import CanaryPolicy, HoldPolicy, Policy
from watcher.decide.errors import (
    BlockError,
    Fenced,
    FileChanged,
    LoginRefused,
    NotConfirmed,
    TargetUnreachable,
    WatcherError,
)
from watcher.decide.model import (
    Actual,
    HealthRound,
    Leadership,
    NodeReport,
    Readiness,
    Reason,
    Role,
    Source,
    Verdict,
    View,
)
from watcher.mailbox import Mailbox
from watcher.reconciler import Reconciler
from watcher.rush import LONGEST, Rush

AT_NODE3 = ";; [config cluster: begin]\napp = host=10.0.0.3 port=5432\n;; [config cluster: end]\n"
AT_NODE3_WITH_READS = (
    ";; [config cluster: begin]\n"
    "app = host=10.0.0.3 port=5432\n"
    ";; role=replica\n"
    "reads = host=10.0.0.3 port=5432\n"
    ";; [config cluster: end]\n"
)
RESYNC = 10.0


class World:
    """A reconciler, what it works on, and its time."""

    def __init__(
        self,
        text: str = AT_NODE3,
        *,
        console: bool = True,
        policy: Policy = POLICY,
        in_a_rush: bool = False,
        **others: Any,
    ) -> None:
        self.now = 1000.0
        self.rush = Rush(self.clock)
        self.pgbouncer = FakePgBouncer(text)
        self.target = FakeTarget(self.pgbouncer, console=console, clock=self.clock)
        self.reports = Reports()
        self.mailbox: Mailbox[View] = Mailbox(led_by("node1", 5, self.now))
        self.reconciler = Reconciler(
            self.target,
            self.mailbox,
            policy,
            self.reports,
            resync_interval=RESYNC,
            backoff=Backoff(first=0.1, limit=2.0),
            clock=self.clock,
            random=lambda: 1.0,
            rush=self.rush if in_a_rush else None,
            **others,
        )

    def clock(self) -> float:
        return self.now

    def turn(self, view: View | None = None) -> float:
        if view is not None:
            self.mailbox.put(view)
        return self.reconciler.turn(self.mailbox.peek())

    def run_for(self, seconds: float) -> int:
        """Turns when due by time alone, so long; how many that were."""
        until, turns = self.now + seconds, 0
        while self.now < until:
            self.now += max(self.turn(), 0.001)
            turns += 1
        return turns

    @property
    def writes(self) -> int:
        return self.target.calls["write"]


@pytest.fixture
def world() -> World:
    return World()


def lost() -> TargetUnreachable:
    return TargetUnreachable("fake", "gone", "wait")


def while_it_looks(world: World, news: View, *, wake: bool = True) -> None:
    """The next look lasts until `news` have come."""
    read = world.target.read

    def slow() -> Actual:
        world.target.read = read  # type: ignore[method-assign]
        world.mailbox.put(news, wake)
        return read()

    world.target.read = slow  # type: ignore[method-assign]


# --- switching ---------------------------------------------------------------------------------------


def test_a_target_is_led_to_the_leader_in_one_turn(world: World) -> None:
    assert world.turn() == RESYNC
    assert world.pgbouncer.shown == {"app": NODES["node1"]}
    assert world.target.calls == {"read": 1, "write": 1, "reload": 1, "confirm": 1}
    assert world.reports.failures == []


def test_a_switch_is_reported_once_with_its_parts(world: World) -> None:
    world.turn()
    [switch] = world.reports.switches
    assert switch.target == "fake"
    assert switch.route.endpoint == NODES["node1"]
    assert switch.before == (NODES["node3"],)
    assert [name for name, _ in switch.steps] == ["write", "reload", "confirm"]
    assert switch.heard_at == switch.ready_at == switch.confirmed_at == 1000.0
    world.turn(led_by("node1", 5, world.now))
    world.run_for(100)
    assert len(world.reports.switches) == 1


def test_a_switch_over_several_tries_is_reported_once_from_its_first_word(world: World) -> None:
    world.target.fail("reload", lost(), lost())
    world.target.fail("confirm", NotConfirmed("fake", "not yet", "wait"))
    world.run_for(3)
    [switch] = world.reports.switches
    assert [name for name, _ in switch.steps] == ["write", "reload", "reload", "confirm"]
    assert switch.heard_at == 1000.0
    assert switch.confirmed_at > 1000.2
    assert world.writes == 1


def test_a_leader_that_vanishes_amid_a_switch_leaves_it_under_way(world: World) -> None:
    world.target.fail("reload", lost())
    world.turn()
    world.now += 5
    world.turn(led_by(None, 5, world.now))
    world.now += 5
    world.turn(led_by("node1", 5, world.now))
    [switch] = world.reports.switches
    assert switch.before == (NODES["node3"],)


def test_a_leader_that_is_none_any_more_after_a_long_look_is_not_led_to(world: World) -> None:
    while_it_looks(world, led_by("node2", 6, world.now))
    world.turn()
    [switch] = world.reports.switches
    assert switch.route.endpoint == NODES["node2"]
    assert world.target.calls == {"read": 1, "write": 1, "reload": 1, "confirm": 1}


def test_a_leader_that_vanishes_while_it_looks_is_not_led_to(world: World) -> None:
    while_it_looks(world, led_by(None, 6, world.now))
    world.turn()
    assert world.target.calls == {"read": 1}
    assert [wish.reason for wish in world.reports.wishes] == [Reason.LEADER, Reason.NO_CLUSTER]


def test_it_goes_by_the_newest_view_though_nothing_in_it_is_news(world: World) -> None:
    """As when etcd is heard again in the middle of a look: that wakes nobody."""
    silent = replace(led_by("node1", 5, 900.0), contact_at=900.0)
    world.mailbox.put(silent)
    while_it_looks(world, replace(silent, contact_at=world.now), wake=False)
    world.turn()
    assert world.pgbouncer.shown == {"app": NODES["node1"]}


def test_a_newer_leader_replaces_the_one_that_is_being_retried(world: World) -> None:
    world.target.fail("reload", lost())
    world.turn()
    assert world.pgbouncer.shown == {"app": NODES["node3"]}
    world.now += 5
    world.turn(led_by("node2", 6, world.now))
    [switch] = world.reports.switches
    assert switch.route.endpoint == NODES["node2"]
    assert switch.before == (NODES["node3"],)  # by PgBouncer's own word, for it never reloaded
    assert world.pgbouncer.shown == {"app": NODES["node2"]}


def test_a_leader_that_is_heard_during_a_pause_between_tries_is_followed_at_once(world: World) -> None:
    world.target.fail("read", lost(), lost(), lost(), lost())
    for _ in range(4):
        world.now += world.turn()
    world.now -= 0.5
    assert world.turn() == pytest.approx(0.5)  # nothing new: the pause is kept
    assert world.target.calls["read"] == 4
    world.turn(led_by("node2", 6, world.now))
    assert world.pgbouncer.shown == {"app": NODES["node2"]}


def test_a_switch_by_the_health_check_is_heard_at_its_round() -> None:
    world = World()
    policy = replace(POLICY, silence_limit=1.0)
    report = NodeReport("node2", "http://x", Role.PRIMARY, "running", timeline=4, system_id="7")
    view = replace(led_by("node1", 5, 990.0), health=HealthRound((report,), {}, at=998.0), contact_at=990.0)
    reconciler = Reconciler(
        world.target,
        world.mailbox,
        policy,
        world.reports,
        resync_interval=RESYNC,
        backoff=Backoff(),
        clock=world.clock,
        random=lambda: 0.0,
    )
    world.mailbox.put(view)
    reconciler.turn(view)
    [switch] = world.reports.switches
    assert switch.route.source is Source.HEALTH_CHECK
    assert switch.heard_at == 998.0


def test_a_new_reign_of_the_same_leader_is_stamped_and_is_no_switch(world: World) -> None:
    world.turn()
    world.turn(led_by("node1", 9, world.now))
    assert world.writes == 2
    assert world.target.calls["reload"] == 1
    assert len(world.reports.switches) == 1
    assert world.reports.synced[-1].stamp is not None
    assert world.reports.synced[-1].stamp.revision == 9


# --- what can wait ---------------------------------------------------------------------------------------


def knowing_its_timeline(timeline: int, at: float) -> View:
    reign = Leadership("node1", 5)
    ready = Readiness(reign, Verdict.READY, Role.PRIMARY, timeline, at)
    return replace(led_by(reign.name, reign.create_revision, at), readiness=ready)


def test_what_a_stamp_learns_is_written_once_nobody_is_in_a_hurry() -> None:
    world = World(in_a_rush=True)
    world.turn()
    due = world.turn(knowing_its_timeline(7, world.now))
    assert world.writes == 1
    assert len(world.reports.synced) == 2  # nothing waits for it
    world.now += due
    world.rush.hurried()
    due = world.turn()
    assert world.writes == 1
    world.now += due
    world.turn()
    assert world.writes == 2
    assert world.reports.synced[-1].stamp is not None
    assert world.reports.synced[-1].stamp.timeline == 7


def test_a_rush_that_does_not_end_puts_nothing_off_for_long() -> None:
    world = World(in_a_rush=True)
    world.turn()
    world.turn(knowing_its_timeline(7, world.now))
    began, due, turns = world.now, 0.0, 0
    while world.writes == 1:
        world.now += due
        world.rush.hurried()
        due = world.turn()
        turns += 1
    assert world.now - began == pytest.approx(LONGEST)
    assert turns < 8, "who waits for long looks seldom, for hundreds who look are in the way themselves"


def test_what_waits_is_done_soon_after_a_long_rush() -> None:
    world = World(in_a_rush=True)
    world.turn()
    due = world.turn(knowing_its_timeline(7, world.now))
    began = world.now
    while world.now < began + LONGEST / 4:
        world.rush.hurried()
        world.now += due
        due = world.turn()
    over = world.now
    while world.writes == 1:
        world.now += due
        due = world.turn()
    assert world.now - over <= over - began


def test_what_can_wait_keeps_nobody_waiting_whom_this_turn_is_for_though_the_rush_was_over() -> None:
    world = World(in_a_rush=True)
    world.turn()
    world.pgbouncer.shown["app"] = NODES["node3"]  # so that the look finds a reload to be due
    world.now += RESYNC
    due = world.turn(knowing_its_timeline(7, world.now))
    assert world.target.calls["reload"] == 2
    assert world.writes == 1
    world.now += due
    world.turn()
    assert world.writes == 2


def test_reads_are_led_back_at_once_also_by_a_write_that_teaches_the_stamp() -> None:
    world = World(AT_NODE3_WITH_READS, in_a_rush=True)
    world.turn(led_by("node1", 5, world.now - 60))  # without a replica, so reads are led to it too
    assert world.pgbouncer.shown == {"app": NODES["node1"], "reads": NODES["node1"]}
    world.pgbouncer.text = world.pgbouncer.text.replace(
        "reads = host=10.0.0.1", "reads = host=10.0.0.3"
    )  # by another hand
    world.now += RESYNC
    world.rush.hurried()
    world.turn(knowing_its_timeline(7, world.now))
    assert "reads = host=10.0.0.1" in world.pgbouncer.text
    assert world.writes == 2
    assert world.reports.reads == [(NODES["node1"],)] * 2, "that they were led back is told"


@pytest.mark.parametrize("policy", [POLICY, replace(POLICY, canary=CanaryPolicy(frozenset({"another"})))])
def test_who_has_nothing_for_reads_is_no_news_after_a_failure(policy: Policy) -> None:
    world = World(policy=policy)
    world.target.fail_always["write"] = TargetUnreachable("fake", "the host is away", "look at it")
    due = world.turn()
    assert due > 0
    for _ in range(5):
        assert world.turn() > 0
    assert world.target.calls["write"] <= 1
    del world.target.fail_always["write"]
    world.now += due
    world.turn()
    world.turn()
    assert world.reconciler.in_place is not None
    assert world.reports.looks[-1][0].candidates == ()
    assert world.reports.looks[-1][0].readers is None


def test_a_line_that_is_marked_for_replicas_anew_is_led_by_the_look_that_shows_it() -> None:
    world = World()
    world.turn(led_by("node1", 5, world.now - 60))
    marked = "app = host=10.0.0.1 port=5432\n;; role=replica\nreads = host=10.0.0.3 port=5432"
    world.pgbouncer.text = world.pgbouncer.text.replace("app = host=10.0.0.1 port=5432", marked)
    world.now += RESYNC
    world.turn()
    assert "reads = host=10.0.0.1" in world.pgbouncer.text
    assert world.reports.reads == [(NODES["node1"],)]


def test_reads_that_another_watcher_has_led_on_are_told_once() -> None:
    world = World(AT_NODE3_WITH_READS)
    world.turn(led_by("node1", 5, world.now - 60))
    world.pgbouncer.text = world.pgbouncer.text.replace("host=10.0.0.1", "host=10.0.0.2")
    world.pgbouncer.reload()
    world.now += RESYNC
    world.turn(led_by("node2", 6, world.now - 60))
    assert world.reports.reads == [(NODES["node1"],), (NODES["node2"],)]


def test_what_is_urgent_each_time_puts_off_nothing_for_ever() -> None:
    world = World(in_a_rush=True)
    world.turn()
    for _ in range(3):
        world.pgbouncer.shown["app"] = NODES["node3"]  # so that each look finds a reload to be due
        world.now += RESYNC
        world.turn(knowing_its_timeline(7, world.now))
    assert world.target.calls["reload"] == 4
    assert world.writes == 2


# --- nothing to do -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("is_watched", "every"), [(True, WHOLE_LOOK_EVERY), (False, RESYNC)])
def test_steady_state_is_one_look_now_and_then_and_nothing_else(is_watched: bool, every: float) -> None:
    """Where an agent there watches, more seldom by far."""
    world = World()
    world.target.watches = is_watched
    world.turn()
    calls = dict(world.target.calls)
    hours = 3
    turns = world.run_for(hours * 3600)
    assert turns == pytest.approx(hours * 3600 / RESYNC, rel=0.01)
    looks = world.target.calls.pop("read") - calls.pop("read")
    assert looks == pytest.approx(hours * 3600 / every, abs=1)
    assert len(world.reports.looks) == pytest.approx(turns, abs=1)  # what is watched is as good as looked at
    assert world.target.calls == calls
    assert world.reports.failures == []
    assert len(world.reports.wishes) == 1


def test_what_an_agent_tells_of_is_looked_at_at_once(world: World) -> None:
    world.turn()
    world.now += RESYNC
    world.turn()
    assert world.target.is_watched
    world.pgbouncer.text = AT_NODE3
    world.turn()
    assert (world.writes, world.target.calls["read"]) == (1, 2)
    world.reconciler.look_again()
    world.turn()
    assert (world.writes, world.target.calls["read"]) == (2, 3)


def test_what_an_agent_tells_of_amid_a_look_is_looked_at_once_more(world: World) -> None:
    """Perhaps it was not there yet when the look was."""
    read = world.target.read

    def late() -> Actual:
        seen = read()
        world.reconciler.look_again()
        return seen

    world.target.read = late  # type: ignore[method-assign]
    world.turn()
    world.target.read = read  # type: ignore[method-assign]
    world.turn()
    assert world.target.calls["read"] == 2


def test_what_was_seen_is_no_longer_taken_for_so_where_nobody_watches_any_more(world: World) -> None:
    looks = []
    for watches in (True, True, True, False, False):
        world.target.watches = watches
        world.turn()
        looks.append(world.target.calls["read"])
        world.now += RESYNC
    assert looks == [1, 2, 2, 3, 4]  # the first led it elsewhere


def test_news_that_change_nothing_cost_no_look(world: World) -> None:
    world.turn()
    for _ in range(100):
        world.now += 0.05
        world.turn(led_by("node1", 5, world.now))
    assert world.target.calls["read"] == 1
    assert world.writes == 1


def heard_since(world: World, seconds: float) -> float:
    """Woken after `seconds` by time alone, etcd having been heard meanwhile; until when it then sleeps."""
    world.now += seconds
    return world.turn(led_by("node1", 5, world.now - 1.0))


def test_a_moment_at_which_etcd_was_not_silent_after_all_is_passed_over() -> None:
    world = World(policy=replace(POLICY, silence_limit=4.0))
    world.turn()
    assert world.turn() == 4.0
    looks = len(world.reports.looks)
    assert [heard_since(world, 4.0), heard_since(world, 3.0)] == [3.0, 3.0]
    assert len(world.reports.looks) == looks
    assert heard_since(world, 3.0) == 3.0
    assert (len(world.reports.looks), world.target.calls["read"]) == (looks + 1, 2)


def breaks_its_connection(world: World) -> None:
    world.target.connected = False


def is_held_by_its_guard(world: World) -> None:
    world.pgbouncer.refuse(NODES["node1"])


def forgets_its_hold(world: World) -> None:
    world.pgbouncer.agents.clear()


@pytest.mark.parametrize("happens", [breaks_its_connection, is_held_by_its_guard, forgets_its_hold])
def test_a_target_that_is_not_as_it_was_is_looked_after_at_that_moment(
    happens: Callable[[World], None],
) -> None:
    world = World(policy=replace(POLICY, silence_limit=4.0, hold=HoldPolicy()))
    world.turn()
    world.turn()
    assert world.target.last is not None
    assert world.target.last.guard == NODES["node1"]
    looks = len(world.reports.looks)
    happens(world)
    heard_since(world, 4.0)
    assert len(world.reports.looks) == looks + 1


def test_what_was_left_undone_is_done_at_that_moment() -> None:
    world = World(policy=replace(POLICY, silence_limit=4.0), in_a_rush=True)
    world.turn()
    world.turn(knowing_its_timeline(7, world.now))
    assert world.writes == 1, "it can wait"
    world.now += 3.0
    world.turn()
    assert world.writes == 2


def test_the_same_is_true_without_a_console() -> None:
    world = World(console=False)
    world.run_for(3600)
    assert (world.writes, world.target.calls["reload"]) == (1, 1)


def test_without_a_leader_nothing_is_written(world: World) -> None:
    world.turn(led_by(None, 5, world.now))
    world.run_for(100)
    assert world.writes == 0
    assert world.reports.synced == []
    assert world.pgbouncer.shown == {"app": NODES["node3"]}


# --- what drifts is put right -----------------------------------------------------------------------------


def test_a_file_that_somebody_led_elsewhere_is_led_back_at_the_next_look(world: World) -> None:
    world.turn()
    world.pgbouncer.text = AT_NODE3
    world.pgbouncer.reload()
    world.run_for(RESYNC + 1)
    assert world.pgbouncer.shown == {"app": NODES["node1"]}


def test_a_pgbouncer_that_is_put_right_by_a_reload_alone_is_a_switch_too(world: World) -> None:
    world.turn()
    world.reports.switches.clear()
    world.pgbouncer.shown = {"app": NODES["node3"]}
    world.run_for(RESYNC + 1)
    [switch] = world.reports.switches
    assert (switch.before, [name for name, _ in switch.steps]) == ((NODES["node3"],), ["reload", "confirm"])


def test_a_pgbouncer_that_is_not_where_its_file_is_gets_reloads_until_it_is(world: World) -> None:
    world.pgbouncer.deaf = True
    world.run_for(600)
    assert world.writes == 1
    assert world.target.calls["reload"] > 250  # every two seconds at most
    assert all(isinstance(error, NotConfirmed) for error in world.reports.failures)
    assert world.reports.switches == []
    world.pgbouncer.deaf = False
    world.run_for(3)
    assert world.pgbouncer.shown == {"app": NODES["node1"]}
    assert len(world.reports.switches) == 1


def test_the_file_is_written_while_pgbouncer_is_down_and_reloaded_when_it_is_back(world: World) -> None:
    world.pgbouncer.down = True
    world.run_for(60)
    assert "10.0.0.1" in world.pgbouncer.text
    assert world.writes == 1
    world.pgbouncer.down = False
    world.run_for(3)
    assert world.pgbouncer.shown == {"app": NODES["node1"]}


def test_a_console_that_does_not_answer_is_an_error_even_if_there_is_nothing_to_do(world: World) -> None:
    world.pgbouncer.down = True
    world.turn(led_by(None, 5, world.now))
    assert [type(error) for error in world.reports.failures] == [TargetUnreachable]
    world.pgbouncer.down = False
    world.run_for(1)
    assert len(world.reports.failures) == 1


# --- tries ------------------------------------------------------------------------------------------------


def test_pauses_between_tries_grow_to_their_limit_and_begin_anew_after_a_success(world: World) -> None:
    world.target.fail("read", *(lost() for _ in range(7)))
    pauses = []
    for _ in range(7):
        pauses.append(world.turn())
        world.now += pauses[-1]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])
    assert world.turn() == RESYNC
    world.now += RESYNC
    world.target.fail("read", lost())
    assert world.turn() == pytest.approx(0.1)


def test_who_refuses_our_login_is_asked_ever_less_often(world: World) -> None:
    world.target.fail_always["read"] = LoginRefused("fake", "no", "look")
    world.run_for(3600)
    assert 110 < world.target.calls["read"] < 140


def test_a_file_that_changed_meanwhile_is_read_and_written_again_at_once(world: World) -> None:
    changed = FileChanged("fake", "changed", "it is read again")
    world.target.fail("write", changed, changed)
    assert world.turn() == 0.0
    assert world.turn() == 0.0
    assert world.turn() == RESYNC
    assert world.target.calls["read"] == 3
    assert world.pgbouncer.shown == {"app": NODES["node1"]}


def test_a_file_that_changes_for_ever_does_not_spin(world: World) -> None:
    world.target.fail_always["write"] = FileChanged("fake", "changed", "it is read again")
    assert world.run_for(60) < 50


@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), KeyError("x"), AssertionError()])
@pytest.mark.parametrize("call", ["read", "write", "reload", "confirm"])
def test_a_bug_is_reported_as_one_and_the_worker_goes_on(world: World, call: str, error: Exception) -> None:
    world.target.fail(call, error)
    assert world.turn() == pytest.approx(0.1)
    [told] = world.reports.failures
    assert repr(error) in told.problem
    assert "bug" in told.hint
    assert told.__cause__ is error
    world.run_for(3)
    assert world.pgbouncer.shown == {"app": NODES["node1"]}


@pytest.mark.parametrize("call", ["write", "reload", "confirm"])
@pytest.mark.parametrize("times", [1, 5])
def test_whatever_fails_is_done_in_the_end(world: World, call: str, times: int) -> None:
    world.target.fail(call, *(lost() for _ in range(times)))
    world.run_for(20)
    assert world.pgbouncer.shown == {"app": NODES["node1"]}
    assert len(world.reports.failures) == times
    assert len(world.reports.switches) == 1


def test_a_block_that_cannot_be_used_is_an_error_until_it_is_mended(world: World) -> None:
    world.pgbouncer.text = "[databases]\n"
    world.run_for(5)
    assert world.reports.failures
    assert all(isinstance(error, BlockError) for error in world.reports.failures)
    world.pgbouncer.text = AT_NODE3
    world.run_for(3)
    assert world.pgbouncer.shown == {"app": NODES["node1"]}


def test_an_older_view_is_fenced_until_etcd_proves_it(world: World) -> None:
    world.turn(led_by("node1", 9, world.now))
    world.now += 1
    world.turn(led_by("node2", 5, world.now - 5))
    assert isinstance(world.reports.failures[-1], Fenced)
    assert world.pgbouncer.shown == {"app": NODES["node1"]}
    world.now += 3
    world.turn(led_by("node2", 5, world.now))
    assert world.pgbouncer.shown == {"app": NODES["node2"]}


# --- telling, and the loop --------------------------------------------------------------------------


def test_a_wish_is_told_when_it_changes_and_not_again(world: World) -> None:
    for view in (led_by(None, 5, 1000.0), led_by(None, 5, 1000.0), led_by("node1", 6, 1000.0)):
        world.turn(view)
        world.turn(view)
    assert [wish.reason for wish in world.reports.wishes] == ["no_cluster", "leader"]


def test_a_wish_that_time_alone_changes_is_looked_at_in_time(world: World) -> None:
    policy = replace(POLICY, silence_limit=4.0)
    reconciler = Reconciler(
        world.target,
        world.mailbox,
        policy,
        world.reports,
        resync_interval=RESYNC,
        backoff=Backoff(),
        clock=world.clock,
        random=lambda: 0.0,
    )
    world.mailbox.put(led_by("node1", 5, world.now - 1))
    assert reconciler.turn(world.mailbox.peek()) == pytest.approx(3.0)


def test_the_heart_beats_at_every_turn(world: World) -> None:
    world.target.fail_always["read"] = lost()
    for _ in range(3):
        world.now += 7
        world.turn()
        assert world.reconciler.beat_at == world.now


def running(world: World) -> tuple[threading.Thread, Callable[[], None]]:
    stop = threading.Event()
    thread = threading.Thread(target=world.reconciler.run, args=(stop,))
    thread.start()

    def end() -> None:
        stop.set()
        world.mailbox.nudge()
        thread.join(5)
        assert not thread.is_alive()

    return thread, end


def test_the_loop_turns_at_its_start_and_ends_at_once_with_its_target_closed(world: World) -> None:
    _, end = running(world)
    wait_for(lambda: world.reports.switches, 10, "the first turn", poll=0.001)
    end()
    assert world.target.calls["close"] == 1


def test_a_loop_that_is_stopped_before_it_begins_touches_nothing(world: World) -> None:
    stop = threading.Event()
    stop.set()
    world.reconciler.run(stop)
    assert world.target.calls == {"close": 1}


def test_a_stop_that_comes_while_it_waits_begins_no_other_turn(world: World) -> None:
    _, end = running(world)
    wait_for(lambda: world.reports.switches, 10, "the first turn", poll=0.001)
    calls: dict[str, Any] = dict(world.target.calls)
    end()
    assert world.target.calls == {**calls, "close": 1}


def test_errors_are_told_with_their_number_in_a_row(world: World) -> None:
    counted: list[int] = []

    class Counting(Reports):
        def failed(self, target: str, error: WatcherError, failures: int) -> None:
            super().failed(target, error, failures)
            counted.append(failures)

    world.reconciler._reporter = Counting()
    world.target.fail("read", lost(), lost())
    world.run_for(1)
    assert counted == [1, 2]
