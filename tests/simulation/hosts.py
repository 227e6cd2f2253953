"""PgBouncer's hosts, and the way there: slow, cut, read-only, rebooted, edited by another hand."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.simulation.knowledge import LONG_AGO, Knowledge
from tests.simulation.loop import Fiber, Loop
from tests.support.fake_target import FakePgBouncer, FakeTarget
from watcher.apply.greetings import Greetings
from watcher.decide.errors import TargetRefused, TargetUnreachable
from watcher.decide.model import Actual, Endpoint, Release, Step

BEGIN, END = ";; [config cluster: begin]\n", ";; [config cluster: end]\n"
HEAD, TAIL = "; kept by hand\n[databases]\nother = host=192.0.2.1\n", "[pgbouncer]\nlisten_port = 6432\n"
QUICK = 0.02
LINE = "app = host={host} port={port} pool_size=20\n"

Written = Callable[["Host", str, str], None]
Released = Callable[["Host", Endpoint | None], None]


def text_for(endpoint: Endpoint) -> str:
    """A whole file."""
    return HEAD + BEGIN + LINE.format(host=endpoint.host, port=endpoint.port) + END + TAIL


class Host(FakePgBouncer):
    """One PgBouncer. `on_write` hears of every text that comes after the first, `on_release` of every time
    that clients were let go, to a server or wherever PgBouncer leads; `hand` is the way by which that came.
    """

    def __init__(self, name: str, endpoint: Endpoint, on_write: Written, on_release: Released) -> None:
        self.name = name
        self.on_write: Written | None = None
        self.hand: Way | None = None
        super().__init__(text_for(endpoint))
        self.on_write, self.on_release = on_write, on_release

    def __setattr__(self, name: str, value: Any) -> None:
        before = self.__dict__.get("text")
        super().__setattr__(name, value)
        if name == "text" and before is not None and self.__dict__.get("on_write"):
            self.on_write(self, before, value)  # type: ignore[misc] # it was looked at in the line above

    def edit(self, endpoint: Endpoint) -> None:
        """Another hand leads the block elsewhere, and reloads; not while yet another has half written it."""
        held = self.text
        if END not in held:
            return
        start = held.index("app = host=")
        line = LINE.format(host=endpoint.host, port=endpoint.port)
        self.text = held[:start] + line + held[held.index("\n", start) + 1 :]
        self.reload()


class Way(FakeTarget):
    """One watcher's way to a host: each call takes time before and after, in which anything may happen."""

    def __init__(
        self,
        host: Host,
        loop: Loop,
        chance: random.Random,
        limit: float,
        knowledge: Knowledge,
        greetings: Greetings,
    ) -> None:
        super().__init__(host, name=host.name, on_refusal=limit, clock=loop.clock, greetings=greetings)
        self.host = host
        self.knowledge = knowledge
        self.fiber: Fiber | None = None
        self.slowest = QUICK
        self.refused_at: dict[Endpoint, float] = {}
        """When the watcher's guard here has seen a server refuse connections, the last time."""
        self.in_trouble = False
        """Whether the watcher holds, or has given up holding, for a reason that lasts."""
        self.waited = 0.0
        """Virtual seconds for which its agent has made clients wait meanwhile."""
        self.successor: Way | None = None
        """Of the watcher that has taken our watcher's place."""
        self.waited_in_vain = 0.0
        """Virtual seconds, up to now, for which it has done so beside a primary that was seen to serve."""
        self._slowed_at = float("-inf")
        self._chance = chance

    def may_be_late(self) -> bool:
        """Whether what comes by it now may have been decided long ago."""
        lately = self._clock() - max(self._slowed_at, self.knowledge.thawed_at) < LONG_AGO
        return lately or self.knowledge.is_frozen

    def _pass(self) -> None:
        if self.slowest > QUICK:
            self._slowed_at = self._clock() + self.slowest
        if self.fiber is not None:
            self.fiber.wait(self._chance.uniform(0.0005, self.slowest))

    def read(self) -> Actual:
        self._pass()
        actual = super().read()
        self._pass()
        return actual

    def take(self, step: Step) -> None:
        self._pass()
        with self._by(self, step.endpoint if isinstance(step, Release) else None):
            super().take(step)
        self._pass()

    def let_go(self, endpoint: Endpoint | None, *, greets: bool = True) -> None:
        self._pass()
        with self._by(self.successor or self, endpoint):
            super().let_go(endpoint, greets=greets)

    def close(self) -> None:
        """Who is let go by it goes on by the word of whoever has taken our watcher's place."""
        if self.successor is None:
            super().close()
            return
        with self._by(self.successor, None):
            super().close()

    @contextmanager
    def _by(self, hand: "Way", endpoint: Endpoint | None) -> Iterator[None]:
        """Who waits by our agent's hold before, and not after, was let go by that hand; whom another had let
        go meanwhile was not.
        """
        waited = self.agent_holds_since is not None and self.host.waits("app")
        self.host.hand = hand
        try:
            yield
        finally:
            if waited and not self.host.waits("app"):
                self.host.on_release(self.host, endpoint)
            self.host.hand = None

    def give_way_to(self, successor: "Way") -> None:
        """Before ours is closed; its guard need not see again what ours has seen."""
        self.successor = successor
        successor.refused_at = dict(self.refused_at)
        successor.waited = self.waited

    def cut(self) -> None:
        """Nothing goes through, and the agent ends with its connection, and its hold with it."""
        gone = TargetUnreachable(self.name, "no route to host", "is the host up?")
        self.fail_always = dict.fromkeys(
            ("read", "write", "reload", "confirm", "hold", "watch", "release"), gone
        )
        self.connected = False
        self.lose_agent()

    def refuse_writes(self) -> None:
        self.fail_always = {"write": TargetRefused(self.name, "read-only file system", "mount it writable")}

    def mend(self) -> None:
        self.fail_always = {}
        self.connected = True

    def lose_agent(self) -> None:
        if self._agent is not None:
            self._agent.end()

    @property
    def agent_guards(self) -> Endpoint | None:
        """What its agent, where there is one, watches."""
        agent = self._agent
        return agent.guard if agent is not None and agent in self.pgbouncer.agents else None

    @property
    def agent_holds_since(self) -> float | None:
        """Since when clients wait by its hold, None if they do not."""
        agent = self._agent
        if agent is None or agent not in self.pgbouncer.agents:
            return None
        agent.end_at_limit()
        return None if agent._held is None else agent._held.since
