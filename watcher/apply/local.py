"""A target without SSH: the agent is a child process (a sidecar that shares the volume and the socket).

A process of its own, so that a file system that hangs cannot hang the watcher, and so that what it
keeps ends by itself when the watcher dies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from watcher.apply import agent
from watcher.apply.agent_link import Stream, greet
from watcher.decide.errors import TargetError, TargetUnreachable

_OPEN_LIMIT = 5.0


class LocalPlace:
    """Starts agents as children. See `agent_link.Place` for the promise."""

    def __init__(self, name: str, agent_options: Sequence[str]) -> None:
        self.name = name
        self._options = tuple(agent_options)
        self._children: list[tuple[subprocess.Popen[bytes], socket.socket]] = []

    @property
    def connected(self) -> bool:
        return any(child.poll() is None for child, _ in self._children)

    def open(self, word: str) -> Stream:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._children.append((self._start(word, theirs), ours))
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

    def _start(self, word: str, theirs: socket.socket) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", str(Path(agent.__file__)), word, *self._options]
        # a group of its own: Ctrl-C at a terminal is the watcher's to handle
        return subprocess.Popen(  # noqa: S603 - our own file
            command, stdin=theirs.fileno(), stdout=theirs.fileno(), start_new_session=True
        )

    def close(self) -> None:
        for _, ours in tuple(self._children):
            self._end(ours)

    def _end(self, stream: socket.socket) -> None:
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
