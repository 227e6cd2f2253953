"""What comes over a link leaves nothing behind when it is no good."""

import json
import socket

import pytest

from tests.hostile.door import said
from tests.hostile.doors import ALL
from tests.hostile.doors.agent import folder
from watcher.apply.agent_link import read_line
from watcher.apply.console import Console, ConsoleAccess
from watcher.apply.local import SocketStream
from watcher.decide.errors import TargetUnreachable


@pytest.mark.parametrize("answer", [b"", b"N", b"S", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"R\0\0\0\0"])
def test_a_login_at_a_console_that_is_none_leaves_no_stream_open(answer: bytes) -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(answer)
        far.shutdown(socket.SHUT_WR)
        console = Console("here", ConsoleAccess(), lambda: SocketStream(near), 5)
        with pytest.raises(TargetUnreachable) as kept:  # as whoever tells of it keeps the error
            console.databases()
        far.settimeout(10)
        heard = b""
        while chunk := far.recv(65536):
            heard += chunk
        assert heard[4:8] == b"\0\3\0\0"  # a login, not a wish for TLS, into which no stream can be wrapped
        assert kept.value.hint


def test_lines_that_come_at_once_are_read_one_by_one_and_the_rest_is_kept() -> None:
    lines = [json.dumps({"n": n}).encode() for n in range(1000)]
    pending = bytearray()
    with said(b"\n".join([*lines, b"rest"])) as near:
        stream = SocketStream(near)
        assert [read_line(stream, None, pending) for _ in lines] == lines
        assert pending == b"rest"
        with pytest.raises(EOFError):
            read_line(stream, None, pending)


def test_the_agent_s_door_is_open_wide_enough_for_a_write() -> None:
    """Or the inputs for it would all end at the first check, and prove nothing."""
    whole = (ALL["agent_ask"].corpus / "all").read_bytes()
    ALL["agent_ask"].check(whole)
    assert (folder() / "pgbouncer.ini").read_text() == "new\n"
