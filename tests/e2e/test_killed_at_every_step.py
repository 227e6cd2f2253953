"""Whoever dies, freezes or is cut off, at whichever step of a switch: no hold outlives its limit, and in the
end every client is led to the new leader, as if nothing had been.

The steps are not listed here: one undisturbed switch is recorded, and then each of its points is visited,
by every fault (`make every-step`), or by one in turn, so that each point is met by one or two.
"""

import functools
import itertools
import os
import queue
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psutil
import pytest
import yaml

from tests.e2e.test_stage import Keys, file_route
from tests.support.accounts import own_folder
from tests.support.folders import bed_folder
from tests.support.points import Stop, Trail, Who, strike
from tests.support.postgres import APP
from tests.support.stage import OPERATORS, Client, Ground, PauseWitness, Stage, longest
from tests.support.waiting import BedError, log_tail, wait_for

LIMITS = {"limit": 1.4, "announced_limit": 0.9}  # on a machine that is busy there must be more time
UNHURRIED = {"limit": 60.0, "announced_limit": 30.0}  # what is recorded is no matter of time
SLACK = 1.0  # seconds by which a busy machine may be late
LONGER = 0.2  # seconds by which a fault outlasts the limit
SETTLED = 20.0
QUIET = 1.4  # nothing comes for so long, which is longer than an agent lets logins be after a release
TRIES = 3  # until a point is met, with twice the time each; another order of things on the way is no failure
_numbers = itertools.count(1)


# --- the switch -----------------------------------------------------------------------------------


def _announce(keys: Keys) -> None:
    keys.put("failover", '{"leader": "a", "member": "b"}')


def _end_reign(keys: Keys) -> None:
    keys.end_reign()


def _crown(keys: Keys) -> None:
    keys.put("leader", "b")
    keys.put("failover", "{}")


MOVES: Sequence[Callable[[Keys], None]] = (_announce, _end_reign, _crown)
"""What Patroni does to its keys in a planned switchover, by the test's hand."""

Counts = dict[Who, int]


@dataclass(frozen=True)
class Score:
    """An undisturbed switch: the points that it comes by, and how many of them each move brings it to."""

    points: dict[Who, list[str]]
    after_moves: list[Counts]

    def stops(self, who: Who) -> list[Stop]:
        return [Stop(who, number + 1) for number in range(len(self.points[who]))]

    def name(self, stop: Stop) -> str:
        return self.points[stop.who][stop.number - 1]


class Missed(Exception):
    """The point was not met: what came before it came in another order this time."""


class Switch(AbstractContextManager["Switch"]):
    """One switch from `a` to `b` on a stage, with a watcher that stops at `stop_at`, seen by witnesses."""

    def __init__(
        self, stage: Stage, via: str, stop_at: Stop | None = None, hold: dict[str, float] = LIMITS
    ) -> None:
        self.stage = stage
        self.account = stage.host.account if via == "local" else "-"
        folder = own_folder(stage.folder / f"switch{next(_numbers)}", stage.host.account)
        self.trail = Trail(folder)
        self.limit = hold["limit"]
        self.log = folder / "watcher.log"
        self.keys = Keys(stage.ground.etcd)
        self.moves = list(MOVES)
        self._config = folder / "watcher.yaml"
        self._stop_at = stop_at
        retry, log = {"first": 0.1, "limit": 0.3}, {"format": "json"}
        self._settings = stage.settings(via, self.keys.scope, hold=hold, retry=retry, log=log)
        self._pids: list[int] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self._end()
            raise
        return self

    def _begin(self) -> None:
        self.stage.reset()
        self._config.write_text(yaml.safe_dump(self._settings))
        self.config = self.stage.config()
        self.keys.put("leader", "a")
        self.witness = self._stack.enter_context(PauseWitness(self.stage.pgbouncer))
        self.client = self._stack.enter_context(Client(self.stage.pgbouncer))
        self.pid = self.start_watcher(self._stop_at)
        wait_for(lambda: self._is_settled("a"), SETTLED, "all is well at first", logs=[self.log])
        self.first_agents = self.stage.agents()
        self.trail.arm()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self.stage.link.mend()
        for pid in self._pids:
            strike(pid, signal.SIGKILL)
        self._stack.close()

    def start_watcher(self, stop_at: Stop | None = None, trail: Trail | None = None) -> int:
        """One more watcher, with the same settings; its process id."""
        program = self.stage.ground.program
        pid = program.run(trail or self.trail, self._config, self.log, stop_at, self.account)
        self._pids.append(pid)
        return pid

    def _is_settled(self, leader: str) -> bool:
        led = '"in_sync"' in (self.log.read_text() if self.log.exists() else "")
        return led and self.client.server == self.stage.ground.endpoint(leader)

    def new_trail(self) -> Trail:
        """For the watcher that comes next, whose points count from its first."""
        trail = Trail(own_folder(self.trail.folder / "next", self.stage.host.account))
        trail.arm()
        return trail

    def counts(self) -> Counts:
        return {who: len(self.trail.points(who)) for who in ("watcher", "agent")}

    # --- the hand -------------------------------------------------------------------------------------

    def record(self) -> Score:
        """Make the whole switch, each move once all has come to rest after the one before."""
        after_moves = []
        while self.moves:
            self.moves.pop(0)(self.keys)
            after_moves.append(self._rest())
        return Score({who: self.trail.points(who) for who in ("watcher", "agent")}, after_moves)

    def _rest(self) -> Counts:
        seen, since = self.counts(), time.monotonic()

        def is_quiet() -> bool:
            nonlocal seen, since
            if (now := self.counts()) != seen:
                seen, since = now, time.monotonic()
            return time.monotonic() - since >= QUIET

        wait_for(is_quiet, SETTLED, "all comes to rest", logs=[self.log])
        return seen

    def go_to(self, score: Score, stop: Stop) -> int:
        """Move until somebody stops at `stop`; the process id of who does. Raises Missed if none does."""
        for counts in score.after_moves:
            self.moves.pop(0)(self.keys)
            wait_for(lambda: self._has_come_to(counts), SETTLED, "a move is carried out", logs=[self.log])  # noqa: B023
            if self.trail.stopped:
                break
        if self.trail.stopped is None or self.trail.stopped[1] != score.name(stop):
            raise Missed(f"{self.trail.stopped} instead of {stop}, {score.name(stop)}")
        return self.trail.stopped[0]

    def _has_come_to(self, counts: Counts) -> bool:
        now = self.counts()
        return self.trail.stopped is not None or all(now[who] >= counts[who] for who in counts)

    def go_through(self) -> None:
        """What is left of the switch; the cluster waits for nobody."""
        while self.moves:
            self.moves.pop(0)(self.keys)

    # --- what must be so ------------------------------------------------------------------------------

    def expect_release(self) -> None:
        """The hold ends by itself, while nobody could end it but who is beside PgBouncer."""
        within = self.limit + SLACK
        wait_for(lambda: not self.witness.is_paused, within, "the hold has ended", logs=[self.log])

    def outlast_hold(self, struck_at: float) -> None:
        """As `expect_release`, and until the fault has lasted longer than any hold may."""
        self.expect_release()
        until = struck_at + self.limit + LONGER
        wait_for(lambda: time.monotonic() >= until, until, "the limit is over")

    def expect_gone(self, agents: Sequence[psutil.Process]) -> None:
        """These agents have ended."""
        self._wait(
            lambda: not any(map(psutil.Process.is_running, agents)), "no agent of a dead watcher lives"
        )

    def expect_a_right_end(self, dead_agents: Sequence[psutil.Process]) -> None:
        """Whatever happened: the route, the settings, the clients and the operator's pause are right."""
        stage, endpoint = self.stage, self.stage.ground.endpoint("b")
        self._wait(lambda: stage.shown_route() == endpoint == file_route(stage.host), "the route is right")
        self._wait(lambda: not stage.is_paused(), "no client waits")
        since = time.monotonic()
        self._wait(
            lambda: self.client.at > since and self.client.server == endpoint, "a client commits there"
        )
        self._wait(lambda: not stage.records(), "no record is left")
        self._wait(lambda: not self._differences(), "PgBouncer's settings are as they were")
        self.expect_gone(dead_agents)
        self._wait(lambda: len(stage.agents("hold")) == 1, "one agent is ready to hold")
        assert stage.is_paused(OPERATORS)
        assert not self.witness.operators_ended, "the operator's pause was ended"
        assert not self.client.errors, self.client.errors

    def expect_no_long_hold(self) -> None:
        assert self.witness.looks, "nobody looked"
        assert longest(self.witness.pauses) <= self.limit + SLACK

    def _differences(self) -> dict[str, str]:
        now = self.stage.config()
        return {name: now[name] for name in now if now[name] != self.config[name]}

    def _wait(self, question: Callable[[], bool], what: str) -> None:
        wait_for(question, SETTLED, what, logs=[self.log], poll=0.01)


# --- faults ---------------------------------------------------------------------------------------

Fault = Callable[[Switch, int], None]
"""Strikes a switch in which the process of that id has stopped, and goes through with it to its end."""


def killed(switch: Switch, pid: int) -> None:
    strike(pid, signal.SIGKILL)
    switch.go_through()
    switch.expect_release()
    switch.expect_gone(switch.first_agents)
    assert not switch.witness.is_paused
    switch.start_watcher()
    switch.expect_a_right_end(switch.first_agents)
    switch.expect_no_long_hold()


def frozen(switch: Switch, pid: int) -> None:
    struck_at = time.monotonic()
    strike(pid, signal.SIGSTOP)
    switch.trail.let_go_on()
    switch.go_through()
    switch.outlast_hold(struck_at)
    strike(pid, signal.SIGCONT)
    switch.expect_a_right_end([])
    switch.expect_no_long_hold()


def stalled(switch: Switch, pid: int) -> None:
    _lose_link(switch, switch.stage.link.stall)


def cut_off(switch: Switch, pid: int) -> None:
    _lose_link(switch, switch.stage.link.cut)


def _lose_link(switch: Switch, lose: Callable[[], None]) -> None:
    struck_at = time.monotonic()
    lose()
    switch.trail.let_go_on()
    switch.go_through()
    switch.outlast_hold(struck_at)
    switch.stage.link.mend()
    switch.expect_a_right_end([])
    switch.expect_no_long_hold()


def agent_killed(switch: Switch, pid: int) -> None:
    strike(pid, signal.SIGKILL)
    switch.trail.let_go_on()
    switch.go_through()
    switch.expect_a_right_end([agent for agent in switch.first_agents if agent.pid == pid])
    switch.expect_no_long_hold()


def both_killed(switch: Switch, pid: int) -> None:
    """Nobody is left who could end the hold, until the next watcher comes."""
    _kill_both(switch, pid)
    switch.start_watcher()
    switch.expect_a_right_end(switch.first_agents)


def _kill_both(switch: Switch, pid: int) -> None:
    strike(switch.pid, signal.SIGKILL)
    strike(pid, signal.SIGKILL)
    switch.stage.host.sshd.kill_sessions()
    switch.go_through()


def successor_killed(switch: Switch, pid: int, stop_at: Stop) -> None:
    """As `both_killed`, and then the agent that ends what was left; a third one has to."""
    _kill_both(switch, pid)
    trail = switch.new_trail()
    switch.start_watcher(stop_at, trail)
    second, _ = wait_for(lambda: trail.stopped, SETTLED, "the next agent stops", logs=[switch.log])
    strike(second, signal.SIGKILL)
    switch.expect_a_right_end(switch.first_agents)


# --- every point ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stages(installed: None) -> Iterator[list[Stage]]:
    """Three stages, so that three points are visited at a time: most of it is waiting."""
    with bed_folder() as folder, Ground(folder) as ground, ExitStack() as stack:
        yield [stack.enter_context(Stage(ground, number)) for number in range(3)]


@pytest.fixture(scope="module")
def scores(stages: list[Stage]) -> dict[str, Score]:
    """An undisturbed switch over SSH, and a local one."""

    def record(stage: Stage, via: str) -> Score:
        with Switch(stage, via, hold=UNHURRIED) as switch:
            score = switch.record()
            switch.expect_a_right_end([])
        return score

    with ThreadPoolExecutor(2) as pool:
        ways = ("ssh", "local")
        return dict(zip(ways, pool.map(record, stages, ways), strict=True))


def test_a_switch_has_the_points_that_it_must_have(scores: dict[str, Score]) -> None:
    for score in scores.values():
        watcher, agent = score.points["watcher"], "\n".join(score.points["agent"])
        for what in ("Hold", "Write", "Release", "Watch", "request hold", "request release", "request guard"):
            assert f"before {what}" in watcher
            assert f"after {what}" in watcher
        for reason in ("announced", "no_leader", "leader"):
            assert f"before wish {reason}" in watcher
        for what in ("note", "forget", "rename", "SET ", f'PAUSE "{APP}"', "RELOAD", f'RESUME "{APP}"'):
            assert what in agent
        assert OPERATORS not in agent


FAULTS: Sequence[tuple[str, Who, Fault]] = [
    ("ssh", "watcher", killed),
    ("ssh", "watcher", frozen),
    ("ssh", "watcher", stalled),
    ("ssh", "watcher", cut_off),
    ("local", "watcher", killed),
    ("local", "watcher", frozen),
    ("ssh", "agent", agent_killed),
    ("ssh", "agent", both_killed),
]
EVERY = "WATCHER_TESTS_EVERY_STEP" in os.environ
IN_TURN = 4  # of the faults each point meets the one whose turn it is


@pytest.mark.parametrize(("via", "who", "fault"), FAULTS)
def test_a_hold_ends_and_the_route_ends_right_whichever_point_is_struck(
    stages: list[Stage], scores: dict[str, Score], via: str, who: Who, fault: Fault
) -> None:
    score = scores[via]
    stops = score.stops(who)
    if not EVERY:
        stops = stops[FAULTS.index((via, who, fault)) % IN_TURN :: IN_TURN]
    _on_all(stages, stops, lambda stage, stop: _visit(stage, via, score, stop, fault))


def test_a_hold_ends_though_who_ends_it_is_killed_too_at_any_point(
    stages: list[Stage], scores: dict[str, Score]
) -> None:
    """Watcher and agent die while clients wait and a setting is changed; then the next agent does."""
    score = scores["ssh"]
    stops = score.stops("agent")
    (paused,) = [at for at, stop in enumerate(stops) if score.name(stop) == f'PAUSE "{APP}"']
    stop = stops[paused + 1]
    points = _points_of_the_next(stages[0], score, stop)
    assert f'RESUME "{APP}"' in points
    assert "SET max_db_connections" in "\n".join(points)
    _on_all(
        stages,
        [Stop("agent", number + 1) for number in range(len(points))],
        lambda stage, second: _visit(
            stage, "ssh", score, stop, functools.partial(successor_killed, stop_at=second)
        ),
    )


def _points_of_the_next(stage: Stage, score: Score, stop: Stop) -> list[str]:
    """What the agent of the next watcher comes by while it ends what was left."""
    with Switch(stage, "ssh", stop, UNHURRIED) as switch:
        pid = switch.go_to(score, stop)
        _kill_both(switch, pid)
        trail = switch.new_trail()
        switch.start_watcher(trail=trail)
        switch.expect_a_right_end(switch.first_agents)
        return trail.points("agent")


def _on_all(stages: list[Stage], stops: Sequence[Stop], visit: Callable[[Stage, Stop], str]) -> None:
    """Visits all, as many at a time as there are stages, and fails with all that went wrong."""
    free: queue.SimpleQueue[Stage] = queue.SimpleQueue()
    for stage in stages:
        free.put(stage)

    def visit_on_a_free_one(stop: Stop) -> str:
        stage = free.get()
        try:
            return visit(stage, stop)
        finally:
            free.put(stage)

    with ThreadPoolExecutor(len(stages)) as pool:
        problems = [problem for problem in pool.map(visit_on_a_free_one, stops) if problem]
    assert not problems, f"{len(problems)} of {len(stops)}:\n" + "\n\n".join(problems)


def _name(fault: Fault) -> str:
    if isinstance(fault, functools.partial):
        return f"{fault.func.__name__} {fault.keywords}"
    return getattr(fault, "__name__", repr(fault))


def _visit(stage: Stage, via: str, score: Score, stop: Stop, fault: Fault) -> str:
    """What went wrong at this point; empty if nothing did."""
    where = f"{_name(fault)} at {stop.who} {stop.number}, {score.name(stop)}"
    missed: list[str] = []
    while len(missed) < TRIES:
        longer = {name: seconds * 2 ** len(missed) for name, seconds in LIMITS.items()}
        with Switch(stage, via, stop, longer) as switch:
            try:
                fault(switch, switch.go_to(score, stop))
            except Missed as error:
                missed.append(str(error))
            except (AssertionError, BedError) as error:
                return f"=== {where}:\n{error}\n{log_tail(switch.log)}\npauses {switch.witness.pauses}"
            else:
                return ""
    return f"=== {where}: never met: {missed}"
