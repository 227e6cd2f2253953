"""The table of all settings in `docs/configuration.md`, made from the schema.

    python -m watcher.settings.page docs/configuration.md

writes it anew between the two marks of that page; without a file it is printed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from watcher.marked import between
from watcher.settings.schema import Kind, Settings
from watcher.settings.tree import Place, bounds, dotted, is_list, section_of, variable

BEGIN = "<!-- settings: begin -->"
END = "<!-- settings: end -->"
_HEAD = "| setting | type | default | environment | description |\n|---|---|---|---|---|"


def page_with_table(page: str) -> str:
    """The page with the table as the schema makes it now."""
    return between(page, BEGIN, END, table())


def table() -> str:
    """One table for the settings at the top, and one for each section."""
    return "\n\n".join(_section("Top level", "", Settings, ()))


def _section(title: str, about: str, model: type[BaseModel], at: Place) -> Iterator[str]:
    inner = [(name, field, section_of(field)) for name, field in model.model_fields.items()]
    rows = [_row(field, (*at, name)) for name, field, section in inner if section is None]
    if rows:
        yield "\n\n".join(filter(None, [f"### {title}", about, "\n".join([_HEAD, *rows])]))
    for name, field, section in inner:
        if section is not None:
            place = (*at, name, 0) if is_list(field) else (*at, name)
            yield from _section(f"`{_path(place)}`", _about(field), section, place)


def _about(field: FieldInfo) -> str:
    if is_list(field):
        return _linked(f"{field.description} A list, at least one.")
    optional = NoneType in get_args(field.annotation)
    return _linked(f"{field.description}{' Optional.' if optional else ''}")


def _row(field: FieldInfo, place: Place) -> str:
    env = "" if any(isinstance(part, int) for part in place) else f"`{variable(place)}`"
    cells = [f"`{_path(place)}`", _type(field), _default(field), env, _linked(str(field.description))]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _linked(text: str) -> str:
    """Pages that a description names, as links from the page beside them.

    >>> _linked("as said (docs/holds.md).")
    'as said ([holds.md](holds.md)).'
    """
    return re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", text)


def _path(place: Place) -> str:
    """`targets[].name`, for any of them."""
    return re.sub(r"\[\d+\]", "[]", dotted(place))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple | dict):
        return "empty" if not value else str(value)
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _type(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "unit" in extra:
        return ", ".join([str(extra["unit"]), *bounds(field)])
    kind = next((m.text for m in reversed(field.metadata) if isinstance(m, Kind)), "")
    return kind or _type_of(field.annotation)


def _type_of(annotation: Any) -> str:
    """
    >>> _type_of(tuple[Annotated[str, Kind("URL")], ...]), _type_of(bool | None)
    ('list of URL', '`true` or `false`')
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        kinds = [m.text for m in arguments[1:] if isinstance(m, Kind)]
        return kinds[-1] if kinds else _type_of(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"list of {_type_of(arguments[0])}"
    if origin is dict:
        return f"{_type_of(arguments[0])} → {_type_of(arguments[1])}"
    if arguments:
        return _type_of(next(a for a in arguments if a is not NoneType))
    return _type_name(annotation)


def _type_name(annotation: type) -> str:
    if issubclass(annotation, Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    return {bool: "`true` or `false`", SecretStr: "text, secret", str: "text"}[annotation]


def main(argv: list[str]) -> int:
    if not argv:
        sys.stdout.write(table() + "\n")
        return 0
    file = Path(argv[0])
    file.write_text(page_with_table(file.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
