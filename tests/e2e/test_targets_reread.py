"""Targets of one cluster come, go and change by a re-read of the settings; the others are left alone.

The leader is a cluster that consists of its keys, at the bed's real primary and at a proxy to it, so that
clients are held and released as ever.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.hold_stage import reasons, wait_until_held
from tests.e2e.test_stage import Keys, at, is_led, settings_by_keys, stays
from tests.support.bed import Bed, BouncerHost
from tests.support.hanging import HangingHosts
from tests.support.proxy import Proxy
from tests.support.waiting import wait_for
from tests.support.watcher import Settings, WatcherProcess, ssh_target

pytestmark = pytest.mark.long

LIMIT = 20.0
HOLD = {"enabled": True, "limit": 30.0}


@dataclass(frozen=True)
class Scene:
    """A watcher that has led `kept` to the leader; the other target has a file of its own, or none yet."""

    keys: Keys
    watcher: WatcherProcess
    settings: Settings
    kept: BouncerHost
    other: BouncerHost
    folder: Path
    old: str
    new: str

    def put(self, **changes: Any) -> None:
        """The file of the other target."""
        self.put_file(ssh_target(self.other, **changes))

    def put_file(self, target: Settings) -> None:
        """A file of its own."""
        (self.folder / f"{target['name']}.yaml").write_text(yaml.safe_dump(target))

    def remove(self) -> None:
        (self.folder / f"{self.other.name}.yaml").unlink()

    @contextmanager
    def no_logins_at_kept(self) -> Iterator[Callable[[], None]]:
        """Its sshd takes connections, and says nothing to them until it is let; sessions go on."""
        sshd = self.kept.sshd.pid
        os.kill(sshd, signal.SIGSTOP)
        try:
            yield lambda: os.kill(sshd, signal.SIGCONT)
        finally:
            os.kill(sshd, signal.SIGCONT)

    def reread(self) -> None:
        """And it is at work by what was read."""
        before = len(self.watcher.lines("settings"))
        self.watcher.process.send(signal.SIGHUP)
        self.watcher.wait_for_line("settings", after=before, saying=("read anew",))

    def wait_until_led(self, endpoint: str, *hosts: BouncerHost) -> None:
        for host in hosts:
            what = f"{host.name} leads to {endpoint}"
            wait_for(partial(is_led, host, endpoint), LIMIT, what, logs=[self.watcher.log])

    def wait_until_left(self, sessions: set[int]) -> None:
        """Until these sessions at the other host have ended."""
        host = self.other.sshd
        what = "its sessions end"
        wait_for(lambda: not sessions & set(host.session_pids()), LIMIT, what, logs=[self.watcher.log])


@pytest.fixture
def scene(bed: Bed, tmp_path: Path) -> Iterator[Scene]:
    keys, old, (kept, other) = Keys(bed.etcd), at(bed.leader()), bed.bouncers
    folder = tmp_path / "targets.d"
    folder.mkdir()
    (folder / f"{kept.name}.yaml").write_text(yaml.safe_dump(ssh_target(kept)))
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(old))
        keys.join("old", f"postgres://{old}/postgres")
        keys.join("new", f"postgres://{proxy.endpoint}/postgres")
        keys.lead("old")
        settings: Settings = settings_by_keys(bed, keys, hold=HOLD, stop_limit=1.0)
        del settings["targets"]
        settings["target_files"] = f"{folder}/*.yaml"
        watcher = stack.enter_context(WatcherProcess(tmp_path, settings))
        watcher.wait_for_line("in_sync", target=kept.name)
        yield Scene(keys, watcher, settings, kept, other, folder, old, proxy.endpoint)


def test_a_target_that_is_added_leaves_the_others_alone(scene: Scene) -> None:
    sessions = set(scene.kept.sshd.session_pids())
    scene.put()
    scene.reread()
    scene.watcher.wait_for_line("in_sync", target=scene.other.name)
    assert set(scene.kept.sshd.session_pids()) == sessions
    scene.keys.lead("new")
    scene.wait_until_led(scene.new, scene.kept, scene.other)
    assert set(scene.kept.sshd.session_pids()) == sessions
    assert scene.watcher.get(f"/targets/{scene.other.name}")[0] == 200


def test_a_hold_in_force_goes_on_over_a_re_read_that_adds_a_target(scene: Scene) -> None:
    scene.keys.end_reign()
    wait_until_held(scene.watcher, [scene.kept], "no_leader")
    wait_for(scene.kept.pgbouncer.is_paused, LIMIT, "clients wait")
    scene.put()
    scene.watcher.process.send(signal.SIGHUP)
    stays(scene.kept.pgbouncer.is_paused, 1.0, "clients wait")
    wait_until_held(scene.watcher, [scene.other], "no_leader")
    scene.keys.put("leader", "new")
    scene.wait_until_led(scene.new, scene.kept, scene.other)
    assert len(reasons(scene.watcher, scene.kept)) == 1


def _logins(host: BouncerHost) -> int:
    return host.sshd.log.read_text().count("Accepted publickey")


@pytest.mark.parametrize("what", ["target", "cluster"])
def test_a_hold_goes_on_until_the_successor_is_there_though_other_hosts_hang_before_it(
    scene: Scene, what: str
) -> None:
    """It gets its turn to log in long after `stop_limit`."""
    scene.keys.end_reign()
    wait_until_held(scene.watcher, [scene.kept], "no_leader")
    wait_for(scene.kept.pgbouncer.is_paused, LIMIT, "clients wait")
    before = _logins(scene.kept)
    with HangingHosts(12) as hosts, scene.no_logins_at_kept() as let_in:
        for target in hosts.targets(ssh_target(scene.kept)):
            scene.put_file(target)
        if what == "target":
            scene.put_file(ssh_target(scene.kept, step_timeout=4.0))
        else:
            scene.watcher.rewrite({**scene.settings, "resync_interval": 5.0})
        scene.watcher.process.send(signal.SIGHUP)
        wait_for(lambda: sum(hosts.logins) >= 4, LIMIT, "as many hang as may", logs=[scene.watcher.log])
        let_in()
        while _logins(scene.kept) == before:  # the successor's is the next
            stays(scene.kept.pgbouncer.is_paused, 0.1, "clients wait")
            assert min(hosts.logins) < 3, "each of the others was logged in to three times"
    stays(scene.kept.pgbouncer.is_paused, 1.0, "clients wait")
    scene.keys.put("leader", "new")
    scene.wait_until_led(scene.new, scene.kept)
    scene.watcher.wait_for_line("release", target=scene.kept.name)
    told = [line["event"] for line in scene.watcher.lines() if line.get("target") == scene.kept.name]
    assert [event for event in told if event in ("hold", "release", "hold_ended")] == ["hold", "release"]


def test_a_target_that_is_removed_is_let_go_of_and_its_clients_go_on(scene: Scene) -> None:
    scene.put()
    scene.reread()
    scene.watcher.wait_for_line("in_sync", target=scene.other.name)
    kept, gone = (set(host.sshd.session_pids()) for host in (scene.kept, scene.other))
    scene.keys.end_reign()
    wait_until_held(scene.watcher, [scene.kept, scene.other], "no_leader")
    scene.remove()
    scene.reread()
    scene.wait_until_left(gone)
    wait_for(lambda: not scene.other.pgbouncer.is_paused(), LIMIT, "its clients go on")
    assert scene.kept.pgbouncer.is_paused()
    scene.keys.put("leader", "new")
    scene.wait_until_led(scene.new, scene.kept)
    assert is_led(scene.other, scene.old)
    assert set(scene.kept.sshd.session_pids()) == kept
    assert scene.watcher.get(f"/targets/{scene.other.name}")[0] == 404
    assert f'target="{scene.other.name}"' not in scene.watcher.get("/metrics")[1]


def test_a_target_that_has_changed_is_connected_anew_and_alone(scene: Scene) -> None:
    scene.put()
    scene.reread()
    scene.watcher.wait_for_line("in_sync", target=scene.other.name)
    kept, changed = (set(host.sshd.session_pids()) for host in (scene.kept, scene.other))
    scene.put(step_timeout=4.0)
    scene.reread()
    scene.wait_until_left(changed)
    scene.keys.lead("new")
    scene.wait_until_led(scene.new, scene.kept, scene.other)
    assert set(scene.kept.sshd.session_pids()) == kept


def test_a_fault_in_one_file_changes_nothing(scene: Scene) -> None:
    scene.put(via="lokal")
    scene.watcher.process.send(signal.SIGHUP)
    line = scene.watcher.wait_for_line("settings", saying=("stay as they were",))
    assert "targets[1].via" in line["message"]
    scene.keys.lead("new")
    scene.wait_until_led(scene.new, scene.kept)
