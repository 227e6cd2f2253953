"""Two watchers on one PgBouncer, and a planned switchover under load in which something befalls the first.

The first stops itself at one of its points (`points.py`); there it is killed, frozen, cut off from etcd or
from PgBouncer's host, and the switchover goes on to its end. PostgreSQL `a` is reached through a proxy that
is cut when `a` has been stopped, so a client that is let go too early fails.
"""

import itertools
import json
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import yaml

from tests.support.accounts import own_folder
from tests.support.lines import Tail
from tests.support.points import Stop, Trail, strike
from tests.support.proxy import Proxy
from tests.support.stage import Client, Stage
from tests.support.waiting import BedError, log_tail, wait_for

Mode = Literal["together", "lease"]
MODES: Sequence[Mode] = ("together", "lease")
CLIENTS = 3
SETTLED = 20.0
QUIET = 0.25
"""Seconds in which nobody comes by a point: the first watcher has done what there was to do."""

_BOTH_HOLD = 1.0
"""Seconds in which the second watcher holds as well, and less than the patience of a standby."""

_PATIENT = 8.0
"""Seconds for a connection or a step, which a busy machine may need."""

_LET_GO = 0.2
"""… in which an agent whose watcher has died has ended its hold."""

_numbers = itertools.count(1)
_HOLD = {"limit": 60.0, "announced_limit": 30.0}
_RETRY = {"first": 0.1, "limit": 0.3}


class Takeover(AbstractContextManager["Takeover"]):
    """One switchover from `a` to `b`. The first watcher stops at its `stop_at`th point, 0: at none.

    At two points of four there is no guard (`hold.on_crash`): nothing but the second watcher's own hold keeps
    clients waiting then.
    """

    def __init__(self, stage: Stage, mode: Mode, stop_at: int = 0) -> None:
        self.stage = stage
        self.mode = mode
        self._stop_at = Stop("watcher", stop_at) if stop_at else None
        self._is_guarded = stop_at % 4 < 2
        self._wait_since: float | None = None
        self._folder = own_folder(stage.folder / f"takeover{next(_numbers)}", stage.host.account)
        self._prefix = f"/service/{self._folder.name}-{stage.folder.name}-{time.monotonic_ns()}/"
        self._a = Proxy(stage.ground.endpoint("a"))
        self._etcd = Proxy(stage.ground.etcd.endpoints[0])
        self.trail = self._trail("first")
        self.clients = [Client(stage.pgbouncer) for _ in range(CLIENTS)]
        self.struck_at = self.crowned_at = 0.0
        self._moves = [self._announce, self._stop_a, self._crown_b]
        self._pids: dict[str, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _begin(self) -> None:
        for proxy in (self._a, self._etcd):
            self._stack.enter_context(proxy)
        self.stage.reset()
        self._lead_to_proxy()
        self._config_before = self.stage.config()
        self._put("leader", "a")
        self._start("first", self.trail, self._etcd.endpoint, self._stop_at)
        self._await_standing("first", "active")
        self._start("second", self._trail("second"), self.stage.ground.etcd.endpoints[0])
        self._await_standing("second", "standby")
        for client in self.clients:
            self._stack.enter_context(client)
        self._wait(lambda: self.are_on("a"), "clients commit on a")
        self.trail.arm()

    def _lead_to_proxy(self) -> None:
        host, _, port = self._a.endpoint.rpartition(":")
        self.stage.pgbouncer.write_block(host, int(port))
        self.stage.pgbouncer.console("RELOAD")

    def _end(self) -> None:
        for pid in self._pids.values():
            strike(pid, signal.SIGKILL)
        self._stack.close()

    def _trail(self, name: str) -> Trail:
        return Trail(own_folder(self._folder / name, self.stage.host.account))

    def _start(self, name: str, trail: Trail, etcd: str, stop_at: Stop | None = None) -> None:
        config = self._folder / f"{name}.yaml"
        config.write_text(yaml.safe_dump(self._settings(name, etcd)))
        log = self.log_of(name)
        self._pids[name] = self.stage.ground.program.run(trail, config, log, stop_at)
        self._wait(lambda: bool(_lines(log, "in_sync")), f"the {name} watcher is in sync")

    def _settings(self, name: str, etcd: str) -> dict[str, Any]:
        scope = self._prefix.split("/")[2]
        hold = {**_HOLD, "on_crash": self._is_guarded}
        settings = self.stage.settings("ssh", scope, hold=hold, retry=_RETRY, log={"format": "json"})
        settings["cluster"]["addresses"]["a"] = self._a.endpoint
        settings["etcd"]["endpoints"] = [etcd]
        settings["targets"][0] |= {"step_timeout": _PATIENT}
        settings["targets"][0]["ssh"] |= {"connect_timeout": _PATIENT}
        if name == "second":  # by a way of its own, which does not fail
            settings["targets"][0]["ssh"] |= self._straight_to_host()
        settings["http"] = {"listen": None}
        if self.mode == "lease":
            settings["controller"] = {"mode": "lease", "name": name}
        return settings

    def _straight_to_host(self) -> dict[str, Any]:
        sshd = self.stage.host.sshd
        return {"host": sshd.address, "port": sshd.port, "known_hosts": str(sshd.known_hosts)}

    def _await_standing(self, name: str, standing: str) -> None:
        if self.mode == "lease":
            log = self.log_of(name)
            self._wait(
                lambda: any(line["standing"] == standing for line in _lines(log, "standing")),
                f"the {name} watcher is {standing}",
            )

    def log_of(self, name: str) -> Path:
        """What the `first` or the `second` watcher says."""
        return self._folder / f"{name}.log"

    # --- the switchover -------------------------------------------------------------------------------

    def _put(self, key: str, value: str) -> None:
        self.stage.ground.etcd.put(self._prefix + key, value)

    def _announce(self) -> None:
        self._put("failover", '{"leader": "a", "member": "b"}')

    def _stop_a(self) -> None:
        """As the barrier does it: once clients wait; then they must go on waiting, whoever dies."""
        if self._wait_since is None:
            self._wait(self.stage.is_at_rest, "clients wait")
        self._a.cut()
        self.stage.ground.etcd.delete(self._prefix + "leader")

    def _crown_b(self) -> None:
        self.crowned_at = time.monotonic()
        self._put("leader", "b")
        self._put("failover", "{}")

    def reach(self) -> bool:
        """Move until the first watcher stops at its point; whether it did before the switchover was over."""
        while self._moves and not self.trail.stopped:
            self._moves.pop(0)()
            self._rest()
        return self.trail.stopped is not None

    def _rest(self) -> None:
        seen, since = self._count(), time.monotonic()

        def is_over() -> bool:
            nonlocal seen, since
            if (now := self._count()) != seen:
                seen, since = now, time.monotonic()
            return self.trail.stopped is not None or time.monotonic() - since >= QUIET

        self._wait(is_over, "all comes to rest")

    def _count(self) -> int:
        return len(self.trail.points("watcher"))

    def finish(self) -> None:
        """What is left of it; then every client commits on `b`, and none has failed."""
        while self._moves:
            self._moves.pop(0)()
        self._wait(lambda: self.are_on("b"), "clients commit on b")
        since, a = self._wait_since, self.stage.ground.endpoint("a")
        if since is not None and any(client.lasts[a] > since for client in self.clients):
            raise BedError("clients that waited were let go to the old primary")

    # --- what befalls the first -----------------------------------------------------------------------

    def _strike(self) -> None:
        """Where clients wait, both watchers hold them: nobody may let them go to `a` from here on."""
        if self.stage.is_at_rest():
            until = time.monotonic() + _BOTH_HOLD
            while len(self.stage.records()) < 2 and time.monotonic() < until:
                time.sleep(0.005)
            self._wait_since = time.monotonic()
        self.struck_at = time.monotonic()

    def kill(self) -> None:
        self._strike()
        strike(self._pids["first"], signal.SIGKILL)
        time.sleep(_LET_GO)

    def freeze(self) -> None:
        self._strike()
        strike(self._pids["first"], signal.SIGSTOP)
        self.trail.let_go_on()

    def cut_off(self) -> None:
        """From etcd; it goes on."""
        self._strike()
        self._etcd.stall()
        self.trail.let_go_on()

    def lose_host(self) -> None:
        """It goes on, and has its lease; it reaches PgBouncer's host no more, and its agent goes on there."""
        self._strike()
        self.stage.link.stall()
        self.trail.let_go_on()

    def heal(self) -> None:
        """It goes on, and reaches everything again, unless it is dead."""
        self._etcd.mend()
        self.stage.link.mend()
        strike(self._pids["first"], signal.SIGCONT)

    # --- what came of it ------------------------------------------------------------------------------

    def are_on(self, name: str) -> bool:
        """Whether the last commit of every client was on that server."""
        endpoint = self.stage.ground.endpoint(name)
        return all(client.server == endpoint for client in self.clients)

    @property
    def errors(self) -> list[str]:
        """What clients met."""
        return [error for client in self.clients for error in client.errors]

    def expect_no_error(self) -> None:
        """BedError, with what PgBouncer has to say, if a transaction has failed."""
        if self.errors:
            raise BedError(f"{self.errors}\n{log_tail(self.stage.pgbouncer.process.log)}")

    @property
    def transactions(self) -> int:
        """Committed or failed."""
        return sum(client.commits + len(client.errors) for client in self.clients)

    @property
    def seconds(self) -> float | None:
        """From what befell the first, or from the new leader's key if that came later, until a client had
        committed on `b`; None where one had before.
        """
        led_at = min(client.firsts[self.stage.ground.endpoint("b")] for client in self.clients)
        since = max(self.struck_at, self.crowned_at)
        return led_at - since if led_at > since else None

    def await_right_end(self) -> None:
        """Nobody waits, PgBouncer's settings are as they were, and no agent has left a record."""
        self._wait(lambda: not self.stage.is_paused(), "no client waits")
        self._wait(lambda: not self.stage.records(), "no record is left")
        self._wait(lambda: self.stage.config() == self._config_before, "its settings are as they were")
        began = time.monotonic()
        self._wait(lambda: all(client.at > began for client in self.clients), "every client goes on")
        if not self.are_on("b"):
            raise BedError(f"clients were led back: {[client.server for client in self.clients]}")

    def _wait(self, question: Callable[[], bool], what: str) -> None:
        logs = [self.log_of(name) for name in ("first", "second")]
        wait_for(question, SETTLED, what, logs=logs, poll=0.01)


def _lines(log: Path, event: str) -> list[dict[str, Any]]:
    texts = Tail(log).texts()
    return [line for text in texts if text.startswith(b"{") and (line := json.loads(text))["event"] == event]


FAULTS: dict[str, Callable[[Takeover], None]] = {
    "kill": Takeover.kill,
    "freeze": Takeover.freeze,
    "cut_off": Takeover.cut_off,
    "lose_host": Takeover.lose_host,
}
