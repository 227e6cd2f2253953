"""The project's own image, built once and shared by the tests here."""

import tomllib
from pathlib import Path

from tests.support.podman import PREFIX, build

REPOSITORY = Path(__file__).parents[2]
WATCHER = f"localhost/{PREFIX}"


def build_watcher() -> str:
    """Its name. podman's cache makes it a matter of a second where nothing has changed."""
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    args = {"VERSION": version, "REVISION": "of-a-test"}
    return build(REPOSITORY, REPOSITORY / "Dockerfile", WATCHER, args)
