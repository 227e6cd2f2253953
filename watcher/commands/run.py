"""`watcher run`: stay, and keep every target where the leader is. SIGTERM ends it, SIGHUP re-reads."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

from watcher.app import Watcher
from watcher.commands.exit_code import ExitCode
from watcher.commands.signals import Signals
from watcher.decide.endpoint import parse_address
from watcher.decide.errors import WatcherError
from watcher.expose import logs
from watcher.expose.server import StatusServer
from watcher.expose.window import Window
from watcher.settings import Loaded, Settings


class _Pages:
    """The HTTP server, which goes on over a re-read of the settings that does not concern it."""

    def __init__(self) -> None:
        self._server: StatusServer | None = None
        self._shown: tuple[str | None, Window] | None = None

    def serve(self, settings: Settings, window: Window) -> None:
        """Returns at once."""
        wanted = (settings.http.listen, window)
        if self._shown == wanted:
            return
        self.close()
        self._shown = wanted
        if settings.http.listen is not None:
            listen = parse_address(settings.http.listen, "http.listen")
            self._server = StatusServer(listen, window.pages(), _tell_state)
            threading.Thread(target=self._server.run, name="http", daemon=True).start()

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._server = self._shown = None


def _tell_state(listens: bool, place: str, problem: WatcherError | None) -> None:
    log = logs.plain("http", endpoint=place)
    if listens:
        log.info("status page at http://{}/", place)
    else:
        log.error("{}", problem)


def run(load: Callable[[], Loaded]) -> ExitCode:
    """Until SIGTERM or Ctrl-C. `load` reads the settings, now and at each SIGHUP."""
    signals = Signals()
    loaded = load()
    watcher, pages = Watcher(loaded.settings), _Pages()
    _start(watcher, loaded, pages)
    while signals.wait() is signal.SIGHUP:
        watcher = _reread(load, watcher, pages)
    exit_code = _stop(watcher)
    pages.close()
    return exit_code


def _start(watcher: Watcher, loaded: Loaded, pages: _Pages) -> None:
    settings = loaded.settings
    logs.set_up(settings.log.level, settings.log.format)
    for warning in loaded.warnings:
        logs.plain("settings").warning("{}", warning)
    watcher.start()
    pages.serve(settings, watcher.window)
    targets = ", ".join(target.name for target in settings.targets)
    logs.plain("start", cluster=settings.cluster.scope).info(
        "watching {} for {}", settings.cluster.prefix, targets
    )


def _reread(load: Callable[[], Loaded], running: Watcher, pages: _Pages) -> Watcher:
    """The watcher of the new settings, or the running one if they are refused; one of them is at work."""
    try:
        loaded = load()
        fresh = Watcher(loaded.settings, running.window)
    except Exception as error:  # whatever it is, the running one goes on
        what = error if isinstance(error, WatcherError) else f"unexpected {error!r}"
        running.window.settings_refused()
        logs.plain("settings").error("the settings stay as they were: {}", what)
        return running
    running.ask_to_stop()  # and not waited for: a target that hangs in it must delay no other
    logs.plain("settings").info("settings read anew")
    _start(fresh, loaded, pages)
    return fresh


def _stop(watcher: Watcher) -> ExitCode:
    busy = watcher.stop()
    if busy:
        logs.plain("stop").warning("stopped while still busy: {}", ", ".join(busy))
    else:
        logs.plain("stop").info("stopped")
    logs.flush()
    return ExitCode.FAILED if busy else ExitCode.OK
