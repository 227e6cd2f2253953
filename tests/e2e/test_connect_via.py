"""Where clients are sent, by `cluster.connect_via`: the settings' addresses, or a member's proxy."""

from pathlib import Path

from tests.e2e.test_stage import Keys, settings_by_keys, wait_until_led
from tests.support.bed import Bed
from tests.support.watcher import WatcherProcess


def test_clients_are_sent_to_the_addresses_of_the_settings(bed: Bed, tmp_path: Path) -> None:
    keys = Keys(bed.etcd)
    keys.crown("a")
    keys.join("b")
    keys.join("c")
    cluster = {"connect_via": "addresses", "addresses": {"a": "10.1.1.1:6000", "b": "10.1.1.2"}}
    with WatcherProcess(tmp_path, settings_by_keys(bed, keys, cluster=cluster)) as watcher:
        wait_until_led(bed.bouncers, "10.1.1.1:6000", watcher)
        keys.lead("b")
        wait_until_led(bed.bouncers, "10.1.1.2:5432", watcher)
        keys.lead("c")
        line = watcher.wait_for_line("wish", reason="leader_unusable")
        assert "'c' is not in `cluster.addresses`" in line["message"]


def test_clients_are_sent_to_the_proxy_of_a_member(bed: Bed, tmp_path: Path) -> None:
    keys = Keys(bed.etcd)
    keys.join("a", proxy_url="postgres://10.2.2.1:6432/postgres")
    keys.lead("a")
    with WatcherProcess(
        tmp_path, settings_by_keys(bed, keys, cluster={"connect_via": "proxy_url"})
    ) as watcher:
        wait_until_led(bed.bouncers, "10.2.2.1:6432", watcher)
        keys.crown("b")
        line = watcher.wait_for_line("wish", reason="leader_unusable")
        assert "member key of 'b': has no proxy_url" in line["message"]
