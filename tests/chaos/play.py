"""Plays one case on the stage, and judges it."""

import time

from tests.chaos.registry import Case, Fails, Lags, Meanwhile, Undo
from tests.chaos.scene import Scene
from tests.chaos.verdict import Verdict, beyond_flight, lost
from tests.support.attempts import Attempt
from tests.support.bed import BouncerHost
from tests.support.crowd import Crowd, said
from tests.support.patroni import Node
from tests.support.waiting import BedError

ALONE_SECONDS = 3.0
SHOWN = 3


def play(scene: Scene, case: Case) -> Verdict:
    """Strike, let it be alone for a moment, then what happens meanwhile; undo, and see that all is well."""
    scene.wait_until_whole()
    with scene.clients() as clients:
        broken = _trouble(scene, case, clients)
        attempts = clients.attempts()
    gone = lost(attempts.all, scene.rows())
    broken += [f"{gone} acknowledged commits are not there"] if gone else []
    return Verdict(case.name, len(attempts), attempts.failed, gone, tuple(broken))


def _trouble(scene: Scene, case: Case, clients: Crowd) -> list[str]:
    undo = Undo()
    try:
        try:
            broken = _fault(scene, case, undo, clients)
        finally:
            undo.run()
    except (BedError, OSError) as error:
        broken = [str(error)]
    try:
        leader = scene.wait_until_whole()
        clients.settle(time.monotonic(), leader.host)
    except BedError as error:
        broken.append(f"not whole again: {error}")
    return broken + _judged(scene, case, clients)


def _fault(scene: Scene, case: Case, undo: Undo, clients: Crowd) -> list[str]:
    """What was broken while the fault lasted."""
    case.strike(scene, undo)
    if not undo.count:
        raise ValueError(f"{case.name} does not say how it is undone")
    time.sleep(ALONE_SECONDS)
    broken = [f"by the fault alone: {line}" for line in _judged(scene, case, clients)]
    if leader := _meanwhile(scene, case):
        for host in _prompt(scene, case):
            scene.wait_until_led(host, leader)
    return broken


def _prompt(scene: Scene, case: Case) -> list[BouncerHost]:
    """Who has to follow while the fault lasts."""
    of = {Lags.NONE: scene.bed.bouncers, Lags.VICTIM: [scene.bystander], Lags.ALL: []}
    return of[case.lags]


def _meanwhile(scene: Scene, case: Case) -> Node | None:
    if case.meanwhile is Meanwhile.SWITCHOVER:
        return scene.switch_over()
    return scene.crash() if case.meanwhile is Meanwhile.CRASH else None


def _blamed(scene: Scene, case: Case, clients: Crowd) -> list[Attempt]:
    """Failures that would not be there without the watcher."""
    if case.fails is Fails.ANYBODY:
        return []
    if case.fails is Fails.VICTIMS:
        return clients.failures(on=scene.bystander)
    return clients.failures()


def _judged(scene: Scene, case: Case, clients: Crowd) -> list[str]:
    failures = _blamed(scene, case, clients)
    if case.fails is Fails.IN_FLIGHT:
        return [line for host in scene.bed.bouncers for line in beyond_flight(clients.failures(on=host))]
    return said(failures[:SHOWN]) + ([f"{len(failures)} failed"] if failures else [])
