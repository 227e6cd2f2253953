"""Targets that hang, die, or are changed by hand; and one without SSH."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_stage import (
    Keys,
    file_route,
    is_led,
    settings_by_keys,
    shown_route,
    stamp_in,
    wait_until_led,
)
from tests.support.accounts import own_folder
from tests.support.bed import Bed, BouncerHost
from tests.support.waiting import BedError, wait_for
from tests.support.watcher import Settings, WatcherProcess, python_for


@pytest.fixture
def keys(bed: Bed) -> Keys:
    keys = Keys(bed.etcd)
    keys.crown("first")
    return keys


@pytest.fixture
def watcher(bed: Bed, keys: Keys, tmp_path: Path) -> Iterator[WatcherProcess]:
    """A watcher that looks at its targets every second, settled on the first leader."""
    with WatcherProcess(tmp_path, settings_by_keys(bed, keys, resync_interval=1.0)) as process:
        for host in bed.bouncers:
            process.wait_for_line("switch", target=host.name, leader="first")
        yield process


def _edit(host: BouncerHost, endpoint: str) -> None:
    """As with an editor: only host and port are changed."""
    file = host.pgbouncer.config_file
    address, port = endpoint.split(":")
    file.write_text(re.sub(r"host=\S+ port=\d+", f"host={address} port={port}", file.read_text()))


def test_a_frozen_host_delays_no_other_and_follows_once_it_is_thawed(
    bed: Bed, keys: Keys, watcher: WatcherProcess
) -> None:
    frozen, other = bed.bouncers
    frozen.sshd.freeze()
    leader = keys.crown("second")
    wait_until_led([other], leader, watcher)
    assert not watcher.lines("failed")
    watcher.wait_for_line("failed", target=frozen.name)
    leader = keys.crown("third")
    wait_until_led([other], leader, watcher, timeout=1.5)
    assert not is_led(frozen, leader)
    frozen.sshd.thaw()
    wait_until_led([frozen], leader, watcher)


def test_a_host_without_power_delays_no_other_and_follows_once_it_is_up(
    bed: Bed, keys: Keys, watcher: WatcherProcess
) -> None:
    dead, other = bed.bouncers
    dead.kill()
    leader = keys.crown("second")
    wait_until_led([other], leader, watcher, timeout=1.5)
    dead.start()
    wait_until_led([dead], leader, watcher)
    watcher.wait_for_line("in_sync", target=dead.name)


def test_a_pgbouncer_that_dies_in_a_switch_is_confirmed_once_it_is_up(
    bed: Bed, keys: Keys, watcher: WatcherProcess
) -> None:
    host = bed.bouncers[0]
    host.pgbouncer.kill()
    leader = keys.crown("second")
    wait_for(lambda: file_route(host) == leader, 5, "the file is right", logs=[watcher.log])
    failed = watcher.wait_for_line("failed", target=host.name)
    assert "console" in failed["message"]
    assert not [
        line for line in watcher.lines("switch") if line["leader"] == "second" and line["target"] == host.name
    ]
    host.pgbouncer.start()
    watcher.wait_for_line("switch", target=host.name, leader="second")
    assert shown_route(host) == leader


@pytest.mark.parametrize("reload", [False, True], ids=["in the file alone", "and reloaded"])
def test_a_route_changed_by_hand_is_put_right(
    bed: Bed, keys: Keys, watcher: WatcherProcess, reload: bool
) -> None:
    host = bed.bouncers[0]
    right, stamp = file_route(host), stamp_in(host)
    _edit(host, "127.0.0.9:5432")
    if reload:
        host.pgbouncer.reload()
    wait_until_led([host], right, watcher, timeout=3)
    assert stamp_in(host) == stamp


def test_a_pgbouncer_started_on_a_wrong_file_is_put_right(
    bed: Bed, keys: Keys, watcher: WatcherProcess
) -> None:
    host = bed.bouncers[0]
    right = file_route(host)
    watcher.process.freeze()
    host.pgbouncer.kill()
    _edit(host, "127.0.0.9:5432")
    host.pgbouncer.start()
    assert is_led(host, "127.0.0.9:5432")
    watcher.process.thaw()
    wait_until_led([host], right, watcher)


def test_a_pgbouncer_that_reads_another_text_than_its_file_is_reloaded(
    bed: Bed, keys: Keys, watcher: WatcherProcess
) -> None:
    host = bed.bouncers[0]
    file = host.pgbouncer.config_file
    right, good = file_route(host), file.read_text()
    watcher.process.freeze()
    _edit(host, "127.0.0.9:5432")
    host.pgbouncer.reload()
    file.write_text(good)
    assert (file_route(host), shown_route(host)) == (right, "127.0.0.9:5432")
    watcher.process.thaw()
    wait_until_led([host], right, watcher)


# --- beside PgBouncer -----------------------------------------------------------------------------


def _local_target(host: BouncerHost) -> Settings:
    return {
        "name": host.name,
        "via": "local",
        "file": str(host.pgbouncer.config_file),
        "console": {"socket": str(host.pgbouncer.socket)},
    }


def _run_as(account: str, watcher: WatcherProcess) -> None:
    """Let the process be the account's."""
    process = watcher.process
    process.user = account
    try:
        python, process.env = python_for(account)
    except BedError as error:
        pytest.skip(str(error))
    process.argv[0] = str(python)


def test_a_watcher_beside_pgbouncer_needs_no_more_than_its_account(bed: Bed, service_folder: Path) -> None:
    host, keys = bed.bouncers[0], Keys(bed.etcd)
    first = keys.crown("first")
    folder = own_folder(service_folder / "watcher", host.account)
    owner = host.pgbouncer.config_file.stat()
    watcher = WatcherProcess(folder, settings_by_keys(bed, keys, targets=[_local_target(host)]))
    _run_as(host.account, watcher)
    with watcher:
        wait_until_led([host], first, watcher)
        assert watcher.process.offspring()
        wait_until_led([host], keys.crown("second"), watcher)
        now = host.pgbouncer.config_file.stat()
        assert (now.st_uid, now.st_gid, now.st_mode) == (owner.st_uid, owner.st_gid, owner.st_mode)
        assert watcher.process.terminate(2) == 0
        assert not watcher.process.any_alive()
