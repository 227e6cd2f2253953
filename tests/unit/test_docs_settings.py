"""The example and the page of settings say what the program knows, no less and no more."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from watcher.decide.errors import SettingsError
from watcher.settings import load
from watcher.settings.page import main, page_with_table, table
from watcher.settings.tree import fields

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "deploy/watcher.example.yaml"
PAGE = ROOT / "docs/configuration.md"


def test_the_example_is_accepted() -> None:
    settings = load({}, EXAMPLE, {}).settings
    assert [target.via for target in settings.targets] == ["ssh", "ssh", "local"]


def test_the_example_says_the_defaults() -> None:
    """What is not in the example by value is in it by its default, so no line of it misleads."""
    shown = load({}, EXAMPLE, {}).settings
    for section in (shown.patroni, shown.hold, shown.retry, shown.log):
        rest = {"nodes"}
        assert section.model_dump(exclude=rest) == type(section)().model_dump(exclude=rest)


def test_the_example_shows_every_setting() -> None:
    text = EXAMPLE.read_text()
    names = {str(place[-1]) for place, _ in fields()}
    missing = {name for name in names if not re.search(rf"^[\s#-]*{name}:|[`]{name}[`]", text, re.MULTILINE)}
    assert not missing


def test_what_the_example_has_commented_out_are_settings_too(tmp_path: Path) -> None:
    """With every comment undone the settings contradict each other, but none is unknown."""
    file = tmp_path / "all.yaml"
    file.write_text(re.sub(r"(?m)^( *)# ( *\w+:)", r"\1\2", EXAMPLE.read_text()))
    with pytest.raises(SettingsError) as caught:
        load({}, file, {})
    assert "cluster.sql: has no effect" in str(caught.value)
    assert "is no setting" not in str(caught.value)


def test_every_setting_has_a_description() -> None:
    bare = [place for place, field in fields() if not (field.description or "").strip().endswith(".")]
    assert not bare


def test_the_page_has_the_table_of_the_schema() -> None:
    page = PAGE.read_text()
    assert page == page_with_table(page), "run: python -m watcher.settings.page docs/configuration.md"


def test_the_table_has_a_row_for_every_setting_that_is_a_value() -> None:
    rows = set(re.findall(r"^\| `([^`]+)` ", table(), re.MULTILINE))
    headings = set(re.findall(r"^### `([^`]+)`", table(), re.MULTILINE))
    places = {".".join(str(p) for p in place).replace(".0", "[]") for place, _ in fields()}
    assert rows | {heading.removesuffix("[]") for heading in headings} == places


def test_a_page_without_its_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="once each"):
        page_with_table("# Configuration\n")


def test_the_command_brings_a_page_up_to_date(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text().replace("`etcd.timeout`", "`etcd.patience`"))
    assert main([str(page)]) == 0
    assert page.read_text() == PAGE.read_text()


def test_the_command_without_a_page_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out == table() + "\n"
