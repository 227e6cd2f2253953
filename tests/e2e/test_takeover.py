"""The watcher that acts is killed, frozen, cut off from etcd or from PgBouncer's host, at any of its
points in a planned switchover, with a second one there: that one finishes it and no transaction fails.

All is visited by `make every-step`; else each point is met once or less often, by one fault in one mode.
"""

import os
import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product

import pytest

from tests.support.folders import bed_folder
from tests.support.stage import Ground, Stage
from tests.support.takeover import FAULTS, MODES, Mode, Takeover
from tests.support.waiting import BedError, log_tail

pytestmark = pytest.mark.long

EVERY = "WATCHER_TESTS_EVERY_STEP" in os.environ
COMBINATIONS = list(product(MODES, FAULTS))
APART = 1 if EVERY else 2 * len(COMBINATIONS)
LEAST_MET = 0.5
"""Of the points that are aimed at. Two that race do not come by the same ones each time."""


@pytest.fixture(scope="module")
def stages(installed: None) -> Iterator[list[Stage]]:
    """Three, so that three points are visited at a time: most of it is waiting."""
    with bed_folder() as folder, Ground(folder) as ground, ExitStack() as stack:
        yield [stack.enter_context(Stage(ground, number)) for number in range(3)]


@pytest.fixture(scope="module")
def counts(stages: list[Stage]) -> dict[Mode, int]:
    """How many points the first watcher comes by in an undisturbed switchover."""

    def count(stage: Stage, mode: Mode) -> int:
        with Takeover(stage, mode) as undisturbed:
            undisturbed.reach()
            undisturbed.finish()
            undisturbed.await_right_end()
            undisturbed.expect_no_error()
            return len(undisturbed.trail.points("watcher"))

    with ThreadPoolExecutor(len(MODES)) as pool:
        return dict(zip(MODES, pool.map(count, stages, MODES), strict=False))


@pytest.mark.parametrize(("mode", "fault"), COMBINATIONS)
def test_the_second_watcher_finishes_what_the_first_began_and_no_transaction_fails(
    stages: list[Stage], counts: dict[Mode, int], mode: Mode, fault: str
) -> None:
    assert counts[mode] >= 10
    offset = 0 if EVERY else COMBINATIONS.index((mode, fault))
    stops = range(1 + offset, counts[mode] + 1, APART)
    free: queue.SimpleQueue[Stage] = queue.SimpleQueue()
    for stage in stages:
        free.put(stage)

    def visit(stop: int) -> str:
        stage = free.get()
        try:
            return _visit(stage, mode, fault, stop)
        finally:
            free.put(stage)

    with ThreadPoolExecutor(len(stages)) as pool:
        outcomes = list(pool.map(visit, stops))
    assert not [outcome for outcome in outcomes if outcome not in ("", "missed")], _told(outcomes)
    assert outcomes.count("") >= LEAST_MET * len(stops), f"{outcomes.count('missed')} of {len(stops)} missed"


def _told(outcomes: Sequence[str]) -> str:
    problems = [outcome for outcome in outcomes if outcome not in ("", "missed")]
    return f"{len(problems)} of {len(outcomes)}:\n" + "\n\n".join(problems)


def _visit(stage: Stage, mode: Mode, fault: str, stop: int) -> str:
    """Empty if all is as it should be, «missed» if the point was not met, or what went wrong."""
    with Takeover(stage, mode, stop) as takeover:
        try:
            if not takeover.reach():
                return "missed"
            _, point = takeover.trail.stopped or (0, "")
            FAULTS[fault](takeover)
            takeover.finish()
            takeover.heal()
            takeover.await_right_end()
            takeover.expect_no_error()
        except BedError as error:
            logs = "\n".join(log_tail(takeover.log_of(name)) for name in ("first", "second"))
            return f"=== {mode}, {fault} at {stop}: {error}\n{logs}"
        return "" if point else "missed"
