"""Targets that have a file each: `target_files` matches them, and they stand behind those of `targets`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from watcher.settings.config_file import from_file, warn_of_readers
from watcher.settings.fleet import OneCluster, Pattern, files_of
from watcher.settings.layers import Layer, read_secret_files
from watcher.settings.tree import Place

FILES, TARGETS = "target_files", "targets"


def with_target_files(one: OneCluster, told: Layer) -> OneCluster:
    """The same cluster with the targets of its files. What is wrong with these, `told` has to tell, too."""
    values = {name: value for name, value in one.merged.values.items() if name != FILES}
    sources = {place: said for place, said in one.merged.sources.items() if place[0] != FILES}
    inline = values.get(TARGETS) or []
    if FILES not in one.merged.values or not isinstance(inline, list):
        return replace(one, merged=Layer(values, sources))
    said = Pattern(str(one.merged.values[FILES]), one.merged.sources.get((FILES,), ""))
    targets = list(inline)
    for layer in _layers(one, len(targets), told):
        targets += layer.values[TARGETS][len(targets) :]
        sources = layer.sources | sources
    merged = Layer({**values, TARGETS: targets} if targets else values, sources)
    return replace(one, merged=merged, patterns={**one.patterns, FILES: said})


def _layers(one: OneCluster, behind: int, told: Layer) -> Iterator[Layer]:
    """Each file as a layer in which its target stands where it will."""
    pattern, source = one.merged.values[FILES], one.merged.sources.get((FILES,), "")
    for number, file in enumerate(files_of(pattern, (FILES,), source, told, "target")):
        layer = _at((TARGETS, behind + number), from_file(Path(file)), file)
        told.warnings += [*layer.warnings, *warn_of_readers(Path(file), layer)]
        read_secret_files(layer)
        told.faults += layer.faults
        told.unreadable |= layer.unreadable
        yield layer


def _at(place: Place, target: Layer, file: str) -> Layer:
    before = int(place[1])
    values = {TARGETS: [*([None] * before), target.values]}
    sources = {(*place, *inner): said for inner, said in target.sources.items()} | {place: f"file {file}"}
    return Layer(values, sources, target.faults, target.warnings, target.unreadable)
