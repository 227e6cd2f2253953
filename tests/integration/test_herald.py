"""The herald on a real etcd: with the rights that docs/barrier.md gives it, and through etcd's troubles."""

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.etcd_follower import access_to
from tests.support.etcd import EtcdCluster, User
from tests.support.folders import bed_folder
from tests.support.proxy import Proxy
from tests.support.waiting import wait_for
from watcher.decide.errors import SourceError
from watcher.expose.herald import Herald
from watcher.observe.etcd_client import EtcdClient

P = "/service/demo/"
TARGETS = P + "pgbouncer-watcher/targets/"
MARGIN = 20.0


@pytest.fixture
def folder() -> Iterator[Path]:
    with bed_folder() as path:
        yield path


class Running:
    """A herald in a thread of its own."""

    def __init__(self, etcd: EtcdCluster, ttl: float = 15.0, **access: Any) -> None:
        self.states: list[tuple[bool, str]] = []
        self._etcd = etcd
        known = access_to(etcd, timeout=1.5, **access)
        endpoints = itertools.cycle(known.parsed())
        self.herald = Herald(
            P, lambda wanted: EtcdClient(known, next(endpoints), wanted), self._note, ttl=ttl, watcher="w1"
        )

    def _note(self, connected: bool, _: str, problem: SourceError | None) -> None:
        self.states.append((connected, problem.problem if problem else ""))

    @contextmanager
    def __call__(self) -> Iterator[Herald]:
        stop = threading.Event()
        thread = threading.Thread(target=self.herald.run, args=(stop,), daemon=True)
        thread.start()
        try:
            yield self.herald
        finally:
            stop.set()
            self.herald.nudge()
            thread.join(MARGIN)
            assert not thread.is_alive()

    def told(self) -> dict[str, str]:
        keys = self._etcd.get_prefix(TARGETS)
        return {key.split("/")[-2]: json.loads(value)["held_for"] for key, value in keys.items()}

    def comes_to(self, wanted: dict[str, str]) -> None:
        wait_for(lambda: self.told() == wanted, MARGIN, f"etcd says {wanted}, {self.states}")


def test_it_needs_to_write_below_its_own_prefix_and_no_more(folder: Path) -> None:
    with EtcdCluster(folder, size=1) as etcd:
        users = {"watcher": User("secret", [P], read_only=True)}
        etcd.enable_auth("root-password", users)
        running = Running(etcd, username="watcher", password="secret")
        running.herald.tell("a", "stop-1")
        with running():
            wait_for(lambda: running.states, MARGIN, "a refusal is told")
            assert running.states == [(False, "etcdserver: permission denied")]
            etcd.grant("watcher", P + "pgbouncer-watcher/")
            running.comes_to({"a": "stop-1"})
        assert running.told() == {}


def test_after_etcd_was_away_everything_is_told_anew(folder: Path) -> None:
    with EtcdCluster(folder, size=1) as etcd:
        running = Running(etcd, ttl=5)
        with running() as herald:
            herald.tell("a")
            running.comes_to({"a": ""})
            etcd.members[0].kill()
            herald.tell("a", "stop-1")
            wait_for(lambda: not running.states[-1][0], MARGIN, "the loss is told")
            etcd.start()
            running.comes_to({"a": "stop-1"})


def test_a_frozen_connection_is_given_up_and_another_member_told(folder: Path) -> None:
    with EtcdCluster(folder, size=1) as etcd, Proxy(etcd.endpoints[0]) as proxy:
        running = Running(etcd, endpoints=(proxy.endpoint, *etcd.endpoints))
        with running() as herald:
            herald.tell("a")
            running.comes_to({"a": ""})
            proxy.stall()
            herald.tell("a", "stop-1")
            running.comes_to({"a": "stop-1"})


def test_the_keys_of_a_watcher_that_died_go_by_themselves(folder: Path) -> None:
    with EtcdCluster(folder, size=1) as etcd:
        with Proxy(etcd.endpoints[0]) as proxy:
            running = Running(etcd, ttl=5, endpoints=(proxy.endpoint,))
            with running() as herald:
                herald.tell("a")
                running.comes_to({"a": ""})
                proxy.cut()
        assert running.told() == {"a": ""}
        running.comes_to({})
