"""The demo's one screen: what it does, then both episodes side by side. Plain where it is no terminal."""

import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from tests.e2e.demo_episode import Episode, Seat

LABEL, CELL, GAP = 37, 10, 3
ERRORS_SHOWN = 3
HONEST = (
    "So it should be: in a switchover clients wait, and none fails. In a crash at most those fail whose\n"
    "transaction was in flight when the server died, or began before that was known; all others wait."
)
STEPS = {
    "hold": "clients wait",
    "write": "file written",
    "ready": "new primary says it takes writes",
    "release": "PgBouncer leads there, clients go on",
}


class Screen:
    """Writes to `out`, line by line."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        if isinstance(out, io.TextIOWrapper):
            out.reconfigure(errors="replace")  # a terminal that knows no arrows gets question marks
        self._is_terminal = out.isatty() and "NO_COLOR" not in os.environ
        self._began = time.monotonic()

    def line(self, text: str = "") -> None:
        """One line, at once."""
        self._out.write(text + "\n")
        self._out.flush()

    def step(self, text: str) -> None:
        """What is done now, with the seconds since the beginning."""
        self.line(f"{time.monotonic() - self._began:5.1f} s  {text}")

    def title(self) -> None:
        """What this is."""
        self.line(self._ink("1", "pgbouncer-watcher on real servers"))
        self._began = time.monotonic()

    def table(self, episodes: Sequence[Episode]) -> None:
        """Both episodes side by side, and the errors below."""
        self.line()
        for is_heading, text in table(episodes):
            self.line(self._ink("1", text) if is_heading else text)

    def verdict(self, faults: Sequence[str]) -> None:
        """How it ended, and what it does not do."""
        self.line()
        if faults:
            self.failed("; ".join(faults))
            return
        self.line(self._ink("32", "The clients of both PgBouncers ended on the new primary, both times."))
        self.line(HONEST)

    def failed(self, reason: str) -> None:
        """Why the demo did not come to its good end."""
        self.line(self._ink("31", f"demo: {reason}"))

    def _ink(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._is_terminal else text


# --- the table ----------------------------------------------------------------------------------------


def table(episodes: Sequence[Episode]) -> Iterator[tuple[bool, str]]:
    """Lines, each with whether it is a heading."""
    yield True, _wide("", episodes, lambda episode: episode.title)
    yield True, _wide("", episodes, lambda episode: f"{episode.old} → {episode.new}")
    yield True, _narrow("milliseconds from the leader key", episodes, lambda seat: seat.bouncer)
    yield False, _wide("  asked for, or killed", episodes, lambda episode: ms(episode.begun))
    for step, label in STEPS.items():
        yield False, _narrow(f"  {label}", episodes, _moment_of(step))
        if step == "hold":
            yield False, _wide("  leader key gone", episodes, lambda episode: ms(episode.gone))
            yield False, _wide("  leader key names the new primary", episodes, lambda _: "0")
    yield False, _narrow("  first commit there", episodes, lambda seat: ms(seat.first_commit))
    yield True, "what the clients saw"
    yield False, _narrow("  transactions", episodes, lambda seat: f"{len(seat.clients.transactions):,}")
    yield False, _narrow("  in flight when it was done", episodes, lambda seat: f"{seat.in_flight:,}")
    yield False, _narrow("  failed", episodes, lambda seat: f"{seat.clients.failed:,}")
    yield False, _narrow("  longest stall", episodes, lambda seat: f"{seat.clients.longest_stall:.2f} s")
    yield (
        False,
        _narrow("  ended on the new primary", episodes, lambda seat: "yes" if seat.ended_on_new else "NO"),
    )
    yield from errors(episodes)


def _moment_of(step: str) -> Callable[[Seat], str]:
    return lambda seat: ms(seat.steps.get(step))


def errors(episodes: Sequence[Episode]) -> Iterator[tuple[bool, str]]:
    """The most frequent errors of each episode."""
    for episode in episodes:
        found = episode.errors()
        yield True, f"errors of clients, {episode.title}{'' if found else ': none'}"
        for text, count in found.most_common(ERRORS_SHOWN):
            yield False, f"  {count:>5,} × {text}"


def ms(value: float | None) -> str:
    """Milliseconds: a tenth where that says something.

    >>> ms(8.44), ms(-2683.2), ms(None)
    ('8.4', '−2,683', '—')
    """
    if value is None:
        return "—"
    return f"{value:,.{1 if abs(value) < 100 else 0}f}".replace("-", "−")


def _wide(label: str, episodes: Sequence[Episode], cell: Callable[[Episode], str]) -> str:
    """A line with one cell for each episode."""
    width = 2 * CELL
    return (
        f"{label:<{LABEL}}" + "".join(f"{'':{GAP}}{cell(episode):>{width}}" for episode in episodes)
    ).rstrip()


def _narrow(label: str, episodes: Sequence[Episode], cell: Callable[[Seat], str]) -> str:
    """A line with one cell for each PgBouncer."""
    cells = (
        "".join([f"{'':{GAP}}", *(f"{cell(seat):>{CELL}}" for seat in episode.seats)]) for episode in episodes
    )
    return f"{label:<{LABEL}}{''.join(cells)}".rstrip()
