"""One look at etcd and the nodes, for the commands that do not stay."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from watcher import app
from watcher.apply.pooler import Pooler
from watcher.board import Board
from watcher.commands.exit_code import ExitCode
from watcher.commands.saying import say
from watcher.decide.decision import Policy, desired
from watcher.decide.errors import SourceError
from watcher.decide.model import Desired, OtherSite, Reason, Verdict
from watcher.decide.readiness import wanted
from watcher.decide.view import config
from watcher.settings import Settings

T = TypeVar("T")
_ASK_AGAIN_AFTER = 0.1


@dataclass(frozen=True, slots=True)
class Look:
    """What is wished for by one look, and what could not be heard on the way."""

    wish: Desired
    problems: tuple[SourceError, ...]


def look(settings: Settings) -> Look:
    """Asks etcd, then the leader whether it is ready; where etcd does not answer, all nodes.

    Takes at most etcd's time-outs and `unknown_limit`. An etcd that does not answer counts as silent.
    """
    policy, now = settings.policy().without_holds(), time.monotonic()
    board = Board(began_at=now - policy.silence_limit)
    try:
        board.post(app.etcd_watch(settings, board.post).read_once())
    except SourceError as error:
        board.post(app.health_probe(settings, board).look_once())
        return Look(desired(board.view, policy, time.monotonic()), (error,))
    problems = _look_at_other_site(settings, board) if config(board.view).standby_cluster else ()
    return Look(_once_ready(settings, board, policy), problems)


def _look_at_other_site(settings: Settings, board: Board) -> tuple[SourceError, ...]:
    """The same there, for this site's is a standby cluster; what could not be heard."""
    there = settings.of_other_site()
    if there is None:
        return ()
    policy = there.policy().without_holds()
    other = Board(began_at=time.monotonic() - policy.silence_limit)
    problems: tuple[SourceError, ...] = ()
    try:
        other.post(app.etcd_watch(there, other.post).read_once())
        _once_ready(there, other, policy)
    except SourceError as error:
        other.post(app.health_probe(there, other).look_once())
        problems = (error,)
    board.post(OtherSite(other.view))
    return problems


def _once_ready(settings: Settings, board: Board, policy: Policy) -> Desired:
    """Asks the leader until it is ready, says that it is not, or has not answered for `unknown_limit`."""
    probe = app.readiness_probe(settings, board)
    while (want := wanted(board.view, policy)) is not None:
        board.post(probe.look_once(want))
        answer = board.view.readiness
        if answer is None or answer.verdict is not Verdict.UNKNOWN:
            break
        if desired(board.view, policy, time.monotonic()).reason is not Reason.LEADER_NOT_READY:
            break
        time.sleep(_ASK_AGAIN_AFTER)
    return desired(board.view, policy, time.monotonic())


def at_each_cluster(fleet: Sequence[Settings], do: Callable[[Settings], ExitCode]) -> ExitCode:
    """`do` with one cluster after the other, each under its name where there are several; the worst of what
    comes of it.
    """
    codes: list[ExitCode] = []
    for settings in fleet:
        if len(fleet) > 1:
            say(f"--- {settings.cluster.name}")
        codes.append(do(settings))
    return max(codes, key=_WORSE.index)


_WORSE = (ExitCode.OK, ExitCode.WOULD_CHANGE, ExitCode.UNDECIDED, ExitCode.FAILED, ExitCode.BAD_SETTINGS)


def at_each_target(settings: Settings, do: Callable[[Pooler], T]) -> list[T]:
    """`do` with every target at the same time, so that a dead one delays no other; results in order."""

    def with_target(index: int) -> T:
        pooler = app.pooler(settings, settings.targets[index])
        try:
            return do(pooler)
        finally:
            pooler.close()

    count = len(settings.targets)
    with ThreadPoolExecutor(max_workers=min(32, count)) as workers:
        return list(workers.map(with_target, range(count)))
