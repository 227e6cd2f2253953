"""The settings as a tree: which field stands at a place, and how a place is written.

A place is a tuple such as `("targets", 0, "ssh", "host")`, written `targets[0].ssh.host`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, TypeAlias, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from watcher.settings.schema import DELIMITER, PREFIX, SECRET_FILES, Settings

Place: TypeAlias = tuple[str | int, ...]


def dotted(place: Place) -> str:
    """
    >>> dotted(("targets", 0, "ssh", "host"))
    'targets[0].ssh.host'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


def variable(place: Place) -> str:
    """The environment variable of a place; of the whole list for what is inside a list.

    >>> variable(("etcd", "silence_limit")), variable(("targets", 0, "name"))
    ('WATCHER_ETCD__SILENCE_LIMIT', 'WATCHER_TARGETS')
    """
    names: list[str] = []
    for part in place:
        if isinstance(part, int):
            break
        names.append(part.upper())
    return PREFIX + DELIMITER.join(names)


def field_at(place: Place) -> FieldInfo | None:
    """The field that stands exactly there; None if there is none. At the name of a section in a table of them
    stands the table.
    """
    model: type[BaseModel] | None = Settings
    field: FieldInfo | None = None
    names = iter(part for part in place if isinstance(part, str))
    for name in names:
        field = model.model_fields.get(name) if model is not None else None
        if field is None:
            return None
        model = Settings if name == "clusters" else section_of(field) or _sections_in(field)
        if _sections_in(field):
            next(names, None)
    return field


def nearest_field(place: Place) -> FieldInfo | None:
    """The field there, or the one that it is a part of."""
    return next((field for end in range(len(place), 0, -1) if (field := field_at(place[:end]))), None)


def names_at(place: Place) -> list[str]:
    """The settings that the section at this place knows."""
    field = field_at(place)
    model = section_of(field) or _sections_in(field) if field else Settings
    return list(model.model_fields) if model else []


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section that the field is, or is a list of."""
    return None if get_origin(field.annotation) is dict else _section_in(field)


def _sections_in(field: FieldInfo) -> type[BaseModel] | None:
    """The section of which the field is a table, by names that the settings choose."""
    return _section_in(field) if get_origin(field.annotation) is dict else None


def _section_in(field: FieldInfo) -> type[BaseModel] | None:
    found = (t for t in _types(field.annotation) if isinstance(t, type) and issubclass(t, BaseModel))
    return next(found, None)


def bounds(field: FieldInfo) -> tuple[str, str]:
    """The least and the most that a number may be, in words; it is above 0 where no least is named."""
    lowest = next((f"at least {m.ge}" for m in field.metadata if isinstance(m, Ge)), "above 0")
    highest = next((m.le for m in field.metadata if isinstance(m, Le)), None)
    return lowest, f"at most {highest}"


def is_secret(field: FieldInfo) -> bool:
    return SecretStr in _types(field.annotation)


def is_list(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is tuple


def _types(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _types(get_args(annotation)[0])
    inner = [found for argument in get_args(annotation) for found in _types(argument)]
    return inner or [annotation]


def known_variables() -> list[str]:
    """Every environment variable that sets something."""
    return [variable(place) for place, _ in fields() if all(isinstance(part, str) for part in place)]


def fields(model: type[BaseModel] = Settings, at: Place = ()) -> Iterator[tuple[Place, FieldInfo]]:
    """Every field in the order of the schema, sections before what is in them; a list's are at index 0."""
    for name, field in model.model_fields.items():
        place = (*at, name)
        yield place, field
        section = section_of(field)
        if section is not None:
            yield from fields(section, (*place, 0) if is_list(field) else place)


def leaves(section: BaseModel, at: Place = ()) -> Iterator[tuple[Place, object]]:
    """Every value in force that is not a section, in the order of the schema."""
    for name in type(section).model_fields:
        if name not in SECRET_FILES:
            yield from _leaves_of(getattr(section, name), (*at, name))


def _leaves_of(value: object, at: Place) -> Iterator[tuple[Place, object]]:
    if isinstance(value, BaseModel):
        yield from leaves(value, at)
    elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        for i, item in enumerate(value):
            yield from leaves(item, (*at, i))
    elif isinstance(value, dict) and value and all(isinstance(item, BaseModel) for item in value.values()):
        for name, item in value.items():
            yield from leaves(item, (*at, name))
    else:
        yield at, value
