"""Networks of one's own: a host that can be cut off so that its packets vanish, without a word to anybody.

`own_network` moves the calling process into an empty network of its own, where it may do as it likes;
nothing of it is seen on the machine. In there a `Segment` is the network of one host, which keeps its
loopback address: a namespace at the far end of a pair of veth devices, with 127/8 routed over it. The
namespace lives as long as a process that does nothing but hold it, so nothing is left, however we end.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.processes import Process, run
from tests.support.waiting import BedError, wait_for

CLONE_NEWNET = 0x40000000
HOLD = (
    "import ctypes, time; ctypes.CDLL(None).unshare(0x40000000); print('held', flush=True); time.sleep(1e9)"
)
ROUTE_LOCALNET = "net.ipv4.conf.all.route_localnet=1"
"""Lets 127/8 travel over a device that is not the loopback, which the kernel forbids otherwise."""
GATEWAY = "127.0.0.1"
"""The near ends' network, which passes packets on from host to host."""
CUT = """
table inet cut {
  chain in { type filter hook input priority 0; iifname "far" drop; }
  chain out { type filter hook output priority 0; oifname "far" drop; }
}
"""
_numbers = count(1)


@contextmanager
def own_network() -> Iterator[None]:
    """This thread, and whatever it starts, in a network of its own that has a loopback; root is needed."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _checked(libc.unshare(CLONE_NEWNET), "unshare")
        try:
            run(["ip", "link", "set", "lo", "up"])
            yield
        finally:
            _checked(libc.setns(before, CLONE_NEWNET), "setns")
    finally:
        os.close(before)


def _checked(result: int, name: str) -> None:
    if result != 0:
        raise BedError(f"{name}: {os.strerror(ctypes.get_errno())}\nHINT: root is needed, with CAP_SYS_ADMIN")


class Segment(AbstractContextManager["Segment"]):
    """The network of the host at `address`. To be entered within `own_network` alone."""

    def __init__(self, folder: Path, address: str) -> None:
        self.address = address
        self._near = f"near{next(_numbers)}"
        self._holder = Process(
            f"network of {address}", [sys.executable, "-c", HOLD], log=folder / f"network-{address}.log"
        )

    def __enter__(self) -> Self:
        self._holder.start()
        try:
            wait_for(lambda: "held" in self._holder.log.read_text(), 10, "a network", logs=[self._holder.log])
            self._join()
        except BaseException:
            self._holder.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holder.stop()

    def _join(self) -> None:
        """The far end has no 127.0.0.1: packets that come from there would be taken for its own."""
        near, pid = self._near, str(self._holder.pid)
        run(["ip", "link", "add", near, "type", "veth", "peer", "name", "far", "netns", pid])
        self._inside("ip", "link", "set", "lo", "up")
        self._inside("ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
        self._inside("sysctl", "-qw", ROUTE_LOCALNET)
        self._inside("ip", "link", "set", "far", "up")
        self._inside("ip", "addr", "add", f"{self.address}/32", "dev", "far")
        self._inside("ip", "route", "add", GATEWAY, "dev", "far")
        self._inside("ip", "route", "add", "127.0.0.0/8", "via", GATEWAY, "dev", "far", "src", self.address)
        run(["sysctl", "-qw", ROUTE_LOCALNET, "net.ipv4.ip_forward=1"])
        run(["ip", "link", "set", near, "up"])
        route = ["ip", "route", "add", f"{self.address}/32", "dev", near]
        run([*route, "table", "local", "src", "127.0.0.1"])

    def _inside(self, *argv: str, stdin: str = "") -> None:
        run([*self._enter(), *argv], stdin=stdin)

    def _enter(self) -> list[str]:
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--"]

    def house(self, process: Process) -> None:
        """From its next start on, `process` runs on this host. To be called once this is entered."""
        words = self._enter()
        if process.user:
            words += ["setpriv", f"--reuid={process.user}", f"--regid={process.user}", "--init-groups", "--"]
            process.env |= {"HOME": f"/home/{process.user}", "USER": process.user, "LOGNAME": process.user}
        process.argv, process.user = [*words, *process.argv], None

    def drop(self) -> None:
        """From now on every packet to and from the host vanishes; connections stay."""
        self._inside("nft", "-f", "-", stdin=CUT)

    def mend(self) -> None:
        """Packets pass again. Idempotent."""
        self._inside("nft", "-f", "-", stdin="table inet cut\ndelete table inet cut\n")
