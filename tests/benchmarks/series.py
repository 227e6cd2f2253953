"""Many deeds in a row on one stage, each said as it goes, one kept as the sample that is drawn."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.benchmarks.bench import FOLDER, Bench
from tests.benchmarks.episodes import Episode
from tests.benchmarks.stage import BEFORE, Stage
from tests.support.attempts import LONG, Attempts
from tests.support.waiting import BedError

SAMPLES = FOLDER / "samples"
PLANNED_SECONDS, CRASH_SECONDS = 18.0, 36.0
"""How much of an episode is drawn."""
REFUSALS = 5
"""So often Patroni may refuse a switchover (of a replica that has just fallen behind); then we give up."""


def in_a_row(bench: Bench, what: str, count: int, deed: Callable[[], Episode]) -> list[Episode]:
    """`count` episodes; a refusal of Patroni's is said, and the deed done again."""
    episodes: list[Episode] = []
    refusals = 0
    while len(episodes) < count:
        try:
            episodes.append(deed())
            bench.progress(what, len(episodes), count, episodes[-1])
        except BedError as error:
            refusals += 1
            if refusals > REFUSALS or "refused" not in str(error):
                raise
            bench.say(f"{what}: {error}")
    return episodes


@contextmanager
def explained(bench: Bench, stage: Stage) -> Iterator[None]:
    """Afterwards, say the texts of what failed."""
    yield
    for text, times in stage.met().errors.most_common(8):
        bench.say(f"{times} x {text}")


def keep_sample(name: str, title: str, stage: Stage, episode: Episode, seconds: float) -> None:
    """For the pictures: all that clients met until so many seconds after the deed, which is waited for."""
    until = episode.struck[0] + seconds
    time.sleep(max(0.0, until - time.monotonic()))
    met = stage.traffic.between(episode.struck[0] - BEFORE, until)
    SAMPLES.mkdir(parents=True, exist_ok=True)
    (SAMPLES / f"{name}.json").write_text(json.dumps(sample(title, episode, met, until)) + "\n")


def sample(title: str, episode: Episode, met: Attempts, until: float) -> dict[str, Any]:
    """Seconds since the deed: every transaction's start, how long it took, whether it was committed."""
    zero = episode.struck[0]
    return {
        "title": title,
        "gap": _rounded([episode.gap.start - zero, episode.gap.end - zero]),
        "failed": met.without(LONG).failed,
        "failed_long": met.only(LONG).failed,
        "all_in_flight": episode.is_crash and met.failed == met.during(*episode.instant).failed > 0,
        "stall_s": round(met.longest_stall(until), 3),
        "transactions": [
            [one.kind, *_rounded([one.start - zero, one.end - one.start]), one.ok] for one in met.all
        ],
    }


def _rounded(numbers: Iterable[float]) -> list[float]:
    return [round(number, 4) for number in numbers]
