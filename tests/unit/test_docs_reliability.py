"""docs/reliability.md names tests and commands that exist: a promise without proof would be an opinion."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

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


def test_every_command_is_one_of_the_makefile() -> None:
    targets = set(re.findall(r"^\.PHONY: (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", PAGE))
    assert named
    assert named <= targets
