"""Bare Debian hosts for Ansible: containers with systemd as init and an SSH server, on their own network.

Their mirror of Debian's packages is a folder of their image, and pip's is a folder of this machine, so what
is installed on them is installed for real, and nothing is asked of the network.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import podman
from tests.support.install_deploy import ANSIBLE
from tests.support.install_steps import STATE
from tests.support.podman import Container
from tests.support.processes import run
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests/deploy/hosts"
IMAGE = f"localhost/{podman.PREFIX}-host:latest"
SUBNET = "10.213.57"
BOOT_SECONDS = 60.0
DOWNLOAD_SECONDS = 600.0
PIP_CONF = "[global]\nno-index = true\nfind-links = /srv/wheels\n"
OPTIONS = ("--systemd=always", "--privileged", "--tmpfs=/tmp")


class Host(Container):
    """One host, at `address`; root may log in with the key of `public_key`."""

    def __init__(self, name: str, image: str, address: str, network: str, lent: Mapping[Path, str]) -> None:
        volumes = [f"--volume={path}:{inside}:ro" for path, inside in lent.items()]
        options = (*OPTIONS, f"--hostname={name}", f"--network={network}", f"--ip={address}", *volumes)
        super().__init__(f"ansible-{name}", image, options=options)
        self.host, self.address = name, address

    def is_up(self) -> bool:
        """Whether systemd has started all that it should, its SSH server included."""
        said = self.exec("systemctl", "is-system-running", check=False).stdout.strip()
        return said in ("running", "degraded") and self.exec("systemctl", "is-active", "ssh").returncode == 0

    def host_key(self) -> str:
        """The public key of its SSH server, asked inside."""
        return " ".join(self.exec("cat", "/etc/ssh/ssh_host_ed25519_key.pub").stdout.split()[:2])


def wheels(*requirements: Path) -> Path:
    """A folder of what pip would download for these lists, and of what builds packages; made once."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in requirements)).hexdigest()
    folder = STATE / f"wheels-{digest[:16]}"
    if not folder.exists():
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        pip: list[str | Path] = [ANSIBLE.folder / "bin/pip", "download", "--quiet", f"--dest={unfinished}"]
        for path in requirements:
            _with_own_settings([*pip, "--require-hashes", f"--requirement={path}"])
        _with_own_settings([*pip, "setuptools", "wheel"])
        unfinished.rename(folder)
    return folder


def _with_own_settings(words: Sequence[str | Path]) -> None:
    """With the environment as it is, for pip's settings may be in it."""
    run(words, env={**os.environ}, timeout=DOWNLOAD_SECONDS)


def build_image() -> str:
    """Of a bare host, with a mirror of the packages that it will ask for; its name."""
    return podman.build(FOLDER, FOLDER / "Dockerfile", IMAGE)


class Hosts(AbstractContextManager["Hosts"]):
    """Hosts of these names, up and reachable by SSH, from entering to leaving; `folder` has the key."""

    def __init__(self, folder: Path, names: Sequence[str], *requirements: Path) -> None:
        self.key, self.known_hosts = folder / "id_ed25519", folder / "known_hosts"
        self._pip_conf = folder / "pip.conf"
        self._pip_conf.write_text(PIP_CONF)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key])
        self.network = f"{podman.PREFIX}-ansible"
        lent = {
            wheels(*requirements): "/srv/wheels",
            self._pip_conf: "/etc/pip.conf",
            self.key.with_suffix(".pub"): "/root/.ssh/authorized_keys",
        }
        image = build_image()
        self.hosts = {
            name: Host(name, image, f"{SUBNET}.{number}", self.network, lent)
            for number, name in enumerate(names, start=11)
        }
        self._stack = ExitStack()

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._remove()
            podman.podman("network", "create", f"--subnet={SUBNET}.0/24", self.network)
            stack.callback(self._remove)
            for host in self.hosts.values():
                stack.enter_context(host)
            self._keep_the_bridge_address()
            for host in self.hosts.values():
                wait_for(host.is_up, BOOT_SECONDS, f"{host.host} is up", poll=0.5)
            lines = [f"{host.address} {host.host_key()}\n" for host in self.hosts.values()]
            self.known_hosts.write_text("".join(lines))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _keep_the_bridge_address(self) -> None:
        """A bridge has the lowest hardware address of its ports, unless one was set: when a host goes, it
        would have another, and the others would not reach us until their neighbour tables have noticed.
        """
        bridge = podman.podman(
            "network", "inspect", "--format={{.NetworkInterface}}", self.network
        ).stdout.strip()
        address = Path(f"/sys/class/net/{bridge}/address").read_text().strip()
        run(["ip", "link", "set", "dev", bridge, "address", address])

    def _remove(self) -> None:
        """Also what a run left that was killed."""
        for host in self.hosts.values():
            host.remove()
        podman.podman("network", "rm", self.network, check=False)
