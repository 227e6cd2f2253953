"""Every line and branch of `watcher/decide/` is run by its own tests: `python -m tests.mutants.covered`.

The same tests that notice its mutants. Leaves with 1 where a line or a branch is run by none.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

COVERAGE = [sys.executable, "-m", "coverage"]
KEPT = Path("build/decide.coverage")


def main() -> int:
    KEPT.parent.mkdir(exist_ok=True)
    run = [*COVERAGE, "run", "--branch", "--source=watcher.decide", "-m", "pytest", "-q", *_tests()]
    report = [*COVERAGE, "report", "--skip-covered", "--fail-under=100"]
    environment = {**os.environ, "COVERAGE_FILE": str(KEPT)}
    return next(
        (code for words in (run, report) if (code := subprocess.run(words, env=environment).returncode)), 0
    )


def _tests() -> list[str]:
    mutmut: dict[str, Any] = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["mutmut"]
    return [*mutmut["pytest_add_cli_args"], *mutmut["pytest_add_cli_args_test_selection"]]


if __name__ == "__main__":
    raise SystemExit(main())
