"""What fails in PgBouncer."""

from tests.chaos.registry import Fails, Undo, case
from tests.chaos.scene import Scene


@case(
    "the other target is switched at once; the struck one leads right when it is back",
    fails=Fails.VICTIMS,
    lags=True,
)
def pgbouncer_killed(scene: Scene, undo: Undo) -> None:
    """PgBouncer dies; it is started later."""
    undo.by(scene.victim.pgbouncer.start)
    scene.victim.pgbouncer.kill()


@case(
    "the other target is switched at once; the struck one when PgBouncer goes on",
    fails=Fails.VICTIMS,
    lags=True,
)
def pgbouncer_frozen(scene: Scene, undo: Undo) -> None:
    """PgBouncer hangs."""
    undo.by(scene.victim.pgbouncer.thaw)
    scene.victim.pgbouncer.freeze()
