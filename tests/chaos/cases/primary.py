"""What fails in PostgreSQL and Patroni."""

from tests.chaos.registry import Fails, Meanwhile, Undo, case
from tests.chaos.scene import Scene


@case(
    "what is in flight fails, once a client; the old primary comes back and gets nobody",
    meanwhile=Meanwhile.CRASH,
    fails=Fails.IN_FLIGHT,
)
def primary_dies_and_comes_back(scene: Scene, undo: Undo) -> None:
    """Nothing else is broken: the node dies, another leads, and the old one is started again."""
    undo.by(scene.bed.patroni.launch)
