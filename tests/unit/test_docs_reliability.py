"""docs/reliability.md names tests and commands that exist: a promise without proof would be an opinion."""

import ast
import os
import re
from functools import cache
from pathlib import Path

import pytest

from tests.support.processes import run

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reliability.md").read_text()
NAMED = re.compile(r"`(tests/[\w/.]+\.py)(?:::(\w+))?`")
PROMISES = range(1, 13)


@cache
def _tests_in(path: Path) -> frozenset[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED.findall(PAGE))))
def test_every_test_that_it_names_is_there(path: str, name: str) -> None:
    assert (ROOT / path).is_file()
    assert not name or name in _tests_in(ROOT / path)


@pytest.mark.parametrize("number", PROMISES)
def test_every_promise_names_a_test(number: int) -> None:
    rows = re.findall(rf"^\| {number} \|.*$", PAGE, re.MULTILINE)
    assert len(rows) == 1
    assert NAMED.search(rows[0])


def test_every_program_that_it_names_is_there() -> None:
    named = re.findall(r"python -m (tests[\w.]*)", PAGE)
    assert named
    for name in named:
        place = ROOT / name.replace(".", "/")
        assert (place / "__main__.py").is_file() or place.with_suffix(".py").is_file(), name


def test_nothing_is_left_to_be_filled_in() -> None:
    assert "@@" not in PAGE


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["soak-switches"], "--seconds 7200"),
        (["soak-switches", "SECONDS=600"], "--seconds 600"),
        (["chaos"], "--seconds 0"),
        (["soak-simulation"], "--count 1000000"),
        (["simulate"], "--count 8000"),
        (["simulate"], "--count 2000 --start 8000 --canary"),
        (["soak-hostile"], "--inputs 1000000"),
    ],
)
def test_a_command_does_as_much_as_the_page_says(words: list[str], told: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("SECONDS", "COUNT")}
    said = run(["make", "-n", *words], cwd=ROOT, env=environment).stdout
    assert told in said


def test_every_command_is_one_of_the_makefile() -> None:
    targets = set(re.findall(r"^\.PHONY: (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", PAGE))
    assert named
    assert named <= targets
