"""The agent by itself: its grammar, and the order in which a write reaches the disk."""

import ast
import os
from pathlib import Path

import pytest

from watcher.apply.agent import file as agent

OLDEST = (3, 6)


def test_the_agent_is_written_in_the_grammar_of_its_oldest_python() -> None:
    ast.parse(Path(agent.__file__).read_text(), feature_version=OLDEST)


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
