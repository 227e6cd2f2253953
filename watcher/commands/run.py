"""`watcher run`: stay, and keep every target where the leader is. SIGTERM ends it, SIGHUP re-reads."""

from __future__ import annotations

import signal
from collections.abc import Callable
from queue import SimpleQueue

from watcher.app import Watcher
from watcher.commands.exit_code import ExitCode
from watcher.decide.errors import WatcherError
from watcher.expose import logs
from watcher.settings import Loaded


class _Signals:
    """What was asked of us, in order. The handler only notes it down.

    In a SimpleQueue, the one queue that a handler may use: it interrupts the thread that waits on it.
    """

    def __init__(self) -> None:
        self._asked: SimpleQueue[int] = SimpleQueue()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _: self._asked.put(number))

    def wait(self) -> signal.Signals:
        """Until something is asked; at once for what was asked meanwhile."""
        return signal.Signals(self._asked.get())


def run(load: Callable[[], Loaded]) -> ExitCode:
    """Until SIGTERM or Ctrl-C. `load` reads the settings, now and at each SIGHUP."""
    loaded = load()
    watcher = Watcher(loaded.settings)
    signals = _Signals()
    _start(watcher, loaded)
    while signals.wait() is signal.SIGHUP:
        watcher = _reread(load, watcher)
    return _stop(watcher)


def _start(watcher: Watcher, loaded: Loaded) -> None:
    settings = loaded.settings
    logs.set_up(settings.log.level, settings.log.format)
    for warning in loaded.warnings:
        logs.plain("settings").warning("{}", warning)
    watcher.start()
    targets = ", ".join(target.name for target in settings.targets)
    logs.plain("start", cluster=settings.cluster.scope).info(
        "watching {} for {}", settings.cluster.prefix, targets
    )


def _reread(load: Callable[[], Loaded], running: Watcher) -> Watcher:
    """The watcher of the new settings, or the running one if they are refused; one of them is at work."""
    try:
        loaded = load()
        fresh = Watcher(loaded.settings)
    except WatcherError as error:
        logs.plain("settings").error("the settings stay as they were: {}", error)
        return running
    running.ask_to_stop()
    logs.plain("settings").info("settings read anew")
    _start(fresh, loaded)  # before the wait: a target that hangs in the old one must delay no other
    running.stop()
    return fresh


def _stop(watcher: Watcher) -> ExitCode:
    busy = watcher.stop()
    if busy:
        logs.plain("stop").warning("stopped while still busy: {}", ", ".join(busy))
        return ExitCode.FAILED
    logs.plain("stop").info("stopped")
    return ExitCode.OK
