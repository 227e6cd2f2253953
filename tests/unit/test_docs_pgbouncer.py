"""`docs/pgbouncer.md` is held to the list that `check-config` compares with; so are the tests' servers."""

import configparser
import re
from pathlib import Path

import pytest

from tests.support.pgbouncer import DEBIAN_VERSION, RECOMMENDED
from watcher.decide.advice import (
    HOLD_LIMIT,
    PROMOTION,
    SETTINGS,
    SHORTCOMINGS,
    WANTED_VERSION,
    Advice,
    Setting,
    Version,
    advise,
    recommended,
)

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/pgbouncer.md").read_text()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_has_its_row(setting: Setting) -> None:
    reasons = "; ".join(filter(None, [setting.why, setting.why_not_zero]))
    assert f"| `{setting.name}` | `{setting.recommended}` | {reasons} |\n" in PAGE


@pytest.mark.parametrize(("before", "what"), SHORTCOMINGS)
def test_every_version_that_lacks_something_has_its_row(before: Version, what: str) -> None:
    assert f"| {'.'.join(map(str, before))} | {what} |\n" in PAGE


def test_no_row_is_without_its_setting_or_version() -> None:
    assert len(re.findall(r"^\| `", PAGE, re.MULTILINE)) == len(SETTINGS)
    assert len(re.findall(r"^\| \d", PAGE, re.MULTILINE)) == len(SHORTCOMINGS)


def test_the_lines_to_copy_are_those_that_are_recommended() -> None:
    (lines,) = re.findall(r"^```ini\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    ini = configparser.ConfigParser(comment_prefixes=(";",))
    ini.read_string(f"[pgbouncer]\n{lines}")
    assert dict(ini["pgbouncer"]) == recommended((99,))


def test_the_limits_of_the_text_are_those_of_the_code() -> None:
    assert (
        f"a hold may last (`hold.limit`, {HOLD_LIMIT:g} s unless you set it), and more than Patroni's"
        f" `ttl` and {PROMOTION:g} s" in PAGE
    )
    assert f"\nPgBouncer {WANTED_VERSION} or newer" in PAGE


def test_the_line_that_is_shown_is_one_that_is_said() -> None:
    (shown,) = re.findall(r"^advice   target pgb1: (.*) …$", PAGE, re.MULTILINE)
    said: tuple[Advice, ...] = advise("", {"server_login_retry": "15"}, ())
    assert str(said[0]).startswith(shown)


def test_the_servers_of_the_tests_run_by_what_is_recommended() -> None:
    lines = recommended(DEBIAN_VERSION)
    assert lines == {**RECOMMENDED, "pool_mode": "transaction"}
    assert advise("", lines, ()) == ()


@pytest.mark.parametrize("page", ["README.md", "docs/cli.md", "docs/install.md"])
def test_the_page_is_linked(page: str) -> None:
    assert "pgbouncer.md)" in (ROOT / page).read_text()
