"""One server of the bed: started, frozen, killed, stopped; by process id, never by name.

A server runs under its keeper (see keeper.py), so whatever it forks belongs to it, even after it died
itself, and all of it dies with this process. Stopping a child of a server does not concern the server.
"""

import contextlib
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

import psutil

from tests.support.waiting import BedError, log_tail, wait_for

KEEPER = Path(__file__).with_name("keeper.py")
BASE_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
STOP_SECONDS = 10.0


def run(
    argv: Sequence[str | Path],
    *,
    user: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str = "",
    timeout: float = 60,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a short command to its end, as `user`, with a clean environment.

    Raises BedError with both outputs if it fails (unless `check` is off) or takes too long.
    """
    command = [str(word) for word in argv]
    groups: list[int] | None = [] if user else None
    try:
        done = subprocess.run(
            command,
            env={**BASE_ENVIRONMENT, **(env or {})},
            cwd=cwd or "/",
            user=user,
            group=_primary_group(user),
            extra_groups=groups,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BedError(f"{' '.join(command)}: still running after {timeout:g} s") from error
    if check and done.returncode != 0:
        raise BedError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def _primary_group(user: str | None) -> int | None:
    """The primary group of `user`."""
    return pwd.getpwnam(user).pw_gid if user else None


class Keeper(Protocol):
    """What of a `Popen` is asked of a keeper. Its standard input is the lifeline."""

    @property
    def pid(self) -> int: ...

    @property
    def stdin(self) -> IO[bytes] | None: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


class Process:
    """A server and all that it forks.

    The object outlives its runs: after kill(), terminate() or a crash, start() begins a new one with the same
    arguments, appending to the same log. Not thread-safe for one object; different objects are independent.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log: Path,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.argv = [str(word) for word in argv]
        self.log = log
        self.user = user
        self.env = dict(env or {})
        self.cwd = cwd
        self._keepers: list[Keeper] = []
        self._main: psutil.Process | None = None

    def __repr__(self) -> str:
        return f"<{self.name} {'pid ' + str(self._main.pid) if self._main else 'not started'}>"

    @property
    def pid(self) -> int:
        """Process id of the server itself, of its latest run."""
        if self._main is None:
            raise BedError(f"{self.name} was not started")
        return self._main.pid

    def start(self) -> None:
        """Start the server; returns once it has a process id, which says nothing of its readiness.

        What an earlier run left behind (see kill_main) goes on and stays part of this object.
        """
        if self.is_alive():
            raise BedError(f"{self.name} is running already: {self.members()}")
        self._forget_ended()
        reader, report = os.pipe()
        with self.log.open("ab") as log, os.fdopen(reader) as answer:
            self._keepers.append(self._begin_keeper(report, log.fileno()))
            os.close(report)
            self._note_pid(answer.readline())

    def _begin_keeper(self, report: int, log: int) -> "Keeper":
        return subprocess.Popen(
            [sys.executable, "-I", "-S", KEEPER, str(report), self.user or "-", *self.argv],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**BASE_ENVIRONMENT, **self.env},
            cwd=self.cwd or "/",
            pass_fds=(report,),
            start_new_session=True,
        )

    def _note_pid(self, line: str) -> None:
        if not line.strip():
            raise BedError(f"{self.name}: its keeper failed\n{log_tail(self.log)}")
        self._main = None
        with contextlib.suppress(psutil.NoSuchProcess):
            self._main = psutil.Process(int(line))
        if self._main is None:
            raise BedError(f"{self.name}: ended at once\n{log_tail(self.log)}")

    def is_alive(self) -> bool:
        """Whether the server itself runs (a frozen one does)."""
        return self._main is not None and _runs(self._main)

    def any_alive(self) -> bool:
        """Whether the server, or anything that it left behind, runs."""
        return any(keeper.poll() is None for keeper in self._keepers)

    def members(self) -> list[psutil.Process]:
        """The server and everything below it that is alive, parents first."""
        found: list[psutil.Process] = []
        for keeper in self._keepers:
            if keeper.poll() is None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    found += psutil.Process(keeper.pid).children(recursive=True)
        return [member for member in found if _runs(member)]

    def offspring(self) -> list[psutil.Process]:
        """Everything that the server forked and that is alive, without the server itself."""
        return [member for member in self.members() if self._main is None or member.pid != self._main.pid]

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server itself; one that has ended is no error."""
        if self.is_alive() and self._main is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._main.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to the server and all below it, as if the host lost its power."""
        self._kill(include_main=True)
        self.wait()

    def kill_main(self) -> None:
        """SIGKILL to the server alone; what it forked stays, and belongs to this object still."""
        self.send(signal.SIGKILL)
        wait_for(lambda: not self.is_alive(), STOP_SECONDS, f"{self.name} killed", logs=[self.log])

    def kill_offspring(self) -> None:
        """SIGKILL to everything that the server forked, and not to the server."""
        self._kill(include_main=False)

    def _kill(self, *, include_main: bool) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        while victims := self.members() if include_main else self.offspring():
            for victim in victims:
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.kill()
            psutil.wait_procs(victims, timeout=0.1)
            if time.monotonic() > deadline:
                raise BedError(f"{self.name}: cannot kill {victims}")

    def freeze(self) -> None:
        """SIGSTOP to the server and all below it: connections stay, nothing answers. Idempotent."""
        self._signal_all(signal.SIGSTOP, {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE})

    def thaw(self) -> None:
        """SIGCONT to all that freeze() stopped. Idempotent."""
        for member in reversed(self.members()):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals, wanted: set[str]) -> None:
        def settled() -> bool:
            restless = [member for member in self.members() if _status(member) not in wanted]
            for member in restless:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.send_signal(number)
            return not restless

        wait_for(settled, STOP_SECONDS, f"{self.name}: {number.name}", poll=0.002)

    def wait(self, timeout: float = STOP_SECONDS) -> int:
        """Wait until the server and all below it have ended; its exit status (mod 256)."""
        deadline = time.monotonic() + timeout
        status = 0
        for keeper in self._keepers:
            try:
                status = keeper.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired as error:
                raise BedError(f"{self.name}: runs on after {timeout:g} s\n{log_tail(self.log)}") from error
        return status

    def terminate(self, timeout: float = STOP_SECONDS, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask the server to end, by SIGTERM or another signal, and wait for it."""
        self.send(number)
        return self.wait(timeout)

    def stop(self) -> None:
        """Make sure that nothing is left, quickly and without asking. Idempotent, fit for a `finally`."""
        for keeper in self._keepers:
            _close_lifeline(keeper)
        for keeper in self._keepers:
            keeper.wait(STOP_SECONDS)
        self._keepers.clear()

    def _forget_ended(self) -> None:
        for keeper in self._keepers:
            if keeper.poll() is not None:
                _close_lifeline(keeper)
        self._keepers = [keeper for keeper in self._keepers if keeper.poll() is None]


def _close_lifeline(keeper: Keeper) -> None:
    """The keeper kills what is left, and ends."""
    if keeper.stdin is not None:
        keeper.stdin.close()


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return str(psutil.STATUS_ZOMBIE)
