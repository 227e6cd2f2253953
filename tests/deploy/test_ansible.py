"""deploy/ansible on seven bare Debian hosts: deployed, run again, switched over, upgraded, and a host killed.

One deployment for all tests of this file, in their order, for each goes on where the one before has left it.
Clients come by TLS to HAProxy's endpoint, log in by SCRAM, and note each of their transactions.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy import told
from tests.support import ansible_page
from tests.support.ansible import COLLECTION, Playbooks
from tests.support.folders import bed_folder
from tests.support.hosts import ROOT, Host, Hosts
from tests.support.install_deploy import ANSIBLE
from tests.support.load import ClientLoad, Report
from tests.support.postgres import APP, APP_PASSWORD
from tests.support.processes import run
from tests.support.waiting import BedError, wait_for

pytestmark = pytest.mark.timeout(900)

GROUPS = {
    "etcd": ("db1", "db2", "db3"),
    "patroni": ("db1", "db2", "db3"),
    "pgbouncer": ("pgb1", "pgb2"),
    "watcher": ("watch1",),
    "haproxy": ("lb1",),
    "prometheus": (),
}
NAMES = ("db1", "db2", "db3", "pgb1", "pgb2", "watch1", "lb1")
ENDPOINT = 5432
STAYING, COMING = 8, 4
DATABASES = [{"name": APP, "owner": APP}]
SETTINGS = {
    "patroni_databases": DATABASES,
    "patroni_dcs": {
        "ttl": 20,
        "loop_wait": 5,
        "retry_timeout": 5,
        "maximum_lag_on_failover": 1 << 20,
        "postgresql": {"use_pg_rewind": True, "use_slots": True},
    },
    "pgbouncer_drain_seconds": 5,
    # the hosts' own: the control node, which has an index, builds the wheel all the same
    "deploy_environment": {"PIP_NO_INDEX": "1"},
    "haproxy_maxconn": 400,  # a container here may open 1,024 files
}
SECRETS = {
    "patroni_superuser_password": "superuser-secret",
    "patroni_replication_password": "replication-secret",
    "patroni_rest_password": "rest-secret",
    "pgbouncer_auth_password": "auth-secret",
    "patroni_users": [{"name": APP, "password": APP_PASSWORD}],
}
REQUIREMENTS = (ROOT / "requirements.txt", COLLECTION / "roles/patroni/files/requirements.txt")
PATRONICTL = ("patronictl", "-c", "/etc/patroni/config.yml")
AS_WATCHER = (
    *("setpriv", "--reuid=pgbouncer-watcher", "--regid=pgbouncer-watcher", "--clear-groups"),
    "/opt/pgbouncer-watcher/bin/watcher",
)
WATCHER_SETTINGS = "--config=/etc/pgbouncer-watcher/watcher.yaml"


@dataclass(frozen=True)
class Deployment:
    """The hosts, and the playbooks on them."""

    folder: Path
    hosts: Hosts
    playbooks: Playbooks

    def members(self) -> dict[str, str]:
        """Each member of the cluster that Patroni knows, and its role; asked on a host that lives."""
        for name in GROUPS["patroni"]:
            said = self.hosts[name].exec(*PATRONICTL, "list", "--format=json", check=False)
            if said.returncode == 0:
                return {one["Member"]: one["Role"] for one in json.loads(said.stdout) if one["State"] in WELL}
        return {}

    def leader(self) -> Host | None:
        """The host that leads."""
        return next((self.hosts[name] for name, role in self.members().items() if role == "Leader"), None)

    def other_leader(self, old: Host, limit: float = 60) -> Host:
        """Wait for a leader other than `old`."""

        def found() -> Host | None:
            leader = self.leader()
            return leader if leader is not old else None

        return wait_for(found, limit, "another leader")

    def watcher_says(self, word: str, *options: str) -> str:
        """One of its commands, as its own account runs it; BedError unless it ends well."""
        return self.hosts["watch1"].exec(*AS_WATCHER, word, WATCHER_SETTINGS, *options).stdout

    def query(self, database: str, statement: str) -> str:
        """What a client of the endpoint is answered in `database`."""
        lb, ca = self.hosts["lb1"].address, self.playbooks.authority
        way = f"host={lb} port={ENDPOINT} dbname={database} user={APP} sslmode=verify-full sslrootcert={ca}"
        done = run(["psql", "-XAt", way, "-c", statement], env={**os.environ, "PGPASSWORD": APP_PASSWORD})
        return done.stdout.strip()

    def cut_replication(self, limit: float = 30) -> None:
        """Cut each replica's stream off, and wait until all have logged in again."""
        leader = self.leader()
        assert leader is not None
        as_postgres = ("runuser", "-u", "postgres", "--", "psql", "-XAt", "-c")
        streams = "SELECT pid FROM pg_stat_replication WHERE state = 'streaming'"
        before = set(leader.exec(*as_postgres, streams).stdout.split())
        leader.exec(*as_postgres, streams.replace("pid", "pg_terminate_backend(pid)"))

        def back() -> bool:
            now = set(leader.exec(*as_postgres, streams).stdout.split())
            return len(now) == len(before) and not now & before

        wait_for(back, limit, "the replicas to stream again")

    def asked_of_haproxy(self) -> dict[str, str]:
        """Each PgBouncer, and what HAProxy was asked by an administrator to do with it: 0, nothing."""
        said = self.hosts["lb1"].exec(
            "sh", "-c", "echo show servers state in_sync | socat stdio /run/haproxy/admin.sock"
        )
        rows = (line.split() for line in said.stdout.splitlines() if " in_sync " in line)
        return {row[3]: row[6] for row in rows}

    @contextmanager
    def clients(self) -> Iterator["Clients"]:
        """Clients that stay, and clients that come anew for each transaction; at the end, what the watcher
        saw is printed.
        """
        with ExitStack() as stack:
            stack.callback(lambda: print(self.watcher_says("history")))
            loads = [
                stack.enter_context(
                    ClientLoad(
                        self.folder,
                        self.hosts["lb1"].address,
                        ENDPOINT,
                        clients=count,
                        reconnect_each=reconnect,
                        ca=self.playbooks.authority,
                    )
                )
                for count, reconnect in ((STAYING, False), (COMING, True))
            ]
            yield Clients(*loads)


WELL = ("running", "streaming")


@dataclass(frozen=True)
class Clients:
    """Both kinds of them."""

    staying: ClientLoad
    coming: ClientLoad

    def go_on_at(self, host: Host, after: float, limit: float = 60) -> None:
        """Wait until both commit on `host`."""
        for load in (self.staying, self.coming):
            load.wait_for_commit(host.address, after=after, timeout=limit)

    def reports(self) -> tuple[Report, Report]:
        """What each kind has met, which is printed, too."""
        found = self.staying.report(), self.coming.report()
        for kind, report in zip(("staying", "coming"), found, strict=True):
            print(f"{kind}: {report}")
            for one in report.transactions:
                if not one.ok:
                    began, lasted = one.start - report.started, one.end - one.start
                    print(f"  failed, begun at {began:.2f}, after {lasted:.2f} s: {one.error}")
        return found


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    with bed_folder() as folder, Hosts(folder, NAMES, *REQUIREMENTS) as hosts:
        settings = {**SETTINGS, "watcher_build_folder": str(folder / "wheel")}
        playbooks = Playbooks(folder, hosts, GROUPS, settings, SECRETS)
        playbooks.play("site.yml")
        yield Deployment(folder, hosts, playbooks)


def test_the_collection_is_clean_by_the_production_profile() -> None:
    path = f"{ANSIBLE.folder / 'bin'}:{os.environ['PATH']}"
    run(
        [ANSIBLE.folder / "bin/ansible-lint", "--profile=production", "--offline", "--strict"],
        env={**os.environ, "PATH": path},
        cwd=COLLECTION,
        timeout=120,
    )


def test_the_readme_has_every_variable() -> None:
    assert ansible_page.PAGE.read_text() == ansible_page.page(), "python -m tests.support.ansible_page"


def test_bare_hosts_become_a_system_that_lacks_nothing(deployment: Deployment) -> None:
    assert sorted(deployment.members().values()) == ["Leader", "Replica", "Replica"]
    said = deployment.watcher_says("check-config")
    # Debian 12 has no newer PgBouncer; everything else is as it should be
    advice = [line for line in said.splitlines() if line.startswith("advice") and "version is" not in line]
    assert advice == []
    deployment.watcher_says("status")
    log = deployment.hosts["lb1"].exec("journalctl", "--unit=haproxy").stdout
    assert "watchers" not in log, "its own questions are of no interest"


def test_a_second_run_changes_nothing(deployment: Deployment) -> None:
    recap = deployment.playbooks.play("site.yml")
    assert recap.changes() == []
    assert recap.changed == dict.fromkeys(NAMES, 0)


def test_a_deployed_system_can_be_checked(deployment: Deployment) -> None:
    recap = deployment.playbooks.play("site.yml", "--check", "--diff")
    assert recap.changes() == []
    assert recap.changed == dict.fromkeys(NAMES, 0)


def test_a_switchover_is_noticed_by_no_client(deployment: Deployment) -> None:
    old = deployment.leader()
    assert old is not None
    with deployment.clients() as clients:
        old.exec(*PATRONICTL, "switchover", "main", "--force")
        done = time.monotonic()
        clients.go_on_at(deployment.other_leader(old), done)
        assert [report.failed for report in clients.reports()] == [0, 0]
    barrier = [
        line for line in old.exec("journalctl", "--unit=patroni").stdout.splitlines() if "barrier:" in line
    ]
    assert any("held after" in line and "pgb1" in line and "pgb2" in line for line in barrier), barrier


def test_passwords_and_databases_are_changed_while_clients_work(deployment: Deployment) -> None:
    new = {name: f"{said}-2" if isinstance(said, str) else said for name, said in SECRETS.items()}
    databases = [*DATABASES, {"name": "reports", "owner": APP}]
    deployment.playbooks.keep({**new, "patroni_databases": databases})
    with deployment.clients() as clients:
        began = time.monotonic()
        deployment.playbooks.play("site.yml")
        took = time.monotonic() - began
        staying, coming = clients.reports()
        assert staying.failed == 0
        # in the moment between PostgreSQL and PgBouncer a login may have to be tried again
        failed = [one for one in coming.transactions if not one.ok]
        assert all("server login" in str(one.error) for one in failed)
        between = max((one.end for one in failed), default=0) - min((one.start for one in failed), default=0)
        print(f"logins failed for {between:.1f} s of the {took:.0f} s that the playbook took")
        assert between < took / 20
    assert deployment.playbooks.play("site.yml").changes() == []
    assert deployment.query("reports", "SELECT current_database()") == "reports"
    deployment.cut_replication()


def test_all_but_pgbouncer_is_upgraded_and_no_client_notices(deployment: Deployment) -> None:
    old = deployment.leader()
    assert old is not None
    with deployment.clients() as clients:
        recap = deployment.playbooks.play(
            "upgrade.yml", "--limit=!pgbouncer", "--extra-vars=upgrade_restart=true"
        )
        done = time.monotonic()
        clients.go_on_at(deployment.other_leader(old), done)
        assert [report.failed for report in clients.reports()] == [0, 0]
    changes = recap.changes()
    assert [line for line in changes if line.startswith("etcd : Restart")] == [
        f"etcd : Restart the member: {name}" for name in GROUPS["etcd"]
    ]
    assert "watcher : Restart the watcher: watch1" in changes
    nodes = [line for line in changes if line.startswith("patroni : Restart the node")]
    assert len(nodes) == len(GROUPS["patroni"])
    assert nodes[-1].endswith(old.host)


def test_an_upgrade_that_fails_leaves_one_that_serves_and_is_gone_on_with(deployment: Deployment) -> None:
    restart, bad = "--extra-vars=upgrade_restart=true", {"pgbouncer_settings": {"pool_mode": "nonsense"}}
    with deployment.clients() as clients:
        with pytest.raises(BedError, match="Unable to restart service pgbouncer"):
            deployment.playbooks.play(
                "upgrade.yml", "--limit=pgbouncer", restart, f"--extra-vars={json.dumps(bad)}"
            )
        with pytest.raises(BedError, match="clients would have nobody to go to"):
            deployment.playbooks.play("upgrade.yml", "--limit=pgb2", restart)
        assert deployment.asked_of_haproxy() == dict.fromkeys(GROUPS["pgbouncer"], "0")
        recap = deployment.playbooks.play("upgrade.yml", "--limit=pgbouncer")
        _, coming = clients.reports()
        assert coming.failed == 0
    assert [line for line in recap.changes() if "Restart PgBouncer" in line] == [
        "pgbouncer : Restart PgBouncer, which lets transactions end first: pgb1"
    ]


def test_pgbouncer_is_upgraded_and_who_comes_anew_does_not_notice(deployment: Deployment) -> None:
    with deployment.clients() as clients:
        recap = deployment.playbooks.play(
            "upgrade.yml", "--limit=pgbouncer", "--extra-vars=upgrade_restart=true"
        )
        staying, coming = clients.reports()
        # who stays on a connection beyond the time to leave loses it, between two transactions
        assert staying.failed <= STAYING * len(GROUPS["pgbouncer"])
        assert coming.failed == 0
    assert len([line for line in recap.changes() if "Restart PgBouncer" in line]) == 2


def test_clients_can_log_in_by_a_list_of_verifiers(deployment: Deployment) -> None:
    by_list = "--extra-vars=pgbouncer_auth_source=userlist"
    with pytest.raises(BedError, match=r"run upgrade\.yml --limit pgbouncer -e upgrade_restart=true"):
        deployment.playbooks.play("site.yml", "--limit=pgbouncer", by_list)
    with deployment.clients() as clients:
        deployment.playbooks.play(
            "upgrade.yml", "--limit=pgbouncer", by_list, "--extra-vars=upgrade_restart=true"
        )
        _, coming = clients.reports()
        assert coming.failed == 0
    recap = deployment.playbooks.play("site.yml", "--limit=pgbouncer", by_list)
    assert recap.changes() == []
    listed = deployment.hosts["pgb1"].exec("cat", "/etc/pgbouncer/userlist.txt").stdout
    assert listed.startswith(f'"{APP}" "SCRAM-SHA-256$')
    assert len(listed.splitlines()) == 1
    with deployment.clients() as clients:
        assert [report.failed for report in clients.reports()] == [0, 0]


def test_a_killed_host_costs_what_was_in_flight(deployment: Deployment) -> None:
    old = deployment.leader()
    assert old is not None
    with deployment.clients() as clients:
        old.kill()
        killed = time.monotonic()
        clients.go_on_at(deployment.other_leader(old), killed, limit=90)
        waited_from = told.waited_from(deployment.watcher_says("history", "--json"))
        waited_from -= time.time() - time.monotonic()
        for report in clients.reports():
            began = [one.start for one in report.transactions if not one.ok]
            assert [start for start in began if start > waited_from] == []
