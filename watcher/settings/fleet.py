"""Several clusters in one watcher: what is said for all, and each cluster's own layer over it.

A cluster is an item of `clusters`, or a file that `cluster_files` matches. What it says for itself goes
before what is said for all, wherever that is said.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from watcher.settings.config_file import from_file
from watcher.settings.faults import Fault
from watcher.settings.layers import Layer, read_secret_files
from watcher.settings.schema import Settings
from watcher.settings.tree import Place, dotted

INLINE, FILES = "clusters", "cluster_files"
FOR_ALL = ("http", "log", "stop_limit", "connect_at_once", "controller", INLINE, FILES)
"""What one watcher has only once."""
OF_EACH = (("cluster", "scope"), ("targets",), ("target_files",))
"""What no two clusters can share."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Of files that were read in its place, and where it is said."""

    text: str
    source: str


@dataclass(frozen=True, slots=True)
class OneCluster:
    """All that is said of one cluster. `at` is the place of its own settings, empty where it has a file.
    `patterns` are those of the settings that other files were read for.
    """

    merged: Layer
    at: Place = ()
    file: str = ""
    patterns: Mapping[str, Pattern] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    common: frozenset[str] = frozenset()

    def placed(self, fault: Fault) -> Fault:
        """A fault of its settings, where an operator finds it."""
        if fault.place not in self.own and (fault.place in self.common or not self._says_of(fault.place)):
            return fault  # said for all
        place = f"{dotted(self.at)}.{fault.place}" if self.at else fault.place
        return Fault(place, fault.problem, fault.remedy, fault.source or self.file)

    def _says_of(self, place: str) -> bool:
        """Whether it says anything of a section that the place is in; what nobody says is for it to say."""
        around = [place[:end] for end in range(len(place)) if place[end] in ".["]
        return any(part in self.own for part in around) or not any(part in self.common for part in around)


def clusters_of(common: Layer) -> list[OneCluster]:
    """Each of them; the common layer itself where it names no further ones. What is wrong with how they are
    named is added to the common layer's faults.
    """
    inline = common.values.pop(INLINE, None)
    pattern = common.values.pop(FILES, None)
    sources = dict(common.sources)
    common.sources = {place: said for place, said in sources.items() if place[0] not in (INLINE, FILES)}
    if inline in (None, []) and pattern is None:
        return [OneCluster(common)]
    layers = [*_inline(inline, sources, common.faults), *_of_files(pattern, sources, common)]
    common.faults += _not_for_all(common)
    patterns = {FILES: Pattern(str(pattern), sources.get((FILES,), ""))} if pattern is not None else {}
    return [_laid_over(common, layer, at, file, patterns) for layer, at, file in layers]


def _laid_over(
    common: Layer, own: Layer, at: Place, file: str, patterns: Mapping[str, Pattern]
) -> OneCluster:
    common.faults += _only_for_all(own, at)
    values = {name: value for name, value in own.values.items() if name not in FOR_ALL}
    sources = {place: said for place, said in own.sources.items() if place[0] not in FOR_ALL}
    merged = Layer(deepcopy(common.values), dict(common.sources))
    merged.cover(Layer(values, sources))
    own_places, common_places = (frozenset(map(dotted, said)) for said in (sources, common.sources))
    return OneCluster(merged, at, file, patterns, own_places, common_places)


_Own: TypeAlias = tuple[Layer, Place, str]
"""One cluster's own layer, its place, and its file."""


def _inline(
    found: object, sources: dict[Place, str], faults: list[Fault]
) -> Iterator[tuple[Layer, Place, str]]:
    if found is None:
        return
    if not isinstance(found, list):
        faults.append(_fault((INLINE,), "is not a list", f"docs/fleet.md shows `{INLINE}`", sources))
        return
    for i, values in enumerate(found):
        at: Place = (INLINE, i)
        if isinstance(values, dict):
            own = {place[2:]: said for place, said in sources.items() if place[:2] == at and place[2:]}
            yield Layer(values, own), at, ""
        else:
            faults.append(_fault(at, "is not a section", "under it stand `cluster`, `targets` …", sources))


def _of_files(pattern: object, sources: Mapping[Place, str], common: Layer) -> Iterator[_Own]:
    if pattern is None:
        return
    for file in files_of(pattern, (FILES,), sources.get((FILES,), ""), common, "cluster"):
        layer = from_file(Path(file))
        read_secret_files(layer)
        common.faults += layer.faults
        common.warnings += layer.warnings
        common.unreadable |= layer.unreadable
        yield layer, (), f"file {file}"


def files_of(pattern: object, at: Place, source: str, told: Layer, what: str) -> list[str]:
    """The files that match, by name, each of them one such thing; a fault of `told` where none can."""
    example = f"/etc/pgbouncer-watcher/{what}s.d/*.yaml"
    if not isinstance(pattern, str) or not pattern.startswith("/"):
        remedy = f"write a path from / on, such as {example}"
        told.faults.append(Fault(dotted(at), "is not the pattern of an absolute path", remedy, source))
        return []
    files = sorted(glob.glob(pattern))  # noqa: PTH207 - of the whole path
    if not files:
        remedy = f"correct the pattern, or put a file there for each {what}"
        told.faults.append(Fault(dotted(at), f"matches no file: {pattern}", remedy, source))
    return files


def _only_for_all(own: Layer, at: Place) -> Iterator[Fault]:
    for name in FOR_ALL:
        if own.values.get(name) is not None:
            said = own.sources.get((name,), "")
            remedy = f"set `{name}` for all, outside of any cluster"
            yield Fault(dotted((*at, name)), "is no setting of one cluster", remedy, said)


def _not_for_all(common: Layer) -> Iterator[Fault]:
    for place in OF_EACH:
        if place in common.sources:
            problem = f"is said for all, but there are `{INLINE}`"
            yield Fault(dotted(place), problem, "set it in each cluster", common.sources[place])


def _fault(at: Place, problem: str, remedy: str, sources: Mapping[Place, str]) -> Fault:
    return Fault(dotted(at), problem, remedy, sources.get(at, ""))


def files_twice(clusters: list[tuple[OneCluster, Settings]]) -> Iterator[Fault]:
    """A file may have blocks of several clusters, if each is named, here and in its markers: of one without a
    name nothing tells whose it is, and the clusters would lead it by turns.
    """
    known: dict[tuple[object, ...], tuple[str, str | None]] = {}
    for one, settings in clusters:
        for number, target in enumerate(settings.targets):
            host = None if target.ssh is None else (target.ssh.host, target.ssh.port)
            scope, block = known.setdefault((host, target.file), (settings.cluster.name, target.block))
            are_named = None not in (block, target.block) and block != target.block
            if scope != settings.cluster.name and not are_named:
                fault = Fault(
                    f"targets[{number}].file",
                    f"{target.file} there is led by a target of cluster {scope!r} too",
                    "name another file or host; or set `block` of both, each with the name in its markers",
                    one.merged.sources.get(("targets",), ""),
                )
                yield one.placed(fault)


def scopes_twice(clusters: list[tuple[OneCluster, str]]) -> Iterator[Fault]:
    """Metrics and pages know a cluster by its scope."""
    known: dict[str, OneCluster] = {}
    for one, scope in clusters:
        first = known.setdefault(scope, one)
        if first is not one:
            fault = Fault(
                "cluster.scope",
                f"a second cluster is named {scope!r}; the first is {first.file or dotted(first.at)}",
                "follow it once; another watcher may follow a cluster of the same name elsewhere",
                one.merged.sources.get(("cluster", "scope"), ""),
            )
            yield one.placed(fault)
