"""What the docs tell people to type is there; what the tutorial shows of the demo is what the demo says."""

import re
from pathlib import Path

import pytest

from tests.e2e import demo, demo_screen

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs/tutorial.md").read_text()
PAGES = [*ROOT.glob("README*.md"), *(ROOT / "docs").rglob("*.md")]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    """In code, where a target begins a line or stands between backticks."""
    named = set(re.findall(r"(?:^(?:\$ )?|`)make ([a-z-]+)", page.read_text(), re.MULTILINE))
    assert named <= TARGETS


def test_the_rows_that_are_shown_are_the_demo_s() -> None:
    (shown,) = re.findall(r"^\$ make demo\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)
    source = "".join(Path(str(module.__file__)).read_text() for module in (demo, demo_screen))
    table = shown[shown.index("milliseconds from") :]
    labels = [
        re.split(r"  +", line.strip())[0] for line in table.splitlines() if not line.startswith("errors")
    ]
    assert len(labels) > 10
    assert [label for label in labels if label not in source] == []


def test_the_commands_of_compose_are_there() -> None:
    known = set(re.findall(r"^compose/demo ([a-z]+)", (ROOT / "compose/demo").read_text(), re.MULTILINE))
    assert set(re.findall(r"compose/demo ([a-z]+)", TUTORIAL)) <= known


@pytest.mark.parametrize("name", re.findall(r"^cp (\S+)|^ansible-playbook .* (\S+)$", TUTORIAL, re.MULTILINE))
def test_the_files_of_the_playbook_are_there(name: tuple[str, str]) -> None:
    assert (ROOT / "deploy/ansible" / "".join(name)).is_file()
