"""What `pyproject.toml`, the changelog and the licence say of a release, held against each other."""

import hashlib
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
CHANGELOG = (REPOSITORY / "CHANGELOG.md").read_text()
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""SHA-256 of https://www.apache.org/licenses/LICENSE-2.0.txt, and of Debian's common-licenses/Apache-2.0."""


def test_the_installed_package_has_the_version_that_is_said_once() -> None:
    assert version(PROJECT["name"]) == PROJECT["version"]


def test_the_changelog_begins_with_what_is_not_released_and_then_this_version() -> None:
    unreleased, latest, *_ = re.findall(r"^## (.+)$", CHANGELOG, re.MULTILINE)
    assert unreleased == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(PROJECT['version'])}\] - \d{{4}}-\d{{2}}-\d{{2}}", latest)


def test_the_changelog_knows_the_groups_of_its_form_alone() -> None:
    groups = set(re.findall(r"^### (.+)$", CHANGELOG, re.MULTILINE))
    assert groups <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_licence_is_whole() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert hashlib.sha256((REPOSITORY / "LICENSE").read_bytes()).hexdigest() == APACHE_2
