"""Who makes an input longer makes no more work with it than its length: it grows no faster.

Both lengths are timed on the same machine in turns, and only their ratio counts, so a slow machine fails
nothing. Four times the bytes are four times the work; sixteen times would be its square.
"""

import time
from collections.abc import Callable

import pytest

from tests.hostile.doors import ALL

SHORT, LONGER = 20_000, 4
SWOLLEN = [(door.name, kind) for door in ALL.values() for kind in door.swollen]
MOST = 2.2 * LONGER
LEAST_SECONDS = 0.001
"""What is done in less is not measured but overhead."""


def _seconds(check: Callable[[bytes], None], data: bytes) -> float:
    began = time.process_time()
    check(data)
    return time.process_time() - began


def growth(check: Callable[[bytes], None], short: bytes, long: bytes, tries: int) -> float:
    """How many times the work of the shorter input the longer one makes; the least of several tries."""
    pairs = [(_seconds(check, short), _seconds(check, long)) for _ in range(tries)]
    least = max(min(pair[0] for pair in pairs), LEAST_SECONDS)
    return min(pair[1] for pair in pairs) / least


@pytest.mark.parametrize(("name", "kind"), SWOLLEN)
def test_the_work_grows_no_faster_than_the_input(name: str, kind: str) -> None:
    door = ALL[name]
    short, long = door.swollen[kind](SHORT), door.swollen[kind](LONGER * SHORT)
    found = growth(door.check, short, long, 3)
    if found > MOST:  # perhaps somebody else was on the machine
        found = growth(door.check, short, long, 15)
    assert found <= MOST, f"{LONGER} times the input is {found:.1f} times the work"


def test_work_that_grows_faster_would_be_seen() -> None:
    def square(data: bytes) -> None:
        sum(data.count(b"b") for _ in data)

    assert growth(square, b"a" * 3_000, b"a" * 12_000, 5) > MOST
