"""What comes over a link leaves nothing behind when it is no good."""

import json

import pytest

from tests.hostile.door import said
from watcher.apply.agent_link import read_line
from watcher.apply.console import Console, ConsoleAccess
from watcher.apply.local import SocketStream
from watcher.decide.errors import TargetUnreachable


@pytest.mark.parametrize("answer", [b"", b"N", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"NR\0\0\0\0"])
def test_a_login_at_a_console_that_is_none_leaves_no_stream_open(answer: bytes) -> None:
    with said(answer) as near:
        console = Console("here", ConsoleAccess(), lambda: SocketStream(near), 5)
        with pytest.raises(TargetUnreachable):
            console.databases()
        assert near.fileno() == -1


def test_lines_that_come_at_once_are_read_one_by_one_and_the_rest_is_kept() -> None:
    lines = [json.dumps({"n": n}).encode() for n in range(1000)]
    pending = bytearray()
    with said(b"\n".join([*lines, b"rest"])) as near:
        stream = SocketStream(near)
        assert [read_line(stream, None, pending) for _ in lines] == lines
        assert pending == b"rest"
        with pytest.raises(EOFError):
            read_line(stream, None, pending)
