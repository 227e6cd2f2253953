"""The units of deploy/systemd: what systemd itself says of them, and the watcher at work under one."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.images import build_systemd_host
from tests.support import podman
from tests.support.podman import Container
from tests.support.repository import REPOSITORY
from tests.support.waiting import wait_for

UNITS = REPOSITORY / "deploy/systemd"
UNIT = "pgbouncer-watcher.service"
LOCAL_TARGET = "local-target.conf"
SYSTEM_UNITS = Path("/usr/lib/systemd/system")
EXPOSURE_LIMIT = 15
"""In tenths, as `systemd-analyze --threshold` has it."""


def _install(root: Path, *, local: bool) -> Path:
    """The unit below `root` as docs/install.md installs it, its drop-in too where PgBouncer is `local`."""
    unit = root / "etc/systemd/system" / UNIT
    unit.parent.mkdir(parents=True)
    shutil.copy(UNITS / UNIT, unit)
    if local:
        drop_ins = unit.with_name(f"{UNIT}.d")
        drop_ins.mkdir()
        shutil.copy(UNITS / LOCAL_TARGET, drop_ins)
    return unit


def _analyze(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *words], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("local", [False, True], ids=["over SSH", "with a local target"])
def test_little_of_the_host_is_exposed_to_the_service(tmp_path: Path, local: bool) -> None:
    unit = _install(tmp_path, local=local)
    said = _analyze("security", "--offline=true", f"--threshold={EXPOSURE_LIMIT}", unit)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "Overall exposure level" in said.stdout


@pytest.mark.parametrize("local", [False, True], ids=["over SSH", "with a local target"])
def test_systemd_knows_every_line_of_the_unit(tmp_path: Path, local: bool) -> None:
    _install(tmp_path, local=local)
    shutil.copytree(SYSTEM_UNITS, tmp_path / "usr/lib/systemd/system", symlinks=True)
    for program in ("opt/pgbouncer-watcher/bin/watcher", "bin/kill"):
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / program).touch(0o755)
    said = _analyze("verify", f"--root={tmp_path}", "--man=no", UNIT)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


# --- at work ------------------------------------------------------------------------------------------

PAGE = (REPOSITORY / "docs/install.md").read_text()
WATCHER = "/opt/pgbouncer-watcher/bin/watcher"
SETTINGS = Path("/etc/pgbouncer-watcher/watcher.yaml")
PGBOUNCER_INI = """\
[databases]
;; [config cluster: begin]
app = host=primary.invalid port=5432 dbname=app
;; [config cluster: end]
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = 6432
unix_socket_dir = /var/run/postgresql
auth_type = trust
auth_file = /etc/pgbouncer/userlist.txt
logfile = /var/log/postgresql/pgbouncer.log
pidfile = /var/run/postgresql/pgbouncer.pid
"""
CONSOLE = {"socket": "/var/run/postgresql/.s.PGSQL.6432"}
LOCAL = {"name": "here", "via": "local", "file": "/etc/pgbouncer/pgbouncer.ini", "console": CONSOLE}
OVER_SSH: dict[str, Any] = {
    "name": "pgb1",
    "via": "ssh",
    "file": "/etc/pgbouncer/pgbouncer.ini",
    "ssh": {
        "host": "127.0.0.1",
        "user": "postgres",
        "key_file": "/etc/pgbouncer-watcher/id_ed25519",
        "known_hosts": "/etc/pgbouncer-watcher/known_hosts",
    },
    "console": CONSOLE,
}


class Host(Container):
    """A host with systemd, on a network of its own that has loopback alone. A cluster is its keys in etcd."""

    def __init__(self, image: str) -> None:
        super().__init__("systemd", image, options=["--systemd=always", "--network=none"])

    def boot(self) -> None:
        """Until systemd is through, PgBouncer, sshd and etcd run, and docs/install.md can be followed."""
        wait_for(lambda: "running" in self.sh("systemctl is-system-running || true"), 30, "systemd runs")
        podman.podman("cp", REPOSITORY / "deploy", f"{self.name}:/root/deploy")
        self.write(Path("/etc/pgbouncer/pgbouncer.ini"), PGBOUNCER_INI)
        self.sh(_inline("chown postgres /etc/pgbouncer"))
        self.sh("systemctl start etcd pgbouncer ssh")

    def sh(self, script: str) -> str:
        """What a shell at /root says; it ends at the first command that fails."""
        return self.exec("sh", "-euc", f"cd /root\n{script}").stdout

    def write(self, path: Path, text: str) -> None:
        """Replace the text of a file, which keeps its owner."""
        self.exec("sh", "-euc", f"cat > {path}", stdin=text)

    def settle(self, target: dict[str, Any]) -> None:
        """Settings for that one target."""
        self.write(SETTINGS, yaml.safe_dump(_settings(target)))

    def crown(self, member: str, address: str) -> None:
        """Another leader, as Patroni writes it."""
        body = json.dumps({"conn_url": f"postgres://{address}:5432/postgres", "role": "primary"})
        etcdctl = ["env", "ETCDCTL_API=3", "etcdctl"]
        self.exec(*etcdctl, "put", f"/service/main/members/{member}", body)
        self.exec(*etcdctl, "del", "/service/main/leader")
        self.exec(*etcdctl, "put", "/service/main/leader", member)

    def leads_to(self, address: str) -> bool:
        """Whether the watcher says that all is well, and the file that it leads there."""
        status = self.exec(WATCHER, "status", "--config", SETTINGS, check=False)
        return status.returncode == 0 and f"host={address} " in self.sh("cat /etc/pgbouncer/pgbouncer.ini")

    def shown(self, *properties: str) -> str:
        """Properties of the service, as systemd shows them."""
        return self.exec("systemctl", "show", "--value", *(f"-p{name}" for name in properties), UNIT).stdout

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The service's lines of one event."""
        lines = self.exec("journalctl", f"--unit={UNIT}", "--output=cat").stdout.splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in found if line["event"] == event]


def _settings(target: dict[str, Any]) -> dict[str, Any]:
    """The leader's key is enough: where it points there is no PostgreSQL."""
    return {
        "cluster": {"scope": "main", "ready_by": "leader_key"},
        "etcd": {"endpoints": ["127.0.0.1:2379"]},
        "hold": {"enabled": False},
        "targets": [target],
    }


def _inline(command: str) -> str:
    """The command, which docs/install.md must have in its text."""
    assert f"`{command}`" in PAGE
    return command


def _block(beginning: str) -> str:
    """The block of commands of docs/install.md that begins so."""
    (found,) = re.findall(rf"^```sh\n({re.escape(beginning)}.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def image() -> str:
    return build_systemd_host()


@pytest.fixture
def host(image: str) -> Iterator[Host]:
    with Host(image) as host:
        host.boot()
        yield host


def _install_for_ssh(host: Host) -> None:
    """Steps 3 to 6 of docs/install.md, with way a."""
    host.sh(_block("useradd ").replace("ssh-keygen", "ssh-keygen -q"))
    home = "/var/lib/postgresql/.ssh"
    host.sh(
        f"install -d -o postgres -g postgres -m 700 {home}\n"
        f'echo "restrict $(cat /etc/pgbouncer-watcher/id_ed25519.pub)" > {home}/authorized_keys'
    )
    host.sh(_block("ssh-keyscan ").replace("10.0.0.21 pgb2.example.org", "127.0.0.1"))
    host.sh(_block("python3.11 -m venv").splitlines()[-1])
    host.settle(OVER_SSH)


def _start(host: Host) -> None:
    host.sh(_block("install -m 644 deploy/systemd/").replace(" -o cat", " -o cat --no-pager"))


@pytest.mark.timeout(900)
def test_the_service_leads_pgbouncer_over_ssh_and_comes_back(host: Host) -> None:
    _install_for_ssh(host)
    host.crown("pg1", "10.9.9.1")
    _start(host)
    wait_for(partial(host.leads_to, "10.9.9.1"), 15, "led to pg1")
    _assert_confined(host, account="pgbouncer-watcher")

    _reload(host)
    host.crown("pg2", "10.9.9.2")
    wait_for(partial(host.leads_to, "10.9.9.2"), 5, "led to pg2 after a reload")

    host.sh("systemctl kill --signal=KILL pgbouncer-watcher")
    host.crown("pg1", "10.9.9.1")
    wait_for(partial(host.leads_to, "10.9.9.1"), 15, "led to pg1 by a service that was started anew")
    assert host.shown("NRestarts").strip() == "1"

    began = time.monotonic()
    host.sh("systemctl stop pgbouncer-watcher")
    assert time.monotonic() - began < 3
    assert set(host.shown("Result", "ExecMainStatus").split()) == {"success", "0"}


def _reload(host: Host) -> None:
    host.sh("systemctl reload pgbouncer-watcher")
    wait_for(lambda: host.logged("settings"), 10, "SIGHUP arrived")
    assert [line["message"] for line in host.logged("settings")] == ["settings read anew"]


def _assert_confined(host: Host, account: str) -> None:
    """That this systemd could do what the unit asks for, so that it is known to work under it."""
    process = f"/proc/{host.shown('MainPID').strip()}"
    status = dict(re.findall(r"^(\w+):\s+(\S+)", host.sh(f"cat {process}/status"), re.MULTILINE))
    assert status["Uid"] == host.sh(f"id -u {account}").strip()
    assert (status["CapBnd"], status["NoNewPrivs"], status["Seccomp"]) == ("0" * 16, "1", "2")
    (root,) = re.findall(r" / / (\w+),", host.sh(f"cat {process}/mountinfo"))
    assert root == "ro"
    assert "process_resident_memory_bytes " in host.sh(
        "/opt/pgbouncer-watcher/bin/python -c 'import urllib3; "
        'print(urllib3.request("GET", "http://127.0.0.1:9632/metrics").data.decode())\''
    )


@pytest.mark.timeout(900)
def test_the_key_may_be_a_credential_that_the_service_alone_can_read(host: Host) -> None:
    _install_for_ssh(host)
    (credential,) = re.findall(r"`(LoadCredential=id_ed25519:(\S+))`", PAGE)
    (key,) = re.findall(r"`(/run/credentials/\S+)`", PAGE)
    host.sh(f"install -D -m 600 /etc/pgbouncer-watcher/id_ed25519 {credential[1]}")
    host.sh("rm /etc/pgbouncer-watcher/id_ed25519")
    drop_in = Path(f"/etc/systemd/system/{UNIT}.d/credentials.conf")
    host.sh(f"mkdir {drop_in.parent}")
    host.write(drop_in, f"[Service]\n{credential[0]}\n")
    host.settle({**OVER_SSH, "ssh": {**OVER_SSH["ssh"], "key_file": key}})
    host.crown("pg1", "10.9.9.1")
    _start(host)
    wait_for(partial(host.leads_to, "10.9.9.1"), 15, "led to pg1")


@pytest.mark.timeout(900)
def test_beside_pgbouncer_the_service_needs_no_more_than_its_account(host: Host) -> None:
    host.sh(_block("install -d -o root -g postgres"))
    host.settle(LOCAL)
    before = host.sh("stat -c '%U %G %a' /etc/pgbouncer/pgbouncer.ini")
    host.crown("pg1", "10.9.9.1")
    _start(host)
    wait_for(partial(host.leads_to, "10.9.9.1"), 15, "led to pg1")
    _assert_confined(host, account="postgres")
    assert host.sh("stat -c '%U %G %a' /etc/pgbouncer/pgbouncer.ini") == before

    hold = {"limit": 3, "announced_limit": 3}
    host.write(SETTINGS, yaml.safe_dump({**_settings(LOCAL), "hold": hold}))
    _reload(host)
    host.crown("pg2", "127.0.0.9")  # which refuses, as a primary that has crashed
    wait_for(lambda: host.logged("hold"), 10, "clients are held")
    wait_for(lambda: host.logged("release"), 10, "and let go")
