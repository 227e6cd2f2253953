"""The figures as a table, for a terminal or in Markdown."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.figures import at

RIVAL = "rivals.poll_ansible"
ABSENT = "—"
SHARED = ("cores", "cpu", "memory_gib", "kernel", "network", "versions")


@dataclass(frozen=True)
class Row:
    """One figure, at a path for each column; None where a column has none that could be put there."""

    label: str
    paths: tuple[str | None, ...]
    unit: str
    digits: int = 1

    def cells(self, figures: Mapping[str, Any]) -> tuple[str, ...]:
        """Label and values."""
        return self.label, *(self._shown(figures, path) for path in self.paths)

    def _shown(self, figures: Mapping[str, Any], path: str | None) -> str:
        value = at(figures, path) if path else None
        return ABSENT if value is None else f"{value:,.{self.digits}f} {self.unit}".strip()


@dataclass(frozen=True)
class Table:
    """Rows below a head."""

    head: tuple[str, ...]
    rows: tuple[Row, ...]

    def lines(self, figures: Mapping[str, Any]) -> list[tuple[str, ...]]:
        """The cells of every line, the head among them."""
        return [self.head, *(row.cells(figures) for row in self.rows)]


def _row(label: str, ours: str | None, theirs: str | None, unit: str, digits: int = 1) -> Row:
    return Row(label, (ours, theirs), unit, digits)


def _spread(label: str, ours: str, theirs: str | None, unit: str, digits: int = 1) -> Iterator[Row]:
    for name in ("p50", "p95", "p99"):
        yield _row(f"{label}, {name}", f"{ours}.{name}", theirs and f"{theirs}.{name}", unit, digits)


SPEED = Table(
    ("figure", "watcher", "poll and Ansible"),
    (
        *_spread("leader key to confirmed", "switch.confirmed_ms", None, "ms"),
        *_spread("… by both PgBouncers", "switch.all_confirmed_ms", None, "ms"),
        *_spread("… by the benchmark's clock", "switch.own_clock_ms", None, "ms"),
        _row("… of that, etcd's own write, p50", "switch.own_clock_put_ms.p50", None, "ms"),
        _row("… decide, p50", "switch.parts_ms.decide.p50", None, "ms"),
        _row("… write, p50", "switch.parts_ms.write.p50", None, "ms"),
        _row("… waiting for the leader, p50", "switch.parts_ms.ready.p50", None, "ms"),
        _row("… release: greeting, reload, confirmation, p50", "switch.parts_ms.release.p50", None, "ms"),
        *_spread(
            "real switchover, leader key to confirmed",
            "switchover.confirmed_ms",
            f"{RIVAL}.switch.confirmed_ms",
            "ms",
            0,
        ),
        _row("… the playbook alone, p50", None, f"{RIVAL}.switch.parts_ms.playbook.p50", "ms", 0),
        _row("start to confirmed, p50", "start.confirmed_s.p50", f"{RIVAL}.start.confirmed_s.p50", "s", 2),
        _row("idle: memory (RSS)", "idle.rss_mib", f"{RIVAL}.idle.rss_mib", "MiB"),
        _row("idle: processor time a minute", "idle.cpu_s_per_min", f"{RIVAL}.idle.cpu_s_per_min", "s", 2),
        _row("idle: threads", "idle.threads", f"{RIVAL}.idle.threads", "", 0),
        _row("idle: open connections", "idle.connections", f"{RIVAL}.idle.connections", "", 0),
        _row("idle: agents on a PgBouncer's host (RSS)", "idle.agent_rss_mib", None, "MiB"),
        _row("64 targets: a scrape, p99", "page.metrics_ms.p99", None, "ms"),
        _row("… its size", "page.metrics_kib", None, "KiB", 0),
        _row("64 targets: the status page, p99", "page.page_ms.p99", None, "ms"),
        _row("… its size", "page.page_kib", None, "KiB", 0),
    ),
)

RIVALS = ("watch_reload", "poll_ansible", "haproxy", "pgbouncer_haproxy")


def _clients(label: str, path: str, unit: str = "", digits: int = 0, ours: str | None = None) -> Row:
    """The same figure of ours and of each rival."""
    return Row(label, (ours or path, *(f"rivals.{name}.{path}" for name in RIVALS)), unit, digits)


def _by_default(label: str, figure: str, unit: str = "", digits: int = 0) -> Row:
    """With PgBouncer's default settings, which HAProxy alone has none of."""
    theirs = (f"rivals.{name}.planned.defaults.{figure}" if name != "haproxy" else None for name in RIVALS)
    return Row(label, (f"planned.defaults.{figure}", *theirs), unit, digits)


RECOMMENDED = "planned.recommended"
CLIENTS = Table(
    (
        "what clients meet",
        "watcher",
        "watch and RELOAD, no holds",
        "poll and Ansible",
        "HAProxy",
        "PgBouncer behind HAProxy",
    ),
    (
        _clients("switchovers", "planned.switchovers", ours=f"{RECOMMENDED}.switchovers"),
        _clients("… transactions", "planned.transactions", ours=f"{RECOMMENDED}.transactions"),
        _clients("… failed", "planned.failed", ours=f"{RECOMMENDED}.failed"),
        _clients("… longest stall, p50", "planned.stall_s.p50", "s", 2, f"{RECOMMENDED}.stall_s.p50"),
        _clients("… longest stall, max", "planned.stall_s.max", "s", 2, f"{RECOMMENDED}.stall_s.max"),
        _clients("… Patroni's own gap, p50", "planned.patroni_s.p50", "s", 2, f"{RECOMMENDED}.patroni_s.p50"),
        _by_default("PgBouncer's defaults: switchovers", "switchovers"),
        _by_default("… failed", "failed"),
        _by_default("… longest stall, p50", "stall_s.p50", "s", 2),
        _by_default("… longest stall, max", "stall_s.max", "s", 2),
        _clients("crashes (SIGKILL)", "crash.crashes", ours="crash.kill.crashes"),
        _clients("… failed", "crash.failed", ours="crash.kill.failed"),
        _clients("… in flight at that instant", "crash.in_flight", ours="crash.kill.in_flight"),
        _clients("… longest stall, p50", "crash.stall_s.p50", "s", 1, "crash.kill.stall_s.p50"),
        _clients("… longest stall, max", "crash.stall_s.max", "s", 1, "crash.kill.stall_s.max"),
    ),
)


def _ours(label: str, path: str, unit: str = "", digits: int = 0) -> Row:
    return Row(label, (path,), unit, digits)


def _barrier(name: str, words: str) -> Iterator[Row]:
    yield _ours(f"{words}: switchovers", f"planned.{name}.switchovers")
    yield _ours("… failed", f"planned.{name}.failed")
    yield _ours("… transactions of 1 s that failed", f"planned.{name}.long.failed")
    yield _ours("… longest stall, p50", f"planned.{name}.stall_s.p50", "s", 2)
    yield _ours("… longest stall, max", f"planned.{name}.stall_s.max", "s", 2)
    yield _ours(
        "… stall longer than Patroni's gap by, p50", f"planned.{name}.stall_over_patroni_ms.p50", "ms"
    )
    yield _ours(
        "… stall longer than Patroni's gap by, max", f"planned.{name}.stall_over_patroni_ms.max", "ms"
    )


def _crash(deed: str, words: str) -> Iterator[Row]:
    yield _ours(f"{words}: crashes", f"crash.{deed}.crashes")
    yield _ours("… failed", f"crash.{deed}.failed")
    yield _ours("… in flight at that instant", f"crash.{deed}.in_flight")
    yield _ours("… failed, and began later", f"crash.{deed}.failed_not_in_flight")
    yield _ours("… first commit after it was writable, p50", f"crash.{deed}.{_FIRST}.p50", "ms")
    yield _ours("… first commit after it was writable, max", f"crash.{deed}.{_FIRST}.max", "ms")


_FIRST = "first_commit_after_writable_ms"
HOLDS = Table(
    ("the watcher's holds", "watcher"),
    (
        _ours("switchovers in a row, both settings", "planned.switchovers"),
        _ours("… transactions", "planned.transactions"),
        _ours("… failed", "planned.failed"),
        _ours("… stall longer than Patroni's gap by, p50", "planned.stall_over_patroni_ms.p50", "ms"),
        _ours("… stall longer than Patroni's gap by, max", "planned.stall_over_patroni_ms.max", "ms"),
        _ours("… from the announcement to Patroni's gap, p50", "planned.lead_ms.p50", "ms"),
        _ours("… first commit after it was writable, p50", f"planned.{_FIRST}.p50", "ms"),
        _ours("… first commit after it was writable, max", f"planned.{_FIRST}.max", "ms"),
        _ours("… transactions of 1 s, without the barrier", "planned.long.transactions"),
        _ours("… of them failed", "planned.long.failed"),
        *_barrier("barrier", "with the barrier, held when announced"),
        *_barrier("at_barrier", "with the barrier, held when it asks"),
        *_barrier("short", "the same, short transactions alone"),
        *_crash("kill", "killed"),
        *_crash("freeze", "frozen"),
        *_crash("drop", "packets dropped"),
        _ours("false alarms: failed", "false_alarm.failed"),
        _ours("… restarts in place without the barrier", "false_alarm.restart_without_barrier.failed"),
        _ours("session pools: open sessions", "session.open_sessions"),
        _ours("… failed", "session.failed"),
        _ours("… most failures of one in a switchover", "session.most_failures_of_one"),
        _ours("… newcomers failed", "session.new_failed"),
    ),
)
READS = Table(
    ("clients that only read, one of two replicas", "failed", "of", "longest wait, ms"),
    tuple(
        Row(
            label,
            (f"replicas.{event}.failed", f"replicas.{event}.transactions", f"replicas.{event}.longest_ms"),
            "",
            0,
        )
        for event, label in (
            ("killed", "is killed"),
            ("drained", "is drained (`noloadbalance`)"),
            ("lagging", "lags"),
            ("switchover", "becomes the leader"),
        )
    ),
)
FLEETS = ("1", "8", "64", "256")


def _fleet(label: str, figure: str, unit: str = "", digits: int = 0) -> Row:
    """The same figure of every size."""
    return Row(label, tuple(f"fleet.{size}.{figure}" for size in FLEETS), unit, digits)


FLEET = Table(
    ("one watcher, so many PgBouncers", *FLEETS),
    (
        _fleet("leader key to the last confirmed, p50", "confirmed_ms.p50", "ms", 1),
        _fleet("… p99", "confirmed_ms.p99", "ms", 1),
        _fleet("leader key gone to the last held, p50", "hold_ms.p50", "ms", 1),
        _fleet("… p99", "hold_ms.p99", "ms", 1),
        _fleet("memory (RSS)", "rss_mib", "MiB", 1),
        _fleet("idle: of one core", "idle_cpu_percent", "%", 2),
        _fleet("threads", "threads"),
    ),
)
_BY_ANSIBLE = tuple(f"fleet_ansible.64.forks_{forks}.confirmed_ms" for forks in (5, 50))


def _of_64(label: str, figure: str, unit: str = "", digits: int = 0) -> Row:
    return Row(label, (f"fleet_planned.{figure}", None, None), unit, digits)


def _all_confirmed(label: str, which: str) -> Row:
    paths = ("fleet_planned.confirmed_ms", *_BY_ANSIBLE)
    return Row(label, tuple(f"{path}.{which}" for path in paths), "ms", 0)


FLEET_PLANNED = Table(
    ("planned switchovers of 64 PgBouncers", "watcher, barrier", "Ansible, 5 forks", "Ansible, 50 forks"),
    (
        _of_64("switchovers", "switchovers"),
        _of_64("transactions", "transactions"),
        _of_64("… failed", "failed"),
        _of_64("PostgreSQL is about to stop, to the last held, p50", "hold_ms.p50", "ms", 1),
        _of_64("… p99", "hold_ms.p99", "ms", 1),
        _of_64("stall, max", "stall_s.max", "s", 2),
        _all_confirmed("leader key to the last confirmed, p50", "p50"),
        _all_confirmed("… max", "max"),
    ),
)
CLUSTERS = Table(
    ("200 clusters in one watcher, leaders changing at random", "watcher"),
    (
        _ours("changes of leader", "clusters.changes"),
        _ours("… missed", "clusters.missed"),
        _ours("leader key to confirmed, p50", "clusters.confirmed_ms.p50", "ms", 1),
        _ours("… p99", "clusters.confirmed_ms.p99", "ms", 1),
        _ours("memory (RSS)", "clusters.rss_mib", "MiB", 1),
        _ours("idle: of one core", "clusters.idle_cpu_percent", "%", 2),
    ),
)
FLEET_START = Table(
    ("a start with 64 targets", "four at a time", "all at once"),
    tuple(
        Row(label, tuple(f"fleet_start.{way}.{figure}" for way in ("paced", "at_once")), "s", 2)
        for label, figure in (
            ("until all are in sync, p50", "all_in_sync_s.p50"),
            ("a switch of another cluster meanwhile, p50", "switch_s.p50"),
            ("… p99", "switch_s.p99"),
        )
    ),
)
CANARY = Table(
    ("four PgBouncers, leader key to the last confirmed", "p50, ms", "p99, ms"),
    tuple(
        Row(label, tuple(f"canary.{way}.all_confirmed_ms.{which}" for which in ("p50", "p99")), "", 1)
        for way, label in (("without", "all at once"), ("with", "one of them first, as a canary"))
    ),
)
MODES = ("together", "lease")


def _takeover(label: str, figure: str, unit: str = "", digits: int = 0) -> Row:
    """The same figure of both modes."""
    return Row(label, tuple(f"takeover.{mode}.{figure}" for mode in MODES), unit, digits)


TAKEOVER = Table(
    ("two watchers, the one that acts killed, frozen or cut off amid a switchover", *MODES),
    (
        _takeover("takeovers", "takeovers"),
        _takeover("… transactions", "transactions"),
        _takeover("… failed", "failed"),
        _takeover("… until a client commits on the new primary, p50", "seconds.p50", "s", 3),
        _takeover("… p99", "seconds.p99", "s", 3),
    ),
)
TABLES = (CLIENTS, HOLDS, READS, SPEED, FLEET, FLEET_PLANNED, FLEET_START, CANARY, CLUSTERS, TAKEOVER)


def text(figures: Mapping[str, Any]) -> str:
    """For a terminal."""
    parts = ["\n".join(_aligned(table.lines(figures))) for table in TABLES]
    return "\n\n".join([*parts, "\n".join(notes(figures))])


def _aligned(lines: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for label, *values in lines:
        cells = [f"{value:>{width}}" for value, width in zip(values, widths[1:], strict=True)]
        yield "  ".join([f"{label:<{widths[0]}}", *cells])


def markdown(figures: Mapping[str, Any]) -> str:
    """For a page."""
    parts = ["\n".join(_markdown(table.lines(figures))) for table in TABLES]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes(figures))])


def _markdown(lines: Sequence[tuple[str, ...]]) -> Iterator[str]:
    head, *rest = (f"| {' | '.join(cells)} |" for cells in lines)
    yield head
    yield "|---|" + "---:|" * (len(lines[0]) - 1)
    yield from rest


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
