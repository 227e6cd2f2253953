"""A target without SSH: the agent is a child process (a sidecar that shares the volume and the socket).

A process of its own, so that a file system that hangs cannot hang the watcher, and so that what it
keeps ends by itself when the watcher dies.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Literal

from watcher.apply.agent import bundle
from watcher.apply.agent_link import Stream, agent_words, greet
from watcher.decide.errors import TargetError, TargetUnreachable

_OPEN_LIMIT = 5.0
_SETTINGS = "WATCHER_"
"""How variables begin that are settings, secrets among them. The agent needs none, and what it starts as
`reload_command` even less."""


class LocalPlace:
    """Starts agents as children. See `agent_link.Place` for the promise."""

    def __init__(self, name: str, agent_options: Sequence[str]) -> None:
        self.name = name
        self._options = tuple(agent_options)
        self._source = bundle.as_sent()
        self._children: list[tuple[subprocess.Popen[bytes], SocketStream]] = []

    @property
    def connected(self) -> bool:
        return any(child.poll() is None for child, _ in self._children)

    def open(self, word: str) -> Stream:
        self._forget_the_ended()
        near, theirs = socket.socketpair()
        ours = SocketStream(near)
        try:
            with theirs:
                self._children.append((self._start(word, theirs), ours))
            ours.settimeout(_OPEN_LIMIT)
            ours.sendall(self._source)
            greet(ours, self.name, _OPEN_LIMIT)
        except TargetError:
            self._end(ours)
            raise
        except (OSError, EOFError) as error:
            ours.close()
            self.close()
            problem = f"the agent did not start: {str(error) or type(error).__name__}"
            raise TargetUnreachable(self.name, problem, "see its words on stderr") from error
        return ours

    def _forget_the_ended(self) -> None:
        """Children that ended by themselves, as one does whose stream was closed."""
        for child, stream in tuple(self._children):
            if child.poll() is not None:
                self._end(stream)

    def _start(self, word: str, theirs: socket.socket) -> subprocess.Popen[bytes]:
        command = [sys.executable, *agent_words(len(self._source)), word, *self._options]
        # a group of its own: Ctrl-C at a terminal is the watcher's to handle
        return subprocess.Popen(  # noqa: S603 # nosec B603 # our own file
            command,
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)},
        )

    def close(self) -> None:
        for _, ours in tuple(self._children):
            self._end(ours)

    def _end(self, stream: SocketStream) -> None:
        """Ends the child at `stream`; one that does not end by itself with its input is killed."""
        stream.close()
        for child, _ in [pair for pair in self._children if pair[1] is stream]:
            try:
                child.wait(0.5)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        self._children = [pair for pair in self._children if pair[1] is not stream]


class SocketStream:
    """A socket as a `Stream` whose `close` also ends a `recv` that another thread waits in."""

    def __init__(self, near: socket.socket) -> None:
        self._socket = near

    def settimeout(self, timeout: float | None, /) -> None:
        self._socket.settimeout(timeout)

    def recv(self, size: int, /) -> bytes:
        return self._socket.recv(size)

    def sendall(self, data: bytes, /) -> None:
        self._socket.sendall(data)

    @property
    def ended(self) -> bool:
        with contextlib.suppress(OSError, ValueError):  # it is closed
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            return bool(poll.poll(0))
        return True

    def makefile(self, mode: Literal["rwb"]) -> Any:
        return self._socket.makefile(mode)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
