"""What fails in the watcher itself."""

import os
import resource
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

import psutil
import urllib3
import yaml

from tests.chaos.registry import Fails, Lags, Meanwhile, Undo, case, once
from tests.chaos.scene import Scene
from tests.support.waiting import BedError


@case("no client fails, and nobody is held", meanwhile=Meanwhile.NOTHING)
def watcher_frozen(scene: Scene, undo: Undo) -> None:
    """The watcher hangs while all is quiet."""
    undo.by(scene.watcher.process.thaw)
    scene.watcher.process.freeze()


@case("no client fails, and the next watcher takes over", meanwhile=Meanwhile.NOTHING)
def watcher_killed(scene: Scene, undo: Undo) -> None:
    """The watcher dies while all is quiet."""
    undo.by(scene.watcher.process.start)
    scene.watcher.process.kill()


@case("clients wait, none fails, and the switch is made when it goes on", lags=Lags.ALL)
def watcher_frozen_in_a_switch(scene: Scene, undo: Undo) -> None:
    """The watcher hangs as soon as clients are held."""
    undo.by(scene.watcher.process.thaw)
    _once_held(scene, undo, scene.watcher.process.freeze)


@case("the hold ends with it, and the next watcher leads right", fails=Fails.ANYBODY, lags=Lags.ALL)
def watcher_killed_in_a_switch(scene: Scene, undo: Undo) -> None:
    """The watcher dies as soon as clients are held."""
    undo.by(scene.watcher.process.start)
    _once_held(scene, undo, scene.watcher.process.kill)


@case(
    "clients go on waiting until there is a new leader, and at most what is in flight fails",
    meanwhile=Meanwhile.CRASH,
    fails=Fails.IN_FLIGHT,
)
def settings_are_read_anew_in_a_crash(scene: Scene, undo: Undo) -> None:
    """The primary dies; as soon as clients wait a setting of the cluster is changed, and SIGHUP sent."""
    undo.by(scene.bed.patroni.launch)
    _once_held(scene, undo, other_settings(scene, undo))


def other_settings(scene: Scene, undo: Undo) -> Callable[[], None]:
    """Makes the watcher read settings in which one of the cluster's is another, by SIGHUP."""
    before = scene.watcher.config.read_text()
    undo.by(partial(_read_anew, scene, before))
    return partial(_read_anew, scene, _other(before))


def _other(text: str) -> str:
    """The same settings but for one of the cluster's."""
    settings = yaml.safe_load(text)
    return yaml.safe_dump({**settings, "patroni": {**settings.get("patroni", {}), "interval": 31.0}})


def _read_anew(scene: Scene, settings: str) -> None:
    known = len(scene.watcher.lines("settings"))
    scene.watcher.rewrite(settings)
    scene.watcher.process.send(signal.SIGHUP)
    scene.watcher.wait_for_line("settings", timeout=30, after=known, saying=["read anew"])


def _once_held(scene: Scene, undo: Undo, strike: Callable[[], None]) -> None:
    """Strike as soon as the first PgBouncer holds."""
    before = len(scene.watcher.lines("hold"))
    once(undo, lambda: len(scene.watcher.lines("hold")) > before, strike)


@case("the sessions that are open suffice, and at most what is in flight fails", fails=Fails.IN_FLIGHT)
def watcher_out_of_descriptors(scene: Scene, undo: Undo) -> None:
    """The watcher may open no file and no connection more than it has."""
    watcher = psutil.Process(scene.watcher.process.pid)
    before = watcher.rlimit(resource.RLIMIT_NOFILE)
    undo.by(lambda: watcher.rlimit(resource.RLIMIT_NOFILE, before))
    watcher.rlimit(resource.RLIMIT_NOFILE, (_lowest_free(watcher.pid), before[1]))
    _require_silent_page(scene)


@case("it goes on or is started anew, and leads right", fails=Fails.ANYBODY, lags=Lags.ALL)
def watcher_out_of_memory(scene: Scene, undo: Undo) -> None:
    """The watcher gets no more memory, but other settings. Where that ends it, it is started anew, as a
    service is.
    """
    process, settings = scene.watcher.process, scene.watcher.config.read_text()
    watcher = psutil.Process(process.pid)
    before = watcher.rlimit(resource.RLIMIT_AS)
    undo.by(lambda: _read_anew(scene, settings) if process.is_alive() else process.start())
    undo.by(partial(scene.watcher.rewrite, settings))
    undo.by(lambda: watcher.rlimit(resource.RLIMIT_AS, before) if process.is_alive() else None)
    watcher.rlimit(resource.RLIMIT_AS, (watcher.memory_info().vms, before[1]))
    scene.watcher.rewrite(_other(settings))
    process.send(signal.SIGHUP)


@case("the switch is made all the same, and no client fails")
def watchers_log_is_not_read(scene: Scene, undo: Undo) -> None:
    """The watcher's log is a pipe that is full, and whoever should read it hangs."""
    process = scene.watcher.process
    argv = list(process.argv)
    process.kill()
    undo.by(process.start)
    undo.by(partial(setattr, process, "argv", argv))
    undo.by(process.kill)
    process.argv = ["bash", "-c", 'exec "$0" "$@" > >(exec cat) 2>&1', *argv]
    process.start()
    scene.wait_until_whole()
    reader = next(one for one in psutil.Process(process.pid).children() if one.name() == "cat")
    reader.suspend()
    pipe = os.open(f"/proc/{process.pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, b"\n")
    os.close(pipe)


def _lowest_free(pid: int) -> int:
    """The number that the next descriptor would have. Their count is no bound, for there are gaps."""
    taken = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in count() if number not in taken)


def _require_silent_page(scene: Scene) -> None:
    """That the limit bites: whoever asks for a page now gets none."""
    with suppress(urllib3.exceptions.HTTPError):
        scene.watcher.get("/status")
        raise BedError("the watcher still answers: it is not out of descriptors")
