"""Draw the pictures of the docs from the samples that the last runs left."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.bench import ROOT
from tests.benchmarks.plot import Sample, svg
from tests.benchmarks.series import CRASH_SECONDS, PLANNED_SECONDS, SAMPLES
from tests.support.waiting import BedError

CONTENDERS = ("watcher", "watch_reload", "poll_ansible", "haproxy", "pgbouncer_haproxy")


@dataclass(frozen=True)
class Picture:
    """One file of docs/, made of the samples whose names begin with `prefix`."""

    name: str
    prefix: str
    title: str
    axis: str
    seconds: float


PICTURES = (
    Picture(
        "switchover.svg",
        "",
        "A planned switchover, as clients meet it",
        "since it was asked for",
        PLANNED_SECONDS,
    ),
    Picture(
        "crash.svg",
        "crash-",
        "The primary's host is killed, as clients meet it",
        "since it was killed",
        CRASH_SECONDS,
    ),
)


def draw(folder: Path = ROOT / "docs", samples: Path = SAMPLES) -> Iterator[Path]:
    """Write each picture of which there are samples. BedError if there are none at all."""
    found = {picture: _samples(samples, picture.prefix) for picture in PICTURES}
    if not any(found.values()):
        raise BedError(f"no samples in {samples}\nHINT: make bench CASE=planned, and CASE=rivals")
    for picture, those in found.items():
        if those:
            file = folder / picture.name
            file.write_text(svg(picture.title, picture.axis, those, picture.seconds))
            yield file


def _samples(folder: Path, prefix: str) -> Sequence[Sample]:
    files = [folder / f"{prefix}{name}.json" for name in CONTENDERS]
    return [json.loads(file.read_text()) for file in files if file.exists()]
