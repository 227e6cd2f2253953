"""What `docs/install.md` tells people to copy is what the program takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml
from pydantic import BaseModel

from tests.support.blocks import parse
from watcher.apply.agent.main import _options
from watcher.settings import Console, Ssh

PAGE = (Path(__file__).parents[2] / "docs/install.md").read_text()


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_marked_block_is_read() -> None:
    (ini,) = snippets("ini")
    assert [database.name for database in parse(ini, "main", "pgbouncer.ini").databases] == ["app"]


def test_the_named_marks_are_read() -> None:
    begin, end = re.findall(r"`(;; \[config cluster main: \w+\])`", PAGE)
    text = f"[databases]\n{begin}\napp = host=a\n{end}\n"
    assert parse(text, "main", "pgbouncer.ini").databases


def test_the_forced_command_is_one_that_the_agent_takes() -> None:
    (command,) = re.findall(r'^restrict,command="(.*?)" ssh-ed25519', PAGE, re.MULTILINE)
    python, isolated, script, *words = shlex.split(command)
    assert (python, isolated, Path(script).name) == ("/usr/bin/python3", "-I", "agent.py")
    assert _options(words).console == "/var/run/postgresql/.s.PGSQL.6432"
    assert f"agent.py {script}\n" in PAGE


def test_the_settings_are_settings() -> None:
    known: dict[str, type[BaseModel]] = {"console": Console, "ssh": Ssh}
    found = [item for text in snippets("yaml") for item in yaml.safe_load(text).items()]
    assert found
    for section, values in found:
        assert set(values) <= set(known[section].model_fields)
