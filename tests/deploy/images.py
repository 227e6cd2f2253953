"""The images that several of the tests here share: what has not changed podman takes from its cache."""

import tomllib
from pathlib import Path

from tests.support.podman import PREFIX, build

REPOSITORY = Path(__file__).parents[2]
WATCHER = f"localhost/{PREFIX}"
HERE = Path(__file__).parent


def build_watcher() -> str:
    """The project's own; its name."""
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    args = {"VERSION": version, "REVISION": "of-a-test"}
    return build(REPOSITORY, REPOSITORY / "Dockerfile", WATCHER, args)


def build_pgbouncer() -> str:
    """The one that a pod of deploy/kubernetes has beside the watcher; its name."""
    return build(HERE, HERE / "pgbouncer.Dockerfile", f"{WATCHER}-pod-pgbouncer")


def build_systemd_host() -> str:
    """A host on which the watcher is a service; its name."""
    args = {"WATCHER": build_watcher()}
    return build(HERE, HERE / "systemd-host.Dockerfile", f"{WATCHER}-systemd-host", args)
