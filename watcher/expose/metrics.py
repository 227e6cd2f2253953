"""What Prometheus is told. The sole importer of prometheus_client.

Counters and histograms count what is heard here; what merely *is* (who leads, which target is in sync) is
looked up in the view and the chronicle at the moment of the scrape, so no series outlives what it told of.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from watcher.decide.errors import WatcherError
from watcher.decide.model import (
    Desired,
    Endpoint,
    HealthRound,
    Leadership,
    Reason,
    Source,
    Switch,
    View,
)
from watcher.decide.precedence import Standing
from watcher.decide.readers import in_use, unfit
from watcher.decide.view import leadership, paused
from watcher.expose.audience import Listener
from watcher.expose.calendar import Calendar
from watcher.expose.chronicle import Chronicle, TargetState, Wish, nobody_knows
from watcher.expose.families import ANSWERS, FAMILIES, HOLDS, Family

disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Facts:
    """Where the state of things is looked up at a scrape. Moments are seconds since the epoch."""

    view: Callable[[], View]
    chronicle: Chronicle
    wish: Wish = nobody_knows
    certificates: Callable[[], Mapping[str, float]] = dict
    settings_read: Callable[[], tuple[bool, float]] = lambda: (True, 0.0)
    standing: Callable[[], Standing] = lambda: Standing.TOGETHER


class Metrics(Listener):
    """All families of one watcher, in a registry of its own. Safe between threads."""

    def __init__(self, cluster: str, targets: Iterable[str], facts: Facts, calendar: Calendar) -> None:
        self._cluster = cluster
        self._targets: tuple[str, ...] = ()
        self._registry = CollectorRegistry()
        self._counts = {
            name: _made(family, self._registry)
            for name, family in FAMILIES.items()
            if family.kind in ("counter", "histogram")
        }
        for name, counted in self._counts.items():
            if "target" not in FAMILIES[name].labels:
                _begin(FAMILIES[name], counted, (cluster,))
        self._registry.register(_State(cluster, facts, calendar))
        self._round: HealthRound | None = None
        self._reign: Leadership | None = None
        self.serve(targets)

    def serve(self, targets: Iterable[str]) -> None:
        """These are the targets from now on; the series of others go."""
        names = tuple(targets)
        for name, counted in self._counts.items():
            if "target" in FAMILIES[name].labels:
                for gone in set(self._targets) - set(names):
                    counted.remove_by_labels({"target": gone})
                for target in names:
                    _begin(FAMILIES[name], counted, (self._cluster, target))
        self._targets = names

    def collect(self) -> Iterable[Metric]:
        """All that there is to tell just now."""
        return self._registry.collect()

    # --- what happens -----------------------------------------------------------------------------

    def viewed(self, view: View) -> None:
        """Told of every view, in order."""
        reign = leadership(view)
        if isinstance(reign, Leadership) and reign != self._reign:
            if self._reign is not None:  # the first that is heard of is no change
                self._add("leader_changes", str(Source.ETCD))
            self._reign = reign
        if view.health is not None and view.health is not self._round:
            self._round = view.health
            self._observe("health_check_duration_seconds", view.health.took)
            if len(view.health.primaries) > 1:
                self._add("health_check_disagreements")

    def held(self, target: str, wish: Desired) -> None:
        self._add("holds", target, str(wish.reason))

    def released(self, target: str, wish: Desired, seconds: float | None) -> None:
        if seconds is not None:
            self._observe("hold_duration_seconds", seconds)
        if wish.reason in HOLDS:
            self._add("holds_given_up", target)

    def hold_ended(self, target: str, why: str, seconds: float) -> None:
        self._add("holds_ended_by_agent", target)

    def left(self, target: str, databases: tuple[str, ...]) -> None:
        self._add("holds_left", target)

    def cut(self, target: str, count: int, how: str) -> None:
        self._add("connections_cut", target, amount=count)

    def switched(self, switch: Switch) -> None:
        known_by = {"switch_id": switch.id[-_MOST_OF_EXEMPLAR:]}
        self._add("switches", switch.target, exemplar=known_by)
        took = switch.confirmed_at - switch.heard_at
        self._observe("switch_duration_seconds", took, exemplar=known_by)
        for stage, seconds in switch.stages.items():
            self._observe("switch_stage_duration_seconds", seconds, stage, exemplar=known_by)
        if switch.corrects:
            self._add("corrections", switch.target)
        elif switch.route.source is Source.HEALTH_CHECK:
            self._add("leader_changes", str(Source.HEALTH_CHECK))

    def failed(self, target: str, error: WatcherError, failures: int) -> None:
        self._add("target_failures", target, type(error).__name__)

    def reads_led(self, target: str, wish: Desired, to: tuple[Endpoint, ...]) -> None:
        self._add("reads_led", target)

    def connected(self, target: str, problem: WatcherError | None) -> None:
        self._add("target_connects", target, "connected" if problem is None else "failed")

    def source_state(
        self, source: str, connected: bool, place: str, problem: WatcherError | None, reason: str = ""
    ) -> None:
        if source == "etcd" and not connected:
            self._add("etcd_sessions_ended", reason or "broken")

    def _add(
        self, name: str, *labels: str, amount: float = 1, exemplar: dict[str, str] | None = None
    ) -> None:
        counter = self._counts[name]
        assert isinstance(counter, Counter)  # noqa: S101 - of that kind in the table
        if self._is_served(name, labels):
            counter.labels(self._cluster, *labels).inc(amount, exemplar)

    def _observe(
        self, name: str, seconds: float, *labels: str, exemplar: dict[str, str] | None = None
    ) -> None:
        histogram = self._counts[name]
        assert isinstance(histogram, Histogram)  # noqa: S101 - of that kind in the table
        if self._is_served(name, labels):
            histogram.labels(self._cluster, *labels).observe(max(0.0, seconds), exemplar)

    def _is_served(self, name: str, labels: tuple[str, ...]) -> bool:
        """Whether it is not of a target that the settings named no longer, whose worker just ends."""
        return "target" not in FAMILIES[name].labels or labels[0] in self._targets


def exposition(each: Iterable[Metrics], accept: str) -> tuple[bytes, str]:
    """The metrics of several clusters in the format that a scraper accepts, and its content type."""
    try:
        encode, content_type = choose_encoder(accept)
    except (ValueError, TypeError):  # no version of the format that anybody knows
        encode, content_type = choose_encoder("")
    together = CollectorRegistry()
    ProcessCollector(registry=together)
    together.register(_Build())
    together.register(_Together(each))
    return encode(together), content_type


class _Build(Collector):
    """What runs here, whatever it follows."""

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client asks for it."""
        build = InfoMetricFamily("watcher_build", FAMILIES["build"].about)
        build.add_metric(
            (), {"version": version("pgbouncer-watcher"), "python_version": platform.python_version()}
        )
        yield build


class _Together(Collector):
    """Each family once, with the samples of every cluster."""

    def __init__(self, each: Iterable[Metrics]) -> None:
        self._each = each

    def describe(self) -> Iterable[Metric]:
        """None, lest the registry collect only to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client asks for it."""
        families: dict[str, Metric] = {}
        for metrics in self._each:
            for family in metrics.collect():
                known = families.setdefault(family.name, family)
                if known is not family:
                    known.samples += family.samples
        yield from families.values()


_MOST_OF_EXEMPLAR = 100  # characters; OpenMetrics allows 128 with the label's name


def _made(family: Family, registry: CollectorRegistry) -> Counter | Histogram:
    name = f"watcher_{family.name}"
    if family.kind == "counter":
        return Counter(name, family.about, family.labels, registry=registry)
    return Histogram(name, family.about, family.labels, buckets=family.buckets, registry=registry)


def _begin(family: Family, counted: Counter | Histogram, labels: tuple[str, ...]) -> None:
    """Series whose labels are known beforehand exist from the start, at zero."""
    if not family.has_free_label:
        counted.labels(*labels)
    for value in family.known:
        counted.labels(*labels, value)


# --- what is ------------------------------------------------------------------------------------------

_Rows = Iterable[tuple[tuple[str, ...], float | None]]


class _State(Collector):
    """Looked up at each scrape; a row without a value is left out."""

    def __init__(self, cluster: str, facts: Facts, calendar: Calendar) -> None:
        self._cluster = cluster
        self._facts = facts
        self._calendar = calendar

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client asks for it."""
        view, targets = self._facts.view(), self._facts.chronicle.judged(self._facts.wish)
        rows = self._of_settings() | self._of_etcd(view) | self._of_leader(view) | self._of_health(view)
        rows |= self._of_wishes(view, targets)
        rows |= {name: [((t.name,), of(t)) for t in targets] for name, of in _OF_TARGET.items()}
        rows["replica_unfit"] = [row for target in targets for row in _unfit(target)]
        rows["target_leader_info"] = [((t.name, _leader(t)), 1.0) for t in targets if _leader(t)]
        for name, values in rows.items():
            yield self._gauge(FAMILIES[name], values)

    def _gauge(self, family: Family, rows: _Rows) -> Metric:
        gauge = GaugeMetricFamily(family.full_name, family.about, labels=family.labels)
        for labels, value in rows:
            if value is not None:
                gauge.add_metric((self._cluster, *labels), value)
        return gauge

    def _of_settings(self) -> dict[str, _Rows]:
        well, at = self._facts.settings_read()
        return {
            "settings_last_read_successful": [((), float(well))],
            "settings_read_timestamp_seconds": [((), at)],
            "certificate_expiry_timestamp_seconds": [
                ((setting,), expires) for setting, expires in self._facts.certificates().items()
            ],
        }

    def _of_etcd(self, view: View) -> dict[str, _Rows]:
        sources = self._facts.chronicle.sources
        etcd, barrier, other = (sources.get(name) for name in ("etcd", "barrier", "other_site"))
        return {
            "etcd_watch_connected": [((), float(etcd is not None and etcd.connected))],
            "etcd_revision": [((), float(view.revision))],
            "etcd_last_contact_timestamp_seconds": [((), self._date(view.contact_at))],
            "barrier_connected": [((), None if barrier is None else float(barrier.connected))],
            "other_site_connected": [((), None if other is None else float(other.connected))],
        }

    def _of_leader(self, view: View) -> dict[str, _Rows]:
        reign = leadership(view)
        name = reign.name if isinstance(reign, Leadership) else None
        return {
            "leader_known": [((), float(name is not None))],
            "leader_info": [] if name is None else [((name,), 1.0)],
            "leader_last_change_timestamp_seconds": [
                ((), None if name is None else self._facts.chronicle.reign_since)
            ],
        }

    def _of_health(self, view: View) -> dict[str, _Rows]:
        found = view.health
        return {
            "health_check_nodes": [((answer,), _answers(found, answer)) for answer in ANSWERS],
            "health_check_last_round_timestamp_seconds": [
                ((), None if found is None else self._date(found.at))
            ],
        }

    def _of_wishes(self, view: View, targets: tuple[TargetState, ...]) -> dict[str, _Rows]:
        reasons = {target.wish.reason for target in targets if target.wish is not None}
        keeps_off, stands = paused(view), self._facts.standing()
        together = stands is Standing.TOGETHER
        return {
            "state": [((str(reason),), float(reason in reasons)) for reason in Reason],
            "active": [((), None if together else float(stands is Standing.ACTIVE))],
            "paused": [((), float(keeps_off is not None))],
            "paused_since_timestamp_seconds": [((), None if keeps_off is None else keeps_off.since)],
        }

    def _date(self, moment: float | None) -> float | None:
        return None if moment is None else self._calendar.of(moment)


def _answers(found: HealthRound | None, answer: str) -> float | None:
    if found is None:
        return None
    if answer == "failed":
        return float(len(found.failures))
    return float(sum(str(report.role) == answer for report in found.reports))


def _leader(target: TargetState) -> str:
    stamp = target.actual.stamp if target.actual is not None else None
    return "" if stamp is None else stamp.leader


def _unfit(target: TargetState) -> _Rows:
    if target.actual is None or not target.actual.reads or target.wish is None:
        return
    for name, problem in unfit(target.wish.candidates, in_use(target.actual)).items():
        yield (target.name, name, problem), 1.0


def _readers(target: TargetState) -> float | None:
    if target.actual is None or not target.actual.reads:
        return None
    return float(len(in_use(target.actual)))


def _can_hold(target: TargetState) -> float | None:
    actual = target.actual
    if actual is None or not (actual.can_hold or actual.hold_problem is not None):
        return None
    if target.failure is not None and actual.can_hold:  # nobody knows just now
        return None
    return float(actual.can_hold)


_OF_TARGET: Mapping[str, Callable[[TargetState], float | None]] = {
    "target_in_sync": lambda target: float(target.in_sync_since is not None),
    "target_held": lambda target: float(target.held_since is not None),
    "target_held_since_timestamp_seconds": lambda target: target.held_since,
    "target_can_hold": lambda target: _can_hold(target),
    "target_readers": lambda target: _readers(target),
    "target_connected": lambda target: float(target.seen_at is not None and target.failure is None),
    "target_last_success_timestamp_seconds": lambda target: target.well_at,
    "target_failing_since_timestamp_seconds": lambda target: target.failing_since,
}
