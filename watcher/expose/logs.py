"""Log lines on standard error: JSON for machines, text for people at a terminal.

One INFO line for each switch with its parts in milliseconds. An error says what, where, why and what
now, once when it begins and then at most once a minute while it lasts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from loguru import logger

from watcher.decide.errors import FileChanged, PrimaryRefuses, WatcherError
from watcher.decide.model import Actual, Desired, Endpoint, Reason, Switch
from watcher.decide.precedence import Standing, in_words
from watcher.decide.readers import unfit
from watcher.expose.audience import Listener
from watcher.expose.units import after, printable

if TYPE_CHECKING:
    from loguru import Record

_REPEAT_AFTER = 60.0
_ROOM = 2000  # lines
_RACES = 3  # lost to another writer in a row, and still no reason to call anybody
_CALM = (
    Reason.LEADER,
    Reason.STARTING,
    Reason.NO_LEADER,
    Reason.LEADER_NOT_READY,
    Reason.CANARY,
    Reason.ANNOUNCED,
    Reason.STOPPING,
)
_ONE_HAND = (
    "give all watchers of this PgBouncer the same settings (cluster.scope, cluster.addresses,"
    " cluster.connect_via), and let no other tool write its block;"
    " see docs/runbooks/WatcherTargetContested.md"
)
_QUIET = {"paramiko": logging.CRITICAL, "urllib3": logging.ERROR, "invoke": logging.ERROR}


_outs: dict[TextIO, _Out] = {}


def set_up(level: str, form: str, stream: TextIO = sys.stderr) -> None:
    """Sends our log, and the standard library's, to `stream` as `json`, `text`, or what suits it (`auto`)."""
    as_json = form == "json" or (form == "auto" and not stream.isatty())
    line_of, out = (_json_line if as_json else _text_line), _out_to(stream)
    logger.remove()
    # no local values in tracebacks: they may be secrets
    logger.add(
        lambda m: out.write(line_of(m.record)),
        level=level,
        format="{message}",  # made for each line, and the shortest: what is written is the record
        backtrace=False,
        diagnose=False,
    )
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)


def _out_to(stream: TextIO) -> _Out:
    """One writer a stream, however often the log is set up."""
    if stream not in _outs:
        _outs[stream] = _Out(stream)
    return _outs[stream]


def flush(limit: float = 1.0) -> None:
    """Waits until all lines are written, at most `limit` seconds."""
    for out in _outs.values():
        out.flush(limit)


class _Forward(logging.Handler):
    """The standard library's records → loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        logger.bind(event="library", logger=record.name).log(record.levelname, "{}", record.getMessage())


class _Out:
    """Writes lines in a thread of its own: a reader that hangs costs lines, never a switch.

    `write` never waits; what has no room is dropped, counted, and told once there is room again.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._descriptor = _descriptor(stream)
        self._lines: queue.Queue[str] = queue.Queue(_ROOM)
        self._dropped = 0
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def write(self, line: str) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def flush(self, limit: float) -> None:
        """Waits until all is written, at most `limit` seconds."""
        until = time.monotonic() + limit
        while self._lines.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.005)

    def _run(self) -> None:
        while True:
            with contextlib.suppress(Exception):  # the stream is closed, or there is no memory for this line
                line = self._lines.get()
                try:
                    self._emit(line)
                finally:
                    self._lines.task_done()

    def _emit(self, line: str) -> None:
        dropped, self._dropped = self._dropped, 0
        if dropped:
            self._put(f'{{"event": "log", "message": "{dropped} lines were lost: nobody read"}}\n')
        self._put(line)

    def _put(self, line: str) -> None:
        """Straight to the descriptor: a lock of the stream, held while nobody reads, would hang our exit."""
        if self._descriptor is None:
            self._stream.write(line)
            return
        rest = line.encode("utf-8", "backslashreplace")
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _json_line(record: Record) -> str:
    line = {"time": record["time"].isoformat(timespec="milliseconds"), "level": record["level"].name}
    line |= record["extra"] | {"message": record["message"]} | _trace(record)
    return json.dumps(line, default=str) + "\n"


def _text_line(record: Record) -> str:
    clock = record["time"].strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    where = record["extra"].get("target") or record["extra"].get("source") or ""
    said = " <- ".join([record["message"], *_trace(record).values()])
    return printable(f"{clock} {record['level'].name:7} {where:12} {said}") + "\n"


def _trace(record: Record) -> dict[str, str]:
    """The exception's chain as one line: kinds and texts, never local values."""
    if record["exception"] is None or record["exception"].value is None:
        return {}
    parts: list[str] = []
    error: BaseException | None = record["exception"].value
    while error is not None:
        words = " ".join(str(error).split())
        parts.append(type(error).__name__ + (words and f": {words}"))
        error = error.__cause__
    return {"exception": " <- ".join(parts)}


class LogReporter(Listener):
    """What happens to targets and sources, as log lines. Safe between threads."""

    def __init__(self, cluster: str, clock: Callable[[], float]) -> None:
        self._log = logger.bind(cluster=cluster)
        self._clock = clock
        self._said: dict[str, dict[str, float]] = {}
        self._wish: tuple[Reason, str] | None = None
        self._met: set[str] = set()
        self._lock = threading.Lock()

    def wished(self, wish: Desired) -> None:
        """Every target comes to the same wish; it is said once."""
        key = (wish.reason, wish.detail)
        with self._lock:
            known, self._wish = self._wish, key
        if known != key:
            calm = wish.reason in _CALM
            self._log.bind(event="wish", reason=str(wish.reason)).log(
                "INFO" if calm else "WARNING", "{}", wish.detail
            )

    def in_sync(self, target: str, actual: Actual) -> None:
        with self._lock:
            was_bad = self._said.pop(target, None) is not None
            is_first = target not in self._met
            self._met.add(target)
        if was_bad or is_first:
            how = "in sync again" if was_bad else "in sync"
            self._log.bind(event="in_sync", target=target).info("{}, leads to {}", how, _ends(actual))

    def held(self, target: str, wish: Desired) -> None:
        self._log.bind(event="hold", target=target, reason=str(wish.reason)).info(
            "clients wait: {}", wish.detail
        )

    def released(self, target: str, wish: Desired, seconds: float | None) -> None:
        held_ms = None if seconds is None else _ms(seconds)
        log = self._log.bind(event="release", target=target, reason=str(wish.reason), held_ms=held_ms)
        if wish.gave_up:
            log.warning("clients are let go into errors {}: {}", after(seconds), wish.detail)
        else:
            log.info("clients go on {}: {}", after(seconds), wish.detail)

    def hold_ended(self, target: str, why: str, seconds: float) -> None:
        """A hold was ended on PgBouncer's host, not by us."""
        self._log.bind(event="hold_ended", target=target, held_ms=_ms(seconds)).warning(
            "clients go on after {:.2f} s without our word: {}", seconds, why
        )

    def left(self, target: str, databases: tuple[str, ...]) -> None:
        """A hold was found that an agent of ours had left when it was killed; it is over now."""
        self._log.bind(event="hold_left", target=target).warning(
            "a hold was left behind there and is over now: {}", ", ".join(databases) or "settings only"
        )

    def cut(self, target: str, count: int, how: str) -> None:
        """Connections to a server that clients were led away from were still in use."""
        self._log.bind(event="cut", target=target, count=count).warning(
            "{} connections to the old server were still in use and were ended: {}", count, how
        )

    def switched(self, switch: Switch) -> None:
        stamp = switch.route.stamp
        parts = {name: _ms(seconds) for name, seconds in switch.stages.items()}
        held_since = switch.held_since
        held_ms = None if held_since is None else _ms(switch.confirmed_at - held_since)
        with self._lock:
            self._met.add(switch.target)
        before = ", ".join(str(endpoint) for endpoint in switch.before)
        self._log.bind(
            event="switch",
            switch=switch.id,
            target=switch.target,
            leader=stamp.leader,
            revision=stamp.revision,
            timeline=stamp.timeline,
            source=str(switch.route.source),
            route=str(switch.route.endpoint),
            before=before,
            duration_ms=_ms(switch.confirmed_at - switch.heard_at),
            parts_ms=parts,
            held_ms=held_ms,
        ).info(
            "{} → {} ({}) confirmed {:.1f} ms after it was heard{}: {}",
            before,
            switch.route.endpoint,
            stamp.leader,
            (switch.confirmed_at - switch.heard_at) * 1000,
            "" if held_ms is None else f", clients waited {held_ms:.0f} ms",
            ", ".join(f"{name} {ms}" for name, ms in parts.items()),
        )
        if switch.corrects:
            self._corrected(switch, before)

    def _corrected(self, switch: Switch, before: str) -> None:
        route = str(switch.route.endpoint)
        log = self._log.bind(event="corrected", target=switch.target, before=before, route=route)
        log.warning(
            "somebody else had led it to {}, and it was led back to {}: {}. What now: {}",
            before,
            route,
            switch.corrects,
            _ONE_HAND,
        )

    def reads_led(self, target: str, wish: Desired, to: tuple[Endpoint, ...]) -> None:
        servers = [str(endpoint) for endpoint in to]
        others = unfit(wish.candidates, to)
        why = ", ".join(f"{name} ({problem})" for name, problem in others.items())
        self._log.bind(event="reads", target=target, servers=servers, others=others).info(
            "reads go to {}{}", ", ".join(servers), why and f"; not to {why}"
        )

    def failed(self, target: str, error: WatcherError, failures: int) -> None:
        is_race = isinstance(error, FileChanged) and failures < _RACES  # the next try follows at once
        level = "INFO" if is_race else "WARNING" if isinstance(error, PrimaryRefuses) else "ERROR"
        if self._news(target, f"{level} {error}"):
            log = self._log.bind(event="failed", target=target, failures=failures, kind=type(error).__name__)
            log.opt(exception=error.__cause__).log(level, "{}", _sentence(error))

    def source_state(
        self, source: str, connected: bool, place: str, problem: WatcherError | None, reason: str = ""
    ) -> None:
        log = self._log.bind(event="source", source=source, endpoint=place)
        if connected:
            with self._lock:
                was_bad = self._said.pop(source, None)
            log.log("INFO" if was_bad is None else "WARNING", "{} is heard at {}", source, place)
        elif problem is not None and self._news(source, str(problem)):
            log.warning("{}", _sentence(problem))

    def stands(self, standing: Standing, first: str) -> None:
        self._log.bind(event="standing", standing=str(standing), active=first).info(
            "this watcher {}", in_words(standing, first)
        )

    def _news(self, subject: str, text: str) -> bool:
        """Whether this was not said of the subject within the last minute, also when faults take turns."""
        now = self._clock()
        with self._lock:
            said = self._said.get(subject, {})
            self._said[subject] = {each: at for each, at in said.items() if now - at < _REPEAT_AFTER}
            is_news = text not in self._said[subject]
            self._said[subject].setdefault(text, now)
            return is_news


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _ends(actual: Actual) -> str:
    return ", ".join(dict.fromkeys(str(db.endpoint) for db in actual.writes))


def _sentence(error: WatcherError) -> str:
    return f"{error.place}: {error.problem}" + (f". What now: {error.hint}" if error.hint else "")


def plain(event: str, **fields: Any) -> Any:
    """A logger for the watcher's own life, outside of any target."""
    return logger.bind(event=event, **fields)
