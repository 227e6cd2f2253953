"""Many deeds in a row on one stage, each said as it goes, one kept as the sample that is drawn."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.benchmarks.bench import FOLDER, Bench
from tests.benchmarks.episodes import Episode
from tests.benchmarks.stage import Stage
from tests.support.waiting import BedError

SAMPLES = FOLDER / "samples"
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


def keep_sample(name: str, title: str, episodes: Sequence[Episode]) -> None:
    """The episode of the median stall, for the plot."""
    chosen = sorted(episodes, key=lambda one: one.stall)[len(episodes) // 2]
    SAMPLES.mkdir(parents=True, exist_ok=True)
    (SAMPLES / f"{name}.json").write_text(json.dumps(sample(title, chosen)) + "\n")


def sample(title: str, episode: Episode) -> dict[str, Any]:
    """Seconds since the deed: every transaction's start, how long it took, whether it was committed."""
    zero = episode.struck[0]
    return {
        "title": title,
        "gap": _rounded([episode.gap.start - zero, episode.gap.end - zero]),
        "failed": episode.attempts.failed,
        "stall_s": round(episode.stall, 3),
        "transactions": [
            [one.kind, *_rounded([one.start - zero, one.end - one.start]), one.ok]
            for one in episode.attempts.all
        ],
    }


def _rounded(numbers: Iterable[float]) -> list[float]:
    return [round(number, 4) for number in numbers]
