"""What happened in one episode of the demo, as values: milliseconds from the leader key, and the clients."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.load import Report

STEPS = ("decide", "write", "ready", "release")
ERROR_WIDTH = 90
DEED_SECONDS = 0.05
"""How long it may take to kill all processes of a node."""
CLOSED = "InterfaceError: network error"


@dataclass(frozen=True)
class At:
    """Moments (monotonic): the deed, the leader key gone (None: never), the leader key of the new leader."""

    begun: float
    gone: float | None
    put: float


@dataclass(frozen=True)
class Seat:
    """One PgBouncer: when each step was done and the first commit made (ms), what its clients met, and how
    many of their transactions were in flight at the deed.
    """

    bouncer: str
    steps: Mapping[str, float]
    first_commit: float
    clients: Report
    ended_on_new: bool
    in_flight: int


@dataclass(frozen=True)
class Episode:
    """One change of the leader; `begun` and `gone` in ms from the leader key, so below zero."""

    title: str
    old: str
    new: str
    begun: float
    gone: float | None
    seats: tuple[Seat, ...]

    def faults(self) -> Iterator[str]:
        """Why it did not go well; nothing where the clients of every PgBouncer ended on the new primary."""
        for seat in self.seats:
            if not seat.ended_on_new:
                where = seat.clients.last_server or "nowhere"
                yield f"{self.title}: clients of {seat.bouncer} ended on {where}, not on {self.new}"

    def errors(self) -> Counter[str]:
        """The clients' errors of all PgBouncers, shortened and counted."""
        found: Counter[str] = Counter()
        for seat in self.seats:
            for text, count in seat.clients.errors.items():
                found[short(text)] += count
        return found


def episode_of(
    title: str,
    names: tuple[str, str],
    at: At,
    lines: Sequence[Mapping[str, Any]],
    commits: Sequence[float],
    reports: Sequence[Report],
    new_server: str,
) -> Episode:
    """From what was seen: per PgBouncer the watcher's line `switch`, the first commit, and the clients."""
    seats = tuple(
        Seat(
            bouncer=str(line["target"]),
            steps=moments_of(line),
            first_commit=_ms(commit, at),
            clients=report,
            ended_on_new=report.last_server == new_server,
            in_flight=in_flight(report, at.begun),
        )
        for line, commit, report in zip(lines, commits, reports, strict=True)
    )
    old, new = names
    gone = None if at.gone is None else _ms(at.gone, at)
    return Episode(title, old, new, _ms(at.begun, at), gone, seats)


def moments_of(line: Mapping[str, Any]) -> dict[str, float]:
    """The moments of the watcher's line `switch`: its steps, and since when clients waited.

    >>> moments_of({"parts_ms": {"decide": 5.0, "release": 3.0}, "held_ms": 108.0})["hold"]
    -100.0
    """
    moments = steps_of(line["parts_ms"])
    held = line.get("held_ms")
    return moments if held is None else {"hold": moments["release"] - held, **moments}


def in_flight(report: Report, begun: float) -> int:
    """Transactions that had begun when the deed was done, and had not ended."""
    return sum(one.start < begun + DEED_SECONDS and one.end > begun for one in report.transactions)


def steps_of(parts: Mapping[str, float]) -> dict[str, float]:
    """The watcher's parts, each from step to step, as moments from the leader key.

    >>> steps_of({"decide": 5.0, "write": 2.0, "ready": 100.0, "release": 8.0})
    {'decide': 5.0, 'write': 7.0, 'ready': 107.0, 'release': 115.0}
    """
    moments: dict[str, float] = {}
    passed = 0.0
    for step in STEPS:
        passed += parts.get(step, 0.0)
        moments[step] = passed
    return moments


def short(text: str) -> str:
    """The server's message out of the driver's error, on one line.

    >>> short("DatabaseError: {'S': 'FATAL', 'C': '08P01', 'M': 'pgbouncer cannot connect', 'F': 'x'}")
    'pgbouncer cannot connect'
    >>> short("InterfaceError: network error")
    'connection closed (the driver: network error)'
    """
    if text.startswith(CLOSED):
        return "connection closed (the driver: network error)"
    found = re.search(r"""'M': (?:'([^']*)'|"([^"]*)")""", text)
    message = (found[1] or found[2] or text) if found else text
    return " ".join(message.split())[:ERROR_WIDTH]


def _ms(moment: float, at: At) -> float:
    return (moment - at.put) * 1000
