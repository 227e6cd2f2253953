"""The collection of deploy/ansible, run from this machine as its users would run it."""

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.hosts import ROOT, Hosts
from tests.support.install_deploy import ANSIBLE
from tests.support.processes import run
from tests.support.waiting import BedError

COLLECTION = ROOT / "deploy/ansible"
PLAY_SECONDS = 600.0
VAULT_PASSWORD = "vault-password"
RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


class Recap:
    """What a playbook says at its end, and all that it said before."""

    def __init__(self, said: str) -> None:
        self.said = said
        self.changed = {host: int(changed) for host, _, changed, *_ in RECAP.findall(said)}

    def changes(self) -> list[str]:
        """The tasks that changed something, with the hosts, for an assertion's message."""
        parts = re.split(r"^(?:TASK|RUNNING HANDLER) \[", self.said, flags=re.MULTILINE)[1:]
        return [part.split("]")[0] + ": " + one for part in parts for one in _changed_in(part)]


def _changed_in(part: str) -> list[str]:
    return re.findall(r"^changed: \[(.+?)\]", part, re.MULTILINE)


class Playbooks:
    """The playbooks on an inventory of `hosts`, whose secrets are in a vault; all files are in `folder`."""

    def __init__(
        self,
        folder: Path,
        hosts: Hosts,
        groups: Mapping[str, Sequence[str]],
        settings: Mapping[str, Any],
        secrets: Mapping[str, Any],
    ) -> None:
        self.inventory = folder / "inventory.yml"
        self.authority = folder / "tls/ca.pem"
        self._password = folder / "vault-password"
        self._password.write_text(VAULT_PASSWORD)
        known = f"-o UserKnownHostsFile={hosts.known_hosts}"
        common = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(hosts.key),
            "ansible_ssh_common_args": known,
            **settings,
        }
        children = {
            group: {"hosts": {name: {"ansible_host": hosts[name].address} for name in names}}
            for group, names in groups.items()
        }
        self.inventory.write_text(json.dumps({"all": {"vars": common, "children": children}}))  # YAML, too
        self._vault = folder / "group_vars/all/secrets.yml"
        self._vault.parent.mkdir(parents=True)
        self.keep(secrets)

    def keep(self, variables: Mapping[str, Any]) -> None:
        """Put `variables` into the vault, instead of those that it has. They go before the inventory's."""
        self._vault.write_text(json.dumps(variables))
        self._run("ansible-vault", "encrypt", f"--vault-password-file={self._password}", self._vault)

    def play(self, playbook: str, *words: str) -> Recap:
        """Run a playbook. Raises BedError with the end of what it said if a host failed."""
        done = self._run(
            "ansible-playbook",
            f"--inventory={self.inventory}",
            f"--vault-password-file={self._password}",
            *words,
            playbook,
            check=False,
        )
        if done.returncode != 0:
            raise BedError(f"{playbook}: exit {done.returncode}\n{done.stdout[-6000:]}{done.stderr[-2000:]}")
        return Recap(done.stdout)

    @staticmethod
    def _run(program: str, *words: str | Path, check: bool = True) -> "subprocess.CompletedProcess[str]":
        return run(
            [ANSIBLE.folder / "bin" / program, *words],
            env={**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"},
            cwd=COLLECTION,
            timeout=PLAY_SECONDS,
            check=check,
        )
