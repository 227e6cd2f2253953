"""Threads of a watcher that lives longer than a shortage of memory."""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

AGAIN_AFTER = 1.0
"""Seconds after which a job that broke off is begun anew."""

Job = Callable[[threading.Event], None]
"""Runs until the event is set."""


def lasting(job: Job) -> Job:
    """The job, begun anew where it breaks off: by a bug, or since there was no memory, or no thread.
    That is told as the end of its thread would be, by `threading.excepthook`.
    """

    def run(stop: threading.Event) -> None:
        while True:
            try:
                job(stop)
            except Exception:
                with suppress(Exception):
                    told = (*sys.exc_info(), threading.current_thread())
                    threading.excepthook(threading.ExceptHookArgs(told))
                if stop.wait(AGAIN_AFTER):
                    return
            else:
                return

    return run


def begun(run: Callable[[], None]) -> None:
    """Runs in a thread of its own, which keeps no process from its end.

    `threading.Thread.start` waits until the new thread has begun, and for ever where that got no memory to
    begin with (measured with CPython 3.11 under RLIMIT_AS). Nobody is waited for here: who needs an answer
    gives up on it in time. RuntimeError where no thread is to be had.
    """
    _thread.start_new_thread(run, ())
