"""What came of one case, as values. Pure."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from tests.support.attempts import FRESH, Attempt


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


NEWCOMERS = 10
"""Clients that come to a PgBouncer in one second, each of them once (`tests.support.crowd.FRESH_EVERY`)."""


def beyond_flight(failures: Iterable[Attempt]) -> list[str]:
    """What failed at one PgBouncer beyond what was in flight: whoever is cut off once should wait afterwards,
    and whoever comes later should wait at once.

    >>> beyond_flight([Attempt("simple", 1, 0.0, 0.1, error="x"), Attempt("simple", 1, 0.1, 0.2, error="x")])
    ["failed more than once: [('simple', 1)]"]
    >>> beyond_flight(Attempt("fresh", number, 0.0, 0.1, error="x") for number in range(11))
    ['11 that came anew failed']
    """
    times = Counter((one.kind, one.client) for one in failures)
    again = sorted(client for client, count in times.items() if count > 1)
    fresh = sum(kind == FRESH for kind, _ in times)
    said = [f"failed more than once: {again}"] if again else []
    return said + ([f"{fresh} that came anew failed"] if fresh > NEWCOMERS else [])


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
        sums = _sums(tried)
        kept = "yes" if all(one.kept for one in tried) else "NO"
        lines.append(
            f"| {name} | {promises[name]} | {len(tried)} | {sums[0]} | {sums[1]} | {sums[2]} | {kept} |"
        )
    return "\n".join(lines)


def _sums(verdicts: Collection[Verdict]) -> list[int]:
    return [sum(getattr(one, what) for one in verdicts) for what in ("transactions", "failed", "lost")]


def summary(verdicts: Collection[Verdict], seed: int) -> str:
    """All of them in one line, with the seed of their order.

    >>> summary([Verdict("a", 10, 1), Verdict("b", 20, 0, 0, ("x",))], 8)
    'seed 8: 2 played, 30 transactions, 1 failed, nothing lost, 1 broken: b'
    """
    sums = _sums(verdicts)
    broken = [one.case for one in verdicts if not one.kept]
    kept = f"{len(broken)} broken: {', '.join(broken)}" if broken else "every promise kept"
    return (
        f"seed {seed}: {len(verdicts)} played, {sums[0]} transactions, {sums[1]} failed, "
        f"{sums[2] or 'nothing'} lost, {kept}"
    )
