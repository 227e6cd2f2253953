"""What happens to the cluster, or to the watcher, while etcd cannot be heard: nobody tells who leads."""

import time
from functools import partial

from tests.chaos.cases.etcd import drop
from tests.chaos.cases.watcher import other_settings
from tests.chaos.packets import Packets
from tests.chaos.registry import Fails, Meanwhile, Undo, case, once
from tests.chaos.scene import POSTGRESQL, Scene

PROMOTION_SECONDS = 15
"""What a promotion takes here: longer than etcd may be unheard (`etcd.silence_limit`)."""
SILENT_SECONDS = 30.0
AFTER_SECONDS = 2.0
LEFT_ALONE_SECONDS = 20.0
WAITING_SECONDS = 5.0


def _fall_silent(scene: Scene, undo: Undo) -> None:
    """Until the watcher goes by what the nodes say."""
    heard = len(scene.watcher.lines("wish"))
    drop(scene, undo, "daddr")
    scene.watcher.wait_for_line("wish", timeout=SILENT_SECONDS, after=heard, saying=["etcd is silent"])


def _promote_slowly(scene: Scene, undo: Undo) -> None:
    slowly = scene.bed.patroni.configured(
        {"postgresql": {**POSTGRESQL, "pre_promote": f"/bin/sleep {PROMOTION_SECONDS}"}}
    )
    undo.by(partial(slowly.__exit__, None, None, None))
    slowly.__enter__()


@case(
    "clients wait for the promotion, and the health check leads them to the new leader",
    meanwhile=Meanwhile.CRASH,
    fails=Fails.IN_FLIGHT,
)
def etcd_falls_silent_during_a_promotion(scene: Scene, undo: Undo) -> None:
    """That there is a new leader is heard; that it is ready, a quarter of a minute later, is not."""
    _promote_slowly(scene, undo)
    undo.by(scene.bed.patroni.launch)
    heard = len(scene.watcher.lines("wish"))

    def is_led_anew() -> bool:
        return any(
            "leads, but is not ready" in line["message"] for line in scene.watcher.lines("wish")[heard:]
        )

    once(undo, is_led_anew, partial(drop, scene, undo, "daddr"))


@case(
    "clients go on waiting, and the health check leads them to the new leader",
    meanwhile=Meanwhile.CRASH,
    fails=Fails.IN_FLIGHT,
)
def settings_are_read_anew_in_silence(scene: Scene, undo: Undo) -> None:
    """The primary dies while etcd is not heard; a setting of the cluster is changed, and SIGHUP sent."""
    _promote_slowly(scene, undo)
    undo.by(scene.bed.patroni.launch)
    read_anew = other_settings(scene, undo)
    _fall_silent(scene, undo)
    primary = scene.bed.leader()

    def read_them_later() -> None:
        time.sleep(AFTER_SECONDS)
        read_anew()
        scene.require_waiting(WAITING_SECONDS)

    once(undo, lambda: not primary.is_alive(), read_them_later)


@case(
    "who follows it goes on, and is made to wait at no time",
    meanwhile=Meanwhile.NOTHING,
    fails=Fails.IN_FLIGHT,
)
def rest_is_lost_in_silence(scene: Scene, undo: Undo) -> None:
    """Etcd is not heard, the primary is another since, and its REST does not answer any more."""
    _fall_silent(scene, undo)
    leader = scene.switch_over()
    for host in scene.bed.bouncers:
        scene.wait_until_led(host, leader)
    address, _, port = leader.api_url.rpartition("/")[2].rpartition(":")
    rest = Packets(f"ip daddr {address} tcp dport {port}")
    undo.by(rest.pass_again)
    rest.drop()
    scene.require_not_waiting(LEFT_ALONE_SECONDS)
