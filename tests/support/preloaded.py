"""The watcher's program, imported once: whoever starts a watcher within `starting_quickly` forks it.

Its imports are most of a second of processor, and a session of tests starts hundreds of watchers. What runs
is the same from `watcher.__main__.main` on.

Run as a program (`python -m tests.support.preloaded SOCKET`) this forks a keeper (see keeper.py) for each
order, which forks the watcher.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tests.support import keeper
from tests.support.processes import BASE_ENVIRONMENT, Keeper, Process, run
from tests.support.repository import PYTHON, REPOSITORY
from tests.support.waiting import BedError, wait_for

_COMMAND = [str(PYTHON), "-m", "watcher"]
READY_SECONDS = 30.0
_MOST_BYTES = 64 * 1024
_KILLED = -signal.SIGKILL
_FDS = 5  # lifeline, report, status, standard output and error


def watcher_process(name: str, arguments: Sequence[str], *, log: Path) -> Process:
    """`watcher ARGUMENTS…`, not started yet."""
    return _WatcherProcess(name, [*_COMMAND, *arguments], log=log, cwd=REPOSITORY)


def run_watcher(arguments: Sequence[str], timeout: float = 60) -> "subprocess.CompletedProcess[str]":
    """`watcher ARGUMENTS…` to its end, whatever its exit code. Raises BedError if it takes too long."""
    if program := _at_work[-1]:
        return program.run(arguments, timeout)
    return run([*_COMMAND, *arguments], cwd=REPOSITORY, timeout=timeout, check=False)


_at_work: list["_Program | None"] = [None]


@contextlib.contextmanager
def starting_quickly() -> Iterator[None]:
    """Within it watchers are forked from a program that has imported all; begun when it is first needed."""
    program = _Program()
    _at_work.append(program)
    try:
        yield
    finally:
        _at_work.pop()
        program.close()


@contextlib.contextmanager
def starting_as_users_do() -> Iterator[None]:
    """Within it, in `starting_quickly` too, they are `python -m watcher`: what /proc says is their own."""
    _at_work.append(None)
    try:
        yield
    finally:
        _at_work.pop()


class _Program:
    """The program that forks, as seen from outside. Safe between threads once it runs."""

    def __init__(self) -> None:
        self.network = _network()
        self._folder = tempfile.TemporaryDirectory(prefix="preloaded-")
        self._socket = Path(self._folder.name) / "orders"
        command = [str(PYTHON), "-m", "tests.support.preloaded", str(self._socket)]
        self._process = Process(
            "preloaded watcher", command, log=Path(self._folder.name) / "log", cwd=REPOSITORY
        )

    def close(self) -> None:
        """Whoever was forked ends too."""
        self._process.stop()
        self._folder.cleanup()

    def fork(
        self, arguments: Sequence[str], env: Mapping[str, str], report: int, out: int, err: int
    ) -> "_ForkedKeeper":
        """The keeper of a watcher, which writes the watcher's process id to `report`."""
        if not self._process.is_alive():
            self._process.start()
            wait_for(self._socket.exists, READY_SECONDS, "it listens", logs=[self._process.log])
        lifeline, lifeline_end = os.pipe()
        status_end, status = os.pipe()
        given = (lifeline, report, status, out, err)
        try:
            pid = self._order({"arguments": list(arguments), "env": dict(env)}, given)
        finally:
            os.close(lifeline)
            os.close(status)
        return _ForkedKeeper(pid, os.fdopen(lifeline_end, "wb", 0), status_end)

    def _order(self, order: Mapping[str, Any], fds: Sequence[int]) -> int:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
            link.settimeout(READY_SECONDS)
            link.connect(str(self._socket))
            socket.send_fds(link, [json.dumps(order).encode()], fds)
            return int(link.recv(_MOST_BYTES))

    def run(self, arguments: Sequence[str], timeout: float) -> "subprocess.CompletedProcess[str]":
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            reader, report = os.pipe()
            with os.fdopen(reader):
                forked = self.fork(arguments, BASE_ENVIRONMENT, report, out.fileno(), err.fileno())
                os.close(report)
                try:
                    code = forked.wait(timeout)
                except subprocess.TimeoutExpired as error:
                    said = f"watcher {' '.join(arguments)}: still running after {timeout:g} s"
                    raise BedError(said) from error
                finally:
                    forked.stdin.close()
            return subprocess.CompletedProcess(list(arguments), code, _all_of(out), _all_of(err))


def _all_of(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode())


class _ForkedKeeper:
    """A keeper that is no child of ours: what `Process` asks of a Popen."""

    def __init__(self, pid: int, stdin: Any, status: int) -> None:
        self.pid = pid
        self.stdin = stdin
        self._status = status
        self._code: int | None = None

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        if self._code is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("keeper", timeout or 0)
            told = os.read(self._status, 16)
            os.close(self._status)
            self._code = int(told) if told else _KILLED
        return self._code


class _WatcherProcess(Process):
    """A watcher, forked where that makes no difference: of the same command, account and network."""

    def _begin_keeper(self, report: int, log: int) -> Keeper:
        program, word = _at_work[-1], len(_COMMAND)
        if program is None or self.user or self.argv[:word] != _COMMAND or _network() != program.network:
            return super()._begin_keeper(report, log)
        return program.fork(self.argv[word:], {**BASE_ENVIRONMENT, **self.env}, report, log, log)


def _network() -> str:
    """The namespace of the calling thread."""
    return os.readlink("/proc/thread-self/ns/net")  # noqa: PTH115 - no path


# --- the program ----------------------------------------------------------------------------------


def serve(path: str) -> NoReturn:
    """Fork for each order that comes; never ends by itself."""
    listener = ready_to_fork(path, socket.SOCK_SEQPACKET)
    while True:
        link, _ = listener.accept()
        with link:
            told, fds, *_ = socket.recv_fds(link, _MOST_BYTES, _FDS)
            if (pid := os.fork()) == 0:
                _keep(json.loads(told), fds, (link, listener))
            for fd in fds:
                os.close(fd)
            link.send(str(pid).encode())


def ready_to_fork(path: str, kind: socket.SocketKind) -> socket.socket:
    """All that takes long is imported, no thread is there, the kernel reaps; orders come from here."""
    _warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.bind(path + ".new")
    listener.listen(16)
    Path(path + ".new").rename(path)  # whoever sees it finds it listening
    return listener


def _warm_up() -> None:
    gc.disable()
    importlib.import_module("watcher.command_line")
    for word in ("asking", "check_config", "maintenance", "once", "plan", "run"):
        importlib.import_module(f"watcher.commands.{word}")
    importlib.import_module("watcher.apply.agent.bundle").source()
    gc.freeze()


def _keep(order: dict[str, Any], fds: Sequence[int], inherited: Sequence[socket.socket]) -> NoReturn:
    """In the child: be the keeper of a watcher."""
    code = keeper.EXEC_FAILED
    try:
        os.setsid()
        for link in inherited:
            link.close()
        lifeline, report, status, out, err = fds
        for fd, place in ((lifeline, 0), (out, 1), (err, 2)):
            os.dup2(fd, place)
            os.close(fd)
        os.set_inheritable(status, False)
        os.environ.clear()
        os.environ.update(order["env"])
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        code = keeper.keep_server(report, "-", lambda: _be_watcher(order["arguments"], status))
        os.write(status, str(code).encode())
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _be_watcher(arguments: Sequence[str], status: int) -> NoReturn:
    """In the child's child, as Python leaves it to `python -m watcher`."""
    os.close(status)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["watcher", *arguments]
    code: int | str | None = 1
    try:
        code = importlib.import_module("watcher.__main__").main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    serve(sys.argv[1])
