"""`watcher barrier` as Patroni's `before_stop` on a real cluster: which stops wait, for whom, how long.

The barrier runs as it would be installed: one file, by Patroni's own Python, as user postgres. The watcher's
side is the real herald, told by the test what a watcher would have held.
"""

import itertools
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.etcd import EtcdCluster
from tests.support.etcd_gateway import KeyWatch
from tests.support.folders import bed_folder
from tests.support.install import PATRONI_VENV
from tests.support.patroni import Node, PatroniCluster
from tests.support.waiting import wait_for
from watcher import barrier
from watcher.expose.herald import Herald
from watcher.observe.etcd_access import EtcdAccess
from watcher.observe.etcd_client import EtcdClient

LIMIT = 8
SAID = "pgbouncer-watcher barrier: "
TARGETS = "pgbouncer-watcher/targets/"
STOPS = "pgbouncer-watcher/stop/"


@pytest.fixture(scope="module")
def cluster(installed: None) -> Iterator[PatroniCluster]:
    with bed_folder() as folder:
        program = Path(shutil.copy(barrier.__file__, folder))
        program.chmod(0o644)

        def with_barrier(node: Node) -> dict[str, dict[str, str]]:
            command = f"{PATRONI_VENV}/bin/python {program} --patroni-config {node.config_file}"
            return {"postgresql": {"before_stop": f"{command} --limit {LIMIT}"}}

        with (
            EtcdCluster(folder / "etcd", size=1) as etcd,
            PatroniCluster(folder / "pg", etcd, nodes=2, node_config=with_barrier) as patroni,
        ):
            yield patroni


@contextmanager
def announced(patroni: PatroniCluster, *targets: str) -> Iterator[Herald]:
    """A watcher's herald that serves these targets, and has said so."""
    access = EtcdAccess(tuple(patroni.etcd.endpoints))
    endpoints = itertools.cycle(access.parsed())
    herald = Herald(patroni.prefix, lambda wanted: EtcdClient(access, next(endpoints), wanted))
    stop = threading.Event()
    thread = threading.Thread(target=herald.run, args=(stop,), daemon=True)
    thread.start()
    try:
        for target in targets:
            herald.tell(target)
        keys = {f"{patroni.prefix}{TARGETS}{target}/{herald.watcher}" for target in targets}
        wait_for(
            lambda: keys == patroni.etcd.get_prefix(patroni.prefix + TARGETS).keys(), 10, "targets announced"
        )
        yield herald
    finally:
        stop.set()
        herald.nudge()
        thread.join(10)


@contextmanager
def heard(patroni: PatroniCluster) -> Iterator[KeyWatch]:
    with KeyWatch(patroni.etcd.endpoints[0], patroni.prefix) as keys:
        yield keys


def requests(keys: KeyWatch) -> list[str]:
    return [event.key for event in keys.events if event.key.startswith(STOPS) and event.value is not None]


class Said:
    """What barriers say in a node's log from now on."""

    def __init__(self, node: Node) -> None:
        self._log = node.log
        self._skip = len(self.lines(0))

    def lines(self, skip: int | None = None) -> list[str]:
        lines = self._log.read_text(errors="replace").splitlines()
        said = [line.partition(SAID)[2] for line in lines if SAID in line]
        return said[self._skip if skip is None else skip :]

    def wait(self) -> str:
        return wait_for(lambda: self.lines(), 30, "the barrier speaks", logs=[self._log])[0]


@contextmanager
def under_way(patroni: PatroniCluster, order: str) -> Iterator[tuple[Node, Said]]:
    """A stop of the leader in a thread, seen to its end: another leads, and all is well."""
    patroni.wait_for_replicas()
    old = patroni.wait_for_leader()
    said = Said(old)
    action = old.terminate if order == "shutdown" else lambda: str(patroni.switchover())
    thread = threading.Thread(target=action, name=order, daemon=True)
    thread.start()
    yield old, said
    thread.join(60)
    assert not thread.is_alive()
    patroni.wait_for_leader(other_than=old)
    patroni.launch()
    patroni.wait_for_replicas()


@pytest.mark.parametrize("order", ["switchover", "shutdown"])
def test_a_stop_of_the_leader_waits_until_every_target_is_held(cluster: PatroniCluster, order: str) -> None:
    with announced(cluster, "a", "b") as herald, heard(cluster) as keys:
        with under_way(cluster, order) as (old, said):
            request = json.loads(keys.wait_for(STOPS + old.name).value or "")
            assert request == {"id": request["id"], "member": old.name, "limit": LIMIT}
            herald.tell("a", request["id"])
            for _ in range(5):  # a second and more, in which PostgreSQL would long be gone
                old.sql("SELECT pg_sleep(0.2)")
            assert old.accepts_writes()
            assert said.lines() == []
            herald.tell("b", request["id"])
            assert said.wait().startswith("held after")
        assert said.wait().endswith(": a, b")


def test_a_stop_goes_on_at_its_limit_and_says_without_whom(cluster: PatroniCluster) -> None:
    with announced(cluster, "a", "deaf") as herald, heard(cluster) as keys:
        with under_way(cluster, "switchover") as (old, said):
            herald.tell("a", json.loads(keys.wait_for(STOPS + old.name).value or "")["id"])
        assert said.lines() == [f"the stop goes on without deaf: not held within {LIMIT} s"]


def test_without_a_watcher_a_stop_asks_nobody_and_does_not_wait(cluster: PatroniCluster) -> None:
    with heard(cluster) as keys:
        with under_way(cluster, "switchover") as (_, said):
            assert said.wait() == "nobody to ask: no watcher announces a target"
        assert requests(keys) == []


def test_a_stop_of_a_replica_concerns_nobody(cluster: PatroniCluster) -> None:
    (replica,) = cluster.wait_for_replicas()
    said = Said(replica)
    with announced(cluster, "a"), heard(cluster) as keys:
        assert replica.rest("/restart", "POST", {}, timeout=60)[0] == 200
        assert said.wait() == f"nothing to hold: {replica.name} does not lead"
        assert requests(keys) == []


def test_patroni_does_not_mind_the_keys_beside_its_own(cluster: PatroniCluster) -> None:
    with announced(cluster, "a", "b"):
        leader = cluster.wait_for_leader()
        cluster.etcd.put(f"{cluster.prefix}{STOPS}{leader.name}", "whatever")
        members = {member["name"] for member in json.loads(leader.rest("/cluster")[1])["members"]}
        assert members == {node.name for node in cluster.nodes}
        cluster.etcd.delete(f"{cluster.prefix}{STOPS}{leader.name}")
    assert "Traceback" not in "".join(node.log.read_text(errors="replace") for node in cluster.nodes)
