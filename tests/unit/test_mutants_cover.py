"""`make mutants` plays every test of `watcher/decide/`, and these run every line of it."""

import sys
import tomllib

import pytest

from tests.support.processes import run
from tests.support.repository import REPOSITORY


def test_mutants_meet_every_test_of_the_decisions() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["mutmut"]
    there = {str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("tests/unit/test_decide_*.py")}
    assert there <= set(settings["pytest_add_cli_args_test_selection"])


@pytest.mark.long
def test_every_line_and_branch_of_the_decisions_is_run_by_their_own_tests() -> None:
    done = run([sys.executable, "-m", "tests.mutants.covered"], cwd=REPOSITORY, check=False, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
