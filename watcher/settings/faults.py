"""A fault of the settings, and how it travels out of pydantic.

Validators call `refuse`; `explain` turns what pydantic found into the same faults. No text made here
holds a value, unless `explain` is told that the value may be shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

from pydantic_core import PydanticCustomError

from watcher.decide.errors import SettingsError

FAULTS = "watcher_faults"
"""The type of a pydantic error that carries faults of ours."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: where, what, what to do, and who said so."""

    place: str
    problem: str
    remedy: str
    source: str = ""

    def __str__(self) -> str:
        said = f" ({self.source})" if self.source else ""
        return f"{self.place}: {self.problem}{said}\n  HINT: {self.remedy}"


def refuse(problem: str, remedy: str) -> NoReturn:
    """Refuse the value that is being validated."""
    raise _refusal([Fault("", problem, remedy)])


def refuse_all(faults: Iterable[Fault]) -> None:
    """Refuse the section that is being validated, if there is a fault; places are relative to it."""
    found = list(faults)
    if found:
        raise _refusal(found)


def _refusal(faults: list[Fault]) -> PydanticCustomError:
    return PydanticCustomError(FAULTS, "refused", {"faults": faults})


def as_error(faults: Iterable[Fault]) -> SettingsError:
    """All faults as one error."""
    found = list(faults)
    if len(found) == 1:
        (fault,) = found
        said = f" ({fault.source})" if fault.source else ""
        return SettingsError(fault.place, f"{fault.problem}{said}", fault.remedy)
    listed = "\n".join(f"- {fault}" for fault in found)
    return SettingsError("settings", f"{len(found)} faults\n{listed}")
