"""What mutmut found, read from the files that it leaves in `mutants/`: one `Mutant` for each."""

from __future__ import annotations

import ast
import difflib
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

TREE = Path("mutants/watcher/decide")


class Fate(StrEnum):
    """What became of a mutant. One that no test runs survived, too."""

    KILLED = "killed"
    SURVIVED = "survived"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one function, told by its name and what changed, never by a line number.

    `key` is mutmut's own name for it, good until the function changes. `wording` is whether nothing but the
    wording of a sentence is changed.
    """

    key: str
    function: str
    diff: str
    fate: Fate
    wording: bool

    @property
    def identity(self) -> tuple[str, str]:
        return self.function, self.diff


def read(tree: Path = TREE) -> Iterator[Mutant]:
    """All mutants of the last run, by file."""
    for meta in sorted(tree.glob("*.py.meta")):
        fates: dict[str, int | None] = json.loads(meta.read_text())["exit_code_by_key"]
        if fates:
            sources = _sources(meta.with_suffix(""))
            yield from (_mutant(key, code, sources) for key, code in fates.items())


def forget_survivors(tree: Path = TREE) -> None:
    """So that mutmut runs them again, for there may be tests by now that notice them."""
    for meta in tree.glob("*.py.meta"):
        kept = json.loads(meta.read_text())
        fates: dict[str, int | None] = kept["exit_code_by_key"]
        kept["exit_code_by_key"] = {
            key: code if fate_of(code) is Fate.KILLED else None for key, code in fates.items()
        }
        meta.write_text(json.dumps(kept, indent=4))


def _sources(path: Path) -> dict[str, str]:
    """The text of every function that mutmut made of one file."""
    lines = path.read_text().splitlines()
    spans: dict[str, list[int]] = json.loads(Path(f"{path}.spans").read_text())["spans"]
    return {name: "\n".join(lines[first - 1 : last]) for name, (first, last) in spans.items()}


def _mutant(key: str, code: int | None, sources: dict[str, str]) -> Mutant:
    module, _, name = key.rpartition(".")
    original = f"{name.rpartition('__mutmut_')[0]}__mutmut_orig"
    old, new = _plain(sources[original]), _plain(sources[name])
    return Mutant(key, f"{module}.{_function(name)}", diff_of(old, new), fate_of(code), is_wording(old, new))


def _function(name: str) -> str:
    """
    >>> _function("x_fold__mutmut_12"), _function("xǁBackoffǁdelay__mutmut_3")
    ('fold', 'Backoff.delay')
    """
    plain = name.rpartition("__mutmut_")[0]
    return plain[2:].replace("ǁ", ".")


def _plain(source: str) -> str:
    """Without mutmut's own names, which carry the number of the mutant."""
    return textwrap.dedent(re.sub(r"x(_|ǁ\w+?ǁ)(\w+)__mutmut_\w+(?=\()", r"\2", source)).strip()


def diff_of(old: str, new: str) -> str:
    """
    >>> diff_of("a = 1\\nb = 2", "a = 1\\n  b = 3")
    '- b = 2\\n+ b = 3'
    """
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm="")
    kept = (line for line in lines if not line.startswith(("---", "+++", "@@")))
    return "\n".join(f"{line[0]} {line[1:].strip()}" for line in kept)


def fate_of(code: int | None) -> Fate:
    """By the code that pytest left with: 1 and 3 are failures, 0, 5 and 33 are survivors (0 passed, the
    others ran nothing), and a mutant that never ends is killed by its limit. Anything else says nothing.
    """
    if code in (1, 3, 24, -24, 36, 152, 255):
        return Fate.KILLED
    return Fate.SURVIVED if code in (0, 5, 33) else Fate.UNKNOWN


def is_wording(old: str, new: str) -> bool:
    """Whether nothing differs but how sentences are worded: texts of two words or more, shouted, whispered
    or framed in XX. A key, a name or a number is none, nor is a message that is gone.

    >>> is_wording("raise E('is not JSON')", "raise E('XXis not JSONXX')")
    True
    >>> is_wording("data['ttl']", "data['TTL']"), is_wording("E('is odd')", "E(None)")
    (False, False)
    """
    before, after = ast.parse(old), ast.parse(new)
    pairs = list(zip(_texts(before), _texts(after), strict=False))
    changed = [(a, b) for a, b in pairs if a.value != b.value]
    if not changed or not all(_is_sentence(a) and _letters(a) == _letters(b) for a, b in changed):
        return False
    for _, text in changed:
        text.value = ""
    for text, _ in changed:
        text.value = ""
    return ast.dump(before) == ast.dump(after)


def _texts(tree: ast.AST) -> list[ast.Constant]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def _is_sentence(text: ast.Constant) -> bool:
    return re.search(r"\w\W* \W*\w", str(text.value)) is not None


def _letters(text: ast.Constant) -> str:
    return str(text.value).replace("XX", "").casefold()
