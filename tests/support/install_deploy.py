"""Installs what the tests of deployment need beside the bed, on Debian: podman, systemd's checks, and tools
from PyPI.

    python3 -m tests.support.install_deploy

Standard library only. Run again it does nothing, quickly.
"""

import os
import sys

from tests.support import kubectl
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
    Need("usr/bin/systemd-analyze", "systemd"),
)
PODMAN_COMPOSE = PinnedVenv(
    "venv-podman-compose", ("podman-compose==1.5.0", "python-dotenv==1.2.4", "PyYAML==6.0.4")
)
KUBERNETES_VALIDATE = PinnedVenv(
    "venv-kubernetes-validate",
    (
        "kubernetes-validate==1.37.0",
        "attrs==26.1.0",
        "importlib_resources==7.1.0",
        "jsonschema==4.26.0",
        "jsonschema-specifications==2025.9.1",
        "packaging==26.4",
        "PyYAML==6.0.4",
        "referencing==0.37.0",
        "rpds-py==2026.9.1",
        "typing_extensions==4.16.0",
    ),
)
ANSIBLE = PinnedVenv(
    "venv-ansible",
    (
        "ansible-core==2.19.14",
        "ansible-compat==26.10.0",
        "ansible-lint==26.10.1",
        "attrs==26.1.0",
        "black==26.10.1",
        "bracex==3.2.3",
        "cffi==2.1.1",
        "click==8.5.1",
        "cryptography==50.0.2",
        "distro==1.9.0",
        "filelock==4.3.1",
        "Jinja2==3.1.6",
        "jsonschema==4.26.0",
        "jsonschema-specifications==2025.9.1",
        "MarkupSafe==3.0.4",
        "mypy_extensions==1.2.0",
        "packaging==26.4",
        "pathspec==1.1.1",
        "platformdirs==4.14.8",
        "pycparser==3.12",
        "pytokens==0.4.1",
        "PyYAML==6.0.4",
        "referencing==0.37.0",
        "resolvelib==1.2.1",
        "rpds-py==2026.9.1",
        "ruamel.yaml==0.19.1",
        "subprocess-tee==0.4.2",
        "typing_extensions==4.16.0",
        "wcmatch==12.0.1",
        "yamllint==1.38.0",
    ),
)
VENVS = (PODMAN_COMPOSE, KUBERNETES_VALIDATE, ANSIBLE)


def what_is_missing() -> list[str]:
    """In words."""
    missing = [f"package {need.package}" for need in missing_packages(NEEDS)]
    missing += [f"{venv.pins[0]} in {venv.folder}" for venv in VENVS if not venv.is_current()]
    return missing if kubectl.KUBECTL.exists() else [*missing, f"kubectl in {kubectl.KUBECTL}"]


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
    if not kubectl.KUBECTL.exists():
        kubectl.create()
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
