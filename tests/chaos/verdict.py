"""What came of one case, as values. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.support.attempts import Attempt


@dataclass(frozen=True)
class Verdict:
    """One time that a case was tried. `broken` says in words what was not as promised."""

    case: str
    transactions: int = 0
    failed: int = 0
    lost: int = 0
    broken: tuple[str, ...] = field(default=())

    @property
    def kept(self) -> bool:
        """Whether the promise was."""
        return not self.broken


def lost(attempts: Iterable[Attempt], rows: Mapping[int, int]) -> int:
    """How many acknowledged commits are not there. A row of an attempt that failed may hide a lost one.

    >>> lost([Attempt("simple", 1, 0.0, 0.1), Attempt("simple", 1, 0.1, 0.2)], {1: 1})
    1
    """
    acknowledged = Counter(one.client for one in attempts if one.ok)
    return sum(max(0, count - rows.get(client, 0)) for client, count in acknowledged.items())


def twice(failures: Iterable[Attempt]) -> list[tuple[str, int]]:
    """Clients that failed more than once: whoever is cut off once should wait afterwards.

    >>> twice([Attempt("simple", 1, 0.0, 0.1, error="x"), Attempt("simple", 1, 0.1, 0.2, error="x")])
    [('simple', 1)]
    """
    times = Counter((one.kind, one.client) for one in failures)
    return sorted(client for client, count in times.items() if count > 1)


def table(verdicts: Iterable[Verdict], promises: Mapping[str, str]) -> str:
    """The verdicts of each case added up, as a table in Markdown."""
    lines = [
        "| case | promise | times | transactions | failed | lost | kept |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    of: dict[str, list[Verdict]] = {}
    for one in verdicts:
        of.setdefault(one.case, []).append(one)
    for name in sorted(of):
        tried = of[name]
        sums = [sum(getattr(one, what) for one in tried) for what in ("transactions", "failed", "lost")]
        kept = "yes" if all(one.kept for one in tried) else "NO"
        lines.append(
            f"| {name} | {promises[name]} | {len(tried)} | {sums[0]} | {sums[1]} | {sums[2]} | {kept} |"
        )
    return "\n".join(lines)
