"""docs/cli.md is held to the code: exit codes, commands, log events, reasons."""

import re
from pathlib import Path

import pytest

from watcher.command_line import _WORDS
from watcher.commands.exit_code import ExitCode
from watcher.decide.model import Reason

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/cli.md").read_text()


@pytest.mark.parametrize("code", list(ExitCode))
def test_every_exit_code_is_documented_as_help_says_it(code: ExitCode) -> None:
    assert f"| {code.value} | `{code.name}` | {code.meaning} |" in PAGE


def test_no_exit_code_is_documented_that_does_not_exist() -> None:
    assert len(re.findall(r"^\| \d+ \| `", PAGE, re.MULTILINE)) == len(ExitCode)


@pytest.mark.parametrize("word", _WORDS)
def test_every_command_is_documented(word: str) -> None:
    assert re.search(rf"^watcher {word} ", PAGE, re.MULTILINE)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_of_a_wish_is_documented(reason: Reason) -> None:
    assert f"| `{reason}` |" in PAGE


def test_every_log_event_is_documented() -> None:
    """The agent's own `event`s are words between it and the watcher, not of the log."""
    paths = (REPOSITORY / "watcher").rglob("*.py")
    sources = [path.read_text() for path in paths if path.parent.name != "agent"]
    events = {name for text in sources for name in re.findall(r'(?:event=|plain\(|"event": )"(\w+)"', text)}
    table = PAGE[PAGE.index("| `event` |") : PAGE.index("`duration_ms` is")]
    documented = {
        name
        for row in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert events == documented - {"event"}
