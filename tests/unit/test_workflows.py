"""The workflows for GitHub, which run nowhere else: their schema, and what they refer to."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.processes import run

REPOSITORY = Path(__file__).parents[2]
WORKFLOWS = sorted((REPOSITORY / ".github/workflows").glob("*.yml"))
PINNED = re.compile(r"[\w-]+/[\w./-]+@(v\d+|release/v\d+|[0-9a-f]{40})")


def _jobs(file: Path) -> dict[str, Any]:
    jobs: dict[str, Any] = yaml.safe_load(file.read_text())["jobs"]
    return jobs


def _steps(file: Path) -> list[dict[str, Any]]:
    return [step for job in _jobs(file).values() for step in job.get("steps", [])]


def test_there_are_workflows() -> None:
    assert [file.name for file in WORKFLOWS] == ["ci.yml", "release.yml"]


def test_they_fit_the_schema_of_github() -> None:
    check = REPOSITORY / ".venv/bin/check-jsonschema"
    run([check, "--builtin-schema", "vendor.github-workflows", *WORKFLOWS])


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_every_action_is_pinned(file: Path) -> None:
    used = [step["uses"] for step in _steps(file) if "uses" in step]
    assert used
    assert [action for action in used if not PINNED.fullmatch(action)] == []


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_job_may_write_only_what_it_asks_for_itself(file: Path) -> None:
    assert set(yaml.safe_load(file.read_text())["permissions"].values()) <= {"read"}


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_every_command_of_the_project_exists(file: Path) -> None:
    scripts = "\n".join(step.get("run", "") for step in _steps(file))
    targets = set(re.findall(r"^\.PHONY: ([\w-]+)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    wanted = [word for line in re.findall(r"^make (.+)$", scripts, re.MULTILINE) for word in line.split()]
    assert wanted
    assert set(wanted) <= targets
    assert all((REPOSITORY / path).exists() for path in re.findall(r"^bash (\S+)$", scripts, re.MULTILINE))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_every_job_waits_for_jobs_that_exist(file: Path) -> None:
    jobs = _jobs(file)
    for job in jobs.values():
        needs = job.get("needs", [])
        assert set([needs] if isinstance(needs, str) else needs) <= set(jobs)
