"""Each alert is caused on the real bed, and a real Prometheus sees that one fire, and no wrong one.

The rules are the project's own, with seconds in the place of minutes.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.runbook import CONFIG, Operator
from tests.e2e.test_stage import QUICK_PATRONI, Keys, at, settings_by_keys, wait_until_led
from tests.integration.test_alert_rules import NAMES
from tests.support.bed import Bed
from tests.support.processes import run
from tests.support.prometheus import Prometheus, quick
from tests.support.waiting import wait_for
from tests.support.watcher import Settings, WatcherProcess

SECONDS_FOR_MINUTES = {
    "failing_since_timestamp_seconds > 60": "failing_since_timestamp_seconds > 3",
    "[30m]))) > 5": "[30m]))) > 1",
}
HOLD = {"enabled": True, "limit": 6.0, "announced_limit": 6.0}

caused: set[str] = set()


def quick_rules(text: str) -> str:
    """The rules with seconds in the place of minutes."""
    for minutes, seconds in SECONDS_FOR_MINUTES.items():
        assert minutes in text
        text = text.replace(minutes, seconds)
    return quick(text, hold="2s")


class Scene:
    """A watcher of the whole bed that follows keys, and the Prometheus that scrapes it."""

    def __init__(self, bed: Bed, keys: Keys, watcher: WatcherProcess, prometheus: Prometheus) -> None:
        self.bed = bed
        self.keys = keys
        self.watcher = watcher
        self.prometheus = prometheus
        self.operator = Operator(bed, watcher, keys.prefix)
        self._met: set[str] = set()

    def expect(self, *alerts: str, or_also: tuple[str, ...] = ()) -> None:
        """These fire, within some seconds, and at that moment no other but perhaps those of `or_also`; and
        every command of their runbooks' diagnosis works then.
        """
        wanted = set(alerts)
        wait_for(
            lambda: wanted <= self.prometheus.firing(),
            25,
            f"{wanted} fire",
            logs=[self.watcher.log],
        )
        firing = self.prometheus.firing()
        assert wanted <= firing <= wanted | set(or_also)
        caused.update(alerts)
        for alert in wanted - self._met:
            for said in self.operator.follow(alert, "Diagnosis"):
                assert said.output or said.command.startswith("systemctl"), said
        self._met |= wanted

    def mend(self, alert: str) -> None:
        """What its runbook says."""
        for said in self.operator.follow(alert, "Mitigation"):
            assert said.code == 0, said

    def expect_none(self) -> None:
        """Whatever fired has ended, and everything that the runbooks say of that is so."""
        wait_for(lambda: not self.prometheus.firing(), 25, "nothing fires", logs=[self.watcher.log])
        for alert in self._met:
            self.operator.verify(alert)


@contextmanager
def scene_of(bed: Bed, folder: Path, settings: Settings, keys: Keys, *, well: bool = True) -> Iterator[Scene]:
    """Once all is in sync, and, if `well`, nothing fires."""
    watcher = WatcherProcess(folder, settings)
    patronis = [f"{node.host}:8008" for node in bed.patroni.nodes]
    with watcher, Prometheus(folder / "prometheus", [watcher.http], patronis, quick_rules) as prometheus:
        wait_until_led(bed.bouncers, at(bed.leader()), watcher)
        wait_for(
            lambda: prometheus.value("min(watcher_target_in_sync)") == 1,
            15,
            "all is well",
            logs=[watcher.log],
        )
        assert prometheus.firing() == set() or not well
        yield Scene(bed, keys, watcher, prometheus)


@pytest.fixture
def scene(bed: Bed, tmp_path: Path) -> Iterator[Scene]:
    keys = real_keys(bed)
    settings = settings_by_keys(bed, keys, hold=HOLD)
    with scene_of(bed, tmp_path, settings, keys) as scene:
        yield scene


def real_keys(bed: Bed) -> Keys:
    """The bed's nodes under their own names, in keys of our own; the real leader leads."""
    keys = Keys(bed.etcd, bed.patroni.scope)
    for node in bed.patroni.nodes:
        keys.join(node.name, f"postgres://{at(node)}/postgres", api_url=f"{node.api_url}/patroni")
    keys.lead(bed.leader().name)
    return keys


def other_node(bed: Bed) -> str:
    """A member that does not lead."""
    return next(node.name for node in bed.patroni.nodes if node.name != bed.leader().name)


# --- faults -------------------------------------------------------------------------------------------


def test_a_target_whose_sshd_dies_before_a_switch(scene: Scene) -> None:
    lost, other = scene.bed.bouncers
    lost.sshd.kill()
    try:
        scene.expect("WatcherTargetFailing")
        name = other_node(scene.bed)
        scene.keys.lead(name)
        scene.watcher.wait_for_line("switch", target=other.name, leader=name)
        scene.expect(
            "WatcherTargetOutOfSync",
            "WatcherTargetFailing",
            "WatcherTargetsDisagree",
            or_also=("WatcherLeaderDiffers",),  # than Patroni's metrics: the leader is one of our own making
        )
    finally:
        lost.sshd.start()
    scene.keys.lead(scene.bed.leader().name)
    scene.expect_none()


def test_a_leader_that_goes_and_does_not_come_back(scene: Scene) -> None:
    scene.keys.end_reign()
    scene.expect("WatcherNoLeader", "WatcherHeldTooLong")
    scene.mend("WatcherHeldTooLong")
    scene.expect("WatcherNoLeader", "WatcherHoldGivenUp")
    scene.keys.lead(scene.bed.leader().name)
    wait_for(lambda: scene.prometheus.firing() == {"WatcherHoldGivenUp"}, 25, "that one stays for a while")


def test_a_watcher_that_dies(scene: Scene) -> None:
    scene.watcher.process.kill()
    scene.expect("WatcherDown")
    scene.mend("WatcherDown")
    scene.expect_none()


def test_a_watcher_that_is_paused_and_forgotten(scene: Scene) -> None:
    assert scene.operator.say(f"watcher pause --config {CONFIG} --why 'an upgrade'").code == 0
    scene.expect("WatcherPaused")
    scene.mend("WatcherPaused")
    scene.expect_none()


def test_settings_that_are_refused(scene: Scene) -> None:
    good = scene.watcher.config.read_text()
    scene.watcher.rewrite("cluster: [")
    scene.watcher.process.send(signal.SIGHUP)
    scene.expect("WatcherSettingsRefused")
    scene.watcher.rewrite(good)
    scene.mend("WatcherSettingsRefused")
    scene.expect_none()


def test_a_host_that_lets_nobody_be_held(scene: Scene) -> None:
    """sshd has room for two agents only: the route is looked after, and nobody could be held."""
    with scene.bed.bouncers[0].sshd.set_up("MaxSessions 2"):
        scene.expect("WatcherTargetCannotHold", or_also=("WatcherTargetFailing",))
        wait_for(lambda: scene.prometheus.firing() == {"WatcherTargetCannotHold"}, 25, "it alone fires")
    scene.expect_none()


def test_a_key_that_names_another_than_patronis_primary(scene: Scene) -> None:
    scene.keys.lead(other_node(scene.bed))
    scene.expect("WatcherLeaderDiffers")
    scene.keys.lead(scene.bed.leader().name)
    scene.expect_none()


def test_a_leader_that_changes_again_and_again_and_slowly(scene: Scene) -> None:
    leader, other = scene.bed.leader().name, other_node(scene.bed)
    for name in (other, leader, other, leader, other, leader):
        scene.keys.lead(name)
        scene.watcher.wait_for_line("switch", leader=name)
    for name in (other, leader):
        thawing = [threading.Timer(1.6, host.thaw) for host in scene.bed.bouncers]
        for host, timer in zip(scene.bed.bouncers, thawing, strict=True):
            host.freeze()
            timer.start()
        scene.keys.lead(name)
        for timer in thawing:
            timer.join()
        endpoint = at(next(node for node in scene.bed.patroni.nodes if node.name == name))
        wait_until_led(scene.bed.bouncers, endpoint, scene.watcher)
    scene.expect("WatcherFlapping", "WatcherSwitchSlow", or_also=("WatcherLeaderDiffers",))


def test_an_etcd_that_is_silent_and_then_nodes_that_are_too(bed: Bed, tmp_path: Path) -> None:
    keys = real_keys(bed)
    patroni = {"nodes": [node.api_url for node in bed.patroni.nodes], **QUICK_PATRONI}
    settings = settings_by_keys(bed, keys, patroni=patroni)
    with scene_of(bed, tmp_path, settings, keys) as scene:
        bed.etcd.freeze()
        try:
            scene.expect("WatcherEtcdUnheard", "WatcherFallbackInUse")
            for node in bed.patroni.nodes:
                node.freeze()
            scene.expect("WatcherEtcdUnheard", "WatcherBlind")
        finally:
            for node in bed.patroni.nodes:
                node.thaw()
            bed.etcd.thaw()
        scene.expect_none()
    bed.patroni.wait_for_replicas()


def test_a_certificate_that_is_about_to_expire(bed: Bed, tmp_path: Path) -> None:
    keys, authority = real_keys(bed), tmp_path / "ca.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=ca", "-days", "7"]
    run([*made, "-keyout", tmp_path / "ca.key", "-out", authority])
    settings = settings_by_keys(bed, keys, patroni={"nodes": [], "tls": {"ca": str(authority)}})
    with scene_of(bed, tmp_path, settings, keys, well=False) as scene:
        scene.expect("WatcherCertificateExpiring")


def test_every_alert_was_caused() -> None:
    assert caused == set(NAMES)
