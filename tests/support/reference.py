"""What Patroni itself had: a writer that goes to the nodes directly, around PgBouncer and everybody else.

It keeps a connection to every node and writes a row every few milliseconds to the one that takes it. When
that one takes no more, all are asked until one does. So the gap between two acknowledged writes is the time
without a writable primary, to within that interval, and no client behind any door can have less.
Run as a program this module is that writer: one line of JSON, [moment, name of the node], for each write.
"""

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from tests.support.attempts import Gap, longest_gap
from tests.support.lines import Tail
from tests.support.patroni import PatroniCluster
from tests.support.postgres import APP
from tests.support.processes import Process
from tests.support.waiting import BedError, wait_for
from tests.support.wire import Wire, WireError

ROOT = Path(__file__).parents[2]
TABLE = "bed_reference"
INTERVAL = 0.005
PATIENCE = 0.5
"""A node that leaves a write unanswered so long is asked no more until a new connection to it is made."""
START_SECONDS = 20.0


class ReferenceWriter(AbstractContextManager["ReferenceWriter"]):
    """The writer on a cluster; entering creates its table and waits for the first write."""

    def __init__(self, folder: Path, cluster: PatroniCluster) -> None:
        self._cluster = cluster
        stamp = f"reference-{time.monotonic_ns()}"
        self.file, self.log = folder / f"{stamp}.jsonl", folder / f"{stamp}.log"
        self._writes: list[tuple[float, str]] = []
        self._tail = Tail(self.file)
        nodes = {node.name: [node.host, node.port] for node in cluster.nodes}
        command = [sys.executable, "-m", "tests.support.reference", str(self.file), json.dumps(nodes)]
        self.process = Process("reference", command, log=self.log, cwd=ROOT)

    def __enter__(self) -> Self:
        leader = self._cluster.wait_for_leader()
        leader.sql(f"CREATE TABLE IF NOT EXISTS {TABLE} (at timestamptz DEFAULT now())", dbname=APP, user=APP)
        self.process.start()
        try:
            wait_for(self.writes, START_SECONDS, "a write of the reference", logs=[self.log])
        except BaseException:
            self.process.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.stop()

    def writes(self) -> list[tuple[float, str]]:
        """The moment and the node of each acknowledged write so far."""
        self._writes += [(float(at), str(name)) for at, name in self._tail.new()]
        return self._writes

    def first_on(self, node: str, after: float) -> float | None:
        """The moment of the first write later than `after` that this node acknowledged."""
        return next((at for at, name in self.writes() if at > after and name == node), None)

    def wait_for_node(self, node: str, *, after: float, timeout: float) -> float:
        """The same, waited for."""
        what = f"{node} takes the reference's writes"
        return wait_for(lambda: self.first_on(node, after), timeout, what, logs=[self.log])

    def gap(self, start: float, end: float) -> Gap:
        """The longest time without an acknowledged write in the span."""
        try:
            return longest_gap(at for at, _ in self.writes() if start <= at <= end)
        except ValueError as error:
            raise BedError(f"the reference: {error} in {end - start:.1f} s") from error


# --- the process --------------------------------------------------------------------------------------


class Nodes:
    """One task for each node, all alike: whoever takes writes gets them."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    async def follow(self, name: str, host: str, port: int) -> None:
        """Write to this node for as long as it is primary; ask it until it is."""
        while True:
            with contextlib.suppress(WireError, OSError):
                await self._write_on(name, host, port)
            await asyncio.sleep(INTERVAL)

    async def _write_on(self, name: str, host: str, port: int) -> None:
        async with asyncio.timeout(PATIENCE):
            wire = await Wire.connect(host, port, APP, APP, "reference")
        try:
            while True:
                async with asyncio.timeout(PATIENCE):
                    await self._write_once(wire, name)
                await asyncio.sleep(INTERVAL)
        finally:
            wire.close()

    async def _write_once(self, wire: Wire, name: str) -> None:
        if await wire.simple("SELECT pg_is_in_recovery()") == "t":
            return
        await wire.simple(f"INSERT INTO {TABLE} DEFAULT VALUES")  # a constant
        self._out.write(json.dumps([round(time.monotonic(), 5), name]) + "\n")
        self._out.flush()


async def serve(file: str, nodes: Mapping[str, tuple[str, int]]) -> None:
    """Until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    with Path(file).open("a") as out:
        writer = Nodes(out)
        tasks = [asyncio.create_task(writer.follow(name, *where)) for name, where in nodes.items()]
        await ended.wait()
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], json.loads(sys.argv[2])))
