"""One watcher for several clusters, each led by its keys, on the real etcd and PgBouncers of the bed."""

import itertools
import re
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from threading import Event
from typing import Any

import psutil
import pytest

from tests.e2e.test_stage import Keys, file_route, is_led, settings_by_keys, shown_route
from tests.support.addresses import take_address
from tests.support.bed import Bed, BouncerHost
from tests.support.etcd_gateway import Gateway
from tests.support.hanging import HangingHosts
from tests.support.preloaded import run_watcher
from tests.support.waiting import wait_for
from tests.support.watcher import Settings, WatcherProcess, ssh_target

LIMIT = 15.0
PATIENT = 40.0


@dataclass(frozen=True)
class Followed:
    """A cluster that consists of its keys, and the one PgBouncer that is led to its leader."""

    keys: Keys
    host: BouncerHost
    endpoint: str

    def section(self, **changes: Any) -> Settings:
        """Of `clusters`."""
        cluster = {"scope": self.keys.scope, "ready_by": "leader_key"}
        return {"cluster": cluster, "targets": [ssh_target(self.host)], **changes}

    def crown(self, name: str, watcher: WatcherProcess) -> str:
        """Another leader, and the PgBouncer led to it."""
        endpoint = self.keys.crown(name)
        self.wait_until_led(endpoint, watcher)
        return endpoint

    def wait_until_led(self, endpoint: str, watcher: WatcherProcess) -> None:
        wait_for(lambda: is_led(self.host, endpoint), LIMIT, f"led to {endpoint}", logs=[watcher.log])


@pytest.fixture
def clusters(bed: Bed) -> list[Followed]:
    """Two of one namespace, each with a leader."""
    followed = [(Keys(bed.etcd), host) for host in bed.bouncers]
    return [Followed(keys, host, keys.crown(f"first-{host.name}")) for keys, host in followed]


@pytest.fixture
def settings(bed: Bed, clusters: list[Followed]) -> Settings:
    common = settings_by_keys(bed, clusters[0].keys)
    for name in ("cluster", "targets"):
        del common[name]
    return {**common, "clusters": [each.section() for each in clusters]}


@pytest.fixture
def watcher(tmp_path: Path, settings: Settings, clusters: list[Followed]) -> Iterator[WatcherProcess]:
    with WatcherProcess(tmp_path, settings) as made:
        for each in clusters:
            each.wait_until_led(each.endpoint, made)
        yield made


def test_each_cluster_s_leader_is_followed_by_its_own_targets(
    clusters: list[Followed], watcher: WatcherProcess
) -> None:
    one, other = clusters
    endpoint = one.crown("second", watcher)
    assert file_route(other.host) == shown_route(other.host) == other.endpoint
    other.crown("third", watcher)
    assert file_route(one.host) == endpoint
    moved = [(line["cluster"], line["target"], line["leader"]) for line in watcher.lines("switch")]
    assert moved[-2:] == [
        (one.keys.scope, one.host.name, "second"),
        (other.keys.scope, other.host.name, "third"),
    ]


def test_one_watch_on_etcd_serves_them_all(
    bed: Bed, clusters: list[Followed], watcher: WatcherProcess
) -> None:
    for each in clusters:
        each.crown("second", watcher)
    ports = {int(endpoint.rpartition(":")[2]) for endpoint in bed.etcd.endpoints}
    links = psutil.Process(watcher.process.pid).net_connections("tcp")
    to_etcd = [link for link in links if link.status == "ESTABLISHED" and link.raddr.port in ports]
    assert len(to_etcd) == 1
    assert len(watcher.lines("source")) == 1


def test_a_dead_target_of_one_cluster_delays_no_other(
    clusters: list[Followed], watcher: WatcherProcess
) -> None:
    dead, other = clusters
    dead.host.sshd.freeze()
    dead.keys.crown("second")
    other.crown("second", watcher)
    assert file_route(dead.host) == dead.endpoint
    dead.host.sshd.thaw()
    dead.crown("third", watcher)


@contextmanager
def dead_targets(like: Settings, count: int) -> Iterator[list[Settings]]:
    """Targets of one address where the kernel takes the first connections, and drops what comes then."""
    address = take_address()
    with socket.create_server((address, 22), backlog=0):
        ssh = {**like["ssh"], "host": address, "port": 22, "connect_timeout": PATIENT}
        yield [{**like, "name": f"dead{number}", "ssh": ssh} for number in range(count)]


def test_fifty_dead_targets_delay_no_other_at_the_start_nor_later(
    clusters: list[Followed], settings: Settings, tmp_path: Path
) -> None:
    """Where they did, the first of them would have failed by then."""
    one, other = clusters
    for each in clusters:
        each.host.pgbouncer.point_at("127.0.0.77", 5432)
    with dead_targets(ssh_target(one.host), 50) as dead:
        section = one.section(targets=[*dead, ssh_target(one.host)])
        settings = {**settings, "clusters": [section, other.section()]}
        with WatcherProcess(tmp_path, settings) as watcher:
            for each in clusters:
                each.wait_until_led(each.endpoint, watcher)
            for each in clusters:
                each.crown("second", watcher)
            assert watcher.lines("failed") == []


def test_hosts_that_hang_at_login_keep_no_other_from_being_logged_in_to(
    clusters: list[Followed], settings: Settings, tmp_path: Path
) -> None:
    """Clients of their cluster wait for its leader, so each goes first once; and then behind all others."""
    dead, other = clusters
    dead.keys.end_reign()
    other.host.pgbouncer.point_at("127.0.0.77", 5432)
    with HangingHosts(12) as hosts:
        section = dead.section(targets=hosts.targets(ssh_target(dead.host)))
        settings = {**settings, "connect_at_once": 6, "clusters": [section, other.section()]}
        with WatcherProcess(tmp_path, settings) as watcher:
            is_led_first(other, other.endpoint, hosts, watcher)
            other.host.sshd.kill_sessions()
            is_led_first(other, other.keys.crown("second"), hosts, watcher)


def is_led_first(other: Followed, endpoint: str, hosts: HangingHosts, watcher: WatcherProcess) -> None:
    """Before each of the others has been logged in to three times more."""
    before = list(hosts.logins)

    def have_had_their_turns() -> bool:
        return all(now >= then + 3 for now, then in zip(hosts.logins, before, strict=True))

    wait_for(
        lambda: is_led(other.host, endpoint) or have_had_their_turns(),
        PATIENT * 3,
        f"led to {endpoint}, or each of the others thrice tried",
        logs=[watcher.log],
    )
    print(f"\nlogins at hosts that hang: {before}, then {hosts.logins}")
    assert not have_had_their_turns()


def switches_of(each: Followed, watcher: WatcherProcess) -> list[dict[str, Any]]:
    """What the log says of each so far."""
    return [line for line in watcher.lines("switch") if line["cluster"] == each.keys.scope]


@contextmanager
def storm(bed: Bed, keys: Keys, between: Sequence[str]) -> Iterator[list[str]]:
    """The leader changes as often as etcd takes it; the last one is put in the list at the end."""
    over, led = Event(), list[str]()

    def change() -> None:
        with closing(Gateway(bed.etcd.endpoints[0])) as gateway:
            names = itertools.cycle(between)
            while not over.wait(0.005):
                gateway.delete(f"{keys.prefix}leader")
                led[:] = [next(names)]
                gateway.put(f"{keys.prefix}leader", *led)

    with ThreadPoolExecutor(1) as pool:
        changing = pool.submit(change)
        try:
            yield led
        finally:
            over.set()
        changing.result()


def test_a_storm_in_one_cluster_delays_no_other(
    bed: Bed, clusters: list[Followed], watcher: WatcherProcess
) -> None:
    stormy, calm = clusters
    ends = {name: stormy.keys.join(name) for name in ("gale", "gust")}

    def durations(count: int) -> list[float]:
        before = len(switches_of(calm, watcher))
        for number in range(count):
            calm.crown(f"next{number}", watcher)
        return [line["duration_ms"] for line in switches_of(calm, watcher)[before:]]

    undisturbed = durations(5)
    with storm(bed, stormy.keys, list(ends)) as led:
        disturbed = durations(15)
    assert (len(undisturbed), len(disturbed)) == (5, 15)
    assert len(switches_of(stormy, watcher)) > 15  # it was one
    print(f"\nmedian {median(undisturbed):.0f} ms, in a storm next door {median(disturbed):.0f} ms")
    assert median(disturbed) < 10 * median(undisturbed)  # behind each of those switches it would be more
    stormy.wait_until_led(ends[led[0]], watcher)


def test_a_reread_leaves_alone_what_has_not_changed(
    clusters: list[Followed], settings: Settings, watcher: WatcherProcess
) -> None:
    kept, changed = clusters
    sessions = {each.host.name: set(each.host.sshd.session_pids()) for each in clusters}
    watcher.rewrite({**settings, "clusters": [kept.section(), changed.section(resync_interval=5)]})
    watcher.process.send(signal.SIGHUP)
    watcher.wait_for_line("settings", saying=("read anew",))
    wait_for(
        lambda: not sessions[changed.host.name] & set(changed.host.sshd.session_pids()),
        LIMIT,
        "the changed cluster has connected anew",
        logs=[watcher.log],
    )
    assert sessions[kept.host.name] <= set(kept.host.sshd.session_pids())
    for each in clusters:
        each.crown("second", watcher)


def test_clusters_come_and_go_by_a_reread(
    clusters: list[Followed], settings: Settings, watcher: WatcherProcess
) -> None:
    left, gone = clusters
    watcher.rewrite({**settings, "clusters": [left.section()]})
    watcher.process.send(signal.SIGHUP)
    watcher.wait_for_line("settings", saying=("read anew",))
    left.crown("second", watcher)
    endpoint = gone.keys.crown("second")
    left.crown("third", watcher)
    assert file_route(gone.host) != endpoint
    assert watcher.get(f"/clusters/{gone.keys.scope}/status")[0] == 404
    watcher.rewrite(settings)
    watcher.process.send(signal.SIGHUP)
    gone.wait_until_led(endpoint, watcher)
    wait_for(lambda: watcher.get(f"/clusters/{gone.keys.scope}/status")[0] == 200, LIMIT, "its pages")


def test_a_target_that_is_moved_amid_a_hold_is_led_by_its_new_cluster_alone(
    clusters: list[Followed], settings: Settings, tmp_path: Path
) -> None:
    """Both trade theirs while one of them has no leader; that one's next must get nobody whom it has lost."""
    one, other = clusters
    settings = {**settings, "hold": {"on_crash": False}, "resync_interval": 1.0}
    with WatcherProcess(tmp_path, settings) as watcher:
        for each in clusters:
            each.wait_until_led(each.endpoint, watcher)
        one.keys.end_reign()
        watcher.wait_for_line("hold", target=one.host.name)
        traded = [
            one.section(targets=[ssh_target(other.host)]),
            other.section(targets=[ssh_target(one.host)]),
        ]
        watcher.rewrite({**settings, "clusters": traded})
        watcher.process.send(signal.SIGHUP)
        what = f"{one.host.name} is led to {other.endpoint}"
        wait_for(lambda: is_led(one.host, other.endpoint), LIMIT, what, logs=[watcher.log])
        time.sleep(1.5)  # whoever leaves would have looked by then, and think the file his own
        endpoint = one.keys.crown("anew")
        what = f"the file of {other.host.name} leads to {endpoint}, where nobody takes a login"
        wait_for(lambda: file_route(other.host) == endpoint, LIMIT, what, logs=[watcher.log])
        until = time.monotonic() + 2
        while time.monotonic() < until:
            assert file_route(one.host) == other.endpoint
            time.sleep(0.005)


def test_a_fault_in_one_cluster_changes_nothing(
    clusters: list[Followed], settings: Settings, watcher: WatcherProcess
) -> None:
    watcher.rewrite(
        {**settings, "clusters": [clusters[0].section(), clusters[1].section(resync_interval=-1)]}
    )
    watcher.process.send(signal.SIGHUP)
    line = watcher.wait_for_line("settings", saying=("stay as they were",))
    assert "clusters[1].resync_interval" in line["message"]
    for each in clusters:
        each.crown("second", watcher)


def test_groups_of_a_citus_cluster_are_followed_each_by_its_own_targets(bed: Bed, tmp_path: Path) -> None:
    groups = [Keys(bed.etcd, f"citus/{number}", "groups") for number in range(2)]
    ends = [keys.crown(f"first{number}") for number, keys in enumerate(groups)]
    common = settings_by_keys(bed, groups[0])
    sections = [
        {
            "cluster": {"scope": "citus", "group": number, "namespace": "groups", "ready_by": "leader_key"},
            "targets": [ssh_target(host)],
        }
        for number, host in enumerate(bed.bouncers)
    ]
    settings = {name: common[name] for name in ("etcd", "patroni", "hold", "log")} | {"clusters": sections}
    with WatcherProcess(tmp_path, settings) as watcher:
        for host, end in zip(bed.bouncers, ends, strict=True):
            wait_for(partial(is_led, host, end), LIMIT, f"{host.name} led to {end}", logs=[watcher.log])
        end = groups[1].crown("second")
        wait_for(partial(is_led, bed.bouncers[1], end), LIMIT, f"led to {end}", logs=[watcher.log])
        assert file_route(bed.bouncers[0]) == ends[0]
        assert watcher.get("/clusters/citus%2F1/targets/bouncer2")[0] == 200
        assert {line["cluster"] for line in watcher.lines("switch")} == {"citus/0", "citus/1"}


def test_pages_show_all_clusters_and_each(clusters: list[Followed], watcher: WatcherProcess) -> None:
    wait_for(lambda: watcher.get("/readyz")[0] == 200, LIMIT, "ready")
    code, overview = watcher.get("/")
    assert code == 200
    for each in clusters:
        scope, name = each.keys.scope, each.host.name
        assert f'href="clusters/{scope}/"' in overview
        assert name in watcher.get(f"/clusters/{scope}/")[1]
        assert watcher.get(f"/clusters/{scope}/targets/{name}")[0] == 200
        assert watcher.get(f"/targets/{name}")[0] == 200
    metrics = watcher.get("/metrics")[1]
    followed = set(re.findall(r'watcher_target_in_sync\{cluster="([^"]+)",target="[^"]+"\} 1.0', metrics))
    assert followed == {each.keys.scope for each in clusters}
    assert metrics.count("# TYPE watcher_target_in_sync gauge") == 1
    assert metrics.count("\nprocess_cpu_seconds_total ") == 1


def test_the_commands_know_one_cluster_and_all(
    clusters: list[Followed], settings: Settings, watcher: WatcherProcess
) -> None:
    wait_for(lambda: watcher.get("/readyz")[0] == 200, LIMIT, "ready")
    one, other = clusters
    config = ["--config", str(watcher.config)]
    all_of_them = run_watcher(["status", *config])
    assert all_of_them.returncode == 0, all_of_them.stderr
    assert all_of_them.stdout.startswith("Clients reach the primary of every cluster, 2 in all.")
    alone = run_watcher(["status", *config, "--cluster", one.keys.scope])
    assert f"cluster {one.keys.scope}:" in alone.stdout
    assert other.keys.scope not in alone.stdout
    history = run_watcher(["history", *config])
    for each in clusters:
        assert f"--- {each.keys.scope}" in history.stdout
        assert each.endpoint in history.stdout
    planned = run_watcher(["plan", *config])
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert [f"--- {each.keys.scope}" in planned.stdout for each in clusters] == [True, True]
    checked = run_watcher(["check-config", *config, "--cluster", other.keys.scope])
    assert checked.returncode == 0, checked.stdout
    assert "clusters passed" not in checked.stdout
    all_checked = run_watcher(["check-config", *config])
    assert all_checked.stdout.splitlines()[-1] == "2 of 2 clusters passed"
    paused = run_watcher(["pause", *config])
    assert paused.returncode == 2
    assert f"name one: {one.keys.scope}, {other.keys.scope}" in paused.stderr
    assert run_watcher(["pause", *config, "--cluster", one.keys.scope]).returncode == 0
    wait_for(lambda: run_watcher(["status", *config]).returncode == 4, LIMIT, "one is paused")
    other.crown("second", watcher)
    assert run_watcher(["resume", *config, "--cluster", one.keys.scope]).returncode == 0
    one.crown("second", watcher)
