"""load(): all sources → one `Settings`, or one error with every fault.

command line > environment > secret files > YAML or TOML file > defaults
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr, ValidationError

from watcher.settings.config_file import from_file
from watcher.settings.explain import MISSING, explain, strays
from watcher.settings.faults import Fault, as_error
from watcher.settings.layers import (
    CONFIG_FILE,
    SECRETS_DIR,
    Layer,
    from_command_line,
    from_environment,
    from_secrets,
    read_secret_files,
)
from watcher.settings.schema import Settings
from watcher.settings.tree import dotted, leaves

DEFAULT = "default"
_READ_LATER = frozenset({"ca", "certificate", "key", "key_file", "known_hosts"})
"""Settings that name a file of this host which is opened at each connection."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings in force. `sources` says of every value (dotted path) where it comes from."""

    settings: Settings
    sources: Mapping[str, str]
    warnings: tuple[str, ...]


def load(
    argv_overrides: Mapping[str, object],
    file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    secrets_dir: Path | None = None,
) -> Loaded:
    """Settings of all sources, or SettingsError with every fault that was found.

    `argv_overrides` maps a dotted path to a value, None being «not given». `file` and `secrets_dir` go
    before WATCHER_CONFIG_FILE and WATCHER_SECRETS_DIR.
    """
    merged = Layer()
    for layer in _layers(argv_overrides, file, environ, secrets_dir):
        read_secret_files(layer)
        merged.cover(layer)
    settings, faults = (None, []) if merged.unreadable else _checked(merged)
    if settings is None or merged.faults:
        raise as_error([*merged.faults, *_not_told_yet(faults, merged.faults)])
    sources = {dotted(place): merged.sources.get(place, DEFAULT) for place, _ in leaves(settings)}
    return Loaded(settings, sources, (*merged.warnings, *_unreadable_files(settings)))


def _layers(
    overrides: Mapping[str, object], file: Path | None, environ: Mapping[str, str], secrets_dir: Path | None
) -> Iterator[Layer]:
    """The lowest first."""
    file = file or _path(environ.get(CONFIG_FILE))
    secrets_dir = secrets_dir or _path(environ.get(SECRETS_DIR))
    if file:
        yield from_file(file)
    if secrets_dir:
        yield from_secrets(secrets_dir)
    yield from_environment(environ)
    yield from_command_line(overrides)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _checked(merged: Layer) -> tuple[Settings | None, list[Fault]]:
    """No exception leaves this function, for pydantic's holds the values, secrets among them."""
    stray = strays(merged.values, merged.sources)
    known = {name: value for name, value in merged.values.items() if name in Settings.model_fields}
    try:
        settings = Settings(**known)
    except ValidationError as error:
        return None, [*stray, *explain(error, merged.sources)]
    return (None if stray else settings), stray


def _not_told_yet(found: list[Fault], told: list[Fault]) -> list[Fault]:
    """Without those that only follow from a value which could not be read."""
    places = [fault.place for fault in told]
    return [fault for fault in found if not any(_follows(fault, place) for place in places)]


def _follows(fault: Fault, place: str) -> bool:
    lacks_it = fault.problem == MISSING and place.startswith((f"{fault.place}.", f"{fault.place}["))
    return fault.place == place or lacks_it


def _unreadable_files(settings: Settings) -> Iterator[str]:
    for place, value in leaves(settings):
        if place[-1] in _READ_LATER and isinstance(value, str) and not os.access(value, os.R_OK):
            yield f"{dotted(place)}: {value} does not exist, or the watcher's account cannot read it"


def redacted(loaded: Loaded) -> list[str]:
    """`path = value   (source)` for every value in force, without the secrets."""
    shown = [(dotted(place), _shown(value)) for place, value in leaves(loaded.settings)]
    return [f"{path} = {value}   ({loaded.sources[path]})" for path, value in shown]


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, SecretStr):
        return "********"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_shown(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_shown(item)}' for key, item in value.items())}}}"
    return str(value)
