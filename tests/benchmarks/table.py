"""The figures as a table, for a terminal or in Markdown."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.figures import at

RIVAL = "rivals.poll_ansible"
ABSENT = "—"
SHARED = ("cores", "cpu", "memory_gib", "kernel", "network", "versions")


@dataclass(frozen=True)
class Row:
    """One figure of ours, and the rival's where it has one that can be put beside it."""

    label: str
    ours: str | None
    theirs: str | None
    unit: str
    digits: int = 1

    def cells(self, figures: Mapping[str, Any]) -> tuple[str, str, str]:
        """Label, ours, theirs."""
        return self.label, self._shown(figures, self.ours), self._shown(figures, self.theirs)

    def _shown(self, figures: Mapping[str, Any], path: str | None) -> str:
        value = at(figures, path) if path else None
        return ABSENT if value is None else f"{value:,.{self.digits}f} {self.unit}".strip()


def _spread(label: str, ours: str, theirs: str | None, unit: str, digits: int = 1) -> Iterator[Row]:
    for name in ("p50", "p95", "p99"):
        yield Row(f"{label}, {name}", f"{ours}.{name}", theirs and f"{theirs}.{name}", unit, digits)


ROWS = (
    *_spread("leader key to confirmed", "switch.confirmed_ms", None, "ms"),
    *_spread("… by both PgBouncers", "switch.all_confirmed_ms", None, "ms"),
    *_spread("… by the benchmark's clock", "switch.own_clock_ms", None, "ms"),
    Row("… of that, etcd's own write, p50", "switch.own_clock_put_ms.p50", None, "ms"),
    Row("… decide, readiness included, p50", "switch.parts_ms.decide.p50", None, "ms"),
    Row("… write, p50", "switch.parts_ms.write.p50", None, "ms"),
    Row("… reload, p50", "switch.parts_ms.reload.p50", None, "ms"),
    Row("… confirm, p50", "switch.parts_ms.confirm.p50", None, "ms"),
    *_spread(
        "real switchover, leader key to confirmed",
        "switchover.confirmed_ms",
        f"{RIVAL}.switch.confirmed_ms",
        "ms",
        0,
    ),
    Row("… the playbook alone, p50", None, f"{RIVAL}.switch.parts_ms.playbook.p50", "ms", 0),
    Row("start to confirmed, p50", "start.confirmed_s.p50", f"{RIVAL}.start.confirmed_s.p50", "s", 2),
    Row("idle: memory (RSS)", "idle.rss_mib", f"{RIVAL}.idle.rss_mib", "MiB"),
    Row("idle: processor time a minute", "idle.cpu_s_per_min", f"{RIVAL}.idle.cpu_s_per_min", "s", 2),
    Row("idle: threads", "idle.threads", f"{RIVAL}.idle.threads", "", 0),
    Row("idle: open connections", "idle.connections", f"{RIVAL}.idle.connections", "", 0),
    Row("idle: agents on a PgBouncer's host (RSS)", "idle.agent_rss_mib", None, "MiB"),
)
HEAD = ("figure", "watcher", "poll and Ansible")


def text(figures: Mapping[str, Any]) -> str:
    """For a terminal."""
    cells = [HEAD, *(row.cells(figures) for row in ROWS)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    lines = [
        f"{label:<{widths[0]}}  {ours:>{widths[1]}}  {theirs:>{widths[2]}}" for label, ours, theirs in cells
    ]
    return "\n".join([*lines, "", *notes(figures)])


def markdown(figures: Mapping[str, Any]) -> str:
    """For a page."""
    lines = [f"| {' | '.join(HEAD)} |", "|---|---:|---:|"]
    lines += [f"| {' | '.join(row.cells(figures))} |" for row in ROWS]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(figures))])


def notes(figures: Mapping[str, Any]) -> Iterator[str]:
    """What each case was measured with; machine and versions once for all the cases that share them."""
    shared: dict[str, list[str]] = {}
    for case, conditions in figures.get("conditions", {}).items():
        mine = {name: value for name, value in conditions.items() if name not in SHARED}
        rest = {name: value for name, value in conditions.items() if name in SHARED}
        shared.setdefault("; ".join(_said(rest)), []).append(f"{case}: {'; '.join(_said(mine))}")
    for machine, cases in shared.items():
        yield from cases
        yield f"on: {machine}"


def _said(conditions: Mapping[str, Any]) -> Iterable[str]:
    for name, value in conditions.items():
        if isinstance(value, Mapping):
            yield ", ".join(f"{each} {number}" for each, number in value.items())
        else:
            yield f"{name.replace('_', ' ')} {value}"
