"""Lines for people, whole even when several threads speak."""

from __future__ import annotations

import sys
import threading

from watcher.decide.errors import WatcherError
from watcher.settings import Loaded

_lock = threading.Lock()


def say(text: str) -> None:
    """One answer, on standard output."""
    with _lock:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


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
