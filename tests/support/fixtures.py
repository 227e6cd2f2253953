"""The bed as pytest fixtures; tests/conftest.py makes them known."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.accounts import require_bed
from tests.support.bed import Bed
from tests.support.folders import bed_folder


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
