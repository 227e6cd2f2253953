"""Two watchers of the bed of which one is active by a lease in etcd: who acts, and what is shown of it."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.hold_stage import held_seconds, wait_until_held, wait_until_released, watching
from tests.e2e.test_stage import Keys, settings_by_keys, wait_until_led
from tests.support.bed import Bed
from tests.support.preloaded import run_watcher
from tests.support.waiting import wait_for
from tests.support.watcher import Settings, WatcherProcess
from watcher.decide.model import ACTIVE_KEY

pytestmark = pytest.mark.long

LIMIT = 15.0


@pytest.fixture
def keys(bed: Bed) -> Keys:
    return Keys(bed.etcd)


def settings(bed: Bed, keys: Keys, name: str) -> Settings:
    return settings_by_keys(bed, keys, controller={"mode": "lease", "name": name})


@pytest.fixture
def pair(bed: Bed, keys: Keys, tmp_path: Path) -> Iterator[tuple[WatcherProcess, WatcherProcess]]:
    """The first is active, the second stands by; all are in sync."""
    first = keys.crown("first")
    with WatcherProcess(tmp_path, settings(bed, keys, "one"), "one") as one:
        wait_until_led(bed.bouncers, first, one)
        one.wait_for_line("standing", standing="active")
        with WatcherProcess(tmp_path, settings(bed, keys, "two"), "two") as two:
            two.wait_for_line("standing", standing="standby", active="one")
            for host in bed.bouncers:
                two.wait_for_line("in_sync", target=host.name)
            yield one, two


def standing(watcher: WatcherProcess) -> str:
    """By its own `/status`."""
    document = json.loads(watcher.get("/status")[1])
    return str(document["cluster"]["controller"]["standing"])


def switched(watcher: WatcherProcess, leader: str) -> int:
    """How many targets it led to that leader."""
    return len([line for line in watcher.lines("switch") if line["leader"] == leader])


def test_the_active_one_alone_leads_and_both_are_ready_and_say_who_is(
    bed: Bed, keys: Keys, pair: tuple[WatcherProcess, WatcherProcess]
) -> None:
    one, two = pair
    second = keys.crown("second")
    wait_until_led(bed.bouncers, second, one)
    wait_for(lambda: switched(one, "second") == len(bed.bouncers), LIMIT, "it tells of the switch")
    assert not two.lines("switch")
    assert not two.lines("failed")
    for watcher, stands, words in ((one, 1, "is the active watcher"), (two, 0, "stands by for one")):
        assert watcher.get("/readyz") == (200, "ok\n")
        assert f'watcher_active{{cluster="{keys.scope}"}} {stands}.0' in watcher.get("/metrics")[1]
        assert f"this watcher {words}" in run_watcher(["status", "--config", str(watcher.config)]).stdout


def test_of_a_switchover_the_active_one_alone_tells_how_long_clients_waited(bed: Bed, tmp_path: Path) -> None:
    """The standby held them too, and found them going on."""
    bed.patroni.wait_for_replicas()
    bed.point_at_leader()

    def lease(name: str) -> Settings:
        return {"mode": "lease", "name": name}

    with watching(bed, tmp_path, "one", controller=lease("one")) as one:
        one.wait_for_line("standing", standing="active")
        with watching(bed, tmp_path, "two", controller=lease("two")) as two:
            two.wait_for_line("standing", standing="standby", active="one")
            bed.patroni.switchover()
            for each in (one, two):
                wait_until_held(each, bed.bouncers, "announced")
                wait_until_released(each, bed.bouncers)
            for host in bed.bouncers:
                assert min(held_seconds(one, host)) > 0
            told = [
                (line["held_ms"], "by another's word" in line["message"]) for line in two.lines("release")
            ]
            assert set(told) == {(None, True)}
            counted = re.search(
                r"^watcher_hold_duration_seconds_count\{.*\} (.*)$", two.get("/metrics")[1], re.M
            )
            assert counted is not None
            assert float(counted[1]) == 0


def test_the_standby_is_active_at_once_when_the_active_one_is_stopped(
    bed: Bed, keys: Keys, pair: tuple[WatcherProcess, WatcherProcess]
) -> None:
    one, two = pair
    one.process.terminate()
    two.wait_for_line("standing", standing="active", active="two")
    wait_until_led(bed.bouncers, keys.crown("second"), two)
    wait_for(lambda: switched(two, "second") == len(bed.bouncers), LIMIT, "it tells of the switch")


def test_the_standby_takes_over_from_one_that_is_frozen_which_stands_by_when_it_is_thawed(
    bed: Bed, keys: Keys, pair: tuple[WatcherProcess, WatcherProcess]
) -> None:
    one, two = pair
    one.process.freeze()
    two.wait_for_line("standing", standing="active", active="two")
    second = keys.crown("second")
    wait_until_led(bed.bouncers, second, two)
    one.process.thaw()
    one.wait_for_line("standing", standing="standby", active="two")
    wait_until_led(bed.bouncers, keys.crown("third"), two)
    wait_for(lambda: switched(two, "third") == len(bed.bouncers), LIMIT, "the other leads on")
    assert not switched(one, "third")


def test_a_key_that_cannot_be_read_makes_nobody_active_and_all_act(
    bed: Bed, keys: Keys, pair: tuple[WatcherProcess, WatcherProcess]
) -> None:
    keys.put(ACTIVE_KEY, "by hand")
    wait_for(lambda: set(map(standing, pair)) == {"nobody"}, LIMIT, "nobody is active")
    wait_until_led(bed.bouncers, keys.crown("second"), pair[0])
    keys.etcd.delete(keys.prefix + ACTIVE_KEY)
    wait_for(lambda: sorted(map(standing, pair)) == ["active", "standby"], LIMIT, "one is active again")


def test_settings_that_are_read_anew_leave_one_active(
    bed: Bed, keys: Keys, pair: tuple[WatcherProcess, WatcherProcess]
) -> None:
    one, _ = pair
    before = len(one.lines("standing"))
    one.process.send(signal.SIGHUP)
    one.wait_for_line("standing", after=before)  # its lease is given up, and asked for anew
    wait_for(lambda: sorted(map(standing, pair)) == ["active", "standby"], LIMIT, "one is active")
    wait_until_led(bed.bouncers, keys.crown("second"), one)
