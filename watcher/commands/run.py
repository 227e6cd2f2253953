"""`watcher run`: stay, and keep every target where the leader is. SIGTERM ends it, SIGHUP re-reads."""

from __future__ import annotations

import signal
from collections.abc import Callable

from watcher.app import Watcher
from watcher.commands.exit_code import ExitCode
from watcher.commands.signals import Signals
from watcher.decide.errors import WatcherError
from watcher.expose import logs
from watcher.settings import Loaded


def run(load: Callable[[], Loaded]) -> ExitCode:
    """Until SIGTERM or Ctrl-C. `load` reads the settings, now and at each SIGHUP."""
    signals = Signals()
    loaded = load()
    watcher = Watcher(loaded.settings)
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
    except Exception as error:  # whatever it is, the running one goes on
        what = error if isinstance(error, WatcherError) else f"unexpected {error!r}"
        logs.plain("settings").error("the settings stay as they were: {}", what)
        return running
    running.ask_to_stop()  # and not waited for: a target that hangs in it must delay no other
    logs.plain("settings").info("settings read anew")
    _start(fresh, loaded)
    return fresh


def _stop(watcher: Watcher) -> ExitCode:
    busy = watcher.stop()
    if busy:
        logs.plain("stop").warning("stopped while still busy: {}", ", ".join(busy))
    else:
        logs.plain("stop").info("stopped")
    logs.flush()
    return ExitCode.FAILED if busy else ExitCode.OK
