"""`watcher plan`: what `once` would change, as a diff; nothing is written."""

from __future__ import annotations

import difflib
import re

from watcher.apply.pooler import Pooler
from watcher.commands import once
from watcher.commands.exit_code import ExitCode
from watcher.commands.looking import at_each_target, look
from watcher.commands.saying import say, say_error
from watcher.decide.decision import plan as plan_steps
from watcher.decide.errors import WatcherError
from watcher.decide.model import Desired, Step, Write
from watcher.settings import Settings

_PASSWORD = re.compile(r"(password\s*=\s*)('(?:[^']|'')*'|\S+)")


def plan(settings: Settings) -> ExitCode:
    """WOULD_CHANGE if a file or PgBouncer's own route differs from what should be."""
    seen = look(settings)
    return once.report(seen, at_each_target(settings, lambda pooler: _show(pooler, seen.wish)))


def _show(pooler: Pooler, wish: Desired) -> ExitCode:
    try:
        actual = pooler.read()
        steps = plan_steps(actual, wish)
        lines = [f"{pooler.name}: {_summary(steps, wish)}", *(_diff(pooler, step) for step in steps)]
        if actual.console_problem is not None:
            raise actual.console_problem
    except WatcherError as error:
        say_error(error)
        return ExitCode.FAILED
    say("\n".join(line for line in lines if line))
    return ExitCode.WOULD_CHANGE if steps else ExitCode.OK


def _summary(steps: tuple[Step, ...], wish: Desired) -> str:
    if wish.route is None:
        return "left as it is"
    names = ", ".join(type(step).__name__.lower() for step in steps)
    return f"would {names}" if names else "nothing to change"


def _diff(pooler: Pooler, step: Step) -> str:
    if not isinstance(step, Write):
        return ""
    before, after = (_lines(text) for text in pooler.preview(step.route))
    diff = difflib.unified_diff(before, after, f"{pooler.name} now", f"{pooler.name} then", lineterm="")
    return "\n".join(diff)


def _lines(text: str) -> list[str]:
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return _PASSWORD.sub(r"\1********", shown).splitlines()
