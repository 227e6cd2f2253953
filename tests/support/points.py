"""The watcher as a process that stops itself at its n-th point, so that a test can strike exactly there.

Points of the watcher are before and after each step and each request to the agent that holds, and each new
wish. Points of that agent are before each thing it says to PgBouncer's console, and before each call to the
system that changes its record. All are wrapped from outside, in the real watcher and in the source that it
sends. Run as a program (`python -m tests.support.points SOCKET`) this imports the watcher once, and forks for
each order.
"""

import contextlib
import functools
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from tests.support.keeper import become
from tests.support.preloaded import ready_to_fork
from tests.support.processes import Process
from tests.support.repository import REPOSITORY
from tests.support.waiting import wait_for
from tests.support.watcher import python_for

READY_SECONDS = 20.0
POLL = 0.002

Who = Literal["watcher", "agent"]


@dataclass(frozen=True)
class Stop:
    """The place to stop at: the `number`th point of `who`, counted from 1 and from `Trail.arm` on."""

    who: Who
    number: int


class Trail:
    """What a watcher and its agents leave in a folder of their own: the points that they came by."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._armed = folder / "armed"
        self._reached = folder / "reached"
        self._go = folder / "go"

    def arm(self) -> None:
        """From now on points count."""
        self._armed.touch()

    def let_go_on(self) -> None:
        """Whoever stopped goes on."""
        self._go.touch()

    def points(self, who: Who) -> list[str]:
        """The points of `who` so far, whole lines only."""
        path = self.folder / who
        text = path.read_text() if path.exists() else ""
        return text[: text.rfind("\n") + 1].splitlines()

    @property
    def stopped(self) -> tuple[int, str] | None:
        """The process id of who has stopped, and at which point."""
        text = self._reached.read_text() if self._reached.exists() else ""
        pid, _, name = text.rstrip("\n").partition(" ")
        return (int(pid), name) if text.endswith("\n") else None

    # --- inside the watcher ---------------------------------------------------------------------------

    def pass_by(self, who: Who, stop_at: Stop | None, name: str) -> None:
        """One point; waits here where it is the one to stop at."""
        if not self._armed.exists():
            return
        with (self.folder / who).open("a") as trail:
            trail.write(f"{name}\n")
        if stop_at == Stop(who, len(self.points(who))):
            self._reached.write_text(f"{os.getpid()} {name}\n")
            while not self._go.exists():
                time.sleep(POLL)


class SteppingProgram(AbstractContextManager["SteppingProgram"]):
    """Starts stepping watchers, each within some ten milliseconds and as any account that is open to as much
    as `account`. Safe between threads.
    """

    def __init__(self, folder: Path, account: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._socket = folder / "orders"
        python, environment = python_for(account)
        command = [str(python), "-m", "tests.support.points", str(self._socket)]
        self._process = Process(
            "stepping watchers", command, log=folder / "program.log", env=environment, cwd=REPOSITORY
        )

    def __enter__(self) -> Self:
        self._process.start()
        wait_for(self._socket.exists, READY_SECONDS, "the program listens", logs=[self._process.log])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stop()

    def run(
        self, trail: Trail, config: Path, log: Path, stop_at: Stop | None = None, account: str = "-"
    ) -> int:
        """`watcher run` with these settings, as `account` («-»: as we are); its process id."""
        order = {
            "folder": str(trail.folder),
            "config": str(config),
            "log": str(log),
            "stop_at": None if stop_at is None else [stop_at.who, stop_at.number],
            "account": account,
        }
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(READY_SECONDS)
            link.connect(str(self._socket))
            link.sendall(json.dumps(order).encode() + b"\n")
            return int(link.makefile().readline())


def strike(pid: int, number: signal.Signals) -> None:
    """A signal to one process; it may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


# --- the program ----------------------------------------------------------------------------------


def serve(path: str) -> None:
    """Fork for each order that comes; never ends by itself."""
    listener = ready_to_fork(path, socket.SOCK_STREAM)
    while True:
        link, _ = listener.accept()
        with link:
            order = json.loads(link.makefile().readline())
            if (pid := os.fork()) == 0:
                _become_watcher(order, link, listener)
            link.sendall(f"{pid}\n".encode())


def _become_watcher(order: dict[str, Any], *inherited: socket.socket) -> None:
    """In the child. Never returns."""
    code = 1
    try:
        os.setsid()
        for link in inherited:
            link.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        become(order["account"])
        if not os.access(
            sys.executable, os.X_OK
        ):  # a checkout that is closed to the account; agents need no more
            sys.executable = "/usr/bin/python3"
        stop_at = None if order["stop_at"] is None else Stop(*order["stop_at"])
        code = _run(Trail(Path(order["folder"])), stop_at, order["config"])
    except BaseException as error:
        sys.stderr.write(f"{error!r}\n")
        raise
    finally:
        sys.stderr.flush()
        os._exit(code)


def _run(trail: Trail, stop_at: Stop | None, config: str) -> int:
    from watcher.command_line import main

    _wrap_watcher(functools.partial(trail.pass_by, "watcher", stop_at))
    _wrap_agent(trail, stop_at)
    return main(["run", "--config", config])


def _wrap_watcher(pass_by: Callable[[str], None]) -> None:
    from watcher.apply.holding import Holding
    from watcher.apply.pooler import Pooler
    from watcher.expose.logs import LogReporter

    _around(Pooler, "take", lambda step: type(step).__name__, pass_by)
    _around(Holding, "_ask", lambda **request: f"request {request['verb']}", pass_by)
    _around(LogReporter, "wished", lambda wish: f"wish {wish.reason}", pass_by)


def _around(owner: type, method: str, name: Callable[..., str], pass_by: Callable[[str], None]) -> None:
    original = getattr(owner, method)

    @functools.wraps(original)
    def with_points(self: Any, *arguments: Any, **named: Any) -> Any:
        what = name(*arguments, **named)
        pass_by(f"before {what}")
        try:
            return original(self, *arguments, **named)
        finally:
            pass_by(f"after {what}")

    setattr(owner, method, with_points)


_AGENT_PART = """
def _make_points(folder, stop_at):
    trail, seen, timed = os.path.join(folder, "agent"), [], []

    def pass_by(name):
        if not os.path.exists(os.path.join(folder, "armed")) or seen[-1:] == [name]:
            return
        if timed and name.startswith("SHOW "):
            return
        seen.append(name)
        with open(trail, "a") as file:
            file.write(name + "\\n")
        reached = os.path.join(folder, "reached")
        if len(seen) == stop_at and not os.path.exists(reached):
            with open(reached, "w") as file:
                file.write("%d %s\\n" % (os.getpid(), name))
            while not os.path.exists(os.path.join(folder, "go")):
                time.sleep(0.002)

    def before(owner, method, name_of):
        original = getattr(owner, method)

        def with_point(*arguments):
            pass_by(name_of(*arguments))
            return original(*arguments)

        setattr(owner, method, with_point)

    do_what_is_due = Holder._do_what_is_due

    def do_timed(holder):
        timed.append(True)
        try:
            do_what_is_due(holder)
        finally:
            timed.pop()

    Holder._do_what_is_due = do_timed
    before(Console, "post", lambda self, *statements: "; ".join(statements))
    before(Records, "note", lambda self, names, settings, *_: "note %s %s" % (names, sorted(settings)))
    before(Records, "forget", lambda self: "forget")
    for call in ("pwrite", "ftruncate", "rename", "unlink"):
        before(os, call, lambda *_, call=call: call)


if "hold" in sys.argv:
    _make_points(FOLDER, STOP_AT)

"""
_MAIN = '\nif __name__ == "__main__":\n'


def _wrap_agent(trail: Trail, stop_at: Stop | None) -> None:
    """A look that is repeated while something is waited for is one point, and one that is taken because its
    time has come is none: how many there are is no property of a switch.
    """
    from watcher.apply.agent import bundle

    number = stop_at.number if stop_at is not None and stop_at.who == "agent" else 0
    head, main, tail = bundle.source().rpartition(_MAIN)
    if not main:
        raise RuntimeError("the agent's source has no main part to put points before")
    part = _AGENT_PART.replace("FOLDER", repr(str(trail.folder))).replace("STOP_AT", str(number))
    source = head + part + main + tail
    bundle.source = lambda: source  # type: ignore[assignment]  # functools.cache has more than a call


def _main(arguments: Sequence[str]) -> None:
    serve(arguments[0])


if __name__ == "__main__":
    _main(sys.argv[1:])
