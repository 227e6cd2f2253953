"""Many schedules at once, in processes of their own."""

import multiprocessing
from collections.abc import Iterator
from functools import partial

from tests.simulation.schedule import Schedule, Verdict

RENEWED_AFTER = 20
"""Chunks after which a process is replaced, so that hours of it take no more memory than minutes."""
CHUNK = 25


def verdicts(start: int, count: int, jobs: int, canary: bool = False) -> Iterator[Verdict]:
    """The verdicts of `count` schedules, those that broke with their story, in no order."""
    several = partial(_several, canary=canary)
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=RENEWED_AFTER) as pool:
        yield from (
            verdict for chunk in pool.imap_unordered(several, _chunks(start, count)) for verdict in chunk
        )


def _chunks(start: int, count: int) -> list[range]:
    return [range(one, min(one + CHUNK, start + count)) for one in range(start, start + count, CHUNK)]


def _several(seeds: range, canary: bool) -> list[Verdict]:
    verdicts = (Schedule(seed, canary).run() for seed in seeds)
    return [one if one.why else Verdict(one.seed, "", one.right_after, ()) for one in verdicts]
