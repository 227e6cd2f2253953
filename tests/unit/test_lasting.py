"""A thread whose job breaks off begins it anew, and nobody waits for one that cannot begin."""

import io
import subprocess
import sys
import threading

import pytest

from watcher.expose import logs
from watcher.lasting import LastingThread, rehearse


class Broken:
    """A job that breaks off so many times."""

    def __init__(self, times: int, error: type[BaseException] = MemoryError) -> None:
        self.left, self.error, self.begun = times, error, 0
        self.over = threading.Event()

    def run(self, stop: threading.Event) -> None:
        self.begun += 1
        if self.left:
            self.left -= 1
            raise self.error("as told")
        self.over.set()
        stop.wait(60)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    monkeypatch.setattr("watcher.lasting.AGAIN_AFTER", 0.0)
    stream = io.StringIO()
    logs.set_up("INFO", "text", stream)
    return stream


def begun(job: Broken) -> tuple[LastingThread, threading.Event]:
    """It breaks off no more."""
    stop = threading.Event()
    thread = LastingThread(job.run, stop, "the probe")
    assert thread.ails == ""
    thread.start()
    assert job.over.wait(60)
    return thread, stop


def ended(thread: threading.Thread, stop: threading.Event) -> bool:
    stop.set()
    thread.join(60)
    return not thread.is_alive()


def test_a_job_that_ends_is_over_and_counts_as_dead(told: io.StringIO) -> None:
    job = Broken(0)
    thread, stop = begun(job)
    assert thread.ails == ""
    assert ended(thread, stop)
    assert thread.ails == "no longer at work: the probe"
    logs.flush(5)
    assert (job.begun, told.getvalue()) == (1, "")


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, OSError])
def test_one_that_breaks_off_is_told_and_begun_anew(told: io.StringIO, error: type[BaseException]) -> None:
    job = Broken(2, error)
    thread, stop = begun(job)
    assert (job.begun, thread.ails) == (3, "")
    assert ended(thread, stop)
    logs.flush(5)
    said = f"the probe broke off, and begins anew <- {error.__name__}: as told"
    assert [said in line for line in told.getvalue().splitlines()] == [True, True]


@pytest.mark.usefixtures("told")
def test_one_that_breaks_off_again_and_again_ails_until_it_is_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    thread, stop = begun(Broken(10))
    assert thread.ails == "breaks off again and again: the probe"
    monkeypatch.setattr("watcher.lasting.CALM", 0.0)
    assert thread.ails == ""
    assert ended(thread, stop)


@pytest.mark.usefixtures("told")
def test_a_shortage_that_passes_is_no_reason_to_be_started_anew() -> None:
    """Which would let clients go who wait."""
    thread, stop = begun(Broken(9))
    assert thread.ails == ""
    assert ended(thread, stop)


@pytest.mark.usefixtures("told")
def test_breaks_that_are_long_ago_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watcher.lasting.CALM", 0.0)
    thread, stop = begun(Broken(20))
    monkeypatch.setattr("watcher.lasting.CALM", 3600.0)
    assert thread.ails == ""
    assert ended(thread, stop)


@pytest.mark.usefixtures("told")
def test_not_once_it_was_asked_to_stop() -> None:
    job, stop, ends = Broken(3), threading.Event(), threading.Event()
    stop.set()
    thread = LastingThread(job.run, stop, "the probe", ends.set)
    thread.start()
    assert ended(thread, stop)
    assert (job.begun, ends.is_set()) == (1, True)


def test_where_it_cannot_even_be_told_it_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watcher.lasting.AGAIN_AFTER", 0.0)
    monkeypatch.setattr("watcher.lasting.logger", None)
    job = Broken(1)
    thread, stop = begun(job)
    assert ended(thread, stop)
    assert job.begun == 2


def test_a_rehearsal_leaves_no_thread() -> None:
    before = threading.active_count()
    rehearse(5)
    assert threading.active_count() == before


def test_a_rehearsal_tells_that_there_are_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    before, start = threading.active_count(), threading.Thread.start
    begun: list[threading.Thread] = []

    def bounded(thread: threading.Thread) -> None:
        if len(begun) == 2:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", bounded)
    with pytest.raises(RuntimeError):
        rehearse(3)
    assert len(begun) == 2
    assert threading.active_count() == before


SHORT_OF_MEMORY = """
import re, resource, threading, time
from watcher.lasting import bound_starts
bound_starts()
for _ in range(4):
    threading.Thread(target=time.sleep, args=(0,)).start()
size = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size, -1))
hoard = []
try:
    while True:
        hoard.append(bytearray(1 << 16))
except MemoryError:
    pass
failed = 0
until = time.monotonic() + 3.0
while time.monotonic() < until:
    try:
        threading.Thread(target=time.sleep, args=(0,), daemon=True).start()
    except (MemoryError, RuntimeError):
        failed += 1
hoard.clear()
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
threading.Thread(target=print, args=(f"went on: {failed > 0}",)).start()
"""


def test_nobody_waits_for_a_thread_that_gets_no_memory_to_begin_with() -> None:
    """`Thread.start` as it is does, for ever."""
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "went on: True\n", done.stderr[-500:]
