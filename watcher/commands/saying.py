"""Lines for people, whole even when several threads speak."""

from __future__ import annotations

import os
import sys
import threading

from watcher.decide.errors import WatcherError
from watcher.settings import Loaded

_lock = threading.Lock()


def say(text: str) -> None:
    """One answer, on standard output. If whoever read it has gone (`| head`), the work goes on unheard, and
    its exit code tells how it ended.
    """
    with _lock:
        try:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


def say_error(error: WatcherError) -> None:
    """Place, problem and remedy, on standard error."""
    with _lock:
        sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()


def warned(loaded: Loaded) -> Loaded:
    """The same, once its warnings were said on standard error."""
    with _lock:
        sys.stderr.writelines(f"warning: {warning}\n" for warning in loaded.warnings)
    return loaded
