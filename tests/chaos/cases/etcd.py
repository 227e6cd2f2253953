"""What fails between the watcher and etcd, or in etcd."""

import time
from functools import partial

from tests.chaos.disks import FullDisk
from tests.chaos.packets import Packets
from tests.chaos.registry import Fails, Meanwhile, Undo, case
from tests.chaos.scene import Scene, group_of
from tests.support.proxy import Proxy
from tests.support.waiting import wait_for

ETCD_PORT = 2379
PEER_PORT = 2380
LATE_SECONDS = 0.3
NOTICED_SECONDS = 8.0
"""Within which a member that hangs is left: `etcd.reread_interval`, `etcd.timeout`, and a moment."""

FULL_SECONDS = 45.0
"""Within which a member has found that its disk is full."""

LOSS_PERCENT = 20


def _address(link: Proxy) -> str:
    return link.endpoint.rpartition(":")[0]


def drop(scene: Scene, undo: Undo, way: str, percent: int = 100) -> None:
    """Packets between the watcher and every member of etcd vanish."""
    addresses = ", ".join(_address(link) for link in scene.links)
    port = "dport" if way == "daddr" else "sport"
    packets = Packets(f"ip {way} {{ {addresses} }} tcp {port} {ETCD_PORT}", percent)
    undo.by(packets.pass_again)
    packets.drop()


def _cut(undo: Undo, whose: str = "") -> None:
    """What members of etcd say to each other vanishes where it leaves; TCP, unanswered, is soon silent."""
    for way in ("dport", "sport"):
        packets = Packets(f"{whose} tcp {way} {PEER_PORT}", hook="output")
        undo.by(packets.pass_again)
        packets.drop()


@case("the switch is made through the members that are left, and no client fails")
def etcd_member_gone(scene: Scene, undo: Undo) -> None:
    """One member of etcd is dead, the leader of raft."""
    member = scene.bed.etcd.leader()
    undo.by(scene.bed.etcd.start)
    member.kill()


@case("the switch is made through the members that are left, and no client fails")
def etcd_member_has_a_full_disk(scene: Scene, undo: Undo) -> None:
    """One member of etcd cannot write, and ends."""
    member = scene.bed.etcd.leader()
    undo.by(scene.bed.etcd.start)
    member.kill()
    disk = FullDisk(member.data)
    undo.by(disk.make_room)
    undo.by(member.kill)
    disk.put_there()
    member.start()
    wait_for(lambda: not member.is_alive(), FULL_SECONDS, f"{member.name} ends, for its disk is full")


@case("the names are asked again, the switch is made, and no client fails")
def etcd_is_elsewhere_under_its_names(scene: Scene, undo: Undo) -> None:
    """All members of etcd have moved: their names lead to other addresses, and the old ones refuse."""
    old = list(scene.links)
    new = [Proxy(member.endpoint) for member in scene.bed.etcd.members]
    for before, link in zip(old, new, strict=True):
        undo.by(partial(link.__exit__, None, None, None))
        undo.by(before.mend)
        link.mend()
    undo.by(partial(scene.names.lead, old))
    scene.names.lead(new)
    for before in old:
        before.cut()


@case("once that is noticed, the switch is made through another member, and no client fails")
def etcd_member_frozen(scene: Scene, undo: Undo) -> None:
    """A follower of raft hangs, for longer than the watcher may listen to it: connections to it stay, and
    nothing comes.
    """
    member = scene.bed.etcd.followers()[0]
    undo.by(member.thaw)
    member.freeze()
    time.sleep(NOTICED_SECONDS)


@case(
    "the switch is made through the majority; at most what is in flight fails, once a client",
    fails=Fails.IN_FLIGHT,
)
def etcd_member_cut_off(scene: Scene, undo: Undo) -> None:
    """The leader of raft hears no other member, and none hears it; clients reach it as before."""
    member = scene.bed.etcd.leader()
    _cut(undo, f"meta skgid {group_of(member)}")


@case("who is led stays led, and nobody is held, for unknown is not «no leader»", meanwhile=Meanwhile.NOTHING)
def etcd_members_cut_off(scene: Scene, undo: Undo) -> None:
    """No member of etcd hears another: all are there, and none is in a majority."""
    del scene
    _cut(undo)


@case("who is led stays led, and nobody is held, for unknown is not «no leader»", meanwhile=Meanwhile.NOTHING)
def etcd_majority_gone(scene: Scene, undo: Undo) -> None:
    """Two of three members are dead."""
    undo.by(scene.bed.etcd.start)
    scene.bed.etcd.lose_quorum()


@case("at most what is in flight fails, once a client; the guard holds the rest", fails=Fails.IN_FLIGHT)
def etcd_is_late(scene: Scene, undo: Undo) -> None:
    """All that the watcher and etcd say to each other comes 0.3 s later."""
    for link in scene.links:
        undo.by(partial(link.late, 0.0))
        link.late(LATE_SECONDS)


@case("at most what is in flight fails, once a client", fails=Fails.IN_FLIGHT)
def etcd_loses_packets(scene: Scene, undo: Undo) -> None:
    """A fifth of what etcd sends to the watcher is lost on the way."""
    drop(scene, undo, "saddr", LOSS_PERCENT)


@case("the health check leads every PgBouncer to the new leader", fails=Fails.IN_FLIGHT)
def etcd_does_not_hear_the_watcher(scene: Scene, undo: Undo) -> None:
    """What the watcher sends to etcd vanishes; what etcd sends would come."""
    drop(scene, undo, "daddr")


@case("the health check leads every PgBouncer to the new leader", fails=Fails.IN_FLIGHT)
def etcd_is_not_heard(scene: Scene, undo: Undo) -> None:
    """What etcd sends to the watcher vanishes."""
    drop(scene, undo, "saddr")
