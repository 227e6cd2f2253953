"""The units of deploy/systemd: what systemd itself says of them, and the watcher at work under one."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.watcher import REPOSITORY

UNITS = REPOSITORY / "deploy/systemd"
UNIT = "pgbouncer-watcher.service"
LOCAL_TARGET = "local-target.conf"
SYSTEM_UNITS = Path("/usr/lib/systemd/system")
EXPOSURE_LIMIT = 15
"""In tenths, as `systemd-analyze --threshold` has it."""


def _install(root: Path, *, local: bool) -> Path:
    """The unit below `root` as docs/install.md installs it, its drop-in too where PgBouncer is `local`."""
    unit = root / "etc/systemd/system" / UNIT
    unit.parent.mkdir(parents=True)
    shutil.copy(UNITS / UNIT, unit)
    if local:
        drop_ins = unit.with_name(f"{UNIT}.d")
        drop_ins.mkdir()
        shutil.copy(UNITS / LOCAL_TARGET, drop_ins)
    return unit


def _analyze(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *words], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("local", [False, True], ids=["over SSH", "with a local target"])
def test_little_of_the_host_is_exposed_to_the_service(tmp_path: Path, local: bool) -> None:
    unit = _install(tmp_path, local=local)
    said = _analyze("security", "--offline=true", f"--threshold={EXPOSURE_LIMIT}", unit)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "Overall exposure level" in said.stdout


@pytest.mark.parametrize("local", [False, True], ids=["over SSH", "with a local target"])
def test_systemd_knows_every_line_of_the_unit(tmp_path: Path, local: bool) -> None:
    _install(tmp_path, local=local)
    shutil.copytree(SYSTEM_UNITS, tmp_path / "usr/lib/systemd/system", symlinks=True)
    for program in ("opt/pgbouncer-watcher/bin/watcher", "bin/kill"):
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / program).touch(0o755)
    said = _analyze("verify", f"--root={tmp_path}", "--man=no", UNIT)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")
