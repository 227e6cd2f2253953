"""HTTP, both ways: Patroni's answers, etcd's gateway as the barrier hears it, and who asks our own server."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from functools import cache

from tests.hostile.door import Door
from tests.hostile.doors.etcd_keys import JSON
from watcher.barrier import Access, Barrier, Etcd, Settings, Unheard
from watcher.decide.errors import MalformedPayload, SourceError
from watcher.decide.model import Endpoint, View
from watcher.expose.calendar import Calendar
from watcher.expose.server import StatusServer
from watcher.expose.window import Shown, Window
from watcher.observe.patroni_rest import PatroniRest, RestLimits


class OneAnswer:
    """A server on 127.0.0.1 that says `answer` to whoever connects, and hangs up."""

    def __init__(self) -> None:
        self.answer = b""
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            link, _ = self._server.accept()
            with link, contextlib.suppress(OSError):
                link.recv(65536)
                link.sendall(self.answer)
                link.shutdown(socket.SHUT_WR)


@cache
def _patroni() -> OneAnswer:
    return OneAnswer()


def check_rest(data: bytes) -> None:
    node = _patroni()
    node.answer = data
    rest = PatroniRest("demo", limits=RestLimits(5, 5, 5))
    url = f"http://127.0.0.1:{node.port}"
    asked: tuple[Callable[[str], object], ...] = (rest.report, rest.endpoints)
    for ask in asked:
        with contextlib.suppress(SourceError, MalformedPayload):
            ask(url)


@cache
def _gateway() -> OneAnswer:
    return OneAnswer()


def check_gateway(data: bytes) -> None:
    """A stop is never delayed by an answer that is none: it is over by the first."""
    etcd = _gateway()
    etcd.answer = data
    access = Access(hosts=[("127.0.0.1", etcd.port)])
    said: list[str] = []
    with contextlib.closing(Etcd(access)) as asked, contextlib.suppress(Unheard):
        Barrier(Settings("pg1", "/service/demo/", access, 0.0), asked, said.append).run()
        assert said


@cache
def _own_server() -> StatusServer:
    view = View(began_at=0.0)
    window = Window("demo", ("pgb1",), Shown(lambda: view, str, dict), Calendar())
    server = StatusServer(Endpoint("127.0.0.1", 0), window.pages())
    threading.Thread(target=server.run, daemon=True).start()
    until = time.monotonic() + 30
    while server.endpoint is None and time.monotonic() < until:
        time.sleep(0.01)
    return server


def check_request(data: bytes) -> None:
    """The answer is HTTP, no page is broken by it, and nothing but GET and HEAD is taken."""
    where = _own_server().endpoint
    assert where is not None
    with socket.create_connection((where.host, where.port), timeout=30) as link:
        with contextlib.suppress(OSError):  # it may have its answer before all is sent
            link.sendall(data)
            link.shutdown(socket.SHUT_WR)
        said = b""
        with contextlib.suppress(ConnectionError):
            while chunk := link.recv(65536):
                said += chunk
    status = said.split(b"\r\n", 1)[0].split(b" ")
    if said.startswith(b"HTTP/"):
        assert status[1] in (b"200", b"400", b"404", b"408", b"414", b"431", b"501", b"503", b"505"), said[
            :200
        ]
        assert status[1] != b"200" or data.lstrip(b"\r\n").split(b" ")[0] in (b"GET", b"HEAD"), said[:200]


_HTTP = (
    *(
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 503 x\r\n",
    ),
    *(
        b"Content-Length: ",
        b"Transfer-Encoding: chunked\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"Content-Encoding: gzip\r\n",
    ),
    *(
        b"-1\r\n",
        b"99999999999999999999\r\n",
        b"5\r\n",
        b"ffffffffffffffff\r\n",
        b"0\r\n\r\n",
        b"Location: /\r\n",
        b"\n",
    ),
)

DOORS = (
    Door(
        "rest_http",
        "SourceError or MalformedPayload, or an answer; never more than the body's bound is kept",
        check_rest,
        (*_HTTP, b'{"patroni":{"scope":"demo","name":"a"},"role":"primary"}', b'{"members":[]}', *JSON),
        4,
    ),
    Door(
        "gateway",
        "Unheard, or a word why the stop goes on",
        check_gateway,
        (
            *_HTTP,
            *(
                b'{"responses":[',
                b'{"response_range":{"kvs":[',
                b'{"key":"',
                b'"value":"cGcx"',
                b'"lease":"1"',
                b"]}}",
            ),
            *(b'{"succeeded":true}', b'{"ID":"1","TTL":"3"}', b'{"error":"x","code":', b'"TTL":"x"', *JSON),
        ),
        3,
    ),
    Door(
        "request",
        "an answer in HTTP that is no 500; nothing but GET and HEAD is taken",
        check_request,
        (
            *(
                b"GET ",
                b"HEAD ",
                b"POST ",
                b"TRACE ",
                b"/",
                b"/status",
                b"/metrics",
                b"/targets/pgb1",
                b" HTTP/1.1\r\n",
            ),
            *(
                b"Accept: application/openmetrics-text; version=",
                b"1.0.0",
                b";q=",
                b",",
                b"\r\n",
                b"Host: x\r\n",
                b"%ff",
            ),
            *(
                b"Expect: 100-continue\r\n",
                b"http://[bad/",
                b"/../",
                b"//",
                b"%00",
                b"x" * 70_000,
                b"\xff",
                b" HTTP/9.9\r\n",
            ),
            *(
                b"Content-Length: 5\r\n",
                b"Connection: keep-alive\r\n",
                b"charset=x",
                b'"',
                b"escaping=allow-utf-8",
            ),
        ),
        4,
    ),
)
