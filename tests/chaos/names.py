"""Names of etcd's members, in an /etc/hosts of our own: the mount namespace's, and nobody else's."""

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.processes import run
from tests.support.proxy import Proxy

HOSTS = Path("/etc/hosts")


class Names(AbstractContextManager["Names"]):
    """`etcd1.chaos.test`, `etcd2.chaos.test`, …: each leads where `lead` says. To be used where the mount
    namespace is our own, for the file covers the machine's.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        shutil.copy(HOSTS, file)
        self._machines = HOSTS.read_text()

    def __enter__(self) -> Self:
        run(["mount", "--bind", self._file, HOSTS])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run(["umount", "--lazy", HOSTS])

    def endpoints(self, links: Sequence[Proxy]) -> list[str]:
        """host:port of each, by its name."""
        ports = [link.endpoint.rpartition(":")[2] for link in links]
        return [f"{_name(number)}:{port}" for number, port in enumerate(ports, 1)]

    def lead(self, links: Sequence[Proxy]) -> None:
        """From now on the names are those of `links`."""
        lines = [f"{link.endpoint.rpartition(':')[0]} {_name(n)}\n" for n, link in enumerate(links, 1)]
        self._file.write_text(self._machines + "".join(lines))


def _name(number: int) -> str:
    return f"etcd{number}.chaos.test"
