"""A TCP server in place of a node's REST API: it answers the bytes that it is told to, as slowly as told."""

import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

Answer = Callable[[socket.socket, str], None]


class Node(AbstractContextManager["Node"]):
    """Serves on 127.0.0.1 until left; `asked` are the paths that were asked for."""

    def __init__(self, answer: Answer, context: ssl.SSLContext | None = None) -> None:
        self._answer = answer
        self._context = context
        self._server = socket.create_server(("127.0.0.1", 0))
        self._over = threading.Event()
        self.asked: list[str] = []
        self.port = self._server.getsockname()[1]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                link, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        try:
            wrapped = link if self._context is None else self._context.wrap_socket(link, server_side=True)
        except OSError:
            link.close()
            return
        with wrapped:
            try:
                request = wrapped.recv(65536).decode("latin-1")
                path = request.split(" ")[1] if " " in request else ""
                self.asked.append(path)
                self._answer(wrapped, path)
            except OSError:
                return


def http(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    """As Patroni answers: HTTP/1.0, no length, the end of the connection is the end of the body."""
    return f"HTTP/1.0 {status}\r\nContent-Type: application/json\r\n{headers}\r\n".encode() + body


def says(body: bytes, status: str = "200 OK", headers: str = "") -> Answer:
    return lambda link, _: link.sendall(http(body, status, headers))


def sends(raw: bytes) -> Answer:
    return lambda link, _: link.sendall(raw)


def drips(raw: bytes, pause: float = 0.1) -> Answer:
    def answer(link: socket.socket, _: str) -> None:
        for byte in raw:
            link.sendall(bytes([byte]))
            time.sleep(pause)

    return answer


def hangs(link: socket.socket, _: str) -> None:
    """Reads, and never answers."""
    link.settimeout(30)
    link.recv(1)
