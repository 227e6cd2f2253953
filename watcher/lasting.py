"""Threads of a watcher that lives longer than a shortage of memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from loguru import logger

AGAIN_AFTER = 1.0
"""Seconds after which a job that broke off is begun anew."""

CALM = 5.0
"""Seconds after which a job is at work that has not broken off again."""

_MANY = 10  # times in a row that tell of more than a shortage that passes
_LOOKS, _LOOK = 30, 0.1  # and seconds: whoever was frozen meanwhile looks again after it

Job = Callable[[threading.Event], None]
"""Runs until the event is set."""


class LastingThread(threading.Thread):
    """Does a job until `stop` is set: begun anew where it breaks off, by a bug, or since there was no memory,
    or no thread. Each time is an error in the log. `at_end` is done behind the job. Keeps no process from its
    end.
    """

    def __init__(
        self, job: Job, stop: threading.Event, name: str, at_end: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._job, self._stop_asked, self._at_end = job, stop, at_end
        self._breaks = 0
        self._broke_at = float("-inf")

    @property
    def ails(self) -> str:
        """Why it does not do its job, empty if it does, or has not begun."""
        if self.ident is None:
            return ""
        if not self.is_alive():
            return f"no longer at work: {self.name}"
        is_broken = self._breaks >= _MANY and time.monotonic() - self._broke_at < CALM
        return f"breaks off again and again: {self.name}" if is_broken else ""

    def run(self) -> None:
        while not self._is_done():
            with suppress(Exception):  # to wait takes memory too
                self._stop_asked.wait(AGAIN_AFTER)
            if self._stop_asked.is_set():
                break
        self._at_end()

    def _is_done(self) -> bool:
        try:
            self._job(self._stop_asked)
        except Exception:
            now = time.monotonic()
            self._breaks = self._breaks + 1 if now - self._broke_at < CALM else 1
            self._broke_at = now
            with suppress(Exception):
                logger.bind(event="thread").exception("{} broke off, and begins anew", self.name)
            return False
        return True


def bound_starts() -> None:
    """From now on `threading.Thread.start` gives up after three seconds, with a RuntimeError, in this whole
    process: gRPC and paramiko begin threads too.

    As it is it waits until the new thread has begun, and for ever where that got no memory to begin with
    (CPython issue 140746; measured with 3.11 under RLIMIT_AS).
    """
    start = threading.Thread.start

    def bounded(thread: threading.Thread) -> None:
        begun = getattr(thread, "_started", None)
        if isinstance(begun, threading.Event) and not begun.is_set():
            thread._started = _Beginning()  # type: ignore[attr-defined]
        start(thread)

    threading.Thread.start = bounded  # type: ignore[assignment,method-assign]


class _Beginning(threading.Event):
    """Of a thread; nobody waits for it for ever."""

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is not None:
            return super().wait(timeout)
        for _ in range(_LOOKS):
            if super().wait(_LOOK):
                return True
        raise RuntimeError("can't start new thread: it does not begin, perhaps for want of memory")


def rehearse(count: int) -> None:
    """RuntimeError where so many threads more cannot begin now; none is left."""
    over = threading.Event()
    threads = [threading.Thread(target=over.wait, name="rehearsal", daemon=True) for _ in range(count)]
    try:
        for thread in threads:
            thread.start()
    finally:
        over.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
