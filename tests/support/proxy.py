"""A TCP proxy on an address of its own that a test can cut or stall: a network that fails as told."""

import contextlib
import socket
import threading
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from tests.support.addresses import take_address

CHUNK = 65536


class Proxy(AbstractContextManager["Proxy"]):
    """Passes connections on to `target` (`host:port`), under the same port at `endpoint`.

    cut(): connections are reset and new ones refused, as by a dead host. stall(): connections stay and
    new ones are accepted, but no byte passes, as by a frozen host. mend() undoes both; what was stalled
    then arrives. late() passes all on later, as from far away. cut_silent() ends only those connections on
    which nobody has ever said a word, as a firewall does that forgets what is idle. Thread-safe; all
    idempotent.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._own = (take_address(), int(port))
        self._flows = threading.Event()
        self._late = 0.0
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._ends: set[socket.socket] = set()
        self._silent: dict[socket.socket, socket.socket] = {}

    @property
    def endpoint(self) -> str:
        """host:port for clients."""
        return f"{self._own[0]}:{self._own[1]}"

    def __enter__(self) -> Self:
        self.mend()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    def mend(self) -> None:
        """Let everything pass."""
        self._flows.set()
        with self._lock:
            if self._listener is None:
                self._listener = socket.create_server(self._own)
                threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stall(self) -> None:
        """Let nothing pass, and keep every connection."""
        self._flows.clear()

    def late(self, seconds: float) -> None:
        """Pass on what comes so much later. What comes while it waits goes behind it, up to twice as late."""
        self._late = seconds

    def cut(self) -> None:
        """End every connection, refuse new ones."""
        with self._lock:
            listener, self._listener = self._listener, None
            if listener is not None:
                _end(listener)
            for end in self._ends:
                _end(end)
            self._ends.clear()
        self._flows.set()

    def silent(self) -> int:
        """How many connections there are on which nobody has ever said a word."""
        with self._lock:
            return len(self._silent)

    def cut_silent(self) -> int:
        """End those; how many there were."""
        with self._lock:
            pairs = list(self._silent.items())
            self._silent.clear()
        for near, far in pairs:
            _end(near)
            _end(far)
        return len(pairs)

    # --- inside -------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(self._target, timeout=5)
            except ConnectionRefusedError:
                _end(near)
                continue
            except OSError:
                return
            far.settimeout(None)
            self._join(near, far, listener)

    def _join(self, near: socket.socket, far: socket.socket, listener: socket.socket) -> None:
        with self._lock:
            if self._listener is not listener:
                _end(near)
                _end(far)
                return
            self._ends |= {near, far}
            self._silent[near] = far
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(CHUNK):
                self._speaks(source, sink)
                time.sleep(self._late)
                self._flows.wait()
                sink.sendall(chunk)
        with self._lock:
            self._ends -= {source, sink}
        self._speaks(source, sink)
        _end(source)
        _end(sink)

    def _speaks(self, source: socket.socket, sink: socket.socket) -> None:
        with self._lock:
            self._silent.pop(source, None)
            self._silent.pop(sink, None)


def _end(end: socket.socket) -> None:
    """Close at once, also under a thread that waits on it."""
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
