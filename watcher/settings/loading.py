"""load(): all sources → one `Settings`, or one error with every fault.

command line > environment > secret files > YAML or TOML file > defaults
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, SecretStr, ValidationError

from watcher.decide.errors import SettingsError
from watcher.settings.config_file import from_file
from watcher.settings.explain import MISSING, explain, strays
from watcher.settings.faults import Fault, as_error
from watcher.settings.fleet import INLINE, OneCluster, clusters_of, files_twice, scopes_twice
from watcher.settings.groups import with_whole_groups, without_inherited
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
from watcher.settings.target_files import with_target_files
from watcher.settings.tree import Place, dotted, leaves

DEFAULT = "default"
_READ_LATER = frozenset({"ca", "certificate", "key", "key_file", "known_hosts"})
"""Settings that name a file of this host which is opened at each connection."""


@dataclass(frozen=True, slots=True)
class Sourced:
    """The settings of one cluster. `sources` says of every value (dotted path) where it comes from, also of
    the `patterns` of files, which `settings` have no more: what stands in those files has taken their place.
    """

    settings: Settings
    sources: Mapping[str, str]
    patterns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings in force, of at least one cluster. What a watcher has only once is the same in all."""

    clusters: tuple[Sourced, ...]
    warnings: tuple[str, ...]

    @property
    def settings(self) -> Settings:
        """Those of the first, or only, cluster."""
        return self.clusters[0].settings

    @property
    def sources(self) -> Mapping[str, str]:
        """Of the values of that one."""
        return self.clusters[0].sources

    def only(self, scope: str | None) -> Loaded:
        """Without the other clusters; all of them for None. Raises SettingsError where there is none."""
        if scope is None:
            return self
        found = tuple(one for one in self.clusters if one.settings.cluster.name == scope)
        if not found:
            raise SettingsError("--cluster", f"the settings know no cluster {scope!r}", self._name_one())
        return Loaded(found, self.warnings)

    @property
    def one(self) -> Settings:
        """Those of the only cluster. Raises SettingsError where there are several."""
        if len(self.clusters) > 1:
            raise SettingsError("--cluster", "is missing, and there are several clusters", self._name_one())
        return self.settings

    def _name_one(self) -> str:
        return f"name one: {', '.join(each.cluster.name for each in self.fleet)}"

    @property
    def fleet(self) -> tuple[Settings, ...]:
        """Those of each cluster."""
        return tuple(one.settings for one in self.clusters)


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
    named = [_completed(one, merged) for one in clusters_of(merged)]
    found = [] if merged.unreadable else [(one, *_checked(one)) for one in named]
    faults = [fault for _, _, of_one in found for fault in of_one]
    clusters = [(one, settings) for one, settings, _ in found if settings is not None]
    faults += scopes_twice([(one, settings.cluster.name) for one, settings in clusters])
    faults += files_twice(clusters)
    if faults or merged.faults or not clusters:
        raise as_error(dict.fromkeys([*merged.faults, *_not_told_yet(faults, merged.faults)]))
    warnings = (
        *(warning for _, settings in clusters for warning in _unreadable_files(settings)),
        *_groups_of_nobody([settings for _, settings in clusters]),
    )
    return Loaded(
        tuple(_sourced(settings, one) for one, settings in clusters),
        tuple(dict.fromkeys((*merged.warnings, *warnings))),
    )


def _completed(one: OneCluster, told: Layer) -> OneCluster:
    found = with_target_files(one, told)
    return replace(found, merged=with_whole_groups(found.merged))


def _sourced(settings: Settings, one: OneCluster) -> Sourced:
    said = {place: one.merged.sources.get(place, DEFAULT) for place, _ in leaves(settings)}
    sources = {dotted(place): source for place, source in said.items() if place != (INLINE,)}
    sources |= {path: pattern.source for path, pattern in one.patterns.items()}
    return Sourced(settings, sources, {path: pattern.text for path, pattern in one.patterns.items()})


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


def _checked(cluster: OneCluster) -> tuple[Settings | None, list[Fault]]:
    """No exception leaves this function, for pydantic's holds the values, secrets among them."""
    merged = cluster.merged
    faults = strays(merged.values, merged.sources)
    known = {name: value for name, value in merged.values.items() if name in Settings.model_fields}
    settings: Settings | None = None
    try:
        settings = Settings(**known)
    except ValidationError as error:
        faults += explain(error, merged.sources)
    faults = without_inherited(faults, merged.values)
    return (None if faults else settings), [cluster.placed(fault) for fault in faults]


def _not_told_yet(found: list[Fault], told: list[Fault]) -> list[Fault]:
    """Without those that only follow from a value which could not be read."""
    places = [fault.place for fault in told]
    return [fault for fault in found if not any(_follows(fault, place) for place in places)]


def _follows(fault: Fault, place: str) -> bool:
    lacks_it = fault.problem == MISSING and place.startswith((f"{fault.place}.", f"{fault.place}["))
    return fault.place == place or lacks_it


def _groups_of_nobody(clusters: list[Settings]) -> Iterator[str]:
    """A name that is misspelled, or a group whose targets are still to come."""
    used = {target.group for settings in clusters for target in settings.targets}
    for name in dict.fromkeys(name for settings in clusters for name in settings.groups):
        if name not in used:
            yield f"groups.{name}: no target is of this group"


def _unreadable_files(settings: Settings) -> Iterator[str]:
    for place, file in _read_later(settings):
        if not os.access(file, os.R_OK):
            yield f"{dotted(place)}: {file} does not exist, or the watcher's account cannot read it"


def _read_later(section: BaseModel) -> Iterator[tuple[Place, str]]:
    for place, value in leaves(section):
        if place[-1] in _READ_LATER and isinstance(value, str):
            yield place, value


def files_read_later(section: BaseModel, but_for: Collection[str] = ()) -> set[str]:
    """Files of this host that are opened when connections are; without those of some settings."""
    return {file for place, file in _read_later(section) if place[0] not in but_for}


def redacted(loaded: Loaded) -> list[str]:
    """`path = value   (source)` for every value in force, without the secrets. Of several clusters what is
    the same for all comes first and once, and each other value begins with its cluster.
    """
    each = [_redacted(one) for one in loaded.clusters]
    if len(each) == 1:
        return each[0]
    common = set.intersection(*map(set, each))
    own = (
        f"{one.settings.cluster.name}: {line}"
        for one, lines in zip(loaded.clusters, each, strict=True)
        for line in lines
        if line not in common
    )
    return [*(line for line in each[0] if line in common), *own]


def _redacted(one: Sourced) -> list[str]:
    shown = {dotted(place): _shown(value) for place, value in leaves(one.settings)}
    shown |= one.patterns
    return [f"{path} = {shown[path]}   ({source})" for path, source in one.sources.items()]


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
