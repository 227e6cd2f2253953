"""What a scrape says, by prometheus_client's own parser."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.unit.expose_scene import (
    EPOCH,
    LEADS,
    LOST,
    NO_LEADER,
    OLD,
    PAUSED,
    ROUTE,
    Clock,
    actual,
    chronicle,
    lost,
    switch,
    view,
    well,
)
from watcher.decide.errors import SourceError, WatcherError
from watcher.decide.model import Desired, Held, NodeReport, Paused, Reason, Role, Source, View
from watcher.decide.precedence import Standing
from watcher.expose.audience import everyone
from watcher.expose.chronicle import Chronicle
from watcher.expose.families import FAMILIES, SESSION_ENDS
from watcher.expose.metrics import Facts, Metrics, exposition
from watcher.observe.etcd_client import Reason as SessionEnd

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def families(world: "World") -> Iterator[Metric]:
    """All of them, as OpenMetrics."""
    text = exposition([world.metrics], OPENMETRICS)[0].decode()
    yield from openmetrics.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]


class World:
    """Metrics of the targets pgb1 and pgb2, and what they look at."""

    def __init__(self, *targets: str) -> None:
        self.clock = Clock()
        self.view: View = view()
        self.wish: Desired | None = None
        self.stands = Standing.TOGETHER
        self.told: Chronicle = chronicle(self.clock, *(targets or ("pgb1", "pgb2")))
        facts = Facts(
            lambda: self.view,
            self.told,
            wish=lambda _: self.wish,
            certificates=lambda: {"etcd.tls.ca": EPOCH},
            settings_read=lambda: (False, EPOCH + 7),
            standing=lambda: self.stands,
        )
        self.metrics = Metrics("demo", targets or ("pgb1", "pgb2"), facts, self.clock.calendar())

    def samples(self) -> Mapping[str, float]:
        """Each sample as `name{label="value"}` without the cluster's label, which all have."""
        found: dict[str, float] = {}
        for family in parse(exposition([self.metrics], "")[0].decode()):
            for sample in family.samples:
                labels = {name: value for name, value in sample.labels.items() if name != "cluster"}
                if family.name.startswith("watcher_") and family.name != "watcher_build_info":
                    assert sample.labels["cluster"] == "demo"
                inside = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
                found[f"{sample.name.removeprefix('watcher_')}{{{inside}}}"] = sample.value
        return found


@pytest.fixture
def world() -> World:
    return World()


def test_what_is_known_beforehand_is_there_at_zero(world: World) -> None:
    samples = world.samples()
    for name in (
        "switches_total{target=pgb1}",
        "switch_duration_seconds_count{}",
        "switch_stage_duration_seconds_count{stage=ready}",
        "holds_total{reason=primary_refuses,target=pgb1}",
        "etcd_sessions_ended_total{reason=no_quorum}",
        "leader_changes_total{source=health_check}",
        "health_check_disagreements_total{}",
        "target_in_sync{target=pgb1}",
        "target_connects_total{result=failed,target=pgb2}",
    ):
        assert samples[name] == 0, name


def test_only_families_of_the_table_are_told_and_all_that_have_something_to_tell(world: World) -> None:
    full(world)
    told = {family.name for family in families(world) if family.name.startswith("watcher_")}
    assert told == {f"watcher_{name}" for name in FAMILIES}
    assert all(
        set(sample.labels) - {"le"} == set(FAMILIES[family.name.removeprefix("watcher_")].labels)
        for family in families(world)
        if family.name.startswith("watcher_")
        for sample in family.samples
    )


def full(world: World) -> None:
    """Something of everything has happened."""
    report = NodeReport("pg2", "http://10.0.0.2:8008", Role.PRIMARY, "running", 3)
    world.view = view(
        paused=Paused("dba", "why", EPOCH), reports=(report, report), failures={"http://10.0.0.9:8008": "no"}
    )
    listener = everyone(world.told, world.metrics)
    world.metrics.viewed(world.view)
    listener.source_state("etcd", False, "a", SourceError("etcd a", "x"), "silent")
    listener.source_state("barrier", True, "a", None)
    listener.looked("pgb1", NO_LEADER, actual(held=Held(("app",), 998.0, 1050.0)), None)
    well(world.told)
    listener.looked("pgb1", NO_LEADER, actual(held=Held(("app",), 998.0, 1050.0)), None)
    lost(world.told, "pgb2")
    listener.held("pgb1", NO_LEADER)
    listener.released("pgb1", LEADS, 1.5)
    listener.hold_ended("pgb1", "limit", 2.0)
    listener.left("pgb1", ("app",))
    listener.cut("pgb1", 3, "KILL_CLIENT")
    listener.switched(switch())
    listener.failed("pgb2", LOST, 1)
    listener.connected("pgb1", None)
    listener.connected("pgb2", LOST)


def test_what_happened_is_counted_where_it_happened(world: World) -> None:
    full(world)
    samples = world.samples()
    expected = {
        "switches_total{target=pgb1}": 1,
        "switches_total{target=pgb2}": 0,
        "corrections_total{target=pgb1}": 0,
        "switch_duration_seconds_sum{}": pytest.approx(0.2),
        "switch_stage_duration_seconds_sum{stage=ready}": pytest.approx(0.1),
        "holds_total{reason=no_leader,target=pgb1}": 1,
        "hold_duration_seconds_sum{}": 1.5,
        "holds_ended_by_agent_total{target=pgb1}": 1,
        "holds_given_up_total{target=pgb1}": 0,
        "holds_left_total{target=pgb1}": 1,
        "connections_cut_total{target=pgb1}": 3,
        "target_failures_total{kind=TargetUnreachable,target=pgb2}": 1,
        "target_connects_total{result=connected,target=pgb1}": 1,
        "target_connects_total{result=failed,target=pgb2}": 1,
        "etcd_sessions_ended_total{reason=silent}": 1,
        "leader_changes_total{source=etcd}": 0,
        "health_check_duration_seconds_count{}": 1,
        "health_check_disagreements_total{}": 1,
        "health_check_nodes{answer=failed}": 1,
        "health_check_nodes{answer=primary}": 2,
        "health_check_nodes{answer=replica}": 0,
        "paused{}": 1,
        "paused_since_timestamp_seconds{}": EPOCH,
        "barrier_connected{}": 1,
        "etcd_watch_connected{}": 0,
        "target_held_since_timestamp_seconds{target=pgb1}": EPOCH + 998.0,
        "target_can_hold{target=pgb1}": 1,
        "target_failing_since_timestamp_seconds{target=pgb2}": EPOCH + 1000.0,
        "target_leader_info{leader=pg2,target=pgb1}": 1,
        "certificate_expiry_timestamp_seconds{setting=etcd.tls.ca}": EPOCH,
        "settings_last_read_successful{}": 0,
        "settings_read_timestamp_seconds{}": EPOCH + 7,
    }
    assert {name: samples[name] for name in expected} == expected


def test_the_leader_is_told_while_it_leads_and_no_longer(world: World) -> None:
    for leader in ("pg1", "pg2"):
        world.told.viewed(view(leader))
    samples = world.samples()
    assert samples["leader_info{leader=pg2}"] == 1
    assert samples["leader_last_change_timestamp_seconds{}"] == EPOCH + 995.0
    assert samples["etcd_last_contact_timestamp_seconds{}"] == EPOCH + 999.0
    world.view = view(leader=None)
    samples = world.samples()
    assert samples["leader_known{}"] == 0
    assert not [name for name in samples if name.startswith(("leader_info", "leader_last_change"))]


def test_a_reign_counts_once_however_often_its_view_comes_and_the_first_is_no_change(world: World) -> None:
    for leader in ("pg2", "pg2", None, "pg2", "pg1"):
        world.metrics.viewed(view(leader))
    assert world.samples()["leader_changes_total{source=etcd}"] == 1


def test_who_is_active_is_told_where_a_lease_says_so_and_only_there(world: World) -> None:
    assert "active{}" not in world.samples()
    for world.stands, value in ((Standing.ACTIVE, 1), (Standing.STANDBY, 0), (Standing.NOBODY, 0)):
        assert world.samples()["active{}"] == value


def test_the_state_is_one_of_all_reasons(world: World) -> None:
    world.told.looked("pgb1", PAUSED, actual(), None)
    samples = world.samples()
    assert [reason for reason in Reason if samples[f"state{{reason={reason}}}"]] == [Reason.PAUSED]


def test_a_hold_that_ends_with_nowhere_to_go_counts_as_given_up(world: World) -> None:
    world.metrics.released("pgb1", NO_LEADER, 60.0)
    assert world.samples()["holds_given_up_total{target=pgb1}"] == 1


def test_a_hold_that_another_ended_has_no_duration(world: World) -> None:
    world.metrics.released("pgb1", LEADS, None)
    assert world.samples()["hold_duration_seconds_count{}"] == 0
    world.metrics.released("pgb1", LEADS, 1.5)
    assert world.samples()["hold_duration_seconds_count{}"] == 1


def test_whose_clients_may_not_be_held_says_nothing_of_it(world: World) -> None:
    shown = actual()
    told: WatcherError = LOST
    for can_hold, problem, expected in ((True, None, 1.0), (False, told, 0.0), (False, None, None)):
        world.told.looked("pgb1", LEADS, replace(shown, can_hold=can_hold, hold_problem=problem), None)
        assert world.samples().get("target_can_hold{target=pgb1}") == expected


def test_who_could_be_held_and_cannot_be_reached_says_nothing_of_it(world: World) -> None:
    well(world.told)
    lost(world.told)
    assert "target_can_hold{target=pgb1}" not in world.samples()


def test_a_correction_is_a_switch_and_no_change_of_leader(world: World) -> None:
    world.metrics.switched(switch(source=Source.HEALTH_CHECK))
    world.metrics.switched(switch(source=Source.HEALTH_CHECK, corrects="a tool"))
    samples = world.samples()
    assert samples["switches_total{target=pgb1}"] == 2
    assert samples["corrections_total{target=pgb1}"] == 1
    assert samples["corrections_total{target=pgb2}"] == 0
    assert samples["leader_changes_total{source=health_check}"] == 1


def test_a_long_switch_id_has_an_exemplar_all_the_same(world: World) -> None:
    long = switch()
    stamp = replace(long.route.stamp, leader="x" * 256)
    world.metrics.switched(replace(long, route=replace(long.route, stamp=stamp)))
    assert world.samples()["switches_total{target=pgb1}"] == 1


def test_what_is_wished_for_now_counts_and_not_what_a_worker_is_busy_with(world: World) -> None:
    well(world.told)
    assert world.samples()["target_in_sync{target=pgb1}"] == 1
    world.wish = replace(LEADS, route=replace(ROUTE, endpoint=OLD))
    assert world.samples()["target_in_sync{target=pgb1}"] == 0


def test_an_exemplar_leads_from_a_bucket_to_the_switch(world: World) -> None:
    world.metrics.switched(switch(source=Source.ETCD))
    found = [
        sample.exemplar.labels
        for family in families(world)
        for sample in family.samples
        if sample.exemplar is not None and family.name == "watcher_switch_duration_seconds"
    ]
    assert found == [{"switch_id": "pg2-42"}]


def test_series_of_a_target_that_was_taken_out_go_and_its_last_words_are_not_counted(world: World) -> None:
    full(world)
    world.metrics.serve(["pgb2"])
    world.told.keep_only(["pgb2"])
    world.metrics.switched(switch("pgb1"))
    assert not [name for name in world.samples() if "target=pgb1" in name]
    assert world.samples()["switches_total{target=pgb2}"] == 0


def test_every_end_of_a_session_with_etcd_is_known_beforehand() -> None:
    assert set(SESSION_ENDS) == {str(end) for end in SessionEnd} - {str(SessionEnd.STARTED)}


def test_no_series_says_when_it_was_made(world: World) -> None:
    assert "_created" not in exposition([world.metrics], OPENMETRICS)[0].decode()
