"""Why a survivor may live: `survivors.toml`, and what of it holds no longer."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.results import Fate, Mutant

REASONS = Path(__file__).with_name("survivors.toml")


@dataclass(frozen=True, slots=True)
class Reason:
    """`diff` as `Mutant.diff`; `why` it changes nothing that anybody could see, or nothing that matters."""

    function: str
    diff: str
    why: str

    @property
    def identity(self) -> tuple[str, str]:
        return self.function, self.diff


@dataclass(frozen=True, slots=True)
class Judgement:
    """All mutants, sorted. `stale` are reasons for what is not there any more, or was killed."""

    killed: tuple[Mutant, ...]
    wording: tuple[Mutant, ...]
    reasoned: tuple[Mutant, ...]
    unreasoned: tuple[Mutant, ...]
    unknown: tuple[Mutant, ...]
    stale: tuple[Reason, ...]

    @property
    def is_clean(self) -> bool:
        return not (self.unreasoned or self.unknown or self.stale)


def read(path: Path = REASONS) -> tuple[Reason, ...]:
    """The reasons of the file; ValueError for one without a sentence."""
    found = tomllib.loads(path.read_text()).get("survivor", [])
    reasons = tuple(Reason(one["in"], one["diff"].strip(), one["why"].strip()) for one in found)
    for reason in reasons:
        if not reason.why:
            raise ValueError(f"{reason.function}: no reason is given for\n{reason.diff}")
    return reasons


def judge(mutants: Iterable[Mutant], reasons: Iterable[Reason]) -> Judgement:
    """Sort them. A survivor needs its own reason, or has changed no more than the wording of a sentence."""
    found, why = tuple(mutants), {reason.identity: reason for reason in reasons}
    alive = [mutant for mutant in found if mutant.fate is Fate.SURVIVED]
    unworded = [mutant for mutant in alive if not mutant.wording]
    needed = {mutant.identity for mutant in unworded}
    return Judgement(
        killed=tuple(mutant for mutant in found if mutant.fate is Fate.KILLED),
        wording=tuple(mutant for mutant in alive if mutant.wording),
        reasoned=tuple(mutant for mutant in unworded if mutant.identity in why),
        unreasoned=tuple(mutant for mutant in unworded if mutant.identity not in why),
        unknown=tuple(mutant for mutant in found if mutant.fate is Fate.UNKNOWN),
        stale=tuple(reason for identity, reason in why.items() if identity not in needed),
    )
