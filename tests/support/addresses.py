"""Loopback addresses of one's own, so that every server has its standard port.

The whole of 127.0.0.0/8 is this machine. An address is claimed by keeping one odd port of it bound, which
works between processes, checkouts and users, and ends with the process whatever happens to it.
"""

import contextlib
import os
import socket
from collections.abc import Iterator

GUARD_PORT = 61999
HOSTS_PER_NET = 250


def can_bind(address: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True


def free_port(address: str, preferred: int) -> int:
    """The preferred port if a server can listen there (0.0.0.0:22 of the machine forbids it), or another."""
    if can_bind(address, preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _candidates() -> Iterator[str]:
    """Addresses from a net derived from our pid onwards; 127.0 is left to the machine's own servers."""
    first = os.getpid() % (254 * 254)
    for step in range(254 * 254):
        x, y = divmod((first + step * 7919) % (254 * 254), 254)
        for z in range(1, HOSTS_PER_NET):
            yield f"127.{x + 1}.{y}.{z}"


class Addresses:
    """Hands out addresses that no other bed on this machine has. Freed by close() or at exit."""

    def __init__(self) -> None:
        self._candidates = _candidates()
        self._guards: list[socket.socket] = []

    def take(self) -> str:
        """One more address."""
        for address in self._candidates:
            guard = socket.socket()
            with contextlib.suppress(OSError):
                guard.bind((address, GUARD_PORT))
                self._guards.append(guard)
                return address
            guard.close()
        raise OSError("no free loopback address")

    def close(self) -> None:
        """Give all addresses back."""
        for guard in self._guards:
            guard.close()
        self._guards.clear()


_OF_THIS_PROCESS = Addresses()


def take_address() -> str:
    """An address that stays ours until this process ends."""
    return _OF_THIS_PROCESS.take()
