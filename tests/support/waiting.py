"""Waiting for a condition, with a deadline and an error that shows what was going on."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.02
TAIL_LINES = 25


class BedError(Exception):
    """The test bed could not do what it was asked."""


class BedTimeoutError(BedError):
    """A condition did not come true in time; the text ends with the tails of the logs that matter."""


def log_tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, under a heading; a missing log is said to be missing."""
    if not path.exists():
        return f"--- {path}: missing"
    text = path.read_text(errors="replace").splitlines()[-lines:]
    return "\n".join([f"--- {path}", *text])


def wait_for(
    question: Callable[[], T | None],
    timeout: float,
    what: str,
    *,
    logs: Iterable[Path] = (),
    poll: float = POLL_SECONDS,
) -> T:
    """Ask until the answer is truthy and return it.

    Raises BedTimeoutError after `timeout` seconds, with the last error and the tails of `logs`. OSError and
    BedError (but not a time-out) inside the question count as «not yet».
    """
    deadline = time.monotonic() + timeout
    last: Exception | None = None
    while True:
        try:
            if answer := question():
                return answer
        except BedTimeoutError:
            raise
        except (OSError, BedError) as error:
            last = error
        if time.monotonic() >= deadline:
            tails = "\n".join(log_tail(log) for log in logs)
            raise BedTimeoutError(f"{what}: not within {timeout:g} s; last error: {last}\n{tails}") from last
        time.sleep(poll)
