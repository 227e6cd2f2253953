"""Groups of targets: what a group says of a section is laid over what its cluster says.

hold: {limit: 60}
groups: {reporting: {hold: {old_connections: leave}}}     # its limit is 60, too
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from watcher.settings.faults import Fault
from watcher.settings.layers import Layer
from watcher.settings.tree import Place

GROUPS = "groups"
SECTIONS = ("hold",)
"""What a group may settle for its targets."""


def with_whole_groups(merged: Layer) -> Layer:
    """The same settings, each group with the whole of every section that it may settle."""
    groups = merged.values.get(GROUPS)
    if not isinstance(groups, dict):
        return merged
    whole = Layer()
    for name, own in groups.items():
        if isinstance(own, dict):
            _put_common(whole, merged, name)
    whole.cover(merged)
    return whole


def _put_common(whole: Layer, merged: Layer, group: str) -> None:
    for section in SECTIONS:
        common = merged.values.get(section)
        if isinstance(common, dict):
            values = {GROUPS: {group: {section: deepcopy(common)}}}
            at: Place = (GROUPS, group)
            said = {(*at, *place): source for place, source in merged.sources.items() if place[0] == section}
            whole.cover(Layer(values, {(GROUPS,): "", at: "", **said}))


def without_inherited(faults: list[Fault], values: Mapping[str, Any]) -> list[Fault]:
    """Without those that a group merely has from its cluster, where they are told."""
    told = {(fault.place, fault.problem) for fault in faults}
    names = values.get(GROUPS)
    at = [f"{GROUPS}.{name}." for name in names] if isinstance(names, dict) else []
    return [fault for fault in faults if not any(_is_inherited(fault, group, told) for group in at)]


def _is_inherited(fault: Fault, group: str, told: set[tuple[str, str]]) -> bool:
    return fault.place.startswith(group) and (fault.place.removeprefix(group), fault.problem) in told
