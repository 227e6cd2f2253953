"""What fails on PgBouncer's host, beside PgBouncer."""

from tests.chaos.registry import Fails, Undo, case
from tests.chaos.scene import Scene


@case(
    "the other target is switched at once; the struck one once sshd goes on", fails=Fails.VICTIMS, lags=True
)
def sshd_frozen(scene: Scene, undo: Undo) -> None:
    """sshd hangs, and the agent with it."""
    undo.by(scene.victim.sshd.thaw)
    scene.victim.sshd.freeze()


@case(
    "the other target is switched at once; the struck one once sshd is back", fails=Fails.VICTIMS, lags=True
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
