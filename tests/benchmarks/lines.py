"""The log of a process, read on from where it was left, and the lines in it that are JSON."""

import json
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.lines import Tail
from tests.support.waiting import BedTimeoutError, log_tail

POLL = 0.01
Line = dict[str, Any]


class LogTail:
    """JSON lines of a log that grows. `skip` passes over all there is."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._tail = Tail(log)

    def new(self, *events: str) -> list[Line]:
        """The lines of these events that were written since the last look."""
        lines = (json.loads(text) for text in self._tail.texts() if text.startswith(b"{"))
        return [line for line in lines if line.get("event") in events]

    def collect(self, event: str, count: int, timeout: float) -> list[Line]:
        """The next `count` lines of `event`. BedTimeoutError, with the log's end, if they do not come."""
        return self.lines_of((event,), count, timeout)[event]

    def lines_of(self, events: Sequence[str], count: int, timeout: float) -> dict[str, list[Line]]:
        """The next lines of each event, `count` of each at least; else as `collect`."""
        found: dict[str, list[Line]] = {event: [] for event in events}
        until = time.monotonic() + timeout
        while any(len(lines) < count for lines in found.values()):
            for line in self.new(*events):
                found[line["event"]].append(line)
            if time.monotonic() > until:
                short = ", ".join(
                    f"{len(lines)} of {count} lines {event!r}" for event, lines in found.items()
                )
                raise BedTimeoutError(f"{short} within {timeout:g} s\n{log_tail(self._log)}")
            time.sleep(POLL)
        return found

    def skip(self) -> None:
        """Forget what has been written so far."""
        self._tail.texts()


def written_at(line: Line) -> float:
    """When a line was written: seconds of time.time(), to the millisecond."""
    return datetime.fromisoformat(str(line["time"])).timestamp()
