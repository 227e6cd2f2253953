"""A hundred schedules and more, and some faults that must break one; `make simulate` has ten thousand."""

import pytest

from tests.simulation.deliberate import FAULTS, Fault, caught
from tests.simulation.schedule import LEASED, Schedule

ROUNDS, EACH = 4, 25
SOME = FAULTS[::5]


@pytest.mark.parametrize("number", range(ROUNDS))
def test_whatever_breaks_the_promises_are_kept_and_all_is_right_in_the_end(number: int) -> None:
    verdicts = [Schedule(seed).run() for seed in range(number * EACH, (number + 1) * EACH)]
    assert [(one.seed, one.why) for one in verdicts if one.why] == []


def test_the_same_with_a_canary_that_goes_first() -> None:
    verdicts = [Schedule(seed, canary=True).run() for seed in range(EACH)]
    assert [(one.seed, one.why) for one in verdicts if one.why] == []


def test_with_one_watcher_active_by_a_lease_the_same_promises_are_kept() -> None:
    """`python -m tests.simulation --leased` plays thousands."""
    verdicts = [Schedule(LEASED + number).run() for number in range(EACH)]
    assert [(one.seed, one.why) for one in verdicts if one.why] == []
    stood = [line for one in map(Schedule, (LEASED, LEASED + 1)) for line in one.run().story]
    assert any("is the active watcher" in line for line in stood)
    assert any("stands by for" in line for line in stood)


def test_a_seed_tells_the_same_story_again() -> None:
    once, again = Schedule(7).run(), Schedule(7).run()
    assert once == again
    assert len(once.story) > 10
    assert Schedule(8).run().story != once.story


@pytest.mark.parametrize("seed", sorted({fault.seed for fault in FAULTS}))
def test_what_breaks_with_a_fault_does_not_without(seed: int) -> None:
    assert Schedule(seed).run().why == ""


@pytest.mark.parametrize("fault", SOME, ids=[fault.name for fault in SOME])
def test_a_fault_that_is_put_into_the_watcher_is_caught(fault: Fault) -> None:
    """`make simulate` puts all of them."""
    assert caught(fault)
