"""What fails on PgBouncer's host, beside PgBouncer."""

import shutil
import socket
import threading
from functools import partial
from pathlib import Path

from tests.chaos.disks import FullDisk
from tests.chaos.registry import Fails, Lags, Undo, case
from tests.chaos.scene import Scene
from tests.support.folders import make_read_only
from tests.support.waiting import wait_for

EDIT_SECONDS = 0.05


@case(
    "the other target is switched at once; the struck one once sshd goes on",
    fails=Fails.VICTIMS,
    lags=Lags.VICTIM,
)
def sshd_frozen(scene: Scene, undo: Undo) -> None:
    """sshd hangs, and the agent with it."""
    undo.by(scene.victim.sshd.thaw)
    scene.victim.sshd.freeze()


@case(
    "the other target is switched at once; the struck one once sshd is back",
    fails=Fails.VICTIMS,
    lags=Lags.VICTIM,
)
def sshd_killed(scene: Scene, undo: Undo) -> None:
    """sshd and all its sessions die."""
    undo.by(scene.victim.sshd.start)
    scene.victim.sshd.kill()


@case("the session that is open goes on, and no client fails")
def sshd_takes_nobody_new(scene: Scene, undo: Undo) -> None:
    """sshd's listener is dead, its sessions live."""
    undo.by(scene.victim.sshd.start)
    scene.victim.sshd.kill_listener()


@case(
    "nobody is trusted under another key; the other target is switched at once, this one when it is known",
    fails=Fails.VICTIMS,
    lags=Lags.VICTIM,
)
def sshd_has_another_host_key(scene: Scene, undo: Undo) -> None:
    """sshd is started anew with a host key that the watcher does not know."""
    undo.by(scene.victim.sshd.write_known_hosts)
    scene.victim.sshd.replace_host_key()


@case(
    "the other target is switched at once; the struck one once its folder can be written to",
    fails=Fails.VICTIMS,
    lags=Lags.VICTIM,
)
def folder_read_only(scene: Scene, undo: Undo) -> None:
    """The folder of PgBouncer's file is mounted read-only."""
    undo.by(make_read_only(scene.victim.pgbouncer.folder))


@case(
    "the other target is switched at once; the struck one once there is room",
    fails=Fails.VICTIMS,
    lags=Lags.VICTIM,
)
def disk_full(scene: Scene, undo: Undo) -> None:
    """The disk of PgBouncer's file is full."""
    disk = FullDisk(scene.victim.pgbouncer.folder)
    undo.by(disk.take_away)
    disk.put_there()


@case(
    "the other target is switched at once; the struck one once sshd lets somebody in",
    fails=Fails.VICTIMS,
    lags=Lags.VICTIM,
)
def sshd_has_too_many_guests(scene: Scene, undo: Undo) -> None:
    """sshd refuses the fourth that has not logged in; three say nothing, and the sessions have ended."""
    settings = scene.victim.sshd.set_up("MaxStartups 3:100:3", "LoginGraceTime 600")
    settings.__enter__()
    undo.by(partial(settings.__exit__, None, None, None))
    wait_for(scene.victim.sshd.session_pids, 30, "the watcher is back")
    guests = [socket.create_connection((scene.victim.sshd.address, scene.victim.sshd.port)) for _ in range(3)]
    for guest in guests:
        undo.by(guest.close)
        guest.recv(64)
    scene.victim.sshd.kill_sessions()


@case("the switch is made all the same, and no client fails")
def file_replaced_by_an_editor(scene: Scene, undo: Undo) -> None:
    """All the while somebody reads the file, adds a remark, and renames a new one over it."""
    over = threading.Event()
    editor = threading.Thread(target=_edit, args=(scene.victim.pgbouncer.config_file, over), daemon=True)
    undo.by(editor.join)
    undo.by(over.set)
    editor.start()


def _edit(file: Path, over: threading.Event) -> None:
    turn = 0
    while not over.wait(EDIT_SECONDS):
        turn += 1
        text = "".join(line for line in file.read_text().splitlines(True) if not line.startswith("; edit"))
        new = file.with_suffix(".edited")
        new.write_text(f"{text}; edit {turn}\n")
        shutil.chown(new, file.owner(), file.group())
        new.chmod(file.stat().st_mode & 0o777)
        new.rename(file)
