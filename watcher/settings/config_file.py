"""A YAML or TOML file as a `Layer`, each place with its line where the format tells it.

What YAML takes silently is refused: a key that stands twice, a key that is not text, an alias that
holds itself. A parser's message may quote the file, and with it a secret: quotations are cut out.
"""

from __future__ import annotations

import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from watcher.settings.faults import Fault
from watcher.settings.layers import TOO_DEEP, Layer, is_too_deep, places, unshared, value_at
from watcher.settings.tree import Place, dotted, field_at, is_secret


def from_file(path: Path) -> Layer:
    """The file's settings; a fault if it cannot be read or parsed."""
    readers = {".yaml": _from_yaml, ".yml": _from_yaml, ".toml": _from_toml}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        return _unreadable(str(path), "is neither .yaml, .yml nor .toml", "name it by its format")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        remedy = "correct the path, and let the watcher's account read the file"
        return _unreadable(str(path), f"cannot be read: {error.strerror}", remedy)
    except ValueError:
        return _unreadable(str(path), "is not text in UTF-8", "save it as UTF-8")
    layer = reader(path, text)
    layer.warnings += warn_of_readers(path, layer)
    return layer


def _unreadable(place: str, problem: str, remedy: str) -> Layer:
    return Layer(faults=[Fault(place, problem, remedy)], unreadable=True)


def warn_of_readers(path: Path, layer: Layer) -> list[str]:
    """That it holds a secret which everybody on this host may read."""
    secrets = [p for p in layer.sources if (f := field_at(p)) and is_secret(f) and value_at(layer.values, p)]
    if not secrets or not path.stat().st_mode & stat.S_IROTH:
        return []
    remedy = f"chmod o= {path}, or move it to a secret file"
    return [f"{path} holds {dotted(secrets[0])}, and everybody may read it; {remedy}"]


def _quotations_cut(text: str) -> str:
    """
    >>> _quotations_cut("found undefined alias 'hunter2'; expected <block end>, but found '-'")
    "found undefined alias '…'; expected <block end>, but found '-'"
    """
    return re.sub(r"'(?!<)[^']{2,}'|\"[^\"]{2,}\"", "'…'", text)


# --- TOML -----------------------------------------------------------------------------------------


def _from_toml(path: Path, text: str) -> Layer:
    layer = Layer()
    try:
        values = tomllib.loads(text)
    except RecursionError:
        return _unreadable(str(path), TOO_DEEP, "correct it there")
    except ValueError as error:  # also of an endless number
        return _unreadable(str(path), f"is not TOML: {_quotations_cut(str(error))}", "correct it there")
    for key, value in values.items():
        layer.put(value, (key,), f"file {path}")
    return layer


# --- YAML -----------------------------------------------------------------------------------------

_OF_YAML = (
    yaml.YAMLError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What PyYAML raises for a text that is none (an IndexError for `!!int ''`)."""

_MOST_VALUES = 100_000
"""In one file, written out: aliases of aliases stand for more than any memory holds."""


def _from_yaml(path: Path, text: str) -> Layer:
    loader = yaml.SafeLoader("")
    try:
        loader = yaml.SafeLoader(text)
        return _from_node(path, loader, loader.get_single_node())
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        remedy = "mind the indentation; a text with one of : # * & ! % @ ` in it stands in quotes"
        return _unreadable(f"{path}:{line}", f"is not YAML: {_quotations_cut(str(error.problem))}", remedy)
    except _OF_YAML:
        remedy = "put texts in quotes, and use no control characters"
        return _unreadable(str(path), "holds what YAML does not allow", remedy)
    finally:
        loader.dispose()


def _from_node(path: Path, loader: yaml.SafeLoader, root: yaml.Node | None) -> Layer:
    if root is None:
        return Layer()
    if not isinstance(root, yaml.MappingNode):
        return _unreadable(str(path), "does not begin with names of settings", "write `cluster:` and so on")
    if _written_out(root, {}) > _MOST_VALUES:
        return _unreadable(str(path), "stands for too much by its aliases", "write it out")
    faults = list(_faults_of(root, (), path, ()))
    if faults:
        return Layer(faults=faults, unreadable=True)
    lines = {(): 1} | dict(_lines(root, ()))
    values: dict[str, Any] = unshared(loader.construct_document(root))
    if is_too_deep(values):
        return _unreadable(str(path), TOO_DEEP, "docs/configuration.md has all names")
    return Layer(values, {p: f"file {path}:{_line_of(p, lines)}" for p in places(values, ()) if p})


def _written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values the node stands for. One that holds itself counts as one there: it is refused later."""
    if id(node) not in known:
        known[id(node)] = 1
        known[id(node)] += sum(_written_out(inner, known) for inner, _ in _children(node, ()))
    return known[id(node)]


def _line_of(place: Place, lines: Mapping[Place, int]) -> int:
    """Its own, or that of what it is in: what a merge key brings in stands elsewhere."""
    return next(lines[place[:end]] for end in range(len(place), -1, -1) if place[:end] in lines)


def _faults_of(node: yaml.Node, at: Place, path: Path, around: tuple[yaml.Node, ...]) -> Iterator[Fault]:
    here = f"{path}:{node.start_mark.line + 1}"
    if node in around:
        yield Fault(here, f"{dotted(at)} holds itself by an alias", "write it out")
        return
    if isinstance(node, yaml.MappingNode):
        yield from _faults_of_keys(node, at, path)
    for inner, place in _children(node, at):
        yield from _faults_of(inner, place, path, (*around, node))


def _faults_of_keys(node: yaml.MappingNode, at: Place, path: Path) -> Iterator[Fault]:
    seen: set[str] = set()
    for key, _ in node.value:
        here = f"{path}:{key.start_mark.line + 1}"
        if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            under = f" under {dotted(at)}" if at else ""
            yield Fault(here, f"a name{under} is not text for YAML", "put it in quotes")
        elif key.value in seen:
            yield Fault(here, f"{dotted((*at, key.value))} is set twice in this file", "leave one of them")
        seen.add(str(key.value))


def _children(node: yaml.Node, at: Place) -> Iterator[tuple[yaml.Node, Place]]:
    if isinstance(node, yaml.MappingNode):
        yield from ((value, (*at, str(key.value))) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        yield from ((value, (*at, i)) for i, value in enumerate(node.value))


def _lines(node: yaml.Node, at: Place) -> Iterator[tuple[Place, int]]:
    for inner, place in _children(node, at):
        yield place, inner.start_mark.line + 1
        yield from _lines(inner, place)
