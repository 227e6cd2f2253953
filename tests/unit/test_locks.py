"""The lock files against what they were made from, without a network: `make lock` was not forgotten."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.audit import LOCKS, REPOSITORY

HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def _declared() -> list[str]:
    words: list[str] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    return words


def _listed(file: str) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in (REPOSITORY / file).read_text().splitlines())
    return [line for line in lines if line]


def _sources(lock: str) -> list[Requirement]:
    if lock == "requirements.txt":
        return [Requirement(text) for text in _declared()]
    listed = [Requirement(text) for text in _listed(lock.removesuffix(".txt") + ".in")]
    return listed + [Requirement(text) for text in (_declared() if lock == "requirements-dev.txt" else [])]


def _pins(lock: str) -> dict[str, list[str]]:
    """Versions by name: several where markers tell them apart."""
    found: dict[str, list[str]] = {}
    for text in _entries(lock):
        requirement = Requirement(text.split(" --hash")[0])
        [pin] = requirement.specifier
        assert pin.operator == "=="
        found.setdefault(canonicalize_name(requirement.name), []).append(pin.version)
    return found


def _entries(lock: str) -> list[str]:
    return [re.sub(r"\s+", " ", line) for line in _listed_joined(REPOSITORY / lock)]


def _listed_joined(file: Path) -> list[str]:
    whole = file.read_text().replace("\\\n", " ")
    return [line for line in whole.splitlines() if line.strip() and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("lock", LOCKS)
def test_what_is_asked_for_is_pinned_within_its_bounds(lock: str) -> None:
    pins = _pins(lock)
    for wanted in _sources(lock):
        versions = pins.get(canonicalize_name(wanted.name), [])
        assert versions, f"{lock} has no {wanted.name}: make lock"
        outside = [
            version for version in versions if not wanted.specifier.contains(version, prereleases=True)
        ]
        assert outside == [], f"{lock} pins {wanted.name} {outside}, not {wanted.specifier}: make lock"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_its_hashes_and_none_comes_from_elsewhere(lock: str) -> None:
    entries = _entries(lock)
    assert entries
    assert [entry for entry in entries if not HASH.search(entry)] == []
    assert [entry for entry in entries if "://" in entry or entry.startswith("-")] == []


def test_what_runs_is_what_was_tested() -> None:
    """The development lock pins what the program runs with to the same versions."""
    tested = _pins("requirements-dev.txt")
    assert {name: tested.get(name) for name in _pins("requirements.txt")} == _pins("requirements.txt")
