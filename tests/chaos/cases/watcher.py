"""What fails in the watcher itself."""

from tests.chaos.registry import Meanwhile, Undo, case
from tests.chaos.scene import Scene


@case("no client fails, and nobody is held longer than the limit", meanwhile=Meanwhile.NOTHING)
def watcher_frozen(scene: Scene, undo: Undo) -> None:
    """The watcher hangs while all is quiet."""
    undo.by(scene.watcher.process.thaw)
    scene.watcher.process.freeze()


@case("no client fails, and the next watcher takes over", meanwhile=Meanwhile.NOTHING)
def watcher_killed(scene: Scene, undo: Undo) -> None:
    """The watcher dies while all is quiet."""
    undo.by(scene.watcher.process.start)
    scene.watcher.process.kill()
