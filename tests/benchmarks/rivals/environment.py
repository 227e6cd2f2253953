"""The rival on the bed: its own virtual environment, its inventory, its process."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from importlib.metadata import distributions
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.benchmarks.bench import FOLDER
from tests.support.bed import Bed, BouncerHost
from tests.support.processes import Process
from tests.support.waiting import BedError

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"
VENV = FOLDER / "venv-ansible"
INTERVAL = 5.0
FORKS = 5
"""Ansible's own default."""


def ensure_ansible(say: Callable[[str], None]) -> None:
    """Make the virtual environment if it is missing, or was made from other requirements."""
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    mark = VENV / "made-from"
    if mark.exists() and mark.read_text() == wanted:
        return
    say(f"installing ansible-core into {VENV}")
    shutil.rmtree(VENV, ignore_errors=True)
    _run(sys.executable, "-m", "venv", VENV)
    pip = (VENV / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check")
    _run(*pip, "--require-hashes", "-r", REQUIREMENTS)
    mark.write_text(wanted)


def ansible_version() -> str:
    """As installed in the virtual environment."""
    (packages,) = VENV.glob("lib/python*/site-packages")
    found = [one.version for one in distributions(path=[str(packages)]) if one.name == "ansible-core"]
    return found[0]


def _run(*words: str | Path) -> None:
    """With the environment as it is: pip's settings may be in it."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BedError(f"{words[0]} {words[-1]}: exit {done.returncode}\n{done.stdout}{done.stderr}")


class PollAnsible(AbstractContextManager["PollAnsible"]):
    """The rival's process on a bed. `deployed` is the host that its copy of the block leads to at first,
    `forks` how many PgBouncers Ansible works on at once.
    """

    def __init__(self, bed: Bed, name: str, deployed: str, forks: int = FORKS) -> None:
        self.folder = bed.folder / name
        self.folder.mkdir()
        self.log = self.folder / "poll.log"
        (self.folder / "block").write_text(f"app = host={deployed} port=5432 dbname=app\n")
        (self.folder / "inventory.json").write_text(json.dumps(_inventory(bed.bouncers)))
        (self.folder / "settings.json").write_text(json.dumps(self._settings(bed)))
        command = [VENV / "bin/python", HERE / "poll_ansible.py", self.folder / "settings.json"]
        self._forks = forks
        self.process = Process(name, command, log=self.log, env=self._environment(), cwd=self.folder)

    def _settings(self, bed: Bed) -> dict[str, Any]:
        nodes = [
            {"name": node.name, "api_url": node.api_url, "host": node.host, "port": node.port}
            for node in bed.patroni.nodes
        ]
        return {
            "interval": INTERVAL,
            "nodes": nodes,
            "block": str(self.folder / "block"),
            "inventory": str(self.folder / "inventory.json"),
            "playbook": str(HERE / "playbook.yml"),
            "ansible_playbook": str(VENV / "bin/ansible-playbook"),
        }

    def _environment(self) -> dict[str, str]:
        """Nothing outside of the folder is used. Pipelining, Ansible's own advice for speed, is on."""
        return {
            "HOME": str(self.folder),
            "ANSIBLE_HOME": str(self.folder / "home"),
            "ANSIBLE_LOCAL_TEMP": str(self.folder / "tmp"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.folder),
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_FORKS": str(self._forks),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def __enter__(self) -> Self:
        self.process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.stop()


def _inventory(hosts: Iterable[BouncerHost]) -> dict[str, Any]:
    """YAML includes JSON."""
    return {"pgbouncers": {"hosts": {host.name: _variables(host) for host in hosts}}}


def _variables(host: BouncerHost) -> dict[str, Any]:
    known_hosts = f"-o UserKnownHostsFile={host.sshd.known_hosts} -o StrictHostKeyChecking=yes"
    return {
        "ansible_host": host.sshd.address,
        "ansible_port": host.sshd.port,
        "ansible_user": host.account,
        "ansible_ssh_private_key_file": str(host.sshd.client_key),
        "ansible_ssh_common_args": known_hosts,
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_remote_tmp": str(host.pgbouncer.folder / "ansible-tmp"),
        "ini": str(host.pgbouncer.config_file),
        "socket_folder": str(host.pgbouncer.folder),
        "pgbouncer_port": host.pgbouncer.port,
    }
