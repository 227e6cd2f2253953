"""Holds that keys bring about by the test's own hand, on a real PostgreSQL: false alarms, limits, operators.

Nobody reacts to these keys but the watcher, so that they stay as the test wants them. Two endpoints lead to
the same primary, the second through a proxy: a change of leader in no time, which loses no row.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pg8000.exceptions
import pg8000.native
import pytest

from tests.e2e.hold_stage import (
    configs,
    failures,
    held_seconds,
    never_held,
    reasons,
    wait_for_configs,
    wait_until_held,
    wait_until_released,
)
from tests.e2e.test_stage import Keys, at, is_led, settings_by_keys, settled, stays, wait_until_led
from tests.support.bed import Bed, BouncerHost
from tests.support.crowd import Crowd, said
from tests.support.etcd import EtcdCluster
from tests.support.patroni import Node
from tests.support.proxy import Proxy
from tests.support.waiting import wait_for
from tests.support.watcher import WatcherProcess

ANNOUNCED_LIMIT = 1.5
LIMIT = 2.5
SLACK = 1.0  # seconds by which a hold may outlast its limit on a busy machine
LONGER = 1.0  # how much longer than a limit it is watched that nobody is held again
HOLD = {"limit": LIMIT, "announced_limit": ANNOUNCED_LIMIT}
PATIENT = {"limit": 20.0, "announced_limit": 10.0}
NOTHING = "{}"
MANY = 50  # of the primary's hundred connections, at least so many are free before a test takes them


@dataclass(frozen=True)
class Scene:
    """A watcher that follows `keys`, whose leader is `direct`, and clients on every PgBouncer."""

    bed: Bed
    keys: Keys
    watcher: WatcherProcess
    clients: Crowd
    proxy: Proxy
    primary: Node

    @property
    def hosts(self) -> list[BouncerHost]:
        """All PgBouncers."""
        return self.bed.bouncers

    def announce(self, leader: str = "direct") -> None:
        """A switchover away from the leader is asked for."""
        self.keys.put("failover", json.dumps({"leader": leader, "member": None}))
        wait_until_held(self.watcher, self.hosts, "announced")

    def switch(self) -> None:
        """The proxy becomes the leader's address."""
        self.keys.lead("proxied")
        wait_until_led(self.hosts, self.proxy.endpoint, self.watcher)

    def wait_until_released(self) -> None:
        """Until nobody waits any more."""
        wait_until_released(self.watcher, self.hosts)

    def assert_well(self) -> None:
        """Everybody goes on, and nobody has ever failed."""
        self.clients.settle(time.monotonic())
        assert failures(self.clients) == []


@contextmanager
def _scene(bed: Bed, folder: Path, keys: Keys | None = None, **sections: Any) -> Iterator[Scene]:
    keys, primary = keys or Keys(bed.etcd), bed.leader()
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(at(primary)))
        keys.join("direct", f"postgres://{at(primary)}/postgres")
        keys.join("proxied", f"postgres://{proxy.endpoint}/postgres")
        keys.lead("direct")
        settings = settings_by_keys(bed, keys, **{"hold": HOLD, **sections})
        watcher = stack.enter_context(WatcherProcess(folder, settings))
        settled(watcher, bed, at(primary))
        clients = stack.enter_context(Crowd(bed.folder, bed.bouncers))
        yield Scene(bed, keys, watcher, clients, proxy, primary)


@pytest.fixture
def scene(bed: Bed, tmp_path: Path) -> Iterator[Scene]:
    with _scene(bed, tmp_path) as scene:
        yield scene


@pytest.fixture
def patient(bed: Bed, tmp_path: Path) -> Iterator[Scene]:
    """With limits that no test reaches."""
    with _scene(bed, tmp_path, hold=PATIENT) as scene:
        yield scene


# --- false alarms -----------------------------------------------------------------------------------


def test_an_announcement_that_is_withdrawn_costs_a_moment_and_no_error(patient: Scene) -> None:
    before = configs(patient.hosts)
    patient.announce()
    patient.keys.put("failover", NOTHING)
    patient.wait_until_released()
    patient.assert_well()
    for host in patient.hosts:
        assert reasons(patient.watcher, host) == ["announced"]
        assert held_seconds(patient.watcher, host)[0] < PATIENT["announced_limit"]
    wait_for_configs(patient.hosts, before)


def test_an_announcement_that_nothing_follows_holds_for_its_limit_and_not_again(scene: Scene) -> None:
    scene.announce()
    scene.wait_until_released()
    stays(lambda: len(scene.watcher.lines("hold")) == 2, LONGER, "nobody is held again")
    scene.assert_well()
    for host in scene.hosts:
        (seconds,) = held_seconds(scene.watcher, host)
        assert seconds < ANNOUNCED_LIMIT + SLACK


def test_an_announcement_for_later_holds_nobody_before_its_time(scene: Scene) -> None:
    later = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() + 3600))
    scene.keys.put("failover", f'{{"leader": "direct", "member": null, "scheduled_at": "{later}"}}')
    never_held(scene.watcher, scene.hosts, 1.0)
    scene.assert_well()


def test_a_leader_key_that_ends_while_patroni_is_paused_holds_nobody(scene: Scene) -> None:
    scene.keys.put("config", '{"pause": true, "ttl": 20}')
    scene.keys.end_reign()
    scene.watcher.wait_for_line("wish", reason="no_leader")
    never_held(scene.watcher, scene.hosts, 1.0)
    scene.assert_well()


def test_a_guards_connection_that_is_lost_on_the_way_holds_nobody(bed: Bed, tmp_path: Path) -> None:
    """A middlebox between PgBouncer's host and PostgreSQL forgets what is idle."""
    with Proxy(at(bed.leader())) as middlebox:
        addresses = {"direct": middlebox.endpoint}
        cluster = {"connect_via": "addresses", "addresses": addresses}
        keys = Keys(bed.etcd)
        keys.lead("direct")
        settings = settings_by_keys(bed, keys, cluster=cluster, hold=HOLD)
        with WatcherProcess(tmp_path, settings) as watcher:
            settled(watcher, bed, middlebox.endpoint)
            with Crowd(bed.folder, bed.bouncers) as clients:
                for _ in range(3):
                    wait_for(middlebox.silent, 10, "the guards' connections are there")
                    assert middlebox.cut_silent() > 0
                    never_held(watcher, bed.bouncers, 0.5)
                clients.settle(time.monotonic())
                assert failures(clients) == []


# --- limits -----------------------------------------------------------------------------------------


def test_without_a_leader_clients_wait_for_the_limit_and_not_again_until_there_was_one(scene: Scene) -> None:
    scene.keys.end_reign()
    wait_until_held(scene.watcher, scene.hosts, "no_leader")
    scene.wait_until_released()
    stays(lambda: len(scene.watcher.lines("hold")) == 2, LONGER, "nobody is held again")
    for host in scene.hosts:
        (seconds,) = held_seconds(scene.watcher, host)
        assert LIMIT - SLACK < seconds < LIMIT + SLACK
    scene.switch()
    scene.announce("proxied")
    scene.wait_until_released()
    scene.assert_well()


def test_a_hold_ends_when_etcd_dies_in_the_middle_of_it(bed: Bed, tmp_path: Path) -> None:
    """The old primary still takes writes; nothing that anybody knows says that it does not."""
    with (
        EtcdCluster(tmp_path / "etcd", size=1) as etcd,
        _scene(bed, tmp_path, Keys(etcd), hold=PATIENT) as scene,
    ):
        scene.announce()
        etcd.members[0].kill()
        scene.wait_until_released()
        assert scene.watcher.lines("wish")[-1]["reason"] in ("blind", "fallback")
        scene.assert_well()


class Full(AbstractContextManager["Full"]):
    """Nobody can log in to the primary: every connection that it allows is taken, and each that gets free."""

    def __init__(self, primary: Node) -> None:
        self._primary = primary
        self._taken: list[pg8000.native.Connection] = []
        self._refused_at = self._taken_at = 0.0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._take_all, daemon=True) for _ in range(4)]

    def _take_all(self) -> None:
        host = self._primary.host
        while not self._over.is_set():
            try:
                self._taken.append(pg8000.native.Connection("postgres", host=host, database="postgres"))
                self._taken_at = time.monotonic()
            except (pg8000.exceptions.DatabaseError, pg8000.exceptions.InterfaceError, OSError):
                self._refused_at = time.monotonic()
                self._over.wait(0.01)

    def wait(self) -> None:
        """Until nobody has got in for a moment, from now on."""
        began = time.monotonic()
        wait_for(
            lambda: self._refused_at > max(began, self._taken_at) + 0.3, 20, "the primary is full", poll=0.1
        )
        assert len(self._taken) > MANY

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(10)
        for connection in self._taken:
            connection.close()


def test_clients_wait_until_the_new_primary_takes_logins(patient: Scene) -> None:
    with Full(patient.primary) as full:
        patient.announce()
        full.wait()
        patient.keys.lead("proxied")
        failed = patient.watcher.wait_for_line("failed", kind="PrimaryRefuses")
        assert "takes no login" in failed["message"]
        stays(lambda: all(host.pgbouncer.is_paused() for host in patient.hosts), 1.0, "everybody waits")
    patient.wait_until_released()
    assert all(is_led(host, patient.proxy.endpoint) for host in patient.hosts)
    patient.assert_well()


def test_clients_wait_for_a_new_primary_that_takes_no_logins_to_the_limit(scene: Scene) -> None:
    with Full(scene.primary) as full:
        scene.announce()
        full.wait()
        scene.keys.lead("proxied")
        scene.watcher.wait_for_line("failed", kind="PrimaryRefuses")
        scene.wait_until_released()
        for host in scene.hosts:
            assert max(held_seconds(scene.watcher, host)) < LIMIT + SLACK
    wait_until_led(scene.hosts, scene.proxy.endpoint, scene.watcher)
    scene.clients.settle(time.monotonic())


# --- an operator's own pause ------------------------------------------------------------------------
#
# A bare PAUSE breaks off the logins that are under way: whoever comes first after it may be turned away, by
# the operator's hand. So what is looked at is the pause itself, and the clients of the other PgBouncer.


def _resume(scene: Scene, paused: BouncerHost, other: BouncerHost) -> None:
    """The operator ends a bare pause: everybody goes on, and no other client has ever failed."""
    paused.pgbouncer.console("RECONNECT app")
    paused.pgbouncer.console("RESUME app")
    scene.clients.settle(time.monotonic())
    assert scene.clients.failures(on=other) == []


def test_an_operators_pause_before_a_switch_is_there_after_it(patient: Scene) -> None:
    paused, other = patient.hosts
    paused.pgbouncer.console("PAUSE app")
    patient.keys.put("failover", json.dumps({"leader": "direct", "member": None}))
    patient.watcher.wait_for_line("hold", target=other.name)
    patient.switch()
    patient.watcher.wait_for_line("release", target=other.name)
    stays(paused.pgbouncer.is_paused, 1.0, "the operator's pause")
    assert not other.pgbouncer.is_paused()
    _resume(patient, paused, other)


def test_an_operators_global_pause_during_a_hold_is_there_after_it(patient: Scene) -> None:
    paused, other = patient.hosts
    patient.announce()
    paused.pgbouncer.console("PAUSE")
    patient.switch()
    patient.watcher.wait_for_line("release", target=other.name)
    began = time.monotonic()
    time.sleep(1.0)
    assert patient.clients.waiting(began) == patient.clients.size // 2
    paused.pgbouncer.console("RESUME")
    patient.assert_well()


def test_an_operators_pause_after_a_switch_is_left_alone(patient: Scene) -> None:
    paused, other = patient.hosts
    patient.announce()
    patient.switch()
    patient.wait_until_released()
    patient.assert_well()
    paused.pgbouncer.console("PAUSE app")
    stays(paused.pgbouncer.is_paused, 1.0, "the operator's pause")
    patient.watcher.process.terminate(10)
    assert paused.pgbouncer.is_paused()
    _resume(patient, paused, other)


def test_an_operators_resume_during_a_hold_is_respected(patient: Scene) -> None:
    resumed, other = patient.hosts
    patient.announce()
    resumed.pgbouncer.console("RESUME app")
    stays(lambda: not resumed.pgbouncer.is_paused(), 2.5, "the operator's word")
    assert other.pgbouncer.is_paused()
    patient.switch()
    patient.wait_until_released()
    patient.clients.settle(time.monotonic())
    assert said(patient.clients.failures(other)) == []
    met = [one.error for one in patient.clients.failures(resumed)]
    assert all("server_login_retry" in error for error in met), met  # of a login that the RELOAD broke off
