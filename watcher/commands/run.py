"""`watcher run`: stay, and keep every target where the leader is. SIGTERM ends it, SIGHUP re-reads."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence

from watcher.commands.exit_code import ExitCode
from watcher.commands.signals import Signals
from watcher.decide.endpoint import parse_address
from watcher.decide.errors import WatcherError
from watcher.expose import logs
from watcher.expose.lobby import pages_of
from watcher.expose.server import StatusServer
from watcher.expose.window import Window
from watcher.fleet import Fleet
from watcher.lasting import LastingThread, bound_starts, rehearse
from watcher.settings import Loaded, Settings

_SWITCH_INTERVAL = 0.02
"""Seconds for which a thread may compute while another waits to (`sys.setswitchinterval`); Python's own 5 ms
make hundreds of workers, each with some milliseconds of work, interrupt each other: with 256 targets it is a
fifth more of processor for a switch.
"""


class _Pages:
    """The HTTP server, which goes on over a re-read of the settings that does not concern it."""

    def __init__(self) -> None:
        self._server: StatusServer | None = None
        self._listens: str | None = None

    def serve(self, settings: Settings, windows: Sequence[Window]) -> None:
        """Returns at once."""
        pages = pages_of(windows)
        if self._server is not None and self._listens == settings.http.listen:
            self._server.serve(pages)
            return
        self.close()
        self._listens = settings.http.listen
        if self._listens is not None:
            self._server = StatusServer(parse_address(self._listens, "http.listen"), pages, _tell_state)
            run = self._server.run
            LastingThread(lambda _: run(), threading.Event(), "http").start()

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._server = self._listens = None


def _tell_state(listens: bool, place: str, problem: WatcherError | None) -> None:
    log = logs.plain("http", endpoint=place)
    if listens:
        log.info("status page at http://{}/", place)
    else:
        log.error("{}", problem)


def run(load: Callable[[], Loaded]) -> ExitCode:
    """Until SIGTERM or Ctrl-C. `load` reads the settings, now and at each SIGHUP."""
    sys.setswitchinterval(_SWITCH_INTERVAL)
    bound_starts()
    signals = Signals()
    loaded = load()
    fleet, pages = Fleet(loaded.fleet), _Pages()
    _start(fleet, loaded, pages)
    while signals.wait() is signal.SIGHUP:
        fleet = _reread(load, fleet, pages)
    exit_code = _stop(fleet)
    pages.close()
    return exit_code


def _start(fleet: Fleet, loaded: Loaded, pages: _Pages) -> None:
    logs.set_up(loaded.settings.log.level, loaded.settings.log.format)
    for warning in loaded.warnings:
        logs.plain("settings").warning("{}", warning)
    fleet.start()
    pages.serve(loaded.settings, fleet.windows)
    for settings in loaded.fleet:
        targets = ", ".join(target.name for target in settings.targets)
        logs.plain("start", cluster=settings.cluster.name).info(
            "watching {} for {}", settings.cluster.prefix, targets
        )


def _reread(load: Callable[[], Loaded], running: Fleet, pages: _Pages) -> Fleet:
    """The fleet of the new settings, or the running one if they are refused; one of them is at work."""
    try:
        loaded = load()
        fresh = Fleet(loaded.fleet, running)
        # once the running one is asked to stop there is no way back; the page may need a thread too
        rehearse(fresh.threads_to_begin() + 1)
    except Exception as error:  # whatever it is, the running one goes on
        what = error if isinstance(error, WatcherError) else f"unexpected {error!r}"
        for window in running.windows:
            window.settings_refused()
        logs.plain("settings").error("the settings stay as they were: {}", what)
        return running
    logs.plain("settings").info("settings read anew")
    _start(fresh, loaded, pages)
    return fresh


def _stop(fleet: Fleet) -> ExitCode:
    busy = fleet.stop()
    if busy:
        logs.plain("stop").warning("stopped while still busy: {}", ", ".join(busy))
    else:
        logs.plain("stop").info("stopped")
    logs.flush()
    return ExitCode.FAILED if busy else ExitCode.OK
