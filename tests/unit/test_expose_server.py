"""The HTTP server answers what it serves, and nobody holds it up."""

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
import urllib3

from tests.support.addresses import free_port, take_address
from tests.support.waiting import wait_for
from watcher.decide.errors import WatcherError
from watcher.decide.model import Endpoint
from watcher.expose import server as module
from watcher.expose.server import MOST_AT_ONCE, Answer, StatusServer


def _broken(_: str, __: str) -> Answer:
    raise ValueError("oh")


State = tuple[bool, str, WatcherError | None]

PAGES = {
    "/": lambda *_: Answer(b"root"),
    "/accept": lambda _, accept: Answer(accept.encode(), "text/x", headers={"X-More": "yes"}),
    "/things/*": lambda name, _: Answer(name.encode(), status=200 if name == "a b" else 503),
    "/broken": _broken,
}


@contextmanager
def serving(listen: Endpoint | None = None, states: list[State] | None = None) -> Iterator[StatusServer]:
    told = states if states is not None else []

    def tell(listens: bool, place: str, problem: WatcherError | None) -> None:
        told.append((listens, place, problem))

    server = StatusServer(listen or Endpoint("127.0.0.1", 0), PAGES, tell)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(5)
        assert not thread.is_alive()


def get(server: StatusServer, path: str, method: str = "GET") -> urllib3.BaseHTTPResponse:
    wait_for(lambda: server.endpoint, 10, "it listens")
    return urllib3.request(
        method,
        f"http://{server.endpoint}{path}",
        retries=False,
        timeout=5,
        headers={"Accept": "text/y"},
    )


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/", 200, b"root"),
        ("/?x=1", 200, b"root"),
        ("/accept", 200, b"text/y"),
        ("/things/a%20b", 200, b"a b"),
        ("/things/c", 503, b"c"),
        ("/things/", 404, b"nothing is here\n"),
        ("/things/a/b", 404, b"nothing is here\n"),
        ("/elsewhere", 404, b"nothing is here\n"),
        ("/broken", 500, b"this page is broken: ValueError('oh')\n"),
    ],
)
def test_each_path_has_its_answer(path: str, status: int, body: bytes) -> None:
    with serving() as server:
        answer = get(server, path)
        assert (answer.status, answer.data) == (status, body)


def test_headers_tell_browsers_to_keep_nothing_and_guess_nothing() -> None:
    with serving() as server:
        headers = get(server, "/accept").headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert (headers["Content-Type"], headers["X-More"]) == ("text/x", "yes")
        assert "Python" not in headers["Server"]


def test_head_is_get_without_the_body_and_all_else_is_refused() -> None:
    with serving() as server:
        answer = get(server, "/", "HEAD")
        assert (answer.status, answer.data, answer.headers["Content-Length"]) == (200, b"", "4")
        assert get(server, "/", "POST").status == 501


def _connect(server: StatusServer) -> socket.socket:
    where = wait_for(lambda: server.endpoint, 10, "it listens")
    return socket.create_connection((where.host, where.port), timeout=5)


def test_however_many_say_nothing_whoever_asks_is_answered() -> None:
    with serving() as server, ExitStack() as mute:
        for _ in range(3 * MOST_AT_ONCE):
            mute.enter_context(_connect(server))
        for _ in range(3):
            assert get(server, "/").status == 200


def test_who_speaks_slowly_has_no_more_time_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLIENT_LIMIT", 0.5)
    with serving() as server, _connect(server) as slow:
        began = time.monotonic()
        slow.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        with suppress(ConnectionError):
            while time.monotonic() < began + 10 and not select.select([slow], [], [], 0.1)[0]:
                slow.sendall(b"x")
            assert slow.recv(100) == b""
        assert time.monotonic() - began < 10


def test_an_address_that_cannot_be_is_refused() -> None:
    with serving() as server, _connect(server) as link:
        link.sendall(b"GET http://[bad/ HTTP/1.1\r\n\r\n")
        assert link.makefile("rb").readline().split()[1] == b"400"


def test_a_port_that_is_taken_is_told_and_taken_once_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BIND_AGAIN", 0.1)
    states: list[State] = []
    address = take_address()
    with socket.create_server((address, 0)) as other:
        listen = Endpoint(*other.getsockname())
        with serving(listen, states) as server:
            wait_for(lambda: states, 10, "it says so")
            listens, place, problem = states[0]
            assert (listens, place) == (False, str(listen))
            assert "Address already in use" in str(problem)
            assert "`http.listen`" in str(problem)
            other.close()
            assert get(server, "/").status == 200
            assert states[-1] == (True, str(listen), None)


def test_a_server_that_is_closed_leaves_its_port_at_once() -> None:
    address = take_address()
    listen = Endpoint(address, free_port(address, 9632))
    for _ in range(3):
        with serving(listen) as server:
            assert get(server, "/").status == 200


def test_it_listens_at_an_ipv6_address_too() -> None:
    with serving(Endpoint("::1", 0)) as server:
        assert get(server, "/").status == 200
