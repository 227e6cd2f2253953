"""A server whose process has no file descriptor left, in a process of its own: prints what it did.

`python -m tests.hostile.without_descriptors` prints `rested N served` where it rested after N attempts
to take the connection, and served it once there was room again.
"""

import os
import resource
import socket
import threading
from contextlib import suppress
from types import FrameType

from tests.support.waiting import wait_for
from watcher.decide.model import Endpoint
from watcher.expose.server import Answer, StatusServer

SPINS = 100


class Turns:
    """How often the server's thread looked for a connection."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        self.count += event == "call" and frame.f_code.co_name == "handle_request"


def _take_all() -> list[int]:
    """Every descriptor that this process may have."""
    soft = len(os.listdir("/proc/self/fd")) + 20  # noqa: PTH208 - a folder of numbers
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))
    taken: list[int] = []
    with suppress(OSError):
        while True:
            taken.append(os.dup(0))
    return taken


def main() -> None:
    turns, resting, room = Turns(), threading.Event(), threading.Event()

    def rest(_: float) -> None:
        resting.set()
        room.wait(60)

    server = StatusServer(Endpoint("127.0.0.1", 0), {"/": lambda *_: Answer(b"here")}, rest=rest)
    threading.setprofile(turns)
    threading.Thread(target=server.run, daemon=True).start()
    where = wait_for(lambda: server.endpoint, 30, "it listens")
    client = socket.socket()
    taken = _take_all()
    client.connect((where.host, where.port))
    wait_for(lambda: resting.is_set() or turns.count > SPINS, 30, "it rests, or spins")
    rested = f"rested {turns.count}" if resting.is_set() else "spins"
    for descriptor in taken:
        os.close(descriptor)
    room.set()
    client.settimeout(30)
    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
    print(rested, "served" if client.makefile("rb").read().endswith(b"here") else "not served")


if __name__ == "__main__":
    main()
