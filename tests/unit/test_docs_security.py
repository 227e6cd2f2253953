"""docs/security.md names tests, commands and options that exist."""

import re

import pytest

from tests.unit.test_docs_reliability import NAMED, ROOT
from watcher.apply.agent import bundle

PAGE = (ROOT / "docs/security.md").read_text()


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED.findall(PAGE))))
def test_every_test_that_it_names_is_there(path: str, name: str) -> None:
    assert re.search(rf"^def {name}\b" if name else "", (ROOT / path).read_text(), re.MULTILINE)


def test_every_command_and_option_that_it_names_is_there() -> None:
    targets = set(re.findall(r"^\.PHONY: (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`", PAGE)) <= targets
    assert all(f'"{option}"' in bundle.source() for option in re.findall(r"`(--[a-z]+)`", PAGE))
