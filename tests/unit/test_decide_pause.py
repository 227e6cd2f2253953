"""`watcher pause` keeps hands off, whatever else is known."""

from dataclasses import replace

import pytest

from tests.support.fake_target import NODES, POLICY, led_by
from watcher.decide.decision import HoldPolicy, desired, plan
from watcher.decide.model import (
    PAUSE_KEY,
    Actual,
    Alarm,
    Change,
    Database,
    Deletion,
    Entry,
    Held,
    Paused,
    Reason,
    Release,
    View,
)
from watcher.decide.patroni import read_entry
from watcher.decide.view import fold, paused

NOW = 1000.0
HOLDING = replace(POLICY, hold=HoldPolicy())
WORD = Paused("dba@db1", "an upgrade", 1_800_000_000.0)


def told(view: View, word: Paused = WORD) -> View:
    entry = Entry(PAUSE_KEY, word, 9, 9)
    return replace(view, entries={**view.entries, PAUSE_KEY: entry}, revision=9)


@pytest.mark.parametrize(
    "view",
    [
        led_by("node1", 5, NOW),
        led_by(None, 5, NOW),
        replace(led_by("node1", 5, NOW), contact_at=NOW - 1e10),
        replace(led_by("node1", 5, NOW), alarms={"t": Alarm("t", NODES["node1"], True, NOW)}),
    ],
    ids=["a leader", "no leader", "etcd silent", "the primary refuses"],
)
def test_nothing_is_wished_for_and_nobody_is_held(view: View) -> None:
    wish = desired(told(view), HOLDING, NOW, "t")
    assert (wish.reason, wish.route, wish.held, wish.guard, wish.stop_id) == (
        Reason.PAUSED,
        None,
        False,
        None,
        "",
    )
    assert wish.detail == (
        "`watcher pause` was said by dba@db1: an upgrade; nothing is changed until `watcher resume`"
    )


def test_whose_clients_wait_are_let_go_as_things_are_and_nothing_else_is_done() -> None:
    wish = desired(told(led_by("node1", 5, NOW)), HOLDING, NOW)
    actual = Actual((Database("app", NODES["node2"]),), None, NOW, can_hold=True)
    assert plan(actual, wish) == ()
    held = replace(actual, held=Held(("app",), NOW - 1, NOW + 9))
    assert plan(held, wish) == (Release(),)


def test_it_is_over_when_its_key_has_gone() -> None:
    view = told(led_by("node1", 5, NOW))
    after = fold(view, Change(0xCDF8, (Deletion(PAUSE_KEY, 10),), NOW))
    assert paused(view) == WORD
    assert paused(after) is None
    assert desired(after, HOLDING, NOW).reason is Reason.LEADER


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b'{"by": "a", "why": "b", "since": "2027-01-15T08:00:00+00:00"}', Paused("a", "b", 1_800_000_000.0)),
        (b'{"by": "a\\nb", "why": "\\u001b[31mred"}', Paused("a b", "[31mred")),
        (b'{"since": "yesterday"}', Paused()),
        (b'{"since": "1970-01-01T00:00:00+00:00"}', Paused(since=0.0)),
        (b'{"since": "1969-12-31T23:59:59+00:00"}', Paused()),
        (b'{"since": "9998-12-31T23:59:59+00:00"}', Paused(since=253_370_764_799.0)),
        (b'{"since": "9999-01-01T00:00:00+00:00"}', Paused()),
        (b'{"why": 7}', Paused()),
        (b"", Paused()),
        (b"just wait", Paused()),
        (b"\xff\xfe", Paused()),
        (b'{"why": "' + b"x" * 1000 + b'"}', Paused(why="x" * 200)),
    ],
)
def test_whatever_the_key_holds_it_counts(value: bytes, expected: Paused) -> None:
    entry = read_entry(PAUSE_KEY, value, 1, 1, "etcd key")
    assert entry is not None
    assert entry.value == expected


def test_where_clients_belong_and_when_to_look_again_is_known_all_the_same() -> None:
    view = led_by("node1", 5, NOW)
    wish = desired(told(view), HOLDING, NOW)
    assert wish.belongs == NODES["node1"]
    assert wish.recheck_at is not None
    assert wish.recheck_at == desired(view, HOLDING, NOW).recheck_at
    assert desired(told(led_by(None, 5, NOW)), HOLDING, NOW).belongs is None
