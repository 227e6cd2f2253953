"""What the log, the metrics, the status and the page say of databases for reads."""

import json
from dataclasses import replace
from io import StringIO

from prometheus_client.parser import text_string_to_metric_families as parse

from tests.unit.expose_scene import EPOCH, LEADS, OLD, PRIMARY, Clock, actual, chronicle, view, well
from watcher.decide.model import Actual, Candidate, ConsoleDatabase, Database, Endpoint, Readers, Role, Unfit
from watcher.expose import logs
from watcher.expose.chronicle import Chronicle
from watcher.expose.logs import LogReporter
from watcher.expose.metrics import Facts, Metrics, exposition
from watcher.expose.page import page_of
from watcher.expose.status import Status, Target, status_of

OTHER = Endpoint("10.0.0.3", 5432)
BOTH = Endpoint(f"{OLD.host},{OTHER.host}", 5432)
WISH = replace(
    LEADS,
    readers=Readers((OLD, OTHER)),
    candidates=(
        Candidate("pg1", OLD, None, stays=True),
        Candidate("pg2", PRIMARY, Unfit.LEADER),
        Candidate("pg3", OTHER, None, stays=True),
        Candidate("pg4", None, Unfit.LAGS),
    ),
)


def reading(file: Endpoint = BOTH, shown: Endpoint = BOTH) -> Actual:
    """A target that leads writes to the primary, and reads there."""
    databases = (Database("app", PRIMARY), Database("app_ro", file, Role.REPLICA))
    rows = (
        ConsoleDatabase("app", PRIMARY.host, PRIMARY.port),
        ConsoleDatabase("app_ro", shown.host, shown.port),
    )
    return replace(actual(), databases=databases, shown=rows)


def told(clock: Clock, seen: Actual | None = None) -> Chronicle:
    made = chronicle(clock)
    made.looked("pgb1", WISH, seen or reading(), None)
    return made


def status(clock: Clock, made: Chronicle) -> Status:
    return status_of("demo", view(), made, clock.calendar(), EPOCH + 900.0)


def target(clock: Clock, made: Chronicle) -> Target:
    (one,) = status(clock, made).targets
    return one


def samples(
    clock: Clock, made: Chronicle, metrics: Metrics | None = None
) -> set[tuple[str, tuple[str, ...], float]]:
    facts = Facts(view, made)
    metrics = metrics or Metrics("demo", ("pgb1",), facts, clock.calendar())
    return {
        (
            sample.name,
            tuple(value for name, value in sorted(sample.labels.items()) if name != "cluster"),
            sample.value,
        )
        for family in parse(exposition([metrics], "")[0].decode())
        for sample in family.samples
    }


def test_the_log_says_whom_reads_go_to_and_why_not_to_others() -> None:
    stream = StringIO()
    logs.set_up("INFO", "json", stream)
    LogReporter("demo", lambda: 0.0).reads_led("pgb1", WISH, (OLD, OTHER))
    logs.flush(5)
    logs.set_up("INFO", "json", StringIO())
    line = json.loads(stream.getvalue())
    assert (line["event"], line["target"], line["level"]) == ("reads", "pgb1", "INFO")
    assert line["servers"] == ["10.0.0.1:5432", "10.0.0.3:5432"]
    assert line["others"] == {"pg2": "leader", "pg4": "lags"}
    assert line["message"] == "reads go to 10.0.0.1:5432, 10.0.0.3:5432; not to pg2 (leader), pg4 (lags)"


def test_the_status_says_it_too() -> None:
    clock = Clock()
    one = target(clock, told(clock))
    assert one.health == "ok"
    assert (one.file, one.pgbouncer) == (("10.0.0.2:5432",), ("10.0.0.2:5432",))
    assert one.reads == ("10.0.0.1:5432", "10.0.0.3:5432")
    assert one.not_for_reads == {"pg2": "leader", "pg4": "lags"}


def test_the_page_has_a_row_of_it() -> None:
    clock = Clock()
    assert "10.0.0.1:5432, 10.0.0.3:5432; not pg2 (leader), pg4 (lags)" in page_of(status(clock, told(clock)))


def test_where_there_is_no_database_for_reads_nothing_is_said_of_it() -> None:
    clock = Clock()
    made = chronicle(clock)
    well(made)
    assert (target(clock, made).reads, target(clock, made).not_for_reads) == ((), {})
    assert not any(
        name in ("watcher_target_readers", "watcher_replica_unfit") for name, _, _ in samples(clock, made)
    )


def test_reads_that_lead_elsewhere_do_not_make_a_target_wrong_for_writes() -> None:
    """A load balancer goes by that."""
    clock = Clock()
    one = target(clock, told(clock, reading(shown=PRIMARY)))
    assert one.health == "failing"
    assert "not its reads" in one.words


def test_the_metrics_say_how_many_serve_and_why_others_do_not() -> None:
    clock = Clock()
    found = samples(clock, told(clock))
    assert ("watcher_target_readers", ("pgb1",), 2.0) in found
    unfit = {labels for name, labels, _ in found if name == "watcher_replica_unfit"}
    assert unfit == {("pg2", "leader", "pgb1"), ("pg4", "lags", "pgb1")}


def test_each_time_that_reads_are_led_elsewhere_counts() -> None:
    clock = Clock()
    made = told(clock)
    metrics = Metrics("demo", ("pgb1",), Facts(view, made), clock.calendar())
    metrics.reads_led("pgb1", WISH, (OLD,))
    metrics.reads_led("pgb1", WISH, (OTHER,))
    assert ("watcher_reads_led_total", ("pgb1",), 2.0) in samples(clock, made, metrics)
