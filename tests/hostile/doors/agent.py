"""The link to the agent beside PgBouncer, both ways, and what a hold leaves on the disk."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import BinaryIO

from tests.hostile.door import Door, repeated, said, throwaway_folder
from tests.hostile.doors.etcd_keys import JSON
from tests.hostile.doors.file import GOOD
from watcher.apply.agent import file as agent
from watcher.apply.agent.bounds import Bounds
from watcher.apply.agent.record import Records
from watcher.apply.agent.wire import PROTOCOL
from watcher.apply.agent_link import AgentLink, greet
from watcher.apply.console import ConsoleAccess
from watcher.apply.holding import Ear, Holding, Terms
from watcher.apply.local import SocketStream
from watcher.apply.pooler import Pooler
from watcher.decide.errors import BlockError, TargetError, TargetUnreachable


class _OnePlace:
    """A `Place` whose agent has said everything already, and is not there a second time."""

    name = "here"
    connected = True

    def __init__(self, near: socket.socket) -> None:
        self._near: socket.socket | None = near

    def open(self, word: str) -> SocketStream:
        near, self._near = self._near, None
        if near is None:
            raise TargetUnreachable(word, "it is gone", "")
        return SocketStream(near)

    def close(self) -> None:
        """The stream is closed by whoever opened it."""


def check_reply(data: bytes) -> None:
    """Of the agent that reads and writes: TargetError or BlockError, or an answer."""
    with said(data) as near, contextlib.suppress(TargetError, EOFError, OSError):
        greet(SocketStream(near), "here", 5)
    with said(data) as near, contextlib.suppress(TargetError):
        assert isinstance(AgentLink(SocketStream(near), "here", 5).request(verb="read"), dict)
    with said(data) as near, contextlib.suppress(TargetError, BlockError):
        place = _OnePlace(near)
        Pooler(place, file="/f", block="demo", console=None, reloads_by_command=True, step_limit=5).read()


def check_hold_reply(data: bytes) -> None:
    """Of the agent that holds, which also speaks unasked: TargetError, or an answer."""
    with said(data) as near:
        holding = Holding(_OnePlace(near), ConsoleAccess(), Terms(), 5, Ear(), lambda: 1.0)
        with contextlib.suppress(TargetError):
            holding.open()
            holding.look("", 1.0)
            holding.hold(["app"], None, 2.0)
        holding.close()


@cache
def folder() -> Path:
    return throwaway_folder()


def check_ask(data: bytes) -> None:
    """What comes to the agent's own input: an answer a line; the file is the old one, or as told."""
    file = folder() / "pgbouncer.ini"
    file.write_text(GOOD)
    options = argparse.Namespace(
        file=str(file), write="rename", limit=0.0, reload_command=None, bounds=Bounds(None, None)
    )
    greeting, *answers = map(json.loads, _answers(data, options))
    assert greeting == {"agent": PROTOCOL}
    assert len(answers) == len(io.BytesIO(data).readlines())
    assert [path.name for path in folder().iterdir()] == ["pgbouncer.ini"]
    if file.read_bytes() != GOOD.encode():
        assert any("digest" in answer for answer in answers)


def _answers(data: bytes, options: argparse.Namespace) -> list[str]:
    ours, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(data))
    try:
        with _said_to_stdout() as said_to:
            agent.serve(options)
            said_to.seek(0)
            return said_to.read().decode().splitlines()
    finally:
        sys.stdin = ours


@contextlib.contextmanager
def _said_to_stdout() -> Iterator[BinaryIO]:
    """The agent writes to its descriptor 1 itself."""
    ours = os.dup(1)
    try:
        with os.fdopen(os.memfd_create("said"), "w+b") as said_to:
            os.dup2(said_to.fileno(), 1)
            try:
                yield said_to
            finally:
                os.dup2(ours, 1)
    finally:
        os.close(ours)


def check_record(data: bytes) -> None:
    """What anybody left beside the file: a record of the dead, or nothing."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        (Path(folder) / ".f.watcher-hold-00").write_bytes(data)
        records = Records(f"{folder}/f", "7 since 8")
        for record in [*records.others(), *records.left()]:
            assert all(isinstance(name, str) for name in record["databases"])
            assert isinstance(record["left"], float)
        records.note(["app"], {}, {})
        records.forget()


_AGENT = (
    *(
        b'{"agent": 2}\n',
        b'{"digest": "x", "text": "',
        b'"error": ',
        b'"changed"',
        b'"problem": ',
        b"{}\n",
        b"\n",
        b'"}\n',
    ),
    *(
        b'{"event": "ended", "why": "x", "held_for": ',
        b'"held": true, ',
        b'"databases": ["app"], ',
        b'"left": ',
        b'"age": ',
    ),
    *(
        b'"complete": true}',
        b'{"event": "alarm", "host": "h", "port": ',
        b'"refuses": true, "why": "x"}',
        b'{"bytes": "Tg=="}',
        b'{"event": "differs"}\n',
        b'{"token": "x", "watches": ',
    ),
)

DOORS = (
    Door(
        "agent_reply",
        "TargetError, or an answer",
        check_reply,
        (*_AGENT, *JSON),
        8,
        {"nesting": repeated(b"", b"["), "digits": repeated(b"", b"9")},
    ),
    Door(
        "hold_reply",
        "TargetError, or an answer; whoever waits is told",
        check_hold_reply,
        (*_AGENT, *JSON),
        6,
    ),
    Door(
        "agent_ask",
        "one answer for each line, and the file is the old one or what was told",
        check_ask,
        (
            *(
                b'{"verb": "read"}\n',
                b'{"verb": "write", "expect": "',
                b'", "text": "',
                b'"verb": ',
                b'"probe"',
                b'"reload"',
                b'"}\n',
            ),
            *(b'"known": ', b'"text": 7', b"\n", b'"expect": null', *JSON),
        ),
        10,
    ),
    Door(
        "hold_record",
        "a record that anybody made is one of the dead, or nothing",
        check_record,
        (
            *(
                b'{"pooler": "7 since 8", ',
                b'"databases": ["app"], ',
                b'"settings": {"a": "1"}, ',
                b'"set_to": {}, ',
            ),
            *(b'"began": 1.5, ', b'"until": ', b"1.5}", b'"settings": [], ', b'"databases": 7, ', *JSON),
        ),
        10,
        {"nesting": repeated(b"", b"["), "digits": repeated(b'{"until":', b"9", b"}")},
    ),
)
