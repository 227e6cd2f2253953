"""What is asked of an agent, and that all it says is noted in the order in which it says it, however late the
asker reads the answer.
"""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any, cast

import pytest

from tests.support.waiting import wait_for
from watcher.apply.console import ConsoleAccess
from watcher.apply.greetings import Greetings
from watcher.apply.holding import GRACE, Ear, Holding, Terms
from watcher.decide.errors import LoginRefused, PrimaryRefuses, TargetRefused, TargetUnreachable
from watcher.decide.model import Endpoint, Held

HELD = {"held": True, "databases": ["app"], "age": 0.0, "left": 10.0, "complete": False}
FREE = {"held": False, "databases": [], "age": 0.0, "left": 0.0, "complete": False}


class _Place:
    name = "fake"
    connected = True

    def open(self, word: str) -> Any:
        raise AssertionError(word)

    def close(self) -> None:
        """Nothing is open."""


class _Agent:
    """A stream whose agent has answered, and said something more, before anybody reads the answer."""

    def __init__(self, said: Callable[[str], None], *lines: dict[str, Any]) -> None:
        self._said = said
        self._lines = lines
        self.asked: list[dict[str, Any]] = []

    def sendall(self, data: bytes) -> None:
        self.asked.append(json.loads(data))
        for line in self._lines:
            self._said(json.dumps(line))

    def close(self) -> None:
        """Over."""


TERMS = Terms(on_refusal=None, close_sessions=True, cut_after=None, login_as="x")
A, B = Endpoint("10.0.0.1", 5432), Endpoint("10.0.0.2", 5432)
NOW = 100.0


class _Heard:
    """What the ear was told."""

    def __init__(self) -> None:
        self.changes = 0
        self.alarms: list[tuple[Endpoint, bool]] = []
        self.readers: list[tuple[Endpoint, bool]] = []
        self.left: list[tuple[str, ...]] = []
        self.ended: list[float] = []
        self.ear = Ear(
            changed=self._changed,
            alarm=lambda endpoint, refuses, _: self.alarms.append((endpoint, refuses)),
            reader=lambda endpoint, refuses, _: self.readers.append((endpoint, refuses)),
            ended=lambda _, seconds: self.ended.append(seconds),
            left=self.left.append,
        )

    def _changed(self) -> None:
        self.changes += 1


def made(
    terms: Terms = TERMS,
    ear: Ear | None = None,
    clock: Callable[[], float] = lambda: NOW,
    greetings: Greetings | None = None,
) -> Holding:
    access = ConsoleAccess(user="pgbouncer", password=None, unix_socket="/s")
    return Holding(_Place(), access, terms, 1.0, ear or Ear(), clock, greetings)


@pytest.fixture
def holding() -> Holding:
    return made()


def saying(holding: Holding, *lines: dict[str, Any]) -> _Agent:
    stream: Any = _Agent(lambda line: holding._hear(line.encode(), stream, holding._replies), *lines)
    holding._stream = stream
    agent: _Agent = stream
    return agent


def alarm(endpoint: Endpoint, *, refuses: bool, event: str = "alarm") -> dict[str, Any]:
    where = {"host": endpoint.host, "port": endpoint.port}
    return {**FREE, "event": event, "refuses": refuses, "why": "refused", **where}


def test_a_hold_that_is_complete_right_behind_the_answer_stays_complete(holding: Holding) -> None:
    """Else `watcher barrier` would wait for it to its limit."""
    saying(holding, HELD, {**HELD, "complete": True, "event": "complete"})
    holding.hold(["app"], None, 110.0)
    assert holding.held is not None
    assert holding.held.complete


def test_a_hold_that_ends_right_behind_the_answer_is_over() -> None:
    heard = _Heard()
    holding = made(ear=heard.ear)
    saying(holding, HELD, {"event": "ended", "why": "gone", "held_for": 0.5, "complete": False})
    holding.hold(["app"], None, 110.0)
    assert holding.held is None
    assert heard.ended == [0.5]


def test_a_hold_that_begins_right_behind_a_release_is_known(holding: Holding) -> None:
    alarm = {"event": "alarm", "refuses": True, "why": "refused", "host": "10.0.0.1", "port": 5432}
    saying(holding, {**FREE, "was_held": True, "held_for": 1.0, "shown": []}, {**HELD, **alarm})
    assert (
        holding.release(Endpoint("10.0.0.1", 5432), reload=False, goals={"app": Endpoint("10.0.0.1", 5432)})
        == []
    )
    assert holding.held is not None


def test_a_release_ends_what_was_held(holding: Holding) -> None:
    saying(holding, HELD)
    holding.hold(["app"], None, 110.0)
    saying(holding, {**FREE, "was_held": True, "held_for": 1.0, "shown": []})
    holding.release(None, reload=False, goals={"app": Endpoint("10.0.0.1", 5432)})
    assert holding.held is None


# --- what is asked of it -----------------------------------------------------------------------------


def test_the_agent_lets_clients_wait_a_little_longer_than_the_watcher_means_to(holding: Holding) -> None:
    """Whoever lives ends his hold by his own word, in time."""
    agent = saying(holding, {**HELD, "left": 10.0 + GRACE})
    holding.hold(["app"], ["other"], NOW + 10.0)
    asked = {"verb": "hold", "limit": 10.0 + GRACE, "databases": ["app"], "all_but": ["other"]}
    assert agent.asked == [asked]
    assert holding.held is not None
    assert holding.held.until == pytest.approx(NOW + 10.0)


def test_a_hold_that_the_agent_begins_by_itself_is_asked_for_where_the_terms_say_so() -> None:
    holding = made(replace(TERMS, on_refusal=60.0))
    agent = saying(holding, FREE)
    holding.watch(A, ["app"], None)
    (asked,) = agent.asked
    assert asked["hold"] == {"limit": 60.0 + GRACE, "databases": ["app"], "all_but": None}
    assert (asked["host"], asked["port"], asked["user"]) == ("10.0.0.1", 5432, "x")
    holding = made()
    agent = saying(holding, FREE)
    holding.watch(A, ["app"], None)
    assert [asked["hold"] for asked in agent.asked] == [None]


@pytest.mark.parametrize(("close_sessions", "cut_after"), [(True, 2.0), (False, None)])
def test_a_release_to_a_primary_asks_for_all_that_makes_it_sure(
    close_sessions: bool, cut_after: float | None
) -> None:
    holding = made(replace(TERMS, close_sessions=close_sessions, cut_after=cut_after))
    agent = saying(holding, {**FREE, "shown": []})
    holding.release(A, reload=True, goals={"app": A, "reads": B}, moves=["reads"])
    (asked,) = agent.asked
    assert asked == {
        "verb": "release",
        "reload": True,
        "sure": True,
        "moves": ["reads"],
        "expect": {"app": ["10.0.0.1", 5432], "reads": ["10.0.0.2", 5432]},
        "greet": ["10.0.0.1", 5432, "x"],
        "close_sessions": close_sessions,
        "cut_after": cut_after,
    }


def test_who_was_greeted_just_now_or_by_another_is_not_greeted_again() -> None:
    holding = made(greetings=Greetings(lambda: NOW))
    agent = saying(holding, {**FREE, "shown": []})
    for greets in (False, True, True):  # the word of nobody that we know, ours, and that again
        holding.held = Held(("app",), NOW - 1, NOW + 9)
        holding.release(A, reload=False, goals={}, greets=greets)
    assert [(asked["greet"] is None, asked.get("vouched_at")) for asked in agent.asked] == [
        (True, None),
        (False, None),
        (False, 1.0),
    ]


def test_whom_a_guard_has_seen_refuse_since_is_greeted() -> None:
    holding = made(greetings=Greetings(lambda: NOW))
    agent = saying(holding, {**FREE, "shown": []}, alarm(A, refuses=True))
    for _ in range(2):
        holding.held = Held(("app",), NOW - 1, NOW + 9)
        holding.release(A, reload=False, goals={})
        holding._heed(alarm(A, refuses=True), cast(Any, agent))
    assert [asked.get("vouched_at") for asked in agent.asked] == [None, None]


def test_whom_a_guard_has_seen_well_all_the_while_is_vouched_for_still() -> None:
    greetings = Greetings(lambda: NOW)
    holding = made(greetings=greetings)
    agent = saying(holding)
    with greetings.greeting(A, NOW - 1) as ours:
        ours.took = True
    holding._heed(alarm(A, refuses=False), cast(Any, agent))
    with greetings.greeting(A, NOW - 1) as ours:
        assert not ours.is_needed


def test_once_we_are_refused_nobody_vouches_any_more() -> None:
    greetings = Greetings(lambda: NOW)
    holding = made(greetings=greetings)
    holding.held = Held(("app",), NOW - 1, NOW + 9)
    for _ in range(2):  # the second time whatever another was told
        saying(holding, {"error": "login", "problem": "it takes no login"})
        with pytest.raises(PrimaryRefuses):
            holding.release(A, reload=False, goals={})
        with greetings.greeting(A, NOW - 1) as ours:
            assert ours.is_needed
            ours.took = True


def test_who_was_refused_in_a_hold_asks_itself_until_the_next() -> None:
    greetings = Greetings(lambda: NOW)
    holding = made(greetings=greetings)
    refused, took = {"error": "login", "problem": "it takes no login"}, {**FREE, "shown": []}
    for since, answer, vouched_at in ((NOW - 2, refused, None), (NOW - 2, took, None), (NOW - 1, took, 1.0)):
        holding.held = Held(("app",), since, NOW + 9)
        agent = saying(holding, answer)
        with suppress(PrimaryRefuses):
            holding.release(A, reload=False, goals={})
        assert [asked.get("vouched_at") for asked in agent.asked] == [vouched_at]
        with greetings.greeting(A, since) as ours:  # another takes a login there
            ours.took = True


def test_a_release_that_found_nobody_waiting_has_greeted_nobody() -> None:
    holding = made(greetings=Greetings(lambda: NOW))
    agent = saying(holding, FREE)
    for _ in range(2):
        holding.held = Held(("app",), NOW - 1, NOW + 9)
        holding.release(A, reload=False, goals={})
    assert [asked.get("vouched_at") for asked in agent.asked] == [None, None]


def test_a_release_to_nobody_is_not_sure_and_asks_for_no_more(holding: Holding) -> None:
    """What another watcher holds as well goes on waiting."""
    agent = saying(holding, {**FREE, "shown": []})
    holding.release(None, reload=False, goals={"app": A})
    assert agent.asked == [{"verb": "release", "reload": False, "sure": False}]


REFUSED = {"error": "bounds", "problem": "10.0.0.1 is none of the hosts that --allow names"}


def test_a_server_that_may_not_be_watched_is_not_said_to_be(holding: Holding) -> None:
    """Or it would never be asked for again, and hold nobody in a crash."""
    saying(holding, REFUSED)
    with pytest.raises(TargetRefused):
        holding.watch(A, ["app"], None)
    assert holding.guard is None
    saying(holding, REFUSED)
    with pytest.raises(TargetRefused):
        holding.watch_readers((A,), ["ro"])
    assert holding.read_guards == ()


# --- who refuses ---------------------------------------------------------------------------------------


def test_a_primary_that_is_not_watched_any_more_does_not_refuse_any_more() -> None:
    heard = _Heard()
    holding = made(ear=heard.ear)
    saying(holding, FREE, alarm(A, refuses=True))
    holding.watch(A, ["app"], None)
    assert heard.alarms == [(A, True)]
    saying(holding, FREE)
    holding.watch(B, ["app"], None)
    holding.watch(A, ["app"], None)
    assert heard.alarms == [(A, True), (A, False)]


def test_a_server_for_reads_that_is_not_watched_any_more_does_not_refuse_any_more() -> None:
    heard = _Heard()
    holding = made(ear=heard.ear)
    saying(holding, FREE, alarm(A, refuses=True, event="reader"), alarm(B, refuses=True, event="reader"))
    holding.watch_readers((A, B), ["reads"])
    saying(holding, FREE)
    holding.watch_readers((B,), ["reads"])
    assert heard.readers == [(A, True), (B, True), (A, False)]
    assert holding.read_guards == (B,)
    holding.watch_readers((), ["reads"])
    assert heard.readers[3:] == [(B, False)]


def test_what_a_channel_that_ends_has_told_is_taken_back() -> None:
    heard = _Heard()
    holding = made(ear=heard.ear)
    saying(holding, FREE, alarm(A, refuses=True))
    holding.watch(A, ["app"], None)
    saying(holding, FREE, alarm(B, refuses=True, event="reader"))
    holding.watch_readers((B,), ["reads"])
    saying(holding, HELD)
    holding.hold(["app"], None, NOW + 10.0)
    holding.close()
    assert (heard.alarms[-1], heard.readers[-1]) == ((A, False), (B, False))
    assert (holding.held, holding.guard, holding.read_guards) == (None, None, ())


def test_what_an_agent_says_whose_channel_was_closed_counts_no_more() -> None:
    heard = _Heard()
    holding = made(ear=heard.ear)
    gone: Any = saying(holding)
    saying(holding)
    for said in (alarm(A, refuses=True), alarm(B, refuses=True, event="reader"), HELD):
        holding._hear(json.dumps(said).encode(), gone, holding._replies)
    assert (heard.alarms, heard.readers, heard.changes, holding.held) == ([], [], 0, None)


def test_each_alarm_wakes_the_worker() -> None:
    heard = _Heard()
    holding = made(ear=heard.ear)
    saying(holding, FREE, alarm(A, refuses=True))
    holding.watch(A, ["app"], None)
    assert heard.changes == 1


def test_a_hold_is_as_old_as_the_agent_says_and_stays_so(holding: Holding) -> None:
    saying(holding, {**HELD, "age": 3.0}, {**HELD, "age": 1.0, "event": "complete"})
    holding.hold(["app"], None, NOW + 10.0)
    assert holding.held is not None
    assert holding.held.since == NOW - 3.0


def test_an_agent_that_does_not_answer_is_given_up(holding: Holding) -> None:
    holding._limit = 0.01
    saying(holding)
    with pytest.raises(TargetUnreachable):
        holding.hold(["app"], None, NOW + 10.0)
    assert not holding.connected


def test_an_agent_that_refuses_is_not_given_up_and_its_hold_goes_on(holding: Holding) -> None:
    saying(holding, HELD)
    holding.hold(["app"], None, NOW + 10.0)
    saying(holding, {"error": "greeting", "problem": "it takes no login"})
    with pytest.raises(TargetRefused):
        holding.release(A, reload=False, goals={"app": A})
    assert holding.connected
    assert holding.held is not None


def ending(holding: Holding) -> Any:
    """An agent of it, watching a primary that refuses, whose channel is at its end."""
    saying(holding, FREE, alarm(A, refuses=True))
    holding.watch(A, ["app"], None)
    agent: Any = saying(holding)
    agent.settimeout = lambda _: None
    agent.recv = lambda _: b""
    return agent


def test_whoever_waits_for_an_answer_hears_that_the_channel_has_ended(holding: Holding) -> None:
    holding._limit = 60.0
    agent = ending(holding)
    agent.sendall = lambda _: holding._read(agent, holding._replies)
    with pytest.raises(TargetUnreachable, match="the connection broke"):
        holding.hold(["app"], None, NOW + 10.0)
    assert not holding.connected


def test_a_channel_that_ends_while_nobody_asks_wakes_the_worker_and_takes_back_what_it_told() -> None:
    heard = _Heard()
    holding = made(ear=heard.ear)
    agent, before = ending(holding), heard.changes
    holding._read(agent, holding._replies)
    assert not holding.connected
    assert heard.alarms == [(A, True), (A, False)]
    assert heard.changes == before + 1


# --- a channel that is opened --------------------------------------------------------------------------


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Holding], None]]:
    """Opens its channel to an agent that lets in at once, and had found something paused."""
    with ExitStack() as ends:

        def connected(_: object, __: str) -> socket.socket:
            near, far = map(ends.enter_context, socket.socketpair())
            far.sendall(json.dumps({"left": ["app"]}).encode() + b"\n")
            return near

        monkeypatch.setattr(_Place, "open", connected)
        monkeypatch.setattr(Holding, "_log_in", lambda *_: None)
        yield Holding.open


def test_what_a_dead_agent_had_left_paused_is_told(opening: Callable[[Holding], None]) -> None:
    heard = _Heard()
    opening(made(ear=heard.ear))
    assert heard.left == [("app",)]


def test_a_channel_whose_consoles_cannot_be_logged_in_to_is_closed(
    opening: Callable[[Holding], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise LoginRefused("fake", "no", "look")

    monkeypatch.setattr(Holding, "_log_in", refuse)
    holding = made()
    with pytest.raises(LoginRefused):
        opening(holding)
    assert not holding.connected


def test_the_end_of_a_channel_says_nothing_of_the_next(opening: Callable[[Holding], None]) -> None:
    holding = made()
    opening(holding)
    replies = holding._replies
    stream: Any = holding._stream
    stream.shutdown(socket.SHUT_RDWR)
    wait_for(lambda: not replies.empty(), 10, "its reader has seen the end")
    holding.close()
    opening(holding)
    assert holding.connected
