"""Installs what the tests of deployment need beside the bed, on Debian: podman, and tools from PyPI.

    python3 -m tests.support.install_deploy

Standard library only. Run again it does nothing, quickly.
"""

import os
import sys

from tests.support.install import Need, become_root, install_packages, missing_packages
from tests.support.install_steps import STATE, InstallError, say
from tests.support.pinned_venv import PinnedVenv

NEEDS = (
    Need("usr/bin/podman", "podman"),
    Need("usr/sbin/runc", "runc"),
    Need("usr/lib/podman/netavark", "netavark"),
    Need("usr/lib/podman/aardvark-dns", "aardvark-dns"),
    Need("usr/sbin/iptables", "iptables"),  # by which netavark makes networks
    Need("usr/sbin/debootstrap", "debootstrap"),
)
PODMAN_COMPOSE = PinnedVenv(
    "venv-podman-compose", ("podman-compose==1.5.0", "python-dotenv==1.2.4", "PyYAML==6.0.4")
)
VENVS = (PODMAN_COMPOSE,)


def what_is_missing() -> list[str]:
    """In words."""
    missing = [f"package {need.package}" for need in missing_packages(NEEDS)]
    return missing + [f"{venv.pins[0]} in {venv.folder}" for venv in VENVS if not venv.is_current()]


def install() -> None:
    """Add whatever is missing."""
    if not what_is_missing():
        say("nothing is missing")
        return
    become_root("tests.support.install_deploy")
    os.umask(0o022)
    STATE.mkdir(parents=True, exist_ok=True)
    if needs := missing_packages(NEEDS):
        install_packages(needs)
    for venv in VENVS:
        if not venv.is_current():
            venv.create()
    if still := what_is_missing():
        raise InstallError(
            f"still missing: {', '.join(still)}\nHINT: this release of Debian packs it otherwise"
        )
    say("done")


if __name__ == "__main__":
    try:
        install()
    except InstallError as error:
        sys.exit(f"{error}")
