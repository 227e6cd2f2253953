"""What fails in PostgreSQL and Patroni."""

from contextlib import ExitStack

import pg8000.exceptions
import pg8000.native

from tests.chaos.registry import Fails, Lags, Meanwhile, Undo, case
from tests.chaos.scene import Scene
from tests.support.patroni import Node
from tests.support.postgres import APP, APP_PASSWORD


@case(
    "what is in flight fails, once a client; the old primary comes back and gets nobody",
    meanwhile=Meanwhile.CRASH,
    fails=Fails.IN_FLIGHT,
)
def primary_dies_and_comes_back(scene: Scene, undo: Undo) -> None:
    """Nothing else is broken: the node dies, another leads, and the old one is started again."""
    undo.by(scene.bed.patroni.launch)


@case(
    "clients wait until there is room, and at most what is in flight fails",
    fails=Fails.IN_FLIGHT,
    lags=Lags.ALL,
)
def next_primary_is_out_of_connections(scene: Scene, undo: Undo) -> None:
    """All connections of the replica, which is about to be promoted, are taken by others, and stay so."""
    guests = ExitStack()
    undo.by(guests.close)
    _fill(guests, scene.bed.patroni.wait_for_replicas()[0])


def _fill(guests: ExitStack, node: Node) -> None:
    """Until the next one is refused."""
    while True:
        try:
            guest = pg8000.native.Connection(APP, node.host, APP, node.port, APP_PASSWORD)
        except pg8000.exceptions.DatabaseError:
            return
        guests.callback(guest.close)
