"""`watcher once`: one look, one reconcile, and an exit code."""

from __future__ import annotations

from watcher.apply.pooler import Pooler
from watcher.commands.exit_code import ExitCode
from watcher.commands.looking import Look, at_each_target, look
from watcher.commands.saying import say, say_error
from watcher.decide.decision import plan
from watcher.decide.errors import FileChanged, WatcherError
from watcher.decide.model import Actual, Desired
from watcher.settings import Settings

_TRIES = 3


def once(settings: Settings) -> ExitCode:
    """Every target to the leader, now; what cannot be done is said, and done by no second try."""
    seen = look(settings)
    outcomes = at_each_target(settings, lambda pooler: _reconcile(pooler, seen.wish))
    return report(seen, outcomes)


def report(seen: Look, outcomes: list[ExitCode]) -> ExitCode:
    """Says what was seen of the cluster; the worst of the outcomes, or «undecided» without a wish."""
    for problem in seen.problems:
        say_error(problem)
    say(f"cluster: {seen.wish.detail}")
    if ExitCode.FAILED in outcomes:
        return ExitCode.FAILED
    if seen.wish.route is None:
        say("nothing was decided, so nothing was changed")
        return ExitCode.UNDECIDED
    return max(outcomes)


def _reconcile(pooler: Pooler, wish: Desired) -> ExitCode:
    for tries_left in reversed(range(_TRIES)):
        try:
            return _steps(pooler, wish)
        except FileChanged as error:
            if not tries_left:
                say_error(error)
        except WatcherError as error:
            say_error(error)
            break
    return ExitCode.FAILED


def _steps(pooler: Pooler, wish: Desired) -> ExitCode:
    actual = pooler.read()
    steps = plan(actual, wish)
    for step in steps:
        pooler.take(step)
    if not steps and actual.console_problem is not None:
        raise actual.console_problem
    say(f"{pooler.name}: {_outcome(actual, wish, bool(steps))}")
    return ExitCode.OK


def _outcome(before: Actual, wish: Desired, changed: bool) -> str:
    led = ", ".join(dict.fromkeys(str(db.endpoint) for db in before.writes))
    if wish.route is None:
        return f"leads to {led}, left as it is"
    how = (
        "confirmed by PgBouncer" if before.shown is not None else "reloaded; it has no console to confirm it"
    )
    if changed and led == str(wish.route.endpoint):
        return f"leads to {led} already; brought up to date, {how}"
    return f"{led} → {wish.route.endpoint}, {how}" if changed else f"leads to {led} already"
