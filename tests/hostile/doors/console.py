"""PgBouncer's console and PostgreSQL's port: rows, and the bytes of somebody who only pretends."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cache

from tests.hostile.door import Door, repeated, said
from tests.hostile.doors.etcd_keys import JSON
from tests.hostile.doors.http import OneAnswer
from watcher.apply.agent.console import Console as AgentsConsole
from watcher.apply.agent.greeting import AWAY, FULL, REFUSES, SILENT, TAKES, greet_postgres
from watcher.apply.agent.hold import OURS
from watcher.apply.console import Console, ConsoleAccess, databases_in
from watcher.apply.local import SocketStream
from watcher.decide.errors import TargetError, TargetRefused


def check_rows(data: bytes) -> None:
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError):
        return
    with suppress(TargetRefused):
        for row in databases_in(rows, "here"):
            assert isinstance(row.name, str)
            assert isinstance(row.port, int)


def check_wire(data: bytes) -> None:
    with said(data) as near:
        console = Console("here", ConsoleAccess(), lambda: SocketStream(near), 5)
        with suppress(TargetError):
            console.databases()
        console.close()


def check_agents_console(data: bytes) -> None:
    with said(data) as near, suppress(OSError):
        console = AgentsConsole(near)
        (reply,) = console.ask(5, "SHOW CONFIG")
        for row in reply.rows:
            assert all(value is None or isinstance(value, str) for value in row.values())
        assert all(isinstance(value, str) for value in reply.pairs("key", "value", OURS).values())
        console.arrived()


@cache
def _postgres() -> OneAnswer:
    return OneAnswer()


def check_greeting(data: bytes) -> None:
    server = _postgres()
    server.answer = data
    answer = greet_postgres("127.0.0.1", server.port, "nobody", 5)
    assert answer.verdict in (TAKES, REFUSES, AWAY, FULL, SILENT)


_WIRE = (
    *(
        b"R\0\0\0\x08\0\0\0\0",
        b"Z\0\0\0\x05I",
        b"T\0\0\0",
        b"D\0\0\0",
        b"C\0\0\0\x09SHOW\0",
        b"E\0\0\0",
        b"SFATAL\0",
        b"C57P03\0",
    ),
    *(
        b"M",
        b"\0",
        b"\0\0",
        b"\xff\xff\xff\xff",
        b"\x7f\xff\xff\xff",
        b"\0\0\0\0",
        b"\0\0\0\x04",
        b"name\0",
        b"host\0",
        b"port\0",
    ),
    *(
        b"S\0\0\0\x10client_encoding\0",
        b"K\0\0\0\x0c",
        b"R\0\0\0\x0c\0\0\0\x05",
        b"R\0\0\0\x17\0\0\0\nSCRAM-SHA-256\0\0",
        b"N\0\0\0",
    ),
)

DOORS = (
    Door(
        "console_rows",
        "TargetRefused, or rows with a name and a port",
        check_rows,
        (
            *(
                b'[{"name":"app",',
                b'"host":"10.0.0.1",',
                b'"port":',
                b"5432",
                b'"paused":',
                b'"disabled":',
                b'"pool_size":',
                b"}]",
                b"{},",
            ),
            *JSON,
        ),
        30,
        {"rows": repeated(b"[", b'{"name":"a","host":"h","port":1},', b"{}]")},
    ),
    Door("console_wire", "TargetError, or rows", check_wire, _WIRE, 10),
    Door("agents_console", "OSError, or rows of text", check_agents_console, _WIRE, 15),
    Door("greeting", "one of five verdicts", check_greeting, _WIRE, 5),
)
