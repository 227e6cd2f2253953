"""The agent by itself: its grammar, and the order in which a write reaches the disk."""

import ast
import os
from pathlib import Path

import pytest

from watcher.apply.agent import bundle
from watcher.apply.agent import file as agent

OLDEST = (3, 6)


def test_the_agent_is_written_in_the_grammar_of_its_oldest_python() -> None:
    ast.parse(bundle.source(), feature_version=OLDEST)


def test_no_two_parts_of_the_agent_give_one_name_to_two_things() -> None:
    """They share one namespace once they are one file."""
    owners: dict[str, set[str]] = {}
    for part in bundle.PARTS:
        for name in _names_given(Path(bundle.__file__).with_name(f"{part}.py")):
            owners.setdefault(name, set()).add(part)
    assert {name: parts for name, parts in owners.items() if len(parts) > 1} == {}


def _names_given(module: Path) -> set[str]:
    """What a module's own lines call something; imports of the same thing agree."""
    names: set[str] = set()
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {
                name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)
            }
    return names


@pytest.mark.parametrize("part", bundle.PARTS)
def test_a_part_of_the_agent_imports_only_from_parts_before_it(part: str) -> None:
    before = set(bundle.PARTS[: bundle.PARTS.index(part)])
    tree = ast.parse(Path(bundle.__file__).with_name(f"{part}.py").read_text())
    imports = (node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    ours = {module for module in imports if module.startswith("watcher")}
    assert ours <= {f"watcher.apply.agent.{name}" for name in before}


def test_the_agent_as_one_file_imports_nothing_of_ours() -> None:
    assert "watcher.apply" not in bundle.source()


def test_the_new_text_is_on_the_disk_before_it_takes_the_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power failure at any instant leaves the old file or the new one, whole."""
    file = tmp_path / "pgbouncer.ini"
    file.write_bytes(b"old")
    order: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced(fd: int) -> None:
        order.append(f"fsync {Path(f'/proc/self/fd/{fd}').readlink().name}")
        fsync(fd)

    def renamed(fresh: str, name: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        order.append("rename")
        rename(fresh, name, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    agent.write(str(file), agent.digest(b"old"), b"new", "rename", 1.0)
    assert order == ["fsync .pgbouncer.ini.watcher-new", "rename", f"fsync {tmp_path.name}"]
    assert file.read_bytes() == b"new"
