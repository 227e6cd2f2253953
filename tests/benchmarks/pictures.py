"""Draw the pictures of the docs from the samples that the last runs left."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.bench import ROOT
from tests.benchmarks.plot import Sample, svg
from tests.benchmarks.series import SAMPLES
from tests.support.waiting import BedError

CONTENDERS = ("watcher", "watch_reload", "poll_ansible", "haproxy", "pgbouncer_haproxy")


@dataclass(frozen=True)
class Picture:
    """One file of docs/, made of the samples whose names begin with `prefix`."""

    name: str
    prefix: str
    title: str
    most_seconds: float


PICTURES = (
    Picture("switchover.svg", "", "A planned switchover, as clients meet it", 18.0),
    Picture("crash.svg", "crash-", "The primary's host is killed, as clients meet it", 40.0),
)


def draw(folder: Path = ROOT / "docs", samples: Path = SAMPLES) -> Iterator[Path]:
    """Write each picture of which there are samples. BedError if there are none at all."""
    found = {picture: _samples(samples, picture.prefix) for picture in PICTURES}
    if not any(found.values()):
        raise BedError(f"no samples in {samples}\nHINT: make bench CASE=planned, and CASE=rivals")
    for picture, those in found.items():
        if those:
            file = folder / picture.name
            file.write_text(svg(picture.title, those, _last(those, picture.most_seconds)))
            yield file


def _samples(folder: Path, prefix: str) -> Sequence[Sample]:
    files = [folder / f"{prefix}{name}.json" for name in CONTENDERS]
    return [json.loads(file.read_text()) for file in files if file.exists()]


def _last(samples: Sequence[Sample], most: float) -> float:
    """The end of the latest of them, in whole seconds."""
    ends = (max(start + took for _, start, took, _ in one["transactions"]) for one in samples)
    return min(most, float(round(max(ends))))
