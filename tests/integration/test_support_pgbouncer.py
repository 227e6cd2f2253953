"""The bed's own PgBouncer, sshd and PostgreSQL keep their promises."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.folders import bed_folder
from tests.support.pgbouncer import RECOMMENDED, PgBouncer
from tests.support.postgres import Postgres
from tests.support.processes import Process, run
from tests.support.sshd import Sshd
from tests.support.waiting import BedError, wait_for


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with bed_folder() as path:
        yield path


@pytest.fixture(scope="module")
def postgres(folder: Path) -> Iterator[Postgres]:
    with Postgres(folder / "postgres", auth="scram-sha-256") as server:
        yield server


def test_rows_are_written_through_pgbouncer_with_a_password(folder: Path, postgres: Postgres) -> None:
    where = (postgres.address, postgres.port)
    with PgBouncer(folder / "b1", server=where, auth_type="scram-sha-256", ini_extra=RECOMMENDED) as bouncer:
        bouncer.sql("CREATE TABLE a (n int)")
        assert bouncer.sql("INSERT INTO a VALUES (7) RETURNING n, host(inet_server_addr()) AS h") == [
            {"n": "7", "h": postgres.address}
        ]
        assert bouncer.tcp_console("SHOW VERSION")
        with pytest.raises(BedError):
            bouncer.tcp_console("SHOW VERSION", password="wrong")
        with pytest.raises(BedError, match="admin access needed"):
            bouncer.tcp_console("PAUSE", user="stats", password="stats-password")


def test_a_reload_takes_the_new_route_from_an_included_file(folder: Path) -> None:
    with PgBouncer(
        folder / "b2", include_file=True, databases=["app", "other"], block_name="demo"
    ) as bouncer:
        assert bouncer.route() == ("127.0.0.1", 1)
        bouncer.point_at("127.0.0.2", 2)
        assert bouncer.route("other") == ("127.0.0.2", 2)
        assert ";; [config cluster demo: begin]" in bouncer.config_file.read_text()


def test_a_frozen_pgbouncer_answers_nothing_and_a_killed_one_starts_again(folder: Path) -> None:
    with PgBouncer(folder / "b3") as bouncer:
        bouncer.freeze()
        with pytest.raises(BedError):
            bouncer.console("SHOW VERSION", timeout=0.5)
        bouncer.thaw()
        bouncer.console("PAUSE app")
        assert bouncer.is_paused()
        bouncer.kill()
        assert not bouncer.is_alive()
        bouncer.start()
        assert not bouncer.is_paused()


def test_pgbouncer_has_session_pools_where_asked(folder: Path) -> None:
    with PgBouncer(folder / "b4", pool_mode="session") as bouncer:
        config = {row["key"]: row["value"] for row in bouncer.console("SHOW CONFIG")}
        assert config["pool_mode"] == "session"


def test_a_standby_follows_and_can_be_promoted(folder: Path, postgres: Postgres) -> None:
    with (
        Postgres(folder / "primary") as primary,
        Postgres(folder / "standby", primary=primary) as standby,
    ):
        assert standby.in_recovery()
        primary.kill()
        standby.promote()
        assert not standby.in_recovery()


def test_the_account_reloads_its_pgbouncer_through_ssh(folder: Path) -> None:
    with Sshd(folder / "ssh1") as sshd, PgBouncer(folder / "b5", account=sshd.account) as bouncer:
        assert sshd.ssh("id", "-un").stdout.strip() == sshd.account
        said = sshd.ssh(
            "psql", "-h", str(bouncer.folder), "-p", "6432", "pgbouncer", "pgbouncer", "-c", "RELOAD"
        )
        assert "RELOAD" in said.stdout


def test_a_forced_command_replaces_what_the_client_asks_for(folder: Path) -> None:
    with Sshd(folder / "ssh2", authorized_keys_options="restrict", forced_command='echo "forced"') as sshd:
        assert sshd.ssh("id").stdout == "forced\n"
        sshd.revoke()
        with pytest.raises(BedError, match="Permission denied"):
            sshd.ssh("id")


def test_another_host_key_is_refused_by_the_client(folder: Path) -> None:
    with Sshd(folder / "ssh3") as sshd:
        sshd.ssh("true")
        sshd.replace_host_key()
        with pytest.raises(BedError, match="verification failed"):
            sshd.ssh("true")
        sshd.write_known_hosts()
        sshd.ssh("true")


def _open_session(sshd: Sshd, folder: Path) -> Process:
    """A client whose session stays open."""
    options = ["-F", "none", "-o", f"UserKnownHostsFile={sshd.known_hosts}", "-i", str(sshd.client_key)]
    target = ["-p", str(sshd.port), f"{sshd.account}@{sshd.address}", "cat; sleep 600"]
    client = Process("ssh", ["ssh", *options, *target], log=folder / "client.log")
    client.start()
    return client


def test_sessions_can_be_cut_while_the_listener_lives_on(folder: Path) -> None:
    with Sshd(folder / "ssh4") as sshd:
        client = _open_session(sshd, folder)
        try:
            wait_for(lambda: len(sshd.session_pids()) >= 3, 5, "the session's processes", logs=[sshd.log])
            sshd.freeze()
            assert {psutil.Process(pid).status() for pid in sshd.session_pids()} == {psutil.STATUS_STOPPED}
            sshd.thaw()
            sshd.kill_listener()
            assert sshd.session_pids()
            assert client.is_alive()
            sshd.start()
            assert client.is_alive()
            sshd.kill_sessions()
            assert client.wait(5) != 0
        finally:
            client.stop()
        sshd.ssh("true")


def test_stopping_leaves_no_process(folder: Path) -> None:
    with (
        Sshd(folder / "ssh5") as sshd,
        Postgres(folder / "p5") as postgres,
        PgBouncer(folder / "b6") as bouncer,
    ):
        pids = [sshd.pid, bouncer.pid, *(process.pid for process in postgres.process.members())]
        assert all(psutil.pid_exists(pid) for pid in pids)
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_stopped_postgres_leaves_no_shared_memory(folder: Path) -> None:
    with Postgres(folder / "p6") as postgres:
        segment = (postgres.data / "postmaster.pid").read_text().splitlines()[6].split()[-1]
        assert run(["ipcs", "-m", "-i", segment]).returncode == 0
        posix = Path(f"/proc/{postgres.pid}/maps").read_text()
        assert "/dev/shm/PostgreSQL." not in posix
    assert "not found" in run(["ipcs", "-m", "-i", segment], check=False).stderr
