"""`watcher run`: stay, and keep every target where the leader is. SIGTERM ends it, SIGHUP re-reads."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

from watcher.app import Watcher
from watcher.commands.exit_code import ExitCode
from watcher.decide.errors import WatcherError
from watcher.expose import logs
from watcher.settings import Loaded

_TICK = 1.0


class _Signals:
    """What was asked of us; the handlers only note it down."""

    def __init__(self) -> None:
        self.stop = False
        self.reread = False
        self._happened = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.reread = True
        else:
            self.stop = True
        self._happened.set()

    def wait(self) -> None:
        """Until something was asked for."""
        while not self._happened.wait(_TICK):
            pass
        self._happened.clear()


def run(load: Callable[[], Loaded]) -> ExitCode:
    """Until SIGTERM or Ctrl-C. `load` reads the settings, now and at each SIGHUP."""
    loaded = load()
    watcher = Watcher(loaded.settings)
    signals = _Signals()
    _start(watcher, loaded)
    while not signals.stop:
        signals.wait()
        if signals.reread and not signals.stop:
            signals.reread = False
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
