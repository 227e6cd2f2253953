"""`make demo` keeps its promises: it ends well, in time, says what happened, and leaves nothing behind."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from tests.e2e.demo_episode import Episode, Seat, short, steps_of
from tests.e2e.demo_screen import Screen, ms
from tests.support.load import Report, Transaction
from tests.support.waiting import wait_for

pytestmark = pytest.mark.long

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
LONGEST = 180.0
GONE_WITHIN = 5.0


class Run:
    """A demo as a process: what it says, and every process below it that was ever seen."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.demo"],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.said: list[str] = []
        self.seen: dict[int, psutil.Process] = {}
        self.folders: set[Path] = set()
        self._threads = [threading.Thread(target=job, daemon=True) for job in (self._listen, self._look)]
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip("\n"))

    def _look(self) -> None:
        demo = psutil.Process(self.process.pid)
        while self.process.poll() is None:
            for process in _quietly(lambda: demo.children(recursive=True)) or []:
                if process.pid not in self.seen:
                    self.seen[process.pid] = process
                    self.folders |= _bed_folders(process)
            time.sleep(0.3)

    @property
    def text(self) -> str:
        """All that it said."""
        return "\n".join(self.said)

    def wait_until_it_says(self, words: str, timeout: float = 90) -> None:
        """Until a line has these words."""
        wait_for(lambda: words in self.text or self.process.poll() is not None, timeout, words)
        assert words in self.text, self.text

    def end(self, timeout: float = LONGEST) -> int:
        """Wait for its end; the exit code."""
        code = self.process.wait(timeout)
        for thread in self._threads:
            thread.join(GONE_WITHIN)
        return code

    def close(self) -> None:
        """End it if a test could not; its keepers end the rest."""
        self.process.kill()
        self.end()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def left(self) -> list[str]:
        """Processes of it that still run."""
        return [repr(process) for process in self.seen.values() if _quietly(process.is_running)]


def _bed_folders(process: psutil.Process) -> set[Path]:
    """The folder of the bed that the process works in, by its arguments."""
    words = " ".join(_quietly(process.cmdline) or [])
    return {Path(found) for found in re.findall(r"/[\w/]+?/bed-[^/\s\"]+", words)}


def _quietly(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except psutil.Error:
        return None


@contextmanager
def demo() -> Iterator[Run]:
    run = Run()
    try:
        yield run
    finally:
        run.close()


def assert_nothing_is_left(run: Run) -> None:
    assert len(run.seen) > 10
    assert run.folders
    wait_for(lambda: not run.left(), GONE_WITHIN, f"every process ends: {run.left()}")
    assert not [folder for folder in run.folders if folder.exists()]


@pytest.mark.timeout(LONGEST + 30)
def test_the_demo_ends_with_all_clients_on_the_new_primary(installed: None) -> None:
    with demo() as run:
        code = run.end()
        took = time.monotonic() - run.began
    assert code == 0, run.text
    assert took < LONGEST
    for fact in (
        "planned switchover",
        "leader killed",
        "leader key gone",
        "first commit there",
        "longest stall",
    ):
        assert fact in run.text
    assert re.search(r"ended on the new primary( +yes){4}$", run.text, re.MULTILINE), run.text
    (failed,) = re.findall(r"^  failed +(\d+) +(\d+) +(\d+) +(\d+)$", run.text, re.MULTILINE)
    (flying,) = re.findall(
        r"^  in flight when it was done +(\d+) +(\d+) +(\d+) +(\d+)$", run.text, re.MULTILINE
    )
    assert failed[:2] == ("0", "0"), run.text
    assert all(int(lost) <= int(flew) for lost, flew in zip(failed[2:], flying[2:], strict=True)), run.text
    assert "\x1b" not in run.text
    assert len(run.said) < 50
    assert_nothing_is_left(run)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("number", "when"),
    [
        (signal.SIGINT, "planned switchover away from"),
        (signal.SIGTERM, "etcd answers"),
    ],
    ids=["ctrl_c_in_the_switchover", "sigterm_while_it_starts"],
)
def test_a_demo_that_is_interrupted_leaves_nothing(
    installed: None, number: signal.Signals, when: str
) -> None:
    with demo() as run:
        run.wait_until_it_says(when)
        time.sleep(0.5)
        run.process.send_signal(number)
        code = run.end(30)
    assert code == 128 + number, run.text
    assert f"ended by {number.name}" in run.text
    assert "Traceback" not in run.text
    assert_nothing_is_left(run)


# --- the pieces -----------------------------------------------------------------------------------------


def report(server: str, errors: Counter[str] | None = None) -> Report:
    failures = [Transaction(0, 0, 0.5, error=text) for text in (errors or Counter()).elements()]
    return Report([Transaction(0, 0, 1, server), *failures], started=0, ended=2)


def episode(*reports: Report, new_server: str = "10.0.0.2:5432") -> Episode:
    steps = steps_of({"decide": 5.0, "write": 2.0, "ready": 1.0, "release": 0.5})
    seats = [
        Seat(f"bouncer{number}", steps, 12.0, one, one.last_server == new_server, 0)
        for number, one in enumerate(reports, 1)
    ]
    return Episode("leader killed", "pg1", "pg2", -19000.0, None, tuple(seats))


def screen_of(play: Callable[[Screen], None]) -> str:
    out = io.StringIO()
    play(Screen(out))
    return out.getvalue()


def test_clients_that_ended_elsewhere_are_a_fault_with_its_place() -> None:
    played = episode(report("10.0.0.2:5432"), report("10.0.0.1:5432"))
    (fault,) = played.faults()
    assert fault == "leader killed: clients of bouncer2 ended on 10.0.0.1:5432, not on pg2"
    shown = screen_of(lambda screen: screen.verdict([fault]))
    assert fault in shown
    assert "both times" not in shown


def test_a_parts_time_counts_from_the_leader_key() -> None:
    assert steps_of({"decide": 5.0, "write": 2.0, "ready": 1.0, "release": 0.5})["release"] == 8.5


def test_a_key_that_never_went_is_shown_as_unknown() -> None:
    assert (ms(None), ms(-2683.2), ms(8.44)) == ("—", "−2,683", "8.4")


def test_the_same_error_of_both_bouncers_is_one_line() -> None:
    gone = "DatabaseError: {'S': 'FATAL', 'C': '08P01', 'M': 'server conn crashed?', 'R': 'x'}"
    played = episode(report("x:1", Counter({gone: 2})), report("x:1", Counter({gone: 1})))
    assert played.errors() == Counter({"server conn crashed?": 3})
    assert "    3 × server conn crashed?" in screen_of(lambda screen: screen.table([played]))
    assert short("InterfaceError: network error").startswith("connection closed")
