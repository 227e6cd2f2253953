"""No signal is lost, whenever and to whichever thread it comes; each case in a process of its own."""

import subprocess
import sys
import textwrap

import pytest

PREPARED = """
    import os, signal, threading, time
    from watcher.commands.signals import Signals
    signals = Signals()
    def send(*numbers):
        for number in numbers:
            os.kill(os.getpid(), number)
"""


def _said(script: str) -> str:
    lines = textwrap.dedent(PREPARED) + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-c", lines], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_signal_that_the_kernel_gives_to_another_thread_wakes_the_one_that_waits() -> None:
    """As good as one that comes in the moment before the thread sleeps: nothing interrupts its sleep."""
    script = """
        def other():
            time.sleep(0.3)
            signal.pthread_kill(threading.get_ident(), signal.SIGHUP)
        threading.Thread(target=other).start()
        print(signals.wait().name)
    """
    assert _said(script) == "SIGHUP"


@pytest.mark.parametrize(
    ("sent", "met"),
    [
        ("signal.SIGHUP", "SIGHUP"),
        ("signal.SIGHUP, signal.SIGHUP", "SIGHUP"),
        ("signal.SIGHUP, signal.SIGTERM, signal.SIGHUP", "SIGTERM"),
        ("signal.SIGINT", "SIGINT"),
    ],
)
def test_what_came_before_the_wait_is_met_once_an_end_before_all_else(sent: str, met: str) -> None:
    script = f"""
        send({sent})
        print(signals.wait().name)
        threading.Timer(0.3, send, [signal.SIGINT]).start()
        print(signals.wait().name)
    """
    assert _said(script).split() == [met, "SIGINT"]


def test_a_flood_of_signals_blocks_nobody() -> None:
    script = """
        send(*[signal.SIGHUP] * 70_000)
        print(signals.wait().name)
    """
    assert _said(script) == "SIGHUP"
