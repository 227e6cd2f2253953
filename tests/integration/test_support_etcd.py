"""The bed's own etcd keeps its promises."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.etcd import EtcdCluster, User
from tests.support.folders import bed_folder
from tests.support.tls import Authority, Tls
from tests.support.waiting import BedError, wait_for

pytestmark = pytest.mark.long


@pytest.fixture
def folder() -> Iterator[Path]:
    with bed_folder() as path:
        yield path


def test_a_cluster_of_three_survives_its_leader_and_stops_without_a_quorum(folder: Path) -> None:
    with EtcdCluster(folder) as etcd:
        etcd.put("/a", "1")
        etcd.leader().kill()
        wait_for(lambda: etcd.put("/a", "2"), 10, "a write after the leader's death")
        alive = [member for member in etcd.members if member.is_alive()]
        alive[0].kill()
        with pytest.raises(BedError):
            etcd.put("/b", "3")
        etcd.start()
        assert etcd.get("/a") == "2"


def test_a_frozen_member_answers_nothing_until_it_is_thawed(folder: Path) -> None:
    with EtcdCluster(folder, size=1) as etcd:
        etcd.freeze()
        with pytest.raises(BedError):
            etcd.etcdctl("get", "x", timeout=1)
        etcd.thaw()
        etcd.wait_until_ready()


def test_several_keys_change_in_one_revision_and_history_can_be_compacted(folder: Path) -> None:
    with EtcdCluster(folder, size=1) as etcd:
        etcd.put("/p/a", "1")
        before = etcd.revision()
        etcd.txn("put /p/b 2", "del /p/a")
        assert etcd.revision() == before + 1
        assert etcd.get_prefix("/p/") == {"/p/b": "2"}
        etcd.compact()
        etcd.defrag()
        with pytest.raises(BedError, match="compacted"):
            etcd.etcdctl("get", "/p/a", f"--rev={before}")


def test_a_lease_takes_its_keys_along(folder: Path) -> None:
    with EtcdCluster(folder, size=1) as etcd:
        lease = etcd.grant_lease(60)
        etcd.put("/l", "1", lease=lease)
        etcd.revoke_lease(lease)
        assert etcd.get("/l") is None


def test_a_user_reads_below_the_prefix_until_the_permission_is_revoked(folder: Path) -> None:
    with EtcdCluster(folder, size=1, auth_token_ttl=2) as etcd:
        etcd.put("/service/x", "1")
        etcd.enable_auth("rootpw", {"w": User("pw", ["/service/"], read_only=True)})
        assert "1" in etcd.etcdctl("get", "/service/x", credentials="w:pw")
        with pytest.raises(BedError, match="permission denied"):
            etcd.etcdctl("get", "/other", credentials="w:pw")
        with pytest.raises(BedError, match="permission denied"):
            etcd.etcdctl("put", "/service/x", "2", credentials="w:pw")
        etcd.change_password("w", "other")
        etcd.revoke("w", "/service/")
        with pytest.raises(BedError, match="permission denied"):
            etcd.etcdctl("get", "/service/x", credentials="w:other")
        etcd.disable_auth()
        assert etcd.get("/service/x") == "1"


def test_tls_with_client_certificates_refuses_whoever_shows_none(folder: Path) -> None:
    authority = Authority(folder / "ca")
    with EtcdCluster(folder / "etcd", size=1, tls=Tls(authority, client_certificates=True)) as etcd:
        etcd.put("/a", "1")
        assert etcd.get("/a") == "1"
        done = subprocess.run(
            ["etcdctl", f"--endpoints={etcd.urls[0]}", f"--cacert={authority.ca_file}", "get", "/a"],
            capture_output=True,
            env={"ETCDCTL_API": "3", "PATH": "/usr/bin"},
            timeout=20,
            check=False,
        )
        assert done.returncode != 0


def test_an_expired_server_certificate_is_refused_by_clients(folder: Path) -> None:
    with (
        EtcdCluster(folder / "etcd", size=1, tls=Tls(Authority(folder / "ca"), expired=True)) as etcd,
        pytest.raises(BedError),
    ):
        etcd.get("/a")


def test_a_restored_backup_has_another_cluster_id_and_an_older_revision(folder: Path) -> None:
    with EtcdCluster(folder, size=1) as etcd:
        etcd.put("/a", "1")
        backup = etcd.save_snapshot(folder / "backup")
        etcd.put("/a", "2")
        before = etcd.cluster_id()
        etcd.restore_from_snapshot(backup)
        assert etcd.get("/a") == "1"
        assert etcd.cluster_id() != before


SCRIPT = """
import sys, time
from pathlib import Path
from tests.support.etcd import EtcdCluster
etcd = EtcdCluster(Path(sys.argv[1]), size=1)
etcd.start()
print(etcd.members[0].pid, flush=True)
time.sleep(600)
"""


def test_a_server_dies_with_the_process_that_started_it_even_by_sigkill(folder: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_for(lambda: not psutil.pid_exists(pid), 5, "etcd gone with its owner")
