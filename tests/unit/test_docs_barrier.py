"""What `docs/barrier.md` tells people to copy is what the program takes, and what it quotes is said."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from watcher import barrier
from watcher.settings.schema import Barrier

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/barrier.md").read_text()


def test_every_flag_is_one_that_the_program_has_and_none_is_left_out() -> None:
    flags = {flag for action in barrier.parser("x")._actions for flag in action.option_strings}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    others = {"--prefix", "--reuid", "--regid", "--init-groups"}
    assert named - others == flags - {"-h", "--help"}


def test_the_snippets_are_settings() -> None:
    watcher, patroni = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
    assert Barrier.model_validate(watcher["barrier"]).enabled
    _, *arguments = shlex.split(patroni["postgresql"]["before_stop"])
    assert barrier.parser("x").parse_args(arguments).limit == barrier.LIMIT


def test_its_figures_are_the_program_s() -> None:
    assert f"(`--limit`, {barrier.LIMIT:g} s)" in PAGE
    assert f"has not answered for {barrier.SILENCE} s" in PAGE
    assert f"`barrier.ttl` ({Barrier().ttl:g} s)" in PAGE
    assert barrier.LEAST_LEFT == 1 / 3


@pytest.mark.parametrize(
    "words",
    [
        "held after {",
        "nothing to hold: {} does not lead",
        "nobody to ask: no watcher announces a target",
        "the stop goes on without {}: ",
        "not held within {",
        "no longer leads",
        "the leader key is about to run out",
        "the stop goes on without holds: {}",
        "etcd does not answer: {}",
    ],
)
def test_what_it_quotes_is_said(words: str) -> None:
    assert words in Path(barrier.__file__).read_text()
    assert words.partition("{")[0] in PAGE
