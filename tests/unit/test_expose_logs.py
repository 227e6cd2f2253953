"""What the log says of switches and faults, and how often."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.expose_scene import LEADS, LOST, Clock, actual, switch
from watcher.decide.errors import SourceError, TargetRefused
from watcher.decide.model import Desired
from watcher.expose import logs
from watcher.expose.logs import LogReporter

REFUSED = TargetRefused("pgb1", "it refuses our login", "is our key there?")


class Log:
    """A reporter, its clock, and the lines it has written."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._stream = io.StringIO()
        logs.set_up("INFO", "json", self._stream)
        self.reporter = LogReporter("demo", lambda: self.clock.now)

    def lines(self, event: str) -> list[dict[str, Any]]:
        logs.flush(5)
        lines = map(json.loads, self._stream.getvalue().splitlines())
        return [line for line in lines if line["event"] == event]


@pytest.fixture
def log() -> Iterator[Log]:
    yield Log()
    logs.set_up("INFO", "json", io.StringIO())


def test_a_switch_of_a_target_is_one_line_with_its_parts(log: Log) -> None:
    log.reporter.switched(switch())
    log.reporter.in_sync("pgb1", actual())
    (line,) = log.lines("switch")
    assert line["level"] == "INFO"
    assert (line["switch"], line["target"], line["leader"]) == ("pg2-42", "pgb1", "pg2")
    assert (line["revision"], line["route"], line["before"]) == (42, "10.0.0.2:5432", "10.0.0.1:5432")
    assert line["duration_ms"] == pytest.approx(sum(line["parts_ms"].values()), abs=0.01) == 200
    assert line["parts_ms"] == {"decide": 50, "write": 10, "ready": 100, "release": 40}
    assert line["held_ms"] == 700
    assert log.lines("in_sync") == []
    assert log.lines("corrected") == []


def test_a_switch_that_corrects_somebody_else_is_a_warning_besides_with_what_to_do(log: Log) -> None:
    log.reporter.switched(switch(corrects="a tool"))
    (line,) = log.lines("corrected")
    assert line["level"] == "WARNING"
    assert (line["target"], line["before"], line["route"]) == ("pgb1", "10.0.0.1:5432", "10.0.0.2:5432")
    assert line["message"].startswith(
        "somebody else had led it to 10.0.0.1:5432, and it was led back to 10.0.0.2:5432: a tool. What now: "
    )
    assert len(log.lines("switch")) == 1


@pytest.mark.parametrize(
    ("wish", "words"),
    [(LEADS, "clients go on"), (replace(LEADS, gave_up=True), "clients are let go into errors")],
)
def test_a_release_says_how_long_clients_waited_where_that_is_known(
    log: Log, wish: Desired, words: str
) -> None:
    for seconds in (1.5, None):
        log.reporter.released("pgb1", wish, seconds)
    told = [(line["held_ms"], line["message"]) for line in log.lines("release")]
    assert told == [
        (1500, f"{words} after 1.50 s: {wish.detail}"),
        (None, f"{words} by another's word: {wish.detail}"),
    ]


def test_an_error_says_what_where_why_and_what_now(log: Log) -> None:
    log.reporter.failed("pgb1", LOST, 1)
    (line,) = log.lines("failed")
    assert line["level"] == "ERROR"
    assert line["message"] == "pgb1: no answer within 5 s. What now: is its host up?"


def test_what_lasts_is_said_once_a_minute_even_where_faults_take_turns(log: Log) -> None:
    for second in range(100):
        log.clock.now = 1000.0 + second
        log.reporter.failed("pgb1", LOST if second % 2 else REFUSED, second)
    assert len(log.lines("failed")) == 4


def test_each_target_and_each_source_speaks_for_itself(log: Log) -> None:
    for target in ("pgb1", "pgb2", "pgb1"):
        log.reporter.failed(target, LOST, 1)
    down = SourceError("etcd1:2379", "connection refused", "is it running?")
    for _ in range(3):
        log.reporter.source_state("etcd", connected=False, place="etcd1:2379", problem=down)
    assert [line["target"] for line in log.lines("failed")] == ["pgb1", "pgb2"]
    assert len(log.lines("source")) == 1


def test_what_comes_back_after_it_was_well_is_news(log: Log) -> None:
    log.reporter.failed("pgb1", LOST, 1)
    log.reporter.in_sync("pgb1", actual())
    log.reporter.failed("pgb1", LOST, 1)
    assert len(log.lines("failed")) == 2
    assert [line["message"] for line in log.lines("in_sync")] == ["in sync again, leads to 10.0.0.2:5432"]
