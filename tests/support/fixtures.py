"""The bed as pytest fixtures; tests/conftest.py makes them known."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.accounts import require_bed
from tests.support.bed import Bed
from tests.support.folders import bed_folder
from tests.support.preloaded import starting_as_users_do, starting_quickly


@pytest.fixture(scope="session", autouse=True)
def quick_watchers() -> Iterator[None]:
    """Watchers are forked from one program that has imported all."""
    with starting_quickly():
        yield


@pytest.fixture(scope="module")
def real_watchers(quick_watchers: None) -> Iterator[None]:
    """… but not for this module, which looks at their command lines and environments too."""
    with starting_as_users_do():
        yield


@pytest.fixture
def service_folder() -> Iterator[Path]:
    """A temporary folder that the service accounts can enter (pytest's tmp_path is closed to them)."""
    with bed_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def installed() -> None:
    """Fails with the remedy where the machine lacks something the bed needs."""
    require_bed()


@pytest.fixture(scope="session")
def session_bed() -> Iterator[Bed]:
    """One whole bed for all tests that can share it. Ask for `bed` instead."""
    with Bed() as bed:
        yield bed


@pytest.fixture
def bed(session_bed: Bed) -> Bed:
    """The shared bed, in good health: what the test before did to its servers is undone."""
    session_bed.heal()
    return session_bed
