"""A few hundred schedules, and faults that must break some. `make simulate` runs ten thousand."""

import pytest

from tests.simulation.deliberate import FAULTS, Fault, caught
from tests.simulation.schedule import Schedule

ROUNDS, EACH = 8, 25
RECORDED = tuple(fault for fault in FAULTS if fault.seed is not None)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_whatever_breaks_the_promises_are_kept_and_all_is_right_in_the_end(number: int) -> None:
    verdicts = [Schedule(seed).run() for seed in range(number * EACH, (number + 1) * EACH)]
    assert [(one.seed, one.why) for one in verdicts if one.why] == []


MET = {1848: "a failed write made the watcher forget since when clients waited, and hold them for longer"}
"""Schedules that once broke a promise, and how."""


@pytest.mark.parametrize("seed", MET)
def test_what_once_broke_a_promise_does_not_again(seed: int) -> None:
    assert Schedule(seed).run().why == ""


def test_a_seed_tells_the_same_story_again() -> None:
    once, again = Schedule(7).run(), Schedule(7).run()
    assert once == again
    assert len(once.story) > 10
    assert Schedule(8).run().story != once.story


@pytest.mark.parametrize("fault", RECORDED, ids=[fault.name for fault in RECORDED])
def test_a_fault_that_is_put_into_the_watcher_is_caught(fault: Fault) -> None:
    assert fault.seed is not None
    assert caught(fault, fault.seed, 1)
