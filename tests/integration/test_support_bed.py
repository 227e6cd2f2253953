"""The whole bed keeps its promises: it starts, fails over, and leaves nothing behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.bed import Bed
from tests.support.waiting import wait_for

pytestmark = pytest.mark.long

OWNER = """
import time
from tests.support.bed import Bed
with Bed(progress=lambda text: print(text, flush=True), etcd_size=1, nodes=1, bouncers=1) as bed:
    print("pids", *bed.pids(), flush=True)
    time.sleep(600)
"""


@pytest.mark.timeout(120)
def test_a_planned_switchover_moves_the_leader_under_load(bed: Bed) -> None:
    old = bed.leader()
    with bed.load(clients=4) as load:
        bed.patroni.switchover()
        new = bed.patroni.wait_for_leader(other_than=old)
        moved = time.monotonic()
        for host in bed.bouncers:
            host.pgbouncer.point_at(new.host, new.port)
        load.wait_for_commit(new.host, after=moved, timeout=30)
        report = load.stop()
    assert new is not old
    assert report.last_server == f"{new.host}:{new.port}"
    assert report.servers[f"{old.host}:{old.port}"] > 0
    assert 1 < report.longest_stall < 30


@pytest.mark.timeout(60)
def test_a_load_reports_the_errors_of_its_clients_and_connects_again(bed: Bed) -> None:
    host = bed.bouncers[1]
    with bed.load(1, clients=2) as load:
        host.kill()
        killed = time.monotonic()
        host.start()
        load.wait_for_commit(after=killed)
        report = load.stop()
    assert report.failed >= 2
    assert sum(report.errors.values()) == report.failed
    assert report.transactions == load.report().transactions


@pytest.mark.timeout(180)
def test_another_node_takes_over_from_a_killed_leader(bed: Bed) -> None:
    old = bed.leader()
    old.kill()
    new = bed.patroni.wait_for_leader(other_than=old)
    assert new.accepts_writes()
    assert not old.is_alive()
    bed.heal()
    assert len(bed.patroni.replicas()) == 2


@pytest.mark.timeout(120)
def test_patroni_restarts_beside_a_postgres_that_survived_it(bed: Bed) -> None:
    leader = bed.leader()
    postmaster = leader.postmaster_pid()
    leader.kill_patroni()
    assert not leader.is_alive()
    assert psutil.pid_exists(postmaster)
    leader.start()
    assert bed.leader() is leader
    assert leader.postmaster_pid() == postmaster


@pytest.mark.timeout(120)
def test_pause_mode_and_a_scheduled_switchover_are_seen_in_etcd(bed: Bed) -> None:
    bed.patroni.pause()
    assert '"pause":true' in (bed.etcd.get(f"{bed.patroni.prefix}config") or "").replace(" ", "")
    bed.patroni.resume()
    bed.patroni.switchover(scheduled="2099-01-01T00:00:00+00:00")
    assert "2099" in (bed.etcd.get(f"{bed.patroni.prefix}failover") or "")
    bed.patroni.cancel_switchover()


@pytest.mark.timeout(120)
def test_a_bed_tells_its_progress_and_leaves_no_process_and_no_file() -> None:
    said: list[str] = []
    with Bed(progress=said.append, etcd_size=1, nodes=1, bouncers=1) as small:
        pids = small.pids()
        folder = small.folder
        small.bouncers[0].freeze()
    assert len(pids) > 5
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert not folder.exists()
    assert said[-1].endswith("PgBouncers lead to the leader")


def _owner() -> "subprocess.Popen[str]":
    """Another process with a small bed of its own."""
    return subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)


def _read_until(owner: "subprocess.Popen[str]", beginning: str) -> str:
    assert owner.stdout is not None
    return next(line for line in owner.stdout if beginning in line)


@pytest.mark.timeout(60)
def test_nothing_runs_on_when_the_owner_of_a_bed_is_killed() -> None:
    with _owner() as owner:
        pids = [int(pid) for pid in _read_until(owner, "pids").split()[1:]]
        owner.send_signal(signal.SIGKILL)
    assert len(pids) > 5
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids), 10, "all processes gone")


@pytest.mark.timeout(60)
def test_ctrl_c_while_a_bed_starts_leaves_no_process_and_no_file() -> None:
    with _owner() as owner:
        _read_until(owner, "etcd answers")
        below = psutil.Process(owner.pid).children(recursive=True)
        owner.send_signal(signal.SIGINT)
    assert len(below) > 3
    # Whose start was cut short by the signal is ended by its keeper, a moment after its owner.
    wait_for(lambda: not any(process.is_running() for process in below), 10, "all processes gone")
    assert not list(Path("/dev/shm").glob(f"bed-{owner.pid}-*"))
    assert not list(Path("/var/tmp").glob(f"bed-{owner.pid}-*"))
