"""Who of several watchers goes first, and what the others leave to it."""

from dataclasses import replace

import pytest

from tests.support.fake_target import NODES, POLICY, led_by
from tests.unit.test_reconciler_hold import with_key
from watcher.decide.decision import HoldPolicy, desired
from watcher.decide.model import (
    ACTIVE_KEY,
    PAUSE_KEY,
    ActiveWatcher,
    Confirm,
    Entry,
    Hold,
    Malformed,
    Paused,
    Reason,
    Release,
    Reload,
    Route,
    Stamp,
    Step,
    Value,
    View,
    Watch,
    Write,
)
from watcher.decide.patroni import read_entry
from watcher.decide.precedence import Lease, Share, Standing, active, in_words, leads, share, standing
from watcher.decide.view import is_empty

NOW, SILENCE, PATIENCE = 1000.0, 10.0, 2.0
OURS = Lease("ctl1-7-ab", NOW + 1.0)
WRITE = Write(Route(NODES["node1"], Stamp(1, "", 5, None, "node1")))
LEADING = (WRITE, Reload(), Confirm(NODES["node1"]), Release(NODES["node1"], reload=True))
OTHER = (Hold(NOW + 60), Watch(NODES["node1"]), Release(NODES["node1"]), Release())


def with_active(value: Value, view: View | None = None) -> View:
    view = led_by("node1", 5, NOW) if view is None else view
    return replace(view, entries={**view.entries, ACTIVE_KEY: Entry(ACTIVE_KEY, value, 9, 9)})


@pytest.mark.parametrize(
    ("view", "lease", "expected"),
    [
        (with_active(ActiveWatcher(OURS.id)), OURS, Standing.ACTIVE),
        (with_active(ActiveWatcher(OURS.id)), replace(OURS, kept_until=NOW), Standing.STANDBY),
        (with_active(ActiveWatcher("ctl2-9-cd")), OURS, Standing.STANDBY),
        (led_by("node1", 5, NOW), OURS, Standing.NOBODY),
        (with_active(Malformed("key", "is odd", "look")), OURS, Standing.NOBODY),
        (with_active(ActiveWatcher("ctl2-9-cd"), View(began_at=NOW)), OURS, Standing.NOBODY),
    ],
    ids=["ours", "ours, perhaps run out", "another's", "no key", "odd key", "etcd not heard yet"],
)
def test_the_key_says_who_is_active_and_our_clock_whether_we_still_are(
    view: View, lease: Lease, expected: Standing
) -> None:
    assert standing(view, lease, NOW, SILENCE) is expected


@pytest.mark.parametrize("holder", [OURS.id, "ctl2-9-cd"])
def test_a_silent_etcd_says_nothing_of_who_is_active(holder: str) -> None:
    view, lease = with_active(ActiveWatcher(holder)), replace(OURS, kept_until=NOW + 100)
    assert standing(view, lease, NOW + SILENCE - 0.1, SILENCE) is not Standing.NOBODY
    assert standing(view, lease, NOW + SILENCE, SILENCE) is Standing.NOBODY


@pytest.mark.parametrize("step", LEADING)
def test_a_standby_leaves_what_leads_clients_to_the_active_one_for_a_while(step: Step) -> None:
    assert leads(step)
    first = share((*OTHER, step), Standing.STANDBY, None, NOW, PATIENCE)
    assert first == Share(OTHER, NOW, NOW + PATIENCE)
    later = share((step,), Standing.STANDBY, first.since, NOW + 1.9, PATIENCE)
    assert later == Share((), NOW, NOW + PATIENCE)


def test_a_standby_does_it_itself_when_the_active_one_has_had_its_time() -> None:
    steps = (*OTHER, *LEADING)
    assert share(steps, Standing.STANDBY, NOW, NOW + PATIENCE, PATIENCE) == Share(steps, NOW)
    again = share(steps, Standing.STANDBY, NOW, NOW + 5, PATIENCE)
    assert again == Share(steps, NOW), "what failed is tried again without a further wait"


def test_the_time_of_the_active_one_begins_anew_with_each_work() -> None:
    assert share(OTHER, Standing.STANDBY, NOW, NOW + 1, PATIENCE) == Share(OTHER)
    assert share((), Standing.STANDBY, NOW, NOW + 1, PATIENCE) == Share(())


@pytest.mark.parametrize("stands", [Standing.TOGETHER, Standing.ACTIVE, Standing.NOBODY])
def test_all_others_take_every_step_at_once(stands: Standing) -> None:
    steps = (*OTHER, *LEADING)
    assert share(steps, stands, NOW - 1, NOW, PATIENCE) == Share(steps)


@pytest.mark.parametrize("step", OTHER)
def test_holds_guards_and_releases_without_a_reload_are_left_to_nobody(step: Step) -> None:
    assert not leads(step)
    assert share((step,), Standing.STANDBY, None, NOW, PATIENCE) == Share((step,))


def test_the_key_tells_who_it_is_to_us_and_to_people() -> None:
    value = b'{"watcher": "ctl1-7-ab", "name": "ctl1\\u0007"}'
    entry = read_entry(ACTIVE_KEY, value, 3, 4, "etcd key")
    assert entry == Entry(ACTIVE_KEY, ActiveWatcher("ctl1-7-ab", "ctl1"), 3, 4)
    assert active(with_active(entry.value)) == ActiveWatcher("ctl1-7-ab", "ctl1")


def test_an_id_may_be_as_long_as_two_hundred_letters() -> None:
    entry = read_entry(ACTIVE_KEY, b'{"watcher": "%s"}' % (b"x" * 200), 3, 4, "etcd key")
    assert entry is not None
    assert entry.value == ActiveWatcher("x" * 200)


@pytest.mark.parametrize(
    "value",
    [b"", b"{}", b"[]", b'{"watcher": ""}', b'{"watcher": "a\\nb"}', b'{"watcher": "%s"}' % (b"x" * 201)],
)
def test_a_key_that_does_not_tell_a_watcher_is_unknown(value: bytes) -> None:
    entry = read_entry(ACTIVE_KEY, value, 3, 4, "etcd key")
    assert entry is not None
    assert isinstance(entry.value, Malformed)
    assert active(with_active(entry.value)) is None


def test_the_key_alone_makes_no_cluster_of_a_scope_that_is_not_there() -> None:
    """Else clients would be held for want of a leader where there is no cluster at all."""
    view = with_active(ActiveWatcher("ctl1"), led_by(None, 5, NOW))
    assert is_empty(view)
    wish = desired(view, replace(POLICY, hold=HoldPolicy()), NOW)
    assert (wish.reason, wish.held) == (Reason.NO_CLUSTER, False)
    assert not is_empty(with_active(ActiveWatcher("ctl1")))
    assert is_empty(with_key(led_by(None, 5, NOW), PAUSE_KEY, Paused()))
    assert not is_empty(with_key(led_by("node1", 5, NOW), PAUSE_KEY, Paused()))


def test_each_standing_is_said_in_words() -> None:
    words = {stands: in_words(stands, "ctl2") for stands in Standing}
    assert words == {
        Standing.TOGETHER: "acts, as every other watcher of these targets does",
        Standing.ACTIVE: "is the active watcher",
        Standing.STANDBY: "stands by for ctl2, the active watcher",
        Standing.NOBODY: "acts, as every other does: no watcher is known to be active",
    }
