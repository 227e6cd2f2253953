"""Where settings come from: each source is read into one `Layer`, what it sets and where it says so.

Environment variables, secret files and texts of the command line are decoded by pydantic-settings one at
a time. It would read them all at once, stop at the first that it cannot decode, and say nothing of those
that it does not know; one by one, each keeps its name and its own fault.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic_settings import EnvSettingsSource
from pydantic_settings import SettingsError as CannotDecode

from watcher.settings.faults import Fault
from watcher.settings.schema import DELIMITER, PREFIX, SECRET_FILES, Settings
from watcher.settings.tree import Place, dotted, field_at, is_list, known_variables, section_of, variable

CONFIG_FILE = f"{PREFIX}CONFIG_FILE"
SECRETS_DIR = f"{PREFIX}SECRETS_DIR"
TOO_DEEP = "is nested deeper than any setting"
_DEEPEST = 32


@dataclass(slots=True)
class Layer:
    """What one source sets. `sources` has an entry for each place in `values`, sections included."""

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[Place, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unreadable: bool = False  # nothing is known of it, so nothing can be said of the settings as a whole

    def put(self, value: object, at: Place, source: str) -> None:
        """Set one place on top of what is there; a fault where it is nested deeper than any setting."""
        if is_too_deep(value):
            self.faults.append(Fault(dotted(at), TOO_DEEP, "docs/configuration.md has all names", source))
            return
        above = Layer(_nested(at, value), dict.fromkeys(places(value, at), source))
        self.cover(above)

    def cover(self, above: Layer) -> None:
        """Lay another layer over this one. Sections are joined; lists and single values replace."""
        replaced = {p for p in above.sources if not isinstance(value_at(above.values, p), dict)}
        kept = {p: s for p, s in self.sources.items() if not _within(p, replaced)}
        self.sources = kept | above.sources
        _overlay(self.values, above.values)
        self.faults += above.faults
        self.warnings += above.warnings
        self.unreadable |= above.unreadable


def is_too_deep(value: object) -> bool:
    """Whether more lists and sections stand in each other than in any setting; without recursion."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [inner for outer in level for inner in _inner(outer)]
    return bool(level)


def _inner(value: object) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def value_at(values: Any, place: Place) -> Any:
    for part in place:
        values = values[part]
    return values


def unshared(value: Any) -> Any:
    """A copy in which no part stands twice, as an alias of YAML makes it stand."""
    if isinstance(value, dict):
        return {key: unshared(inner) for key, inner in value.items()}
    return [unshared(inner) for inner in value] if isinstance(value, list) else value


def _within(place: Place, roots: set[Place]) -> bool:
    return any(place[:end] in roots for end in range(1, len(place) + 1))


def _nested(place: Place, value: object) -> dict[str, Any]:
    first, *rest = place
    return {str(first): _nested(tuple(rest), value) if rest else value}


def _overlay(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _overlay(below[key], value)
        else:
            below[key] = value


def places(value: object, at: Place) -> Iterator[Place]:
    yield at
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*at, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from places(inner, (*at, i))


# --- the sources that name one setting at a time --------------------------------------------------


def flag(path: str) -> str:
    """The command line's name of a setting.

    >>> flag("etcd.silence_limit")
    '--etcd-silence-limit'
    """
    return "--" + path.replace(".", "-").replace("_", "-")


def from_command_line(overrides: Mapping[str, object]) -> Layer:
    """Dotted path → value. None is «not given»; a text is decoded as an environment variable is."""
    layer = Layer()
    for path, value in overrides.items():
        place, source = tuple(path.split(".")), f"command line {flag(path)}"
        if field_at(place) is None:
            layer.faults.append(Fault(path, "is no setting", "docs/configuration.md has all names", source))
        elif isinstance(value, str | os.PathLike):
            _decode(layer, place, os.fspath(value), source)
        elif value is not None:
            layer.put(list(value) if isinstance(value, tuple) else value, place, source)
    return layer


def from_environment(environ: Mapping[str, str]) -> Layer:
    """`WATCHER_…`; an empty one is «not given», `null` is none. What is not known is warned about."""
    layer = Layer()
    for name, text in sorted(environ.items()):
        if not name.upper().startswith(PREFIX) or name in (CONFIG_FILE, SECRETS_DIR):
            continue
        place = tuple(name[len(PREFIX) :].lower().split(DELIMITER))
        if field_at(place) is None:
            layer.warnings.append(f"environment {name} is no setting and has no effect{_meant(name, place)}")
        elif text:
            _decode(layer, place, text, f"environment {name}")
    return layer


def _meant(name: str, place: Place) -> str:
    above = [(place[:end], field_at(place[:end])) for end in range(1, len(place))]
    whole = [at for at, found in above if found and (is_list(found) or not section_of(found))]
    if whole:
        return f"; {dotted(whole[0])} is set as a whole, by {variable(whole[0])}"
    known = [known.removeprefix(PREFIX) for known in (*known_variables(), CONFIG_FILE, SECRETS_DIR)]
    near = get_close_matches(name.upper().removeprefix(PREFIX), known, 1, cutoff=0.75)
    return f"; did you mean {PREFIX}{near[0]}?" if near else ""


def from_secrets(folder: Path) -> Layer:
    """One file a setting, named as `etcd__password`; hidden files and folders are passed over."""
    layer = Layer()
    try:
        files = sorted(f for f in folder.absolute().iterdir() if f.is_file() and not f.name.startswith("."))
    except OSError as error:
        problem = f"the folder of secrets cannot be read: {error.strerror}"
        remedy = f"correct {SECRETS_DIR}, or let the watcher's account list the folder"
        layer.faults.append(Fault(str(folder), problem, remedy))
        return layer
    for file in files:
        _read_named_secret(layer, file)
    return layer


def _read_named_secret(layer: Layer, file: Path) -> None:
    name = PREFIX + file.name.upper().removeprefix(PREFIX)
    place = tuple(name[len(PREFIX) :].lower().split(DELIMITER))
    if field_at(place) is None:
        layer.warnings.append(f"secret file {file} names no setting and has no effect{_meant(name, place)}")
        return
    text = _read_secret(layer, file, place, f"secret file {file}")
    if text is not None:
        _decode(layer, place, text, f"secret file {file}", null=None)


def _decode(layer: Layer, place: Place, text: str, source: str, null: str | None = "null") -> None:
    if text == null:
        layer.put(None, place, source)
        return
    reader = EnvSettingsSource(Settings)
    reader.env_vars = {variable(place).lower(): text}
    try:
        value = value_at(reader(), place)
    except (CannotDecode, RecursionError):
        found = field_at(place)
        wanted = '{"name": …}' if found and section_of(found) and not is_list(found) else '["…", "…"]'
        remedy = f"outside of a file, a list or a section is one JSON value, such as {wanted}"
        layer.faults.append(Fault(dotted(place), "is not JSON", remedy, source))
    else:
        layer.put(value, place, source)


# --- settings that name a file which holds another setting -----------------------------------------


def read_secret_files(layer: Layer) -> None:
    """Put the content of each `…_file` of a secret in the secret's place."""
    for place, source in list(layer.sources.items()):
        secret = SECRET_FILES.get(str(place[-1]))
        if secret and field_at(place) and isinstance(value_at(layer.values, place), str):
            _follow(layer, place, (*place[:-1], secret), source)


def _follow(layer: Layer, place: Place, secret: Place, source: str) -> None:
    section = value_at(layer.values, place[:-1])
    name, file_name = secret[-1], place[-1]
    if section.get(name) is not None:
        remedy = f"leave one of `{name}` and `{file_name}`"
        layer.faults.append(Fault(dotted(place), f"is set beside `{name}`", remedy, source))
        return
    file = section.pop(file_name)
    del layer.sources[place]
    layer.sources[secret] = f"secret file {file}, {source}"
    section[name] = _read_secret(layer, Path(file), place, source) or "not read"


def _read_secret(layer: Layer, file: Path, place: Place, source: str) -> str | None:
    """The file's text without the line's end; None with a fault of `layer`."""
    try:
        text = file.read_text(encoding="utf-8").rstrip("\r\n") if file.is_absolute() else None
    except OSError as error:
        problem = f"{file} cannot be read: {error.strerror}"
        remedy = "correct the path, and let the watcher's account read the file"
    except ValueError:
        problem, remedy = f"{file} is not text in UTF-8", "write the secret alone into it, as text"
    else:
        if text:
            return text
        problem, remedy = f"{file} is empty", "write the secret into it"
        if text is None:
            problem, remedy = f"{file} is not an absolute path", "write the path from / on"
    layer.faults.append(Fault(dotted(place), problem, remedy, source))
    return None
