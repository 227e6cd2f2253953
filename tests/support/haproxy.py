"""A real HAProxy with the configuration that Patroni recommends for it.

What `extras/confd/templates/haproxy.tmpl` of Patroni writes and its documentation shows, at addresses of
the bed: HTTP checks of Patroni's `/primary` every 3 s, three that fail until a node is down, two that
succeed until it is up, and the sessions of one that is down are shut.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.addresses import can_bind, take_address
from tests.support.patroni import REST_PORT, Node
from tests.support.processes import Process, run
from tests.support.waiting import wait_for

PROGRAM = Path("/usr/sbin/haproxy")
PORT = 5000
READY_SECONDS = 20.0
CONFIG = """\
global
    maxconn 1000

defaults
    log global
    mode tcp
    retries 2
    timeout client 30m
    timeout connect 4s
    timeout server 30m
    timeout check 5s

listen primary
    bind {address}:{port}
    option httpchk OPTIONS /primary
    http-check expect status 200
    default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions
"""
"""Only `maxconn` is ours: their 100 is fewer than the clients that wait here in a crash."""


class HaProxy(AbstractContextManager["HaProxy"]):
    """Leads clients at `address`:5000 to the node that says it is primary."""

    def __init__(self, folder: Path, nodes: Sequence[Node], address: str | None = None) -> None:
        self.address, self.port = address or take_address(), PORT
        self.config, self.log = folder / "haproxy.cfg", folder / "haproxy.log"
        self.config.write_text(config(self.address, nodes))
        self.process = Process("haproxy", [PROGRAM, "-db", "-f", self.config], log=self.log)

    def __enter__(self) -> Self:
        run([PROGRAM, "-c", "-f", self.config])
        self.process.start()
        wait_for(lambda: not can_bind(self.address, self.port), READY_SECONDS, "haproxy", logs=[self.log])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.stop()


def config(address: str, nodes: Sequence[Node]) -> str:
    """The whole file."""
    servers = [
        f"    server {node.name} {node.host}:{node.port} maxconn 100 check port {REST_PORT}\n"
        for node in nodes
    ]
    return CONFIG.format(address=address, port=PORT) + "".join(servers)
