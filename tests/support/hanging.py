"""Hosts that hang once they are connected to: they take connections, send an SSH banner, and then nothing."""

import contextlib
import socket
import threading
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

from tests.support.addresses import take_address

BANNER = b"SSH-2.0-OpenSSH_9.2p1\r\n"


class HangingHosts(AbstractContextManager["HangingHosts"]):
    """`count` of them, at a port each of one address. `logins` has for each how often somebody went on to log
    in to it: he sends a banner of his own then.
    """

    def __init__(self, count: int) -> None:
        self.address = take_address()
        self.logins = [0] * count
        self._servers = [socket.create_server((self.address, 0)) for _ in range(count)]
        self._links: list[socket.socket] = []
        self._lock = threading.Lock()

    def targets(self, like: dict[str, Any]) -> list[dict[str, Any]]:
        """A target for each, in all else as this one."""
        ports = (server.getsockname()[1] for server in self._servers)
        return [
            {**like, "name": f"hanging{number}", "ssh": {**like["ssh"], "host": self.address, "port": port}}
            for number, port in enumerate(ports)
        ]

    def __enter__(self) -> Self:
        for number in range(len(self._servers)):
            threading.Thread(target=self._accept, args=(number,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            for one in [*self._servers, *self._links]:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()

    def _accept(self, number: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._servers[number].accept()
                with self._lock:
                    self._links.append(link)
                link.sendall(BANNER)
                threading.Thread(target=self._hear, args=(number, link), daemon=True).start()

    def _hear(self, number: int, link: socket.socket) -> None:
        with contextlib.suppress(OSError), link:
            if link.recv(1000):
                with self._lock:
                    self.logins[number] += 1
            while link.recv(1000):
                pass
