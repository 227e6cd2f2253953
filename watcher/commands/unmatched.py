"""Names in the settings that match nothing of what they are about, as that is now. Pure.

None of them is a fault: a replica may be down, or a database still to come. But a name that is misspelled
looks the same, and all that comes of it is silence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from watcher.decide.model import Actual, Endpoint

_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Unmatched:
    """`place` is that of the setting."""

    place: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}\n         HINT: {self.remedy}"


def databases_for_reads(names: Collection[str], targets: Mapping[str, Actual]) -> Iterator[Unmatched]:
    """Of `replicas.databases` what is in none of the blocks, or not in that of each target."""
    for i, name in enumerate(names):
        lacking = [target for target, actual in targets.items() if name not in _in_block(actual)]
        if lacking:
            problem = f"{name!r} is no database in the block of {_some_of(lacking)}"
            remedy = _remedy_for_database(name, [targets[target] for target in lacking])
            yield Unmatched(f"replicas.databases[{i}]", problem, remedy)


def _remedy_for_database(name: str, lacking: Collection[Actual]) -> str:
    if any(name in actual.defined for actual in lacking):
        return "move its line between the marks; outside of them it stays as it is"
    known = sorted({known for actual in lacking for known in _in_block(actual)})
    return f"put its line between the marks, or {_instead_of(name, known)}"


def _in_block(actual: Actual) -> frozenset[str]:
    return frozenset(database.name for database in actual.databases)


def members_with_addresses(
    at: str, addresses: Mapping[str, Endpoint], members: Collection[str]
) -> Iterator[Unmatched]:
    """What differs between the table of addresses `at` this place and the members that have a key in etcd."""
    for name in sorted(set(addresses) - set(members)):
        problem = "etcd has no member of that name just now"
        remedy = f"if it is down, do nothing; else {_instead_of(name, sorted(members))}"
        yield Unmatched(f"{at}.{name}", problem, remedy)
    if lacking := sorted(set(members) - set(addresses)):
        problem = f"has no address for {_some_of(lacking)}"
        remedy = "name every member and its host:port: while such a one leads, nobody is led anywhere"
        yield Unmatched(at, problem, remedy)
    for endpoint in sorted(set(addresses.values()), key=str):
        if len(names := sorted(name for name, other in addresses.items() if other == endpoint)) > 1:
            problem = f"{_some_of(names)} are all at {endpoint}"
            yield Unmatched(
                at, problem, "give each member its own: clients would be led to another than leads"
            )


def _instead_of(name: str, known: Collection[str]) -> str:
    near = get_close_matches(name, known, 1)
    return f"correct the name: did you mean {near[0]!r}?" if near else f"name one of: {_some_of(known)}"


def _some_of(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
