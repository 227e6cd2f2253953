"""Patroni in its other forms: Debian's version, a standby cluster, an etcd with TLS and authentication."""

from pathlib import Path

import pytest

from tests.support.etcd import EtcdCluster, User
from tests.support.patroni import PatroniCluster
from tests.support.tls import Authority, Tls
from tests.support.waiting import wait_for

pytestmark = pytest.mark.long


@pytest.mark.timeout(120)
def test_debians_patroni_3_calls_its_leader_master(service_folder: Path) -> None:
    with (
        EtcdCluster(service_folder / "etcd", size=1) as etcd,
        PatroniCluster(service_folder / "p", etcd, nodes=2, version="debian") as cluster,
    ):
        leader = cluster.wait_for_leader()
        member = etcd.get(f"{cluster.prefix}members/{leader.name}") or ""
        assert '"role":"master"' in member
        assert '"version":"3.0.2"' in member
        cluster.switchover()
        assert cluster.wait_for_leader(other_than=leader) is not leader


@pytest.mark.timeout(120)
def test_a_standby_cluster_takes_no_writes_until_it_is_let_go(service_folder: Path) -> None:
    with (
        EtcdCluster(service_folder / "etcd", size=1) as etcd,
        PatroniCluster(service_folder / "a", etcd, "main", nodes=1) as main,
    ):
        source = main.wait_for_leader()
        where = (source.host, source.port)
        with PatroniCluster(service_folder / "b", etcd, "standby", nodes=2, standby_of=where) as standby:
            leader = standby.wait_for_leader(writable=False)
            assert not leader.accepts_writes()
            standby.patch_config({"standby_cluster": None})
            assert standby.wait_for_leader().accepts_writes()


@pytest.mark.timeout(120)
def test_patroni_lives_in_an_etcd_with_tls_and_authentication(service_folder: Path) -> None:
    tls = Tls(Authority(service_folder / "ca"))
    with EtcdCluster(service_folder / "etcd", size=1, tls=tls) as etcd:
        etcd.enable_auth("rootpw", {"patroni": User("pw", ["/service/"])})
        user = ("patroni", "pw")
        with PatroniCluster(service_folder / "p", etcd, nodes=1, etcd_user=user) as cluster:
            assert etcd.get(f"{cluster.prefix}leader") == "pg1"


@pytest.mark.timeout(120)
def test_before_stop_runs_and_a_crashed_postgres_is_started_again(service_folder: Path) -> None:
    note = service_folder / "pgs"
    config = {"postgresql": {"before_stop": f"/bin/sh -c 'date > {note}/pg1/stopped'"}}
    with (
        EtcdCluster(service_folder / "etcd", size=1) as etcd,
        PatroniCluster(note, etcd, nodes=1, node_config=config) as cluster,
    ):
        leader = cluster.wait_for_leader()
        before = leader.postmaster_pid()
        leader.kill_postgres()
        wait_for(lambda: leader.postmaster_pid() != before, 40, "another postmaster", logs=cluster.logs)
        wait_for(lambda: leader.status()["state"] == "running", 40, "running again", logs=cluster.logs)
        cluster.restart(leader)
        assert (note / "pg1" / "stopped").exists()
