"""What pydantic found → faults in plain words, without any value that is or may be a secret."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from watcher.settings.faults import FAULTS, Fault
from watcher.settings.tree import (
    Place,
    bounds,
    dotted,
    field_at,
    is_list,
    is_secret,
    names_at,
    nearest_field,
    section_of,
    variable,
)


def explain(error: ValidationError, sources: Mapping[Place, str]) -> list[Fault]:
    """Every fault, each with the source of the value that it is about."""
    items = error.errors(include_url=False)
    return [fault for item in items if not _follows(item, items) for fault in _faults(item, sources)]


def strays(values: Mapping[str, Any], sources: Mapping[Place, str]) -> list[Fault]:
    """Unknown names at the top. BaseSettings would take some of them for instructions to itself."""
    unknown: list[Place] = [(name,) for name in values if field_at((name,)) is None]
    return [Fault(dotted(p), "is no setting", _known_names(p), sources.get(p, "")) for p in unknown]


def _follows(item: Any, items: list[Any]) -> bool:
    """A list whose items are all refused is called empty, too."""
    if item["type"] != "too_short":
        return False
    place = item["loc"]
    return any(len(other["loc"]) > len(place) and other["loc"][: len(place)] == place for other in items)


def _faults(item: Any, sources: Mapping[Place, str]) -> Iterator[Fault]:
    place: Place = tuple(part for part in item["loc"] if part != "[key]")
    shown = _shown(item["input"], place)
    if item["type"] != FAULTS:
        problem, remedy = _words(item, place)
        yield Fault(dotted(place), f"{shown}{problem}", remedy, _source(place, sources))
        return
    for fault in item["ctx"]["faults"]:
        whole = (*place, *_parts(fault.place))
        yield Fault(dotted(whole), f"{shown}{fault.problem}", fault.remedy, _source(whole, sources))


def _parts(relative: str) -> Place:
    return tuple(int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", relative))


def _source(place: Place, sources: Mapping[Place, str]) -> str:
    """Of the place, or of the section that lacks it."""
    return next((s for end in range(len(place), 0, -1) if (s := sources.get(place[:end]))), "")


def _shown(value: object, place: Place) -> str:
    """The value and a blank, where it is short, no secret, and stands where a value belongs."""
    field = nearest_field(place)
    if field is None or section_of(field) or is_secret(field) or not isinstance(value, str | int | float):
        return ""
    return re.sub(r"[^/@\s'\"]*@", "…@", repr(value)[:80]) + " "


# --- words ----------------------------------------------------------------------------------------

MISSING = "is required, and missing"
_PROBLEMS: dict[str, str] = {
    "missing": MISSING,
    "string_type": "is not text",
    "string_too_short": "is empty",
    "string_too_long": "is too long",
    "string_pattern_mismatch": "is not written as it must be",
    "too_short": "is empty",
    "float_type": "is not a number",
    "float_parsing": "is not a number",
    "finite_number": "is not a number of use",
    "int_type": "is not a whole number",
    "int_parsing": "is not a whole number",
    "int_from_float": "is not a whole number",
    "bool_type": "is neither true nor false",
    "bool_parsing": "is neither true nor false",
    "greater_than": "is not above {gt:g}",
    "greater_than_equal": "is below {ge:g}",
    "less_than_equal": "is above {le:g}",
    "enum": "is none of its values",
    "literal_error": "is none of its values",
    "tuple_type": "is not a list",
    "dict_type": "is not a table of names and values",
    "model_type": "is not a section",
    "model_attributes_type": "is not a section",
}


def _words(item: Any, place: Place) -> tuple[str, str]:
    kind = item["type"]
    if kind == "extra_forbidden" and dotted(place) in _GONE:
        return "is no setting any more", _GONE[dotted(place)]
    if kind == "extra_forbidden":
        return "is no setting", _known_names(place)
    problem = _PROBLEMS.get(kind, f"is not accepted ({kind})").format(**item.get("ctx", {}))
    remedy = _REMEDIES.get(kind, _describe)
    return problem, remedy(item, place)


_GONE = {
    "cluster.follow_standby_leader": "write `standby: standby_leader` in its place where it was true, and"
    " nothing where it was false",
}


def _known_names(place: Place) -> str:
    names = names_at(place[:-1])
    near = get_close_matches(str(place[-1]), names, 1)
    return f"did you mean `{near[0]}`?" if near else f"here can stand: {', '.join(names)}"


def _set_it(_: Any, place: Place) -> str:
    field = field_at(place)
    section = section_of(field) if field else None
    needed = [name for name, inner in section.model_fields.items() if inner.is_required()] if section else []
    needs = f", which needs {', '.join(needed)}" if needed else ""
    inside_list = any(isinstance(part, int) for part in place)
    about = f" {field.description}" if field else ""
    return f"set `{dotted(place)}`{'' if inside_list else f' or {variable(place)}'}{needs}.{about}"


def _describe(_: Any, place: Place) -> str:
    field = nearest_field(place)
    if field is None:
        return "see docs/configuration.md"
    if section_of(field) and not is_list(field):
        return f"under it stand: {', '.join(names_at(place) or names_at(place[:-1]))}"
    return f"{_limits(field)}{field.description}"


def _limits(field: FieldInfo) -> str:
    unit = (field.json_schema_extra or {}).get("unit") if isinstance(field.json_schema_extra, dict) else None
    lowest, highest = bounds(field)
    return f"{lowest} and {highest} {unit}: " if unit else ""


def _choose(item: Any, _: Place) -> str:
    return f"choose one of {item['ctx']['expected']}"


def _quote(_: Any, __: Place) -> str:
    return "put it in quotes, so that the file's format takes it as text"


_REMEDIES: dict[str, Callable[[Any, Place], str]] = {
    "missing": _set_it,
    "enum": _choose,
    "literal_error": _choose,
    "string_type": _quote,
}
