"""The REST side against real Patroni, of today and of Debian's 3.0.2, which says «master»."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.etcd_follower import Follower, access_to
from tests.support.etcd import EtcdCluster
from tests.support.patroni import PatroniCluster
from tests.support.waiting import wait_for
from watcher.decide.decision import Policy, ReadyBy
from watcher.decide.model import Endpoint, HealthRound, Readiness, Role, Verdict
from watcher.decide.readiness import wanted
from watcher.decide.view import fold
from watcher.observe.etcd import Reason
from watcher.observe.health_probe import HealthProbe
from watcher.observe.patroni_rest import PatroniRest
from watcher.observe.postgres import Postgres, SqlLogin
from watcher.observe.readiness import ReadinessProbe

pytestmark = pytest.mark.long


@pytest.fixture(params=["4", "debian"])
def cluster(
    request: pytest.FixtureRequest, service_folder: Path
) -> Iterator[tuple[EtcdCluster, PatroniCluster]]:
    with (
        EtcdCluster(service_folder / "etcd", size=1) as etcd,
        PatroniCluster(service_folder / "patroni", etcd, nodes=2, version=request.param) as patroni,
    ):
        patroni.wait_for_replicas()
        yield etcd, patroni


def look(patroni: PatroniCluster) -> HealthRound:
    names = {node.api_url: node.name for node in patroni.nodes}
    probe = HealthProbe(
        PatroniRest("demo"), lambda: names, lambda _: None, needs_conn=lambda _: True, names=lambda: names
    )
    return probe.look_once()


class Reader(Follower):
    """Follows etcd and asks new leaders, as the watcher does; `ready` are the reigns seen ready, and when."""

    def __init__(self, etcd: EtcdCluster, by: ReadyBy) -> None:
        self._wake = threading.Event()
        super().__init__(access_to(etcd), lambda _: self._wake.set())
        self.answers: list[Readiness] = []
        self._policy = Policy(ready_by=by)
        self._over = threading.Event()
        probe = ReadinessProbe(
            PatroniRest("demo"),
            lambda: wanted(self.view, self._policy),
            self._wake,
            self._answered,
            Postgres(SqlLogin("postgres")),
        )
        self._asker = threading.Thread(target=probe.run, args=(self._over,))

    def _answered(self, found: Readiness) -> None:
        with self._lock:
            self.view = fold(self.view, found)
            self.answers.append(found)

    def __enter__(self) -> "Reader":
        self._asker.start()
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._wake.set()
        self._asker.join(5)
        super().__exit__(None, None, None)

    def is_ready(self, name: str) -> bool:
        return any(a.verdict is Verdict.READY and a.leadership.name == name for a in self.answers)


def test_a_round_tells_the_roles_and_the_primarys_address(
    cluster: tuple[EtcdCluster, PatroniCluster],
) -> None:
    _, patroni = cluster
    leader = patroni.wait_for_leader()
    found = look(patroni)
    assert found.failures == {}
    primary = next(report for report in found.reports if report.name == leader.name)
    assert primary.accepts_writes
    assert primary.conn == Endpoint(leader.host, leader.port)
    assert primary.system_id
    assert primary.timeline == 1
    assert [r.role for r in found.reports if r is not primary] == [Role.REPLICA]


def test_a_frozen_and_a_dead_node_are_failures_in_time(cluster: tuple[EtcdCluster, PatroniCluster]) -> None:
    _, patroni = cluster
    patroni.nodes[0].freeze()
    patroni.nodes[1].kill()
    began = time.monotonic()
    found = look(patroni)
    assert time.monotonic() - began < 15
    assert found.reports == ()
    assert len(found.failures) == 2
    patroni.nodes[0].thaw()


@pytest.mark.parametrize("by", [ReadyBy.REST, ReadyBy.SQL])
def test_after_a_switchover_the_new_leader_is_ready_when_it_takes_writes(
    cluster: tuple[EtcdCluster, PatroniCluster], by: ReadyBy
) -> None:
    etcd, patroni = cluster
    old = patroni.wait_for_leader()
    new = next(node for node in patroni.nodes if node is not old)
    with Reader(etcd, by) as reader:
        reader.comes_to(Reason.STARTED, 5)
        wait_for(lambda: reader.is_ready(old.name), 5, "the first leader to be ready")
        writable_at: list[float] = []
        checking = threading.Thread(target=lambda: writable_at.append(_takes_writes_at(new.host, new.port)))
        checking.start()
        patroni.switchover(new)
        wait_for(lambda: reader.is_ready(new.name), 30, "the new leader to be ready", poll=0.001)
        checking.join(10)
        ready = next(
            a for a in reader.answers if a.verdict is Verdict.READY and a.leadership.name == new.name
        )
        assert ready.timeline == 2
        assert reader.view.leader_since is not None
        print(
            f"{new} by {by}: ready {ready.at - reader.view.leader_since:.3f} s after the leader key, "
            f"{ready.at - writable_at[0]:+.3f} s from when another client first saw it writable"
        )
        assert patroni[new.name].accepts_writes()


def _takes_writes_at(host: str, port: int) -> float:
    sql = Postgres(SqlLogin("postgres"))
    try:
        while sql.ask(Endpoint(host, port)).in_recovery:
            time.sleep(0.005)
        return time.monotonic()
    finally:
        sql.close()
