"""Each alert is caused on the real bed, and a real Prometheus sees that one fire, and no wrong one.

The rules are the project's own, with seconds in the place of minutes.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.runbook import CONFIG, Operator, commands
from tests.e2e.test_stage import (
    QUICK_ETCD,
    QUICK_PATRONI,
    Keys,
    at,
    is_led,
    settings_by_keys,
    stays,
    wait_until_led,
)
from tests.integration.test_alert_rules import NAMES
from tests.support.bed import Bed, BouncerHost
from tests.support.etcd import EtcdCluster
from tests.support.patroni import Node
from tests.support.processes import run
from tests.support.prometheus import Prometheus, quick
from tests.support.waiting import wait_for
from tests.support.watcher import Settings, WatcherProcess, settings_for, ssh_target

pytestmark = pytest.mark.long

SECONDS_FOR_MINUTES = {
    "failing_since_timestamp_seconds > 60": "failing_since_timestamp_seconds > 3",
    "last_success_timestamp_seconds < 60": "last_success_timestamp_seconds < 10",
    "held_since_timestamp_seconds > 40": "held_since_timestamp_seconds > 2",
    "[30m]))) > 5": "[30m]))) > 1",
    "corrections_total[15m]": "corrections_total[10s]",
}
PASSED = {"WatcherFlapping", "WatcherSwitchSlow", "WatcherTargetContested"}
"""They look back on a fault that is over by then, or that is over again as soon as the watcher has looked, so
Verification has nothing to deny.
"""
HOLD = {"enabled": True, "limit": 15.0, "announced_limit": 6.0}

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
        self.operator = Operator(bed, watcher, keys.prefix, bed.leader())
        self._met: set[str] = set()

    def lead(self, node: Node) -> None:
        """Another reign, by the keys."""
        self.keys.lead(node.name)
        self.operator.leader = node

    def expect(self, *alerts: str, or_also: tuple[str, ...] = ()) -> None:
        """These fire, within some seconds, and at that moment no other but perhaps those of `or_also`. Then
        every command of their runbooks' diagnosis ends as it says, and Verification denies that all is well.
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
                assert said.is_as_written, said
            assert alert in PASSED or not self.operator.is_well(alert), alert
        self._met |= wanted

    def mend(self, alert: str) -> None:
        """What its runbook says."""
        for said in self.operator.follow(alert, "Mitigation"):
            assert said.is_as_written, said

    def expect_none(self, but: str = "") -> None:
        """Whatever fired has ended, but perhaps for one that looks back on it, and everything that the
        runbooks say of that is so.
        """
        wait_for(lambda: self.prometheus.firing() <= {but}, 25, "nothing fires", logs=[self.watcher.log])
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
        if well:
            wait_for(lambda: not prometheus.firing(), 15, "nothing fires", logs=[watcher.log])
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
        join(keys, node)
    keys.lead(bed.leader().name)
    return keys


def join(keys: Keys, node: Node) -> None:
    """The node's member key."""
    keys.join(node.name, f"postgres://{at(node)}/postgres", api_url=f"{node.api_url}/patroni")


def other_node(bed: Bed) -> Node:
    """A member that does not lead."""
    return next(node for node in bed.patroni.nodes if node.name != bed.leader().name)


# --- faults -------------------------------------------------------------------------------------------


def test_a_target_whose_sshd_dies_before_a_switch(scene: Scene) -> None:
    lost, other = scene.bed.bouncers
    lost.sshd.kill()
    try:
        scene.expect("WatcherTargetFailing")
        node = other_node(scene.bed)
        scene.lead(node)
        scene.watcher.wait_for_line("switch", target=other.name, leader=node.name)
        scene.expect(
            "WatcherTargetOutOfSync",
            "WatcherTargetFailing",
            "WatcherTargetsDisagree",
            or_also=("WatcherLeaderDiffers",),  # than Patroni's metrics: the leader is one of our own making
        )
    finally:
        lost.sshd.start()
    scene.lead(scene.bed.leader())
    scene.expect_none()


def test_a_leader_that_goes_and_does_not_come_back(scene: Scene) -> None:
    scene.keys.end_reign()
    scene.expect("WatcherNoLeader", "WatcherHeldTooLong")
    scene.mend("WatcherHeldTooLong")
    told = {"WatcherNoLeader"}, {"WatcherNoLeader", "WatcherHoldGivenUp"}  # the limit may have been faster
    wait_for(lambda: scene.prometheus.firing() in told, 10, "nobody waits any more")
    scene.lead(scene.bed.leader())
    scene.expect_none(but="WatcherHoldGivenUp")


def test_a_leader_whose_address_cannot_be_used(scene: Scene) -> None:
    leader = scene.bed.leader()
    scene.keys.join(leader.name, "postgres://:5432/postgres", api_url=f"{leader.api_url}/patroni")
    scene.expect("WatcherLeaderUnusable", "WatcherHeldTooLong")
    scene.expect("WatcherLeaderUnusable", "WatcherHoldGivenUp")
    join(scene.keys, leader)
    scene.expect_none(but="WatcherHoldGivenUp")


def test_a_paused_cluster_whose_leader_dies(bed: Bed, tmp_path: Path) -> None:
    """Patroni promotes nobody by itself then; the runbook's own command makes it."""
    leader, others = bed.leader(), [node for node in bed.patroni.nodes if node.name != bed.leader().name]
    bed.patroni.pause()
    with scene_of(bed, tmp_path, settings_for(bed), Keys(bed.etcd, bed.patroni.scope, "service")) as scene:
        scene.operator.places["NODE"] = others[0].name
        leader.kill()
        scene.expect("WatcherNoLeader", or_also=("WatcherHeldTooLong", "WatcherHoldGivenUp"))
        scene.mend("WatcherNoLeader")
        scene.operator.leader = bed.patroni.wait_for_leader(other_than=leader)
        scene.expect_none(but="WatcherHoldGivenUp")


def test_a_pgbouncer_that_is_dead(scene: Scene) -> None:
    scene.bed.bouncers[0].pgbouncer.kill()
    scene.expect("WatcherTargetOutOfSync", "WatcherTargetFailing", or_also=("WatcherTargetCannotHold",))
    scene.bed.bouncers[0].pgbouncer.start()
    scene.expect_none()


def test_a_pgbouncer_is_led_by_hand_as_the_runbook_says(scene: Scene) -> None:
    """To the real primary, while the keys name another, so that a watcher that interferes would be seen."""
    host, primary, wrong = scene.bed.bouncers[0], scene.bed.leader(), other_node(scene.bed)
    scene.lead(wrong)
    wait_until_led(scene.bed.bouncers, at(wrong), scene.watcher)
    scene.operator.leader = primary
    *steps, resume = commands("README", "Lead a PgBouncer by hand")
    for step in steps:
        said = scene.operator.say(step)
        assert said.is_as_written, said
    assert is_led(host, at(primary))
    scene.expect("WatcherTargetOutOfSync", "WatcherPaused", or_also=("WatcherLeaderDiffers",))
    stays(lambda: is_led(host, at(primary)), 2, "the watcher keeps off")
    assert scene.operator.say(resume).code == 0
    wait_until_led(scene.bed.bouncers, at(wrong), scene.watcher)
    wait_for(lambda: led_back(scene, host) == 1, 10, "it tells that it led it back")
    assert corrections(scene) == 0
    scene.lead(primary)
    scene.expect_none()


def led_back(scene: Scene, host: BouncerHost) -> int:
    """How often the watcher led it to where its keys say, but for the first time."""
    return len([line for line in scene.watcher.lines("switch") if line["target"] == host.name]) - 1


def corrections(scene: Scene) -> float | None:
    """All that the watcher has counted."""
    return scene.prometheus.value("sum(watcher_corrections_total)")


def test_a_hand_edit_and_a_failover_count_as_documented_and_fire_nothing(scene: Scene) -> None:
    edit, reload, _ = commands("README", "Lead a PgBouncer by hand")[3:6]
    scene.operator.leader = other_node(scene.bed)
    for step in (edit, reload):
        assert scene.operator.say(step).is_as_written
    line = scene.watcher.wait_for_line("corrected", target=scene.bed.bouncers[0].name)
    assert (line["level"], line["before"]) == ("WARNING", at(other_node(scene.bed)))
    wait_for(lambda: corrections(scene) == 1, 10, "it is counted")
    for node in (other_node(scene.bed), scene.bed.leader()):
        scene.lead(node)
        wait_until_led(scene.bed.bouncers, at(node), scene.watcher)
    stays(lambda: "WatcherTargetContested" not in scene.prometheus.firing(), 4, "nothing is contested")
    assert corrections(scene) == 1
    scene.expect_none()


def test_two_watchers_whose_addresses_differ_lead_one_pgbouncer_by_turns(bed: Bed, tmp_path: Path) -> None:
    keys, contested = real_keys(bed), bed.bouncers[0]
    right = {node.name: at(node) for node in bed.patroni.nodes}
    wrong = {**right, bed.leader().name: at(other_node(bed))}

    def settings(addresses: dict[str, str], *hosts: BouncerHost) -> Settings:
        cluster = {"connect_via": "addresses", "addresses": addresses}
        targets = [ssh_target(host) for host in hosts]
        return settings_by_keys(bed, keys, cluster=cluster, targets=targets, resync_interval=0.5)

    with (
        scene_of(bed, tmp_path, settings(right, *bed.bouncers), keys) as scene,
        WatcherProcess(tmp_path, settings(wrong, contested), "other") as other,
    ):
        scene.expect("WatcherTargetContested")
        assert {line["target"] for line in scene.watcher.lines("corrected")} == {contested.name}
        for watcher, theirs in ((scene.watcher, wrong), (other, right)):
            line = watcher.wait_for_line("corrected", saying=["another watcher of this cluster"])
            assert line["before"] == theirs[bed.leader().name]
        operator = Operator(bed, other, keys.prefix, bed.leader())
        history, journal, block, logged_in, in_force = operator.follow("WatcherTargetContested", "Diagnosis")
        for said in (history, journal):
            assert f"led it to {right[bed.leader().name]}" in said.output
            assert "of the same leader and revision as ours" in said.output
        assert "led back: its stamp" in history.output
        assert ";; watcher: " in block.output
        assert logged_in.output.count(f"{contested.sshd.address}:{contested.sshd.port} ") >= 2
        assert wrong[bed.leader().name] in in_force.output
        other.rewrite(settings(right, contested))
        before = len(other.lines("settings"))
        for said in operator.follow("WatcherTargetContested", "Mitigation"):
            assert said.is_as_written, said
        other.wait_for_line("settings", after=before)
        wait_until_led(bed.bouncers, at(bed.leader()), scene.watcher)
        told = len(scene.watcher.lines("corrected")), len(other.lines("corrected"))
        scene.expect_none()
        assert (len(scene.watcher.lines("corrected")), len(other.lines("corrected"))) == told


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
    """No agent that holds is let in: the route is looked after, and nobody could be held."""
    sshd = scene.bed.bouncers[0].sshd
    sshd.refuse_holds()
    sshd.kill_sessions()
    scene.expect("WatcherTargetCannotHold", or_also=("WatcherTargetFailing",))
    wait_for(lambda: scene.prometheus.firing() == {"WatcherTargetCannotHold"}, 25, "it alone fires")
    sshd.authorize()
    scene.watcher.process.send(signal.SIGHUP)
    scene.expect_none()


def test_a_key_that_names_another_than_patronis_primary(scene: Scene) -> None:
    scene.lead(other_node(scene.bed))
    scene.expect("WatcherLeaderDiffers")
    scene.lead(scene.bed.leader())
    scene.expect_none()


def test_a_leader_that_changes_again_and_again_and_slowly(scene: Scene) -> None:
    leader, other = scene.bed.leader().name, other_node(scene.bed).name
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
    told_before = ("WatcherLeaderDiffers", "WatcherTargetOutOfSync")  # while the hosts were frozen
    scene.expect("WatcherFlapping", "WatcherSwitchSlow", or_also=told_before)


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


def test_an_etcd_of_the_other_site_that_is_silent(bed: Bed, service_folder: Path, tmp_path: Path) -> None:
    keys = real_keys(bed)
    keys.put("config", '{"ttl": 20}')
    with EtcdCluster(service_folder / "etcd", 1) as etcd:
        there = Keys(etcd, keys.scope)
        there.crown("there1")
        heard = {"endpoints": etcd.endpoints, **QUICK_ETCD}
        other_site = {"etcd": heard, "namespace": there.namespace}
        cluster = {"standby": "other_site", "other_site": other_site}
        settings = settings_by_keys(bed, keys, cluster=cluster)
        with scene_of(bed, tmp_path, settings, keys) as scene:
            scene.operator.places["10.1.0.11:2379"] = etcd.endpoints[0]
            etcd.freeze()
            scene.expect("WatcherOtherSiteUnheard")
            etcd.thaw()
            scene.expect_none()


def test_a_certificate_that_is_about_to_expire(bed: Bed, tmp_path: Path) -> None:
    keys, authority = real_keys(bed), tmp_path / "ca.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=ca", "-days", "7"]
    run([*made, "-keyout", tmp_path / "ca.key", "-out", authority])
    settings = settings_by_keys(bed, keys, patroni={"nodes": [], "tls": {"ca": str(authority)}})
    with scene_of(bed, tmp_path, settings, keys, well=False) as scene:
        scene.operator.places["/etc/pgbouncer-watcher/etcd-ca.pem"] = str(authority)
        scene.expect("WatcherCertificateExpiring")
        run([*made[:-1], "365", "-keyout", tmp_path / "ca.key", "-out", authority])
        scene.expect_none()


def test_two_clusters_of_one_scope_are_kept_apart_by_an_environment(bed: Bed, tmp_path: Path) -> None:
    with ExitStack() as stack:
        watchers = []
        for host in bed.bouncers:
            keys = Keys(bed.etcd, "main")
            settings = settings_by_keys(bed, keys, targets=[ssh_target(host)])
            watcher = stack.enter_context(WatcherProcess(tmp_path, settings, host.name))
            wait_until_led([host], keys.crown(f"leader-of-{host.name}"), watcher)
            watchers.append(watcher.http)
        mixed = stack.enter_context(Prometheus(tmp_path / "mixed", watchers, rules=quick_rules))
        environments = {watchers[1]: "staging"}
        kept_apart = stack.enter_context(
            Prometheus(tmp_path / "apart", watchers, rules=quick_rules, environments=environments)
        )
        mixed.wait_for_firing("WatcherTargetsDisagree")
        assert kept_apart.firing() == set()
        names = {row["metric"]["cluster"] for row in kept_apart.query("watcher_target_leader_info")}
        assert names == {"main", "staging/main"}


def test_every_alert_was_caused() -> None:
    assert caused == set(NAMES)
