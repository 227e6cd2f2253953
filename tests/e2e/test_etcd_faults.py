"""Etcd fails in every way, and the whole watcher follows the next leader all the same."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_stage import (
    QUICK_ETCD,
    Keys,
    at,
    committed_on,
    settings_by_keys,
    settled,
    stamp_in,
    stays,
    traces,
    wait_until_led,
)
from tests.support.bed import Bed
from tests.support.etcd import EtcdCluster, Member, User
from tests.support.folders import bed_folder
from tests.support.patroni import PatroniCluster
from tests.support.proxy import Proxy
from tests.support.waiting import wait_for
from tests.support.watcher import WatcherProcess, settings_for

PASSWORD = "canary-etcd-password"


@pytest.fixture(scope="module")
def spare_etcd() -> Iterator[EtcdCluster]:
    """An etcd that no Patroni suffers with."""
    with bed_folder() as folder, EtcdCluster(folder) as etcd:
        yield etcd


@pytest.fixture
def etcd(spare_etcd: EtcdCluster) -> EtcdCluster:
    """The spare etcd in good health."""
    spare_etcd.thaw()
    spare_etcd.start()
    return spare_etcd


@pytest.fixture
def small_etcd() -> Iterator[EtcdCluster]:
    """One member, for what changes the whole cluster; its tokens live for a second after their last use."""
    with bed_folder() as folder, EtcdCluster(folder, 1, auth_token_ttl=1) as etcd:
        yield etcd


def _connected_member(watcher: WatcherProcess, members: list[Member]) -> Member:
    endpoint = watcher.lines("source")[-1]["endpoint"]
    return next(member for member in members if member.endpoint == endpoint)


def _assert_still_follows(bed: Bed, keys: Keys, watcher: WatcherProcess) -> None:
    wait_until_led(bed.bouncers, keys.crown("afterwards"), watcher)


# --- a real switchover past a member that fails ---------------------------------------------------


@pytest.mark.parametrize("fail", [Member.kill, Member.freeze], ids=["killed", "frozen"])
def test_a_switchover_is_followed_past_a_connected_member_that_is(
    bed: Bed, tmp_path: Path, fail: Callable[[Member], None]
) -> None:
    with WatcherProcess(tmp_path, settings_for(bed, etcd=QUICK_ETCD)) as watcher:
        old = bed.leader()
        settled(watcher, bed, at(old))
        member = _connected_member(watcher, bed.etcd.members)
        fail(member)
        _switchover(bed.patroni)
        new = bed.patroni.wait_for_leader(other_than=old)
        wait_until_led(bed.bouncers, at(new), watcher)
        assert [committed_on(host) for host in bed.bouncers] == [at(new)] * 2
        assert _connected_member(watcher, bed.etcd.members) is not member
        assert {line["source"] for line in watcher.lines("switch")} == {"etcd"}


def _switchover(patroni: PatroniCluster) -> None:
    """As soon as Patroni itself has got over the member that it has lost."""
    wait_for(lambda: "uccess" in patroni.switchover(), 30, "a switchover", logs=patroni.logs, poll=0.1)


# --- the whole of etcd fails ----------------------------------------------------------------------


@pytest.mark.parametrize("fail", [EtcdCluster.lose_quorum, EtcdCluster.stop, EtcdCluster.freeze])
def test_the_next_leader_is_followed_when_etcd_is_back_after(
    bed: Bed, etcd: EtcdCluster, tmp_path: Path, fail: Callable[[EtcdCluster], Any]
) -> None:
    keys = Keys(etcd)
    first = keys.crown("first")
    with WatcherProcess(tmp_path, settings_by_keys(bed, keys)) as watcher:
        wait_until_led(bed.bouncers, first, watcher)
        before = traces(bed)
        fail(etcd)
        watcher.wait_for_line("wish", reason="blind")
        assert traces(bed) == before
        etcd.thaw()
        etcd.start()
        _assert_still_follows(bed, keys, watcher)


def test_a_leader_change_is_followed_whose_history_was_compacted(
    bed: Bed, etcd: EtcdCluster, tmp_path: Path
) -> None:
    keys = Keys(etcd)
    first = keys.crown("first")
    with Proxy(etcd.endpoints[0]) as proxy:
        settings = settings_by_keys(bed, keys, etcd={"endpoints": [proxy.endpoint]})
        with WatcherProcess(tmp_path, settings) as watcher:
            wait_until_led(bed.bouncers, first, watcher)
            proxy.cut()
            second = keys.crown("second")
            etcd.put("/another/key", "moves the revision on")
            etcd.compact()
            proxy.mend()
            wait_until_led(bed.bouncers, second, watcher)
            _assert_still_follows(bed, keys, watcher)


# --- authentication -------------------------------------------------------------------------------


@pytest.fixture
def guarded(bed: Bed, small_etcd: EtcdCluster, tmp_path: Path) -> Iterator[tuple[Keys, WatcherProcess]]:
    """A watcher that logs in to etcd as a user who may only read its prefix."""
    keys = Keys(small_etcd)
    first = keys.crown("first")
    small_etcd.enable_auth("root", {"watcher": User(PASSWORD, [keys.prefix], read_only=True)})
    login = {"username": "watcher", "password": PASSWORD}
    with WatcherProcess(tmp_path, settings_by_keys(bed, keys, etcd=login)) as watcher:
        wait_until_led(bed.bouncers, first, watcher)
        yield keys, watcher
    assert PASSWORD not in watcher.log.read_text()


def test_a_permission_withdrawn_is_said_and_its_return_is_followed(
    bed: Bed, guarded: tuple[Keys, WatcherProcess]
) -> None:
    keys, watcher = guarded
    said = len(watcher.lines("source"))
    keys.etcd.revoke("watcher", keys.prefix)
    line = watcher.wait_for_line("source", after=said, level="WARNING")
    assert keys.prefix in line["message"] or "permission" in line["message"]
    assert "What now" in line["message"]
    second = keys.crown("second")
    keys.etcd.grant("watcher", keys.prefix, read_only=True)
    wait_until_led(bed.bouncers, second, watcher)
    _assert_still_follows(bed, keys, watcher)


def test_leaders_are_followed_past_a_token_that_has_expired(
    bed: Bed, guarded: tuple[Keys, WatcherProcess]
) -> None:
    keys, watcher = guarded
    said = len(watcher.lines("source"))
    before = traces(bed)
    watcher.process.freeze()  # or its reads would keep the token alive
    stays(lambda: traces(bed) == before, 2.5, "nobody acts while the token expires")
    watcher.process.thaw()
    watcher.wait_for_line("source", after=said, level="WARNING")
    _assert_still_follows(bed, keys, watcher)


# --- restored from a backup -----------------------------------------------------------------------


def test_a_restored_etcd_is_followed_though_its_revisions_are_older(
    bed: Bed, small_etcd: EtcdCluster, tmp_path: Path
) -> None:
    keys = Keys(small_etcd)
    in_backup = keys.crown("in-backup")
    backup = small_etcd.save_snapshot(tmp_path / "backup")
    old_id = small_etcd.cluster_id()
    for number in range(5):
        latest = keys.crown(f"later{number}")
    with WatcherProcess(tmp_path, settings_by_keys(bed, keys)) as watcher:
        wait_until_led(bed.bouncers, latest, watcher)
        high = [int(stamp_in(host)["revision"]) for host in bed.bouncers]
        small_etcd.restore_from_snapshot(backup)
        wait_until_led(bed.bouncers, in_backup, watcher)
        _assert_still_follows(bed, keys, watcher)
        for host, revision in zip(bed.bouncers, high, strict=True):
            assert int(stamp_in(host)["revision"]) < revision
            assert int(stamp_in(host)["cluster"], 16) == small_etcd.cluster_id() != old_id
