"""Our own HTTP server: it only tells, takes so much and no more, and is where the settings say alone."""

import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.hostile.door import HERE
from tests.support.addresses import take_address
from tests.support.waiting import wait_for
from watcher.decide.model import Endpoint
from watcher.expose.server import MOST_AT_ONCE, MOST_BYTES, Answer, StatusServer


@contextmanager
def serving(address: str = "127.0.0.1") -> Iterator[Endpoint]:
    server = StatusServer(Endpoint(address, 0), {"/": lambda *_: Answer(b"here")})
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield wait_for(lambda: server.endpoint, 30, "it listens")
    finally:
        server.close()
        thread.join(30)


def connect(where: Endpoint) -> socket.socket:
    return socket.create_connection((where.host, where.port), timeout=30)


def answer_to(where: Endpoint, request: bytes) -> bytes:
    """All that is said until the server hangs up."""
    said = b""
    with connect(where) as link, suppress(ConnectionError):
        link.sendall(request)
        while chunk := link.recv(65536):
            said += chunk
    return said


@pytest.mark.parametrize(
    "method",
    ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "__init__", "SWITCHOVER"],
)
def test_nothing_but_reading_is_taken(method: str) -> None:
    with serving() as where:
        said = answer_to(where, f"{method} / HTTP/1.1\r\n\r\n".encode())
        assert said.split(b" ")[1] == b"501"
        assert b"here" not in said


def test_a_request_has_a_bound_and_others_are_served_meanwhile() -> None:
    header = b"X: " + b"x" * 1000 + b"\r\n"
    fits = header * (MOST_BYTES // len(header) // 2)
    with serving() as where:
        assert answer_to(where, b"GET / HTTP/1.1\r\n" + fits + b"\r\n").endswith(b"here")
        long = b"Y: " + b"x" * 20_000 + b"\r\n"
        assert b"here" not in answer_to(where, b"GET / HTTP/1.1\r\n" + 10 * long + b"\r\n")
        assert answer_to(where, b"GET / HTTP/1.1\r\n\r\n").endswith(b"here")


def _open(links: list[socket.socket]) -> int:
    return len(links) - len(select.select(links, [], [], 0)[0])  # one that is ended can be read: its end


def test_so_many_connections_are_kept_and_no_more() -> None:
    with serving() as where, ExitStack() as stack:
        links = [stack.enter_context(connect(where)) for _ in range(3 * MOST_AT_ONCE)]
        wait_for(lambda: _open(links) <= MOST_AT_ONCE, 30, "those that are too many are ended")


def test_who_is_slow_in_sending_is_ended_while_others_are_served() -> None:
    with serving() as where, connect(where) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nX: ")
        until = time.monotonic() + 60
        with suppress(ConnectionError):
            while not select.select([slow], [], [], 0.2)[0]:
                assert time.monotonic() < until
                assert answer_to(where, b"GET / HTTP/1.0\r\n\r\n").endswith(b"here")
                slow.sendall(b"x")
            assert slow.recv(100) == b""


def test_it_is_at_its_own_address_and_at_no_other() -> None:
    with serving(take_address()) as where:
        assert answer_to(where, b"GET / HTTP/1.0\r\n\r\n").endswith(b"here")
        for other in (take_address(), "127.0.0.1"):
            with pytest.raises(ConnectionRefusedError):
                connect(Endpoint(other, where.port))


def test_without_descriptors_it_rests_and_serves_once_there_is_room() -> None:
    words = [sys.executable, "-m", "tests.hostile.without_descriptors"]
    said = subprocess.run(
        words, capture_output=True, text=True, check=False, cwd=HERE.parents[1], timeout=120
    )
    assert said.stdout == "rested 1 served\n", said.stderr
