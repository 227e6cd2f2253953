"""A thread whose job breaks off begins it anew."""

import subprocess
import sys
import threading

import pytest

from watcher.lasting import begun, lasting


class Broken:
    """A job that breaks off so many times."""

    def __init__(self, times: int, error: type[BaseException] = MemoryError) -> None:
        self.left, self.error, self.begun = times, error, 0

    def run(self, stop: threading.Event) -> None:
        self.begun += 1
        if self.left:
            self.left -= 1
            raise self.error("as told")
        stop.set()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[type[BaseException]]:
    known: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: known.append(args.exc_type))
    monkeypatch.setattr("watcher.lasting.AGAIN_AFTER", 0.0)
    return known


def test_a_job_that_ends_is_over(told: list[type[BaseException]]) -> None:
    job = Broken(0)
    lasting(job.run)(threading.Event())
    assert (job.begun, told) == (1, [])


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, OSError])
def test_one_that_breaks_off_is_told_and_begun_anew(
    told: list[type[BaseException]], error: type[BaseException]
) -> None:
    job = Broken(3, error)
    lasting(job.run)(threading.Event())
    assert (job.begun, told) == (4, [error] * 3)


def test_not_once_it_was_asked_to_stop(told: list[type[BaseException]]) -> None:
    job, stop = Broken(3), threading.Event()
    stop.set()
    lasting(job.run)(stop)
    assert (job.begun, told) == (1, [MemoryError])


def test_where_it_cannot_even_be_told_it_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(threading, "excepthook", broken)
    monkeypatch.setattr("watcher.lasting.AGAIN_AFTER", 0.0)
    job = Broken(1)
    lasting(job.run)(threading.Event())
    assert job.begun == 2


def test_what_is_begun_runs_beside_us() -> None:
    go, over = threading.Event(), threading.Event()

    def waits() -> None:
        go.wait(60)
        over.set()

    begun(waits)
    assert not over.is_set()
    go.set()
    assert over.wait(60)


SHORT_OF_MEMORY = """
import re, resource, sys, time
from watcher.lasting import begun
for _ in range(4):
    begun(lambda: None)
size = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size, -1))
hoard = []
try:
    while True:
        hoard.append(bytearray(1 << 16))
except MemoryError:
    pass
until = time.monotonic() + 3.0
while time.monotonic() < until:
    try:
        begun(lambda: None)
    except (MemoryError, RuntimeError):
        pass
print("went on")
"""


def test_nobody_waits_for_a_thread_that_gets_no_memory_to_begin_with() -> None:
    """`Thread.start` does, for ever."""
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "went on\n", done.stderr[-500:]
