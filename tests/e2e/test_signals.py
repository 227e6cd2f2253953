"""SIGTERM, SIGHUP and SIGKILL, at rest and in the middle of a switch."""

import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.test_stage import (
    Keys,
    file_route,
    is_led,
    settings_by_keys,
    shown_route,
    stays,
    traces,
    wait_until_led,
)
from tests.support.bed import Bed, BouncerHost
from tests.support.waiting import wait_for
from tests.support.watcher import WatcherProcess, ssh_target

KILLS = 10
MORE_KILLS = 5
BETWEEN = (True, False)  # the file leads there, PgBouncer does not yet
LONGEST_SWITCH = 0.06  # seconds from the start of etcdctl to the last confirmation


@pytest.fixture
def keys(bed: Bed) -> Keys:
    keys = Keys(bed.etcd)
    keys.crown("first")
    return keys


@pytest.fixture
def watcher(bed: Bed, keys: Keys, tmp_path: Path) -> Iterator[WatcherProcess]:
    """A watcher settled on the first leader."""
    with WatcherProcess(tmp_path, settings_by_keys(bed, keys, stop_limit=2.0)) as process:
        for host in bed.bouncers:
            process.wait_for_line("switch", target=host.name, leader="first")
        yield process


def _hup(watcher: WatcherProcess) -> None:
    watcher.process.send(signal.SIGHUP)


# --- SIGTERM --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_at_rest_it_ends_at_once_and_leaves_nothing(watcher: WatcherProcess, number: signal.Signals) -> None:
    assert watcher.process.terminate(5, number) == 0
    assert not watcher.process.any_alive()
    assert watcher.lines()[-1]["event"] == "stop"


def test_a_switch_under_way_is_finished_before_the_end(bed: Bed, keys: Keys, watcher: WatcherProcess) -> None:
    slow, other = bed.bouncers
    slow.sshd.freeze()
    leader = keys.crown("second")
    wait_until_led([other], leader, watcher)
    watcher.process.send(signal.SIGTERM)
    stays(watcher.process.is_alive, 0.7, "it finishes the switch")
    slow.sshd.thaw()
    assert watcher.process.wait(3) == 0
    assert is_led(slow, leader)


def test_a_switch_that_does_not_end_delays_the_end_by_stop_limit_at_most(
    bed: Bed, keys: Keys, watcher: WatcherProcess
) -> None:
    frozen, other = bed.bouncers
    frozen.sshd.freeze()
    wait_until_led([other], keys.crown("second"), watcher)
    began = time.monotonic()
    assert watcher.process.terminate(5) == 1
    assert 1.5 < time.monotonic() - began < 3.5
    (line,) = watcher.lines("stop")
    assert (line["level"], line["message"]) == ("WARNING", f"stopped while still busy: target {frozen.name}")


def test_it_ends_at_once_while_nothing_can_be_reached(bed: Bed, keys: Keys, watcher: WatcherProcess) -> None:
    for host in bed.bouncers:
        host.kill()
    keys.crown("second")
    watcher.wait_for_line("failed", target=bed.bouncers[0].name)
    watcher.process.terminate(5)
    assert not watcher.lines("stop")[0]["message"].startswith("stopped while still busy")


# --- SIGHUP ---------------------------------------------------------------------------------------


def test_good_settings_are_taken_up(bed: Bed, keys: Keys, watcher: WatcherProcess) -> None:
    removed, kept = bed.bouncers
    watcher.rewrite(settings_by_keys(bed, keys, targets=[ssh_target(kept)]))
    _hup(watcher)
    watcher.wait_for_line("start", after=1)
    before = traces(bed)[0]
    leader = keys.crown("second")
    wait_until_led([kept], leader, watcher)
    stays(lambda: traces(bed)[0] == before, 0.5, "nobody touches who was removed")
    watcher.rewrite(settings_by_keys(bed, keys))
    _hup(watcher)
    wait_until_led([removed], leader, watcher)


def test_bad_settings_are_refused_whole_with_every_fault(
    bed: Bed, keys: Keys, watcher: WatcherProcess
) -> None:
    watcher.rewrite(settings_by_keys(bed, keys, resync_interval=-1, targets=[]))
    _hup(watcher)
    line = watcher.wait_for_line("settings", level="ERROR")
    assert "the settings stay as they were" in line["message"]
    assert re.findall(r"^- (\w+): ", line["message"], re.MULTILINE) == ["targets", "resync_interval"]
    wait_until_led(bed.bouncers, keys.crown("second"), watcher)
    watcher.rewrite("no: [yaml")
    _hup(watcher)
    watcher.wait_for_line("settings", level="ERROR", after=1)
    wait_until_led(bed.bouncers, keys.crown("third"), watcher)
    watcher.config.unlink()
    _hup(watcher)
    watcher.wait_for_line("settings", level="ERROR", after=2)
    wait_until_led(bed.bouncers, keys.crown("fourth"), watcher)


def test_a_leader_change_during_a_re_read_is_not_lost(bed: Bed, keys: Keys, watcher: WatcherProcess) -> None:
    for number in range(4):
        delay = number * 0.03
        _hup(watcher)
        time.sleep(delay)
        wait_until_led(bed.bouncers, keys.crown(f"leader{number}"), watcher)


def test_many_re_reads_leave_no_thread_behind(bed: Bed, watcher: WatcherProcess) -> None:
    threads = [_count_threads(watcher)]
    for number in range(3):
        _hup(watcher)
        watcher.wait_for_line("start", after=number + 1)
        watcher.wait_for_line("source", after=number + 1)
    wait_for(lambda: _count_threads(watcher) <= threads[0] + 2, 5, "the old threads have ended")


def _count_threads(watcher: WatcherProcess) -> int:
    (process, *_) = watcher.process.members()
    return int(process.num_threads())


# --- SIGKILL --------------------------------------------------------------------------------------


def _without_route(text: str) -> str:
    """All that no watcher may change."""
    return re.sub(r"host=\S+ port=\d+|^;; watcher: .*\n", "", text, flags=re.MULTILINE)


def _freeze_one_step(host: BouncerHost, number: int) -> None:
    """In turn: none; the console, so that the kill falls between write and reload; the host, at the write."""
    stalled = (None, host.pgbouncer, host.sshd)[number % 3]
    if stalled is not None:
        stalled.freeze()


def _kill_in_switch(keys: Keys, watcher: WatcherProcess, leader: str, pause: Callable[[], object]) -> None:
    keys.end_reign()
    crowning = threading.Thread(target=keys.put, args=("leader", leader))
    crowning.start()
    pause()
    watcher.process.kill_main()
    crowning.join()


def _until(number: int, host: BouncerHost, endpoint: str, chance: random.Random) -> Callable[[], object]:
    """Chance finds the moment, but for three that must be among them: before anything is done, between write
    and reload, and when all is done.
    """
    wanted = {
        0: lambda: True,
        1: lambda: file_route(host) == endpoint,
        KILLS - 1: lambda: shown_route(host) == endpoint,
    }
    if number not in wanted:
        return lambda: time.sleep(chance.uniform(0.01, LONGEST_SWITCH))
    return lambda: wait_for(wanted[number], 10, "the moment of the kill", poll=0.002)


def _kills(seen: set[tuple[bool, bool]]) -> Iterator[int]:
    """Each moment once. Between write and reload lie a few milliseconds: on a busy machine the kill may come
    after them, and is tried again.
    """
    yield from range(KILLS)
    for _ in range(MORE_KILLS):
        if BETWEEN not in seen:
            yield 1


def test_killed_at_any_moment_of_a_switch_it_goes_on_rightly_afterwards(
    bed: Bed, keys: Keys, tmp_path: Path
) -> None:
    whole = [_without_route(host.pgbouncer.config_file.read_text()) for host in bed.bouncers]
    chance = random.Random(20)  # noqa: S311  # not for secrets
    seen, told = set[tuple[bool, bool]](), 0
    with WatcherProcess(tmp_path, settings_by_keys(bed, keys)) as watcher:
        for turn, number in enumerate(_kills(seen)):
            watcher.wait_for_line("wish", after=told, reason="leader")
            endpoint = keys.join(f"leader{turn}")
            _freeze_one_step(bed.bouncers[0], number)
            _kill_in_switch(keys, watcher, f"leader{turn}", _until(number, bed.bouncers[0], endpoint, chance))
            bed.bouncers[0].thaw()
            for host, text in zip(bed.bouncers, whole, strict=True):
                assert _without_route(host.pgbouncer.config_file.read_text()) == text
                seen.add((file_route(host) == endpoint, shown_route(host) == endpoint))
            told = len(watcher.lines("wish"))
            watcher.process.start()
            wait_until_led(bed.bouncers, endpoint, watcher)
    assert {(True, True), BETWEEN, (False, False)} <= seen
    for host in bed.bouncers:
        wait_for(lambda: not host.sshd.session_pids(), 3, "no agent outlives its watcher")  # noqa: B023
        left = {file.name for file in host.pgbouncer.folder.glob(".*watcher*")}
        assert left <= {".pgbouncer.ini.watcher-hold.lock"}  # an empty file, there for good
