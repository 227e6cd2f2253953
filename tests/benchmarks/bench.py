"""What every case is given (how much to measure, where to say what it does) and what it gives back."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.benchmarks.figures import Figures

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build/bench"


@dataclass(frozen=True)
class Counts:
    """How often, and how long in seconds, each thing is measured."""

    warm_up: int = 5
    switches: int = 200
    own_clock: int = 40
    switchovers: int = 8
    starts: int = 10
    rival_starts: int = 5
    settle: float = 10.0
    idle: float = 60.0
    planned: int = 100
    barriers: int = 20
    crashes: int = 6
    alarms: int = 5
    sessions: int = 5
    reads: int = 5
    rival_planned: int = 3
    rival_crashes: int = 2
    requests: int = 200
    fleet_switches: int = 50
    fleet_idle: float = 60.0
    fleet_bouncers: int = 64
    fleet_planned: int = 10
    fleet_ansible: int = 3
    clusters: int = 200
    cluster_changes: int = 1500
    takeovers: int = 48


QUICK = Counts(
    warm_up=2,
    switches=10,
    own_clock=5,
    switchovers=2,
    starts=3,
    rival_starts=2,
    settle=3.0,
    idle=5.0,
    planned=2,
    barriers=2,
    crashes=1,
    alarms=1,
    sessions=1,
    reads=1,
    rival_planned=1,
    rival_crashes=1,
    requests=10,
    fleet_switches=3,
    fleet_idle=5.0,
    fleet_bouncers=8,
    fleet_planned=1,
    fleet_ansible=1,
    clusters=10,
    cluster_changes=60,
    takeovers=6,
)
"""To see that everything works. Its figures say nothing."""


@dataclass(frozen=True)
class Bench:
    """Passed to every case."""

    counts: Counts
    say: Callable[[str], None]

    def progress(self, what: str, number: int, of: int, result: object) -> None:
        """Say how one of many went."""
        self.say(f"{what} {number} of {of}: {result}")

    def count_down(self, what: str, seconds: float) -> None:
        """Say that, and wait."""
        self.say(f"{what}: {seconds:g} s")
        time.sleep(seconds)


class Case(Protocol):
    """A module of `cases/`."""

    PROMISED: tuple[str, ...]
    """Paths of figures that `measure` gives, or it failed."""

    OWNED: tuple[str, ...]
    """Where in the tree they are; what a former run left there is replaced."""

    @staticmethod
    def measure(bench: Bench) -> tuple[Figures, Figures]:
        """The figures, and the conditions that only the case knows (counts above all)."""
        ...
