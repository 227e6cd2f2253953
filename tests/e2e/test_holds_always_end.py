"""What an adversary tried on a hold: it ends all the same, and whom it does not concern is not held."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.e2e.test_stage import Keys, stays
from tests.support.etcd import EtcdCluster
from tests.support.folders import bed_folder
from tests.support.postgres import Postgres
from tests.support.stage import Ground, PauseWitness, Stage
from tests.support.waiting import wait_for
from tests.support.watcher import WatcherProcess

LIMIT = 3.0
SLACK = 2.5  # an agent that is frozen counts as dead some time after its deadline
SECONDS = 15.0


@pytest.fixture(scope="module")
def ground(installed: None) -> Iterator[Ground]:
    with bed_folder() as folder, Ground(folder) as ground:
        yield ground


@pytest.fixture
def stage(ground: Ground) -> Iterator[Stage]:
    for server in ground.servers.values():
        if not server.is_alive():
            server.start()
    with Stage(ground, 0) as stage:
        stage.reset()
        yield stage
        for agent in stage.agents():
            with suppress(psutil.NoSuchProcess):
                agent.kill()


@pytest.fixture
def keys(ground: Ground) -> Keys:
    return led_by(ground.etcd, "a")


def led_by(etcd: EtcdCluster, name: str) -> Keys:
    keys = Keys(etcd)
    for member in "ab":
        keys.join(member)
    keys.lead(name)
    return keys


@contextmanager
def watching(stage: Stage, keys: Keys, folder: Path, name: str = "watcher") -> Iterator[WatcherProcess]:
    ground = stage.ground
    addresses = {member: ground.endpoint(member) for member in "ab"}
    settings: dict[str, Any] = {
        "cluster": {
            "scope": keys.scope,
            "ready_by": "leader_key",
            "connect_via": "addresses",
            "addresses": addresses,
        },
        "etcd": {"endpoints": ground.etcd.endpoints},
        "targets": [stage.target("ssh")],
        "hold": {"limit": LIMIT, "announced_limit": LIMIT},
        "retry": {"first": 0.1, "limit": 0.3},
        "log": {"format": "json"},
    }
    with WatcherProcess(folder, settings, name) as watcher:
        watcher.wait_for_line("in_sync")
        yield watcher


def test_a_hold_ends_although_its_agent_is_frozen(stage: Stage, keys: Keys, tmp_path: Path) -> None:
    """Nobody but the next agent can end it, and that sees by the record that its time is over."""
    with watching(stage, keys, tmp_path):
        keys.end_reign()
        wait_for(stage.is_paused, SECONDS, "clients wait")
        for agent in stage.agents("hold"):
            agent.send_signal(signal.SIGSTOP)
        wait_for(lambda: not stage.is_paused(), LIMIT + SLACK, "clients go on")
        stays(lambda: not stage.is_paused(), 2.0, "they go on")


def test_a_hold_ends_although_its_watcher_and_its_agent_are_frozen_and_another_watcher_gives_up(
    stage: Stage, keys: Keys, tmp_path: Path
) -> None:
    with watching(stage, keys, tmp_path, "frozen") as frozen:
        wait_for(lambda: stage.agents("hold"), SECONDS, "its agent is there")
        agents = stage.agents("hold")
        with watching(stage, keys, tmp_path, "other") as other:
            keys.end_reign()
            for watcher in (frozen, other):
                watcher.wait_for_line("hold")
            frozen.process.freeze()
            for agent in agents:
                agent.suspend()
            try:
                wait_for(lambda: not stage.is_paused(), LIMIT + SLACK, "clients go on")
                stays(lambda: not stage.is_paused(), 2.0, "they go on")
            finally:
                for agent in agents:
                    agent.resume()
                frozen.process.thaw()


@pytest.mark.parametrize("apart", [0.0, 0.1, 0.3])
def test_a_hold_goes_on_over_settings_that_are_read_anew_twice_in_a_row(
    stage: Stage, keys: Keys, tmp_path: Path, apart: float
) -> None:
    """The first successor has not found out yet that the primary refuses when it is replaced itself."""
    server = stage.ground.servers["a"]
    with watching(stage, keys, tmp_path) as watcher, PauseWitness(stage.pgbouncer) as witness:
        wait_for(lambda: _is_watched(server), SECONDS, "the guard is there")
        server.kill()
        watcher.wait_for_line("hold")
        settings = yaml.safe_load(watcher.config.read_text())
        for interval in (11.0, 12.0):
            known = len(watcher.lines("settings"))
            watcher.rewrite({**settings, "resync_interval": interval})
            watcher.process.send(signal.SIGHUP)
            watcher.wait_for_line("settings", after=known, saying=["read anew"])
            time.sleep(apart)
        stays(lambda: witness.is_paused, 1.0, "clients wait")
        assert len(witness.pauses) == 1
        server.start()
        wait_for(lambda: not witness.is_paused, SECONDS, "clients go on")
    assert len(watcher.lines("hold")) == 1


def test_an_agent_whose_watcher_is_frozen_holds_nobody_whom_another_has_led_elsewhere(
    stage: Stage, keys: Keys, tmp_path: Path
) -> None:
    with watching(stage, keys, tmp_path, "frozen") as frozen:
        wait_for(lambda: _is_watched(stage.ground.servers["a"]), SECONDS, "the guard is there")
        frozen.process.freeze()
        try:
            with watching(stage, keys, tmp_path, "other"):
                keys.lead("b")
                led_to_b = stage.ground.endpoint("b")
                wait_for(lambda: stage.shown_route() == led_to_b, SECONDS, "b leads")
                wait_for(lambda: not stage.is_paused(), SECONDS, "clients go on")
                stage.ground.servers["a"].kill()
                stays(lambda: not stage.is_paused(), 2.0, "nobody is held")
        finally:
            frozen.process.thaw()


def _is_watched(server: Postgres) -> bool:
    """Whether somebody has a connection to it on which nothing was said."""
    connections = (one for one in psutil.net_connections("tcp") if one.raddr and one.status == "ESTABLISHED")
    return any(tuple(one.raddr) == (server.address, server.port) for one in connections)


def test_a_hold_that_was_ended_while_the_watcher_was_frozen_is_not_begun_again(
    stage: Stage, keys: Keys, tmp_path: Path
) -> None:
    with watching(stage, keys, tmp_path) as watcher:
        wait_for(lambda: _is_watched(stage.ground.servers["a"]), SECONDS, "the guard is there")
        watcher.process.freeze()
        stage.ground.servers["a"].kill()
        wait_for(stage.is_paused, SECONDS, "clients wait")
        wait_for(lambda: not stage.is_paused(), LIMIT + SLACK, "the agent ends it")
        watcher.process.thaw()
        watcher.wait_for_line("hold_ended")
        stays(lambda: not stage.is_paused(), 2.0, "nobody is held again")
