"""One small HTTP server for everything that is looked at from outside. Reads only; nothing else is served.

A thread waits for connections, and one more answers each, a few at a time: who is slow or says nothing is
dropped after some seconds, or sooner where another wants the place, and holds up nobody, least of all a
switch.
"""

from __future__ import annotations

import contextlib
import errno
import io
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from watcher.decide.errors import WatcherError
from watcher.decide.model import Endpoint

CLIENT_LIMIT = 5.0
"""Seconds in which a client has to say what it wants, and as many to take the answer."""

MOST_AT_ONCE = 16
MOST_BYTES = 64 * 1024
"""Of one request, its headers included."""

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_REST = 0.5
"""Seconds until a connection is tried for again that could not be taken for want of room. It stays in the
queue meanwhile and is announced at once each time, so without a rest this would be a busy loop."""

_BIND_AGAIN = 1.0
_MOST_SECONDS_TO_BIND_AGAIN = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page says."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: Mapping[str, str] | None = None


Page: TypeAlias = Callable[[str, str], Answer]
"""Given the part of the path that `*` stood for, and the Accept header."""


class StatusServer:
    """Serves `pages` by path; a path that ends with `/*` takes one more part. 404 for all else."""

    def __init__(
        self,
        listen: Endpoint,
        pages: Mapping[str, Page],
        on_state: Callable[[bool, str, WatcherError | None], None] = lambda *_: None,
        rest: Callable[[float], object] | None = None,
    ) -> None:
        self.listen = listen
        self._pages = dict(pages)
        self._on_state = on_state
        self._server: _Server | None = None
        self._over = threading.Event()
        self._rest = rest or self._over.wait

    def run(self) -> None:
        """Until `close`. A port that is taken is tried for again: clients of PgBouncer come first."""
        pause = _BIND_AGAIN
        while not self._over.is_set():
            try:
                self._server = _Server(self.listen, self._answer, self._rest)
            except OSError as error:
                self._on_state(False, str(self.listen), _cannot_listen(self.listen, error))
                self._over.wait(pause)
                pause = min(2 * pause, _MOST_SECONDS_TO_BIND_AGAIN)
                continue
            self._on_state(True, str(self._server.endpoint), None)
            self._server.serve_until(self._over)

    def serve(self, pages: Mapping[str, Page]) -> None:
        """These instead of the ones before, from the next request on."""
        self._pages = dict(pages)

    @property
    def endpoint(self) -> Endpoint | None:
        """Where it listens, None while it does not."""
        return None if self._server is None else self._server.endpoint

    def close(self) -> None:
        """Nobody new is answered any more. Idempotent."""
        self._over.set()
        if self._server is not None:
            self._server.wake()

    def _answer(self, path: str, accept: str) -> Answer:
        page = self._pages.get(path)
        if page is not None:
            return page("", accept)
        folder, _, name = path.rpartition("/")
        page = self._pages.get(f"{folder}/*")
        if page is None or not name:
            return Answer(b"nothing is here\n", status=404)
        return page(unquote(name), accept)


def _cannot_listen(listen: Endpoint, error: OSError) -> WatcherError:
    return WatcherError(
        f"http {listen}",
        f"cannot listen: {error.strerror or error}",
        "free the port, or set `http.listen` to another; the watcher works on without its pages",
    )


class _Server(ThreadingMixIn, TCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(
        self, listen: Endpoint, answer: Callable[[str, str], Answer], rest: Callable[[float], object]
    ) -> None:
        found = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        self.answer = answer
        self._rest = rest
        self._lock = threading.Lock()
        self._served: dict[socket.socket, None] = {}
        super().__init__(found[0][4][:2], _Handler)  # type: ignore[arg-type]
        host, port = self.socket.getsockname()[:2]
        self.endpoint = Endpoint(host, port)

    def serve_until(self, over: threading.Event) -> None:
        with self:
            while not over.is_set():
                self.handle_request()

    def wake(self) -> None:
        """A thread that waits for a connection looks again."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def get_request(self) -> tuple[Any, Any]:
        """The next connection; OSError where there is none, after a rest if that is for want of room."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._rest(_REST)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own; who has had a place for longest loses it where all are taken."""
        with self._lock:
            self._served[request] = None
            longest = next(iter(self._served)) if len(self._served) > MOST_AT_ONCE else None
        if longest is not None:
            self._forget(longest)
            with contextlib.suppress(OSError):
                longest.shutdown(socket.SHUT_RDWR)  # its thread ends by that
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started just now
            self._forget(request)
            self.shutdown_request(request)

    def _forget(self, request: socket.socket) -> None:
        with self._lock:
            self._served.pop(request, None)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """As ThreadingMixIn has it."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Until(io.RawIOBase):
    """What a client says until `deadline`, by the monotonic clock; TimeoutError from then on, and
    ConnectionError once it said too much.
    """

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        super().__init__()
        self._connection = connection
        self._deadline = deadline
        self._left = MOST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the client took too long")
        if self._left <= 0:
            raise ConnectionError("the client says too much")
        self._connection.settimeout(left)
        count = self._connection.recv_into(buffer)
        self._left -= count
        return count


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "watcher"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_Until(self.connection, time.monotonic() + CLIENT_LIMIT))

    def do_GET(self) -> None:
        self._send(self._answer(), with_body=True)

    def do_HEAD(self) -> None:
        self._send(self._answer(), with_body=False)

    def _answer(self) -> Answer:
        try:
            path = urlsplit(self.path).path
        except ValueError:
            return Answer(b"no such address can be\n", status=400)
        try:
            return self.server.answer(path, self.headers.get("Accept", ""))
        except Exception as error:  # a page that is broken must not look like a watcher that is
            return Answer(f"this page is broken: {error!r}\n".encode(), status=500)

    def _send(self, answer: Answer, with_body: bool) -> None:
        self.connection.settimeout(CLIENT_LIMIT)  # for all that is sent at once
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in (answer.headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature is http.server's
        """Requests are not logged."""
