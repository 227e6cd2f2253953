"""Clients of every sort through one door, in a process of their own, each transaction noted.

`Traffic` is the object for tests and benchmarks; run as a program this module is that process, one event
loop with one task for each client. Kinds of clients:

    simple       one INSERT by the simple protocol, over a kept connection
    extended     one INSERT by the extended protocol
    several      BEGIN, INSERT, SELECT, COMMIT, each for itself; simple and extended mixed
    reconnecting one INSERT over a connection of its own, simple and extended in turn
    long         BEGIN, INSERT, a sleep of a second, COMMIT
    fresh        a client that was never there comes, inserts once, and goes; a new one every 50 ms
    noise        no client: how late a timer of the same loop was, so that the load's own stalls are known
"""

import asyncio
import contextlib
import dataclasses
import json
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from tests.support.attempts import FRESH, LONG, NOISE, Attempt, Attempts
from tests.support.lines import Tail
from tests.support.load import CREATE_TABLE, TABLE
from tests.support.postgres import APP, APP_PASSWORD, psql
from tests.support.processes import Process
from tests.support.waiting import BedError, wait_for
from tests.support.wire import Wire, WireError

ROOT = Path(__file__).parents[2]
START_SECONDS = 30.0
TICK = 0.005
WHERE = "host(inet_server_addr()) || ':' || inet_server_port()"
READ = f"SELECT {WHERE} WHERE %s::int IS NOT NULL"  # constants
INSERT = f"INSERT INTO {TABLE} (client) VALUES (%s) RETURNING {WHERE}"  # noqa: S608  # constants
MIX: Mapping[str, int] = {"simple": 6, "extended": 5, "several": 3, "reconnecting": 4, LONG: 2}
"""Twenty clients: a fifth reconnects for every transaction, two are long."""


@dataclass(frozen=True)
class Plan:
    """What the process is told. `pause` and `fresh_every` are means, in seconds; None: no fresh clients.

    The clients of `mix` come in at `host` and `port`, and as many at each of the further `doors`.
    """

    host: str
    port: int
    user: str = APP
    database: str = APP
    mix: dict[str, int] = field(default_factory=lambda: dict(MIX))
    pause: float = 0.03
    long_seconds: float = 1.0
    fresh_every: float | None = 0.05
    reads: bool = False
    """Instead of each INSERT a SELECT, which a replica takes as well."""
    limit: float = 120.0
    """The longest that a client waits for one transaction."""
    doors: list[tuple[str, int]] = field(default_factory=list)

    @property
    def kinds(self) -> list[str]:
        """Of each client that stays, those of one door after those of another."""
        at_one = [kind for kind, count in self.mix.items() for _ in range(count)]
        return at_one * (1 + len(self.doors))

    def door_of(self, client: int) -> tuple[str, int]:
        """Where a client comes in."""
        doors = [(self.host, self.port), *self.doors]
        host, port = doors[client // sum(self.mix.values()) % len(doors)]
        return host, port


class Traffic(AbstractContextManager["Traffic"]):
    """The clients of `plan`. Entering waits for a commit of each that stays."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.plan = plan
        stamp = f"traffic-{time.monotonic_ns()}"
        self.file, self.log = folder / f"{stamp}.jsonl", folder / f"{stamp}.log"
        self.started = 0.0
        self._attempts: list[Attempt] = []
        self._tail = Tail(self.file)
        command = [sys.executable, "-m", "tests.support.traffic", str(self.file), json.dumps(asdict(plan))]
        self.process = Process("traffic", command, log=self.log, cwd=ROOT)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.process.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.stop()

    def start(self) -> None:
        """Create the table, start, wait until every client that stays has committed."""
        plan = self.plan
        if not plan.reads:
            psql(plan.host, plan.port, plan.user, plan.database, CREATE_TABLE, password=APP_PASSWORD)
        self.file.touch()
        self.process.start()
        self.wait_for_all(after=0.0, timeout=START_SECONDS)
        self.started = time.monotonic()

    # --- what it has met ------------------------------------------------------------------------------

    def all(self) -> list[Attempt]:
        """Everything that has ended so far, noise included, as it was written."""
        self._attempts += [Attempt(*line) for line in self._tail.new()]
        return self._attempts

    def between(self, start: float, end: float) -> Attempts:
        """The attempts that were under way in the span and have ended."""
        return Attempts.of(self._lately(start)).during(start, end)

    def noise(self, start: float, end: float) -> float:
        """The most that the load itself was late in the span, in seconds."""
        late = [one for one in self._lately(start) if one.kind == NOISE and one.overlaps(start, end)]
        return max((one.end - one.start for one in late), default=0.0)

    def _lately(self, start: float) -> list[Attempt]:
        """Lines are in the order of their ends (but for noise, which is told later), so one walks back only
        as far as need be.
        """
        attempts = self.all()
        first = len(attempts)
        while first and (attempts[first - 1].end > start or attempts[first - 1].kind == NOISE):
            first -= 1
        return attempts[first:]

    def waiting_clients(self, *, after: float, host: str = "") -> set[int]:
        """Who stays and has not committed (on `host`) anything that began later than `after`."""
        seen = {
            one.client
            for one in self._lately(after)
            if one.ok and one.start > after and one.server.startswith(f"{host}:" if host else "")
        }
        return set(range(len(self.plan.kinds))) - seen

    def wait_for_all(self, *, after: float, host: str = "", timeout: float) -> None:
        """Wait until every client that stays has committed (on `host`) what began later than `after`."""
        wait_for(
            lambda: not self.waiting_clients(after=after, host=host),
            timeout,
            f"a commit of every client on {host or 'any server'}",
            logs=[self.log],
            poll=0.1,
        )

    def require_alive(self) -> None:
        """BedError if the process is gone."""
        if not self.process.is_alive():
            raise BedError(f"the traffic has ended\n{self.log.read_text()[-2000:]}")


# --- the process --------------------------------------------------------------------------------------

Note = Callable[[Attempt], None]


class Clients:
    """All clients of one event loop."""

    def __init__(self, plan: Plan, note: Note) -> None:
        self._plan = plan
        self._statement = READ if plan.reads else INSERT
        self._note = note
        self._wires: dict[int, Wire] = {}
        self._chance = random.Random(1)  # noqa: S311 - no secret

    async def run(self, ended: asyncio.Event) -> None:
        """Until `ended`. Who still waits then has not failed, and is not noted."""
        kinds = self._plan.kinds
        tasks = [asyncio.create_task(self._stay(number, kind)) for number, kind in enumerate(kinds)]
        tasks.append(asyncio.create_task(self._tick()))
        if self._plan.fresh_every is not None:
            tasks.append(asyncio.create_task(self._arrive(len(kinds), self._plan.fresh_every)))
        await ended.wait()
        for task in tasks:
            task.cancel()

    async def _stay(self, number: int, kind: str) -> None:
        await asyncio.sleep(self._plan.pause * self._chance.random())
        turn = 0
        while True:
            await self._transact(number, kind, turn)
            turn += 1
            await asyncio.sleep(self._plan.pause * self._chance.uniform(0.5, 1.5))

    async def _arrive(self, number: int, every: float) -> None:
        present = set()
        while True:
            await asyncio.sleep(every)
            client = asyncio.create_task(self._transact(number, FRESH, number))
            present.add(client)
            client.add_done_callback(present.discard)
            number += 1

    async def _transact(self, number: int, kind: str, turn: int) -> None:
        start, server, error = time.monotonic(), "", ""
        try:
            async with asyncio.timeout(self._plan.limit):
                server = await self._attempt(number, kind, turn)
        except (WireError, OSError) as trouble:
            error = f"{type(trouble).__name__}: {trouble}"
            self._drop(number)
        self._note(Attempt(kind, number, start, time.monotonic(), server, error))

    async def _attempt(self, number: int, kind: str, turn: int) -> str:
        wire = self._wires.get(number) or await self._connect(number, kind)
        if kind in ("reconnecting", FRESH):
            kind = ("simple", "extended")[turn % 2]
            server = await self._run(wire, kind, number)
            self._drop(number)
            return server
        return await self._run(wire, kind, number)

    async def _connect(self, number: int, kind: str) -> Wire:
        plan = self._plan
        wire = await Wire.connect(*plan.door_of(number), plan.user, plan.database, f"{kind}-{number}")
        self._wires[number] = wire
        return wire

    async def _run(self, wire: Wire, kind: str, number: int) -> str:
        if kind == "simple":
            return await wire.simple(self._statement % number)
        if kind == "extended":
            return await wire.extended(self._statement % "$1", str(number))
        await wire.simple("BEGIN")
        server = await wire.extended(self._statement % "$1", str(number))
        await wire.simple(f"SELECT pg_sleep({self._plan.long_seconds})" if kind == LONG else "SELECT 1")
        await wire.simple("COMMIT")
        return server

    def _drop(self, number: int) -> None:
        if wire := self._wires.pop(number, None):
            wire.close()

    async def _tick(self) -> None:
        """Note the greatest lateness of each second."""
        while True:
            worst = (0.0, 0.0)
            for _ in range(round(1 / TICK)):
                due = time.monotonic() + TICK
                await asyncio.sleep(TICK)
                worst = max(worst, (time.monotonic() - due, due))
            self._note(Attempt(NOISE, -1, worst[1], worst[1] + worst[0]))


def lines_of(out: TextIO) -> Note:
    """Writes each attempt as a line of JSON, at once."""

    def note(attempt: Attempt) -> None:
        fields: Iterable[object] = dataclasses.astuple(attempt)
        out.write(json.dumps([round(one, 5) if isinstance(one, float) else one for one in fields]) + "\n")
        out.flush()

    return note


async def serve(file: str, plan: Plan) -> None:
    """Run the clients until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    with Path(file).open("a") as out:
        await Clients(plan, lines_of(out)).run(ended)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(sys.argv[1], Plan(**json.loads(sys.argv[2]))))
