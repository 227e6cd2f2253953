"""The loop of one target at a standby: it holds as the active watcher does, and leaves the rest to it."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.support.fake_target import NODES, FakeTarget, Reports, led_by
from tests.unit.test_reconciler import AT_NODE3, RESYNC, lost
from tests.unit.test_reconciler_hold import HELD, Holding, nobody
from watcher.decide.backoff import Backoff
from watcher.decide.model import View
from watcher.decide.precedence import Standing
from watcher.mailbox import Mailbox
from watcher.reconciler import Reconciler

PATIENCE = 2.0
LEADING = ("write", "reload", "confirm")


class Pair(Holding):
    """A standby, settled on node1, and beside it the active watcher of the same PgBouncer."""

    def __init__(self) -> None:
        self.stands = Standing.TOGETHER
        super().__init__(standing=lambda _: self.stands, patience=PATIENCE)
        self.stands = Standing.STANDBY
        self.active_reports = Reports()
        self.others = FakeTarget(self.pgbouncer, name="other", clock=self.clock)
        self.news: Mailbox[View] = Mailbox(led_by("node1", 5, self.now))
        self.active = Reconciler(
            self.others,
            self.news,
            HELD,
            self.active_reports,
            resync_interval=RESYNC,
            backoff=Backoff(),
            clock=self.clock,
            random=lambda: 1.0,
        )
        self.turn_active(led_by("node1", 5, self.now))

    def turn_active(self, view: View) -> None:
        self.news.put(view)
        self.active.turn(view)

    def both(self, view: View) -> None:
        self.turn_active(view)
        self.turn(view)

    def edit(self) -> None:
        """Somebody leads the block elsewhere; it is looked at next."""
        self.pgbouncer.text = AT_NODE3
        self.pgbouncer.reload()
        self.now += RESYNC
        self.mailbox.put(led_by("node1", 5, self.now))

    def led(self, *calls: str) -> dict[str, int]:
        return {call: self.target.calls[call] for call in calls or LEADING if self.target.calls[call]}

    def until(self, is_so: Callable[[], bool]) -> float:
        """Turns of the standby, as they are due; the seconds that it took."""
        began, due = self.now, self.turn()
        while not is_so():
            assert self.now - began < 60
            self.now += max(due, 0.001)
            due = self.turn()
        return self.now - began


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_it_holds_with_the_active_one_and_neither_writes_nor_reloads(pair: Pair) -> None:
    pair.both(nobody(pair.now))
    assert pair.target.calls["hold"] == 1
    pair.now += 1
    led = led_by("node2", 7, pair.now)
    assert pair.turn(led) <= 0.1, "it looks again soon"
    assert pair.waits
    pair.turn_active(led)
    assert not pair.waits
    pair.now += 0.1
    pair.turn()
    assert pair.target.last is not None
    assert pair.target.last.held is None
    assert pair.led() == {}
    assert pair.turn() == RESYNC
    assert pair.reports.switches == []
    assert pair.reports.failures == []


def test_how_long_clients_waited_is_told_by_the_one_that_let_them_go(pair: Pair) -> None:
    """The standby sees only that they go on: it would count until it looked."""
    active = pair.active_reports
    pair.both(nobody(pair.now))
    pair.now += 1
    pair.both(led_by("node2", 7, pair.now))
    pair.now += 0.1
    pair.turn()
    assert [seconds for _, seconds in active.releases] == [1.0]
    assert [seconds for _, seconds in pair.reports.releases] == [None]


def test_it_tells_so_itself_where_it_let_them_go(pair: Pair) -> None:
    pair.both(nobody(pair.now))
    pair.stands = Standing.NOBODY
    pair.now += 1
    pair.turn(led_by("node2", 7, pair.now))
    assert [seconds for _, seconds in pair.reports.releases] == [1.0]
    [switch] = pair.reports.switches
    assert switch.held_since == pair.now - 1


def test_of_two_that_act_the_slower_one_tells_of_no_wait(pair: Pair) -> None:
    pair.stands = Standing.TOGETHER
    pair.both(nobody(pair.now))
    pair.now += 1
    led = led_by("node2", 7, pair.now)
    pair.turn_active(led)
    pair.turn(led)
    pair.until(lambda: bool(pair.reports.switches))
    [switch] = pair.reports.switches
    assert switch.held_since is None
    assert [seconds for _, seconds in pair.reports.releases] == [None]


def test_clients_go_on_waiting_when_the_active_one_dies_in_a_hold(pair: Pair) -> None:
    pair.both(nobody(pair.now))
    pair.others.close()
    assert pair.waits


def test_it_leads_them_itself_when_nobody_has_within_its_patience(pair: Pair) -> None:
    pair.both(nobody(pair.now))
    pair.turn(led_by("node2", 7, pair.now))
    assert pair.until(lambda: not pair.waits) == pytest.approx(PATIENCE, abs=0.01)
    assert pair.pgbouncer.shown == {"app": NODES["node2"]}
    [switch] = pair.reports.switches
    assert [name for name, _ in switch.steps] == ["write", "ready", "release"]


def test_it_leads_them_at_once_when_the_lease_of_the_active_one_has_ended(pair: Pair) -> None:
    pair.both(nobody(pair.now))
    pair.turn(led_by("node2", 7, pair.now))
    pair.now += 0.5
    pair.stands = Standing.NOBODY
    pair.turn()
    assert not pair.waits
    assert pair.pgbouncer.shown == {"app": NODES["node2"]}


def test_what_the_active_one_wrote_and_did_not_reload_is_reloaded(pair: Pair) -> None:
    pair.both(nobody(pair.now))
    led = led_by("node2", 7, pair.now)
    pair.others.fail("release", lost())
    pair.turn_active(led)
    pair.others.close()
    assert pair.waits, "the standby holds still"
    pair.turn(led)
    assert pair.until(lambda: not pair.waits) == pytest.approx(PATIENCE, abs=0.01)
    assert pair.pgbouncer.shown == {"app": NODES["node2"]}


def test_where_nobody_is_held_it_waits_for_the_reload_of_the_active_one(pair: Pair) -> None:
    led = led_by("node2", 7, pair.now)
    pair.turn(led)
    pair.now += 0.1
    pair.turn_active(led)
    pair.turn(led)
    assert pair.led() == {}
    assert pair.turn() == RESYNC
    assert pair.reports.synced[-1].databases[0].endpoint == NODES["node2"]


def test_a_file_that_somebody_changed_is_put_right_by_it_when_the_active_one_does_not(pair: Pair) -> None:
    pair.edit()
    assert pair.until(lambda: pair.pgbouncer.shown == {"app": NODES["node1"]}) == pytest.approx(
        PATIENCE, abs=0.01
    )
    assert pair.led() == dict.fromkeys(LEADING, 1)


def test_what_fails_then_is_tried_again_as_ever(pair: Pair) -> None:
    pair.edit()
    pair.target.fail("reload", lost(), lost())
    took = pair.until(lambda: pair.pgbouncer.shown == {"app": NODES["node1"]})
    assert took == pytest.approx(PATIENCE + 0.1 + 0.2, abs=0.02)


def test_it_is_not_said_to_be_in_sync_while_it_waits_for_the_active_one(pair: Pair) -> None:
    pair.reports.synced.clear()
    pair.turn(led_by("node2", 7, pair.now))
    pair.now += 0.1
    pair.turn()
    assert pair.reports.synced == []


def test_a_hold_that_has_lasted_its_limit_ends_without_the_active_one(pair: Pair) -> None:
    pair.both(nobody(pair.now))
    pair.others.close()
    took = pair.until(lambda: not pair.waits)
    assert took == pytest.approx(20.0, abs=0.1)


def test_standing_by_again_it_leaves_the_next_switch_to_the_active_one(pair: Pair) -> None:
    pair.stands = Standing.ACTIVE
    pair.turn(led_by("node2", 7, pair.now))
    assert pair.led() == dict.fromkeys(LEADING, 1)
    pair.stands = Standing.STANDBY
    pair.turn(replace(led_by("node3", 9, pair.now)))
    assert pair.led() == dict.fromkeys(LEADING, 1)


def test_a_hold_of_its_own_agent_s_that_it_leaves_to_the_active_one_is_told_at_the_second_look(
    pair: Pair,
) -> None:
    pair.pgbouncer.refuse(NODES["node1"])
    pair.edit()  # so that a release takes a reload, which the active one is to give
    for told in (0, 1, 1):
        pair.turn()
        pair.now += 0.1
        assert len(pair.reports.holds) == told
    assert pair.waits
