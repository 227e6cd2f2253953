"""Each alert fires when it should and is silent when it should be, by promtool; and each is documented."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.processes import run
from watcher.decide.model import Reason
from watcher.expose.families import FAMILIES

REPOSITORY = Path(__file__).parents[2]
RULES = REPOSITORY / "deploy/prometheus/alerts.yaml"
RUNBOOKS = REPOSITORY / "docs/runbooks"
GROUP: dict[str, Any] = yaml.safe_load(RULES.read_text())["groups"][0]
ALERTS: list[dict[str, Any]] = GROUP["rules"]
NAMES = [alert["alert"] for alert in ALERTS]

AT = '{instance="w1:9632",cluster="demo"'
T1, T2 = f'{AT},target="pgb1"}}', f'{AT},target="pgb2"}}'
WATCHER = f"{AT}}}"
OTHERS_CORRECTIONS = f"watcher_corrections_total{T1.replace('w1:', 'w2:')}"


def state(reason: str) -> dict[str, str]:
    """`watcher_state`, for ever of that reason."""
    return {f'watcher_state{AT},reason="{one}"}}': "1x600" if one == reason else "0x600" for one in Reason}


WELL = {
    'up{job="pgbouncer-watcher",instance="w1:9632"}': "1x600",
    f"watcher_leader_known{WATCHER}": "1x600",
    f'watcher_leader_info{AT},leader="pg2"}}': "1x600",
    'patroni_primary{instance="pg1:8008",scope="demo",name="pg1"}': "0x600",
    'patroni_primary{instance="pg2:8008",scope="demo",name="pg2"}': "1x600",
    f"watcher_etcd_watch_connected{WATCHER}": "1x600",
    f"watcher_etcd_last_contact_timestamp_seconds{WATCHER}": "0+15x600",
    f"watcher_paused{WATCHER}": "0x600",
    f"watcher_settings_last_read_successful{WATCHER}": "1x600",
    f'watcher_certificate_expiry_timestamp_seconds{AT},setting="etcd.tls.ca"}}': "31536000x600",
    **state("leader"),
    **{
        f"watcher_{name}{target}": values
        for target in (T1, T2)
        for name, values in {
            "target_in_sync": "1x600",
            "target_held": "0x600",
            "target_can_hold": "1x600",
            "target_last_success_timestamp_seconds": "0+15x600",
            "holds_given_up_total": "0x600",
            "corrections_total": "0x600",
        }.items()
    },
    f'watcher_target_leader_info{AT},target="pgb1",leader="pg2"}}': "1x600",
    f'watcher_target_leader_info{AT},target="pgb2",leader="pg2"}}': "1x600",
    f'watcher_leader_changes_total{AT},source="etcd"}}': "1x600",
    f'watcher_switch_duration_seconds_bucket{AT},le="5"}}': "3x600",
    f'watcher_switch_duration_seconds_bucket{AT},le="10"}}': "3x600",
    f'watcher_switch_duration_seconds_bucket{AT},le="+Inf"}}': "3x600",
}
"""All that the rules look at, one sample each 15 s, when nothing is wrong."""

NEVER: Mapping[str, str] = {}
GONE = "_x600"


@dataclass(frozen=True)
class Case:
    """What differs from all being well; which alerts that makes fire at `minutes`, and none else then."""

    what: str
    series: Mapping[str, str]
    minutes: float
    firing: frozenset[str]


def case(what: str, minutes: float, series: Mapping[str, str], *firing: str) -> Case:
    return Case(what, series, minutes, frozenset(firing))


LOST = {
    f"watcher_target_in_sync{T1}": "0x600",
    f"watcher_target_can_hold{T1}": GONE,
    f"watcher_target_last_success_timestamp_seconds{T1}": "0x600",
    f"watcher_target_failing_since_timestamp_seconds{T1}": "0x600",
}
BEHIND = {
    f'watcher_target_leader_info{AT},target="pgb1",leader="pg2"}}': GONE,
    f'watcher_target_leader_info{AT},target="pgb1",leader="pg1"}}': "1x600",
}
UNKNOWN = {
    f"watcher_leader_known{WATCHER}": "0x600",
    f'watcher_leader_info{AT},leader="pg2"}}': GONE,
    'patroni_primary{instance="pg2:8008",scope="demo",name="pg2"}': "0x600",
}
SILENT = {
    f"watcher_etcd_watch_connected{WATCHER}": "0x600",
    f"watcher_etcd_last_contact_timestamp_seconds{WATCHER}": "0x600",
}
PAUSED = {
    **{name: values.replace("x600", "x1200") for name, values in WELL.items()},
    **{name: values.replace("x600", "x1200") for name, values in state("paused").items()},
    f"watcher_paused{WATCHER}": "1x1200",
}
HELD = {
    f"watcher_target_held{T1}": "1x600",
    f"watcher_target_held_since_timestamp_seconds{T1}": "0x600",
    f"watcher_target_in_sync{T1}": "0x600",
}
NOWHERE = {f"watcher_target_in_sync{target}": "0x600" for target in (T1, T2)}
"""PgBouncers that do not lead to a leader that takes clients, which is no fault of theirs."""


def switches(quick: int, slow: int) -> dict[str, str]:
    """So many switches of a target in the third minute."""
    return {
        f'watcher_switch_duration_seconds_bucket{AT},le="{le}"}}': f"3x10 {3 + count}x600"
        for le, count in {"5": quick, "10": quick + slow, "+Inf": quick + slow}.items()
    }


def expires_in(days: int) -> dict[str, str]:
    """A certificate, from the first moment on."""
    name = f'watcher_certificate_expiry_timestamp_seconds{AT},setting="etcd.tls.ca"}}'
    return {name: f"{days * 86400}x600"}


EVERY_TEN = " ".join(f"{count}x39" for count in range(16))
"""A counter of what happens once in ten minutes."""

CASES = [
    case("all is well", 60, NEVER),
    case(
        "a watcher is away for a moment",
        0.75,
        {'up{job="pgbouncer-watcher",instance="w1:9632"}': "0x3 1x600"},
    ),
    case("a watcher is gone", 2, {'up{job="pgbouncer-watcher",instance="w1:9632"}': "0x600"}, "WatcherDown"),
    case(
        "a watcher's address is not known any more",
        5,
        {'up{job="pgbouncer-watcher",instance="w1:9632"}': "1x4 stale"},
        "WatcherDown",
    ),
    case("a target is lost, at first", 0.25, LOST),
    case("a target is lost", 1, LOST, "WatcherTargetOutOfSync"),
    case("a target is lost for minutes", 4, LOST, "WatcherTargetOutOfSync", "WatcherTargetFailing"),
    case("a target is out of sync while it is held", 0.5, HELD),
    case("… and held for long", 2, HELD, "WatcherHeldTooLong"),
    case("somebody works while paused", 225, PAUSED),
    case("… and the pause is forgotten", 250, PAUSED, "WatcherPaused"),
    case(
        "a target is out of sync while paused",
        10,
        {**PAUSED, f"watcher_target_in_sync{T1}": "0x1200"},
        "WatcherTargetOutOfSync",
    ),
    case(
        "there is no leader, and no target leads to it",
        3,
        {**UNKNOWN, **NOWHERE, **state("no_leader")},
        "WatcherNoLeader",
    ),
    case(
        "the watcher has heard nothing yet",
        3,
        {**UNKNOWN, **NOWHERE, **SILENT, **state("starting")},
        "WatcherEtcdUnheard",
    ),
    case(
        "PgBouncers are dead while nobody tells who leads",
        3,
        {**SILENT, **NOWHERE, **state("blind")},
        "WatcherBlind",
        "WatcherEtcdUnheard",
    ),
    case(
        "a target is lost while the health check leads, by a watcher that was started meanwhile",
        3,
        {**LOST, **UNKNOWN, **SILENT, **state("fallback")},
        "WatcherTargetOutOfSync",
        "WatcherTargetFailing",
        "WatcherEtcdUnheard",
        "WatcherFallbackInUse",
    ),
    case("a leader without an address", 2, {**NOWHERE, **state("leader_unusable")}, "WatcherLeaderUnusable"),
    case("a leader that is not ready", 2, state("leader_not_ready"), "WatcherLeaderUnusable"),
    case("a leader that refuses", 2, state("primary_refuses"), "WatcherLeaderUnusable"),
    case(
        "its key cannot be read",
        2,
        {**UNKNOWN, **NOWHERE, **state("leader_unusable")},
        "WatcherLeaderUnusable",
    ),
    case(
        "etcd has no key of the cluster",
        2,
        {**UNKNOWN, **NOWHERE, **state("no_cluster")},
        "WatcherLeaderUnusable",
    ),
    case(
        "what ails the leader changes",
        1.5,
        {
            f'watcher_state{AT},reason="leader_unusable"}}': "1x2 0x600",
            f'watcher_state{AT},reason="leader_not_ready"}}': "0x2 1x600",
        },
        "WatcherLeaderUnusable",
    ),
    case(
        "a planned switchover",
        0.75,
        {
            f'watcher_state{AT},reason="leader"}}': "0x3 1x600",
            f'watcher_state{AT},reason="leader_not_ready"}}': "1x3 0x600",
        },
    ),
    case(
        "a target of a standby cluster leads nowhere of ours",
        10,
        {f"watcher_target_in_sync{T1}": "0x600", **state("standby_cluster")},
    ),
    case(
        "a target fails and is in sync",
        4,
        {**LOST, f"watcher_target_in_sync{T1}": "1x600"},
        "WatcherTargetFailing",
    ),
    case(
        "a target leads where it should, and its file cannot be written",
        4,
        {f"watcher_target_failing_since_timestamp_seconds{T1}": "0x600"},
        "WatcherTargetFailing",
    ),
    case(
        "a host that lets nobody be held dies, and is taken for what it was then",
        8,
        {**LOST, f"watcher_target_can_hold{T1}": "0x600", f"watcher_target_in_sync{T1}": "1x600"},
        "WatcherTargetFailing",
        "WatcherTargetCannotHold",
    ),
    case("targets switch one after the other", 0.25, BEHIND),
    case("one target is left behind", 2, BEHIND, "WatcherTargetsDisagree"),
    case(
        "another cluster has another leader",
        2,
        {'watcher_target_leader_info{instance="w2:9632",cluster="other",target="pgb9",leader="x"}': "1x600"},
    ),
    case(
        "another node says that it is the primary",
        3,
        {
            'patroni_primary{instance="pg1:8008",scope="demo",name="pg1"}': "1x600",
            'patroni_primary{instance="pg2:8008",scope="demo",name="pg2"}': "0x600",
        },
        "WatcherLeaderDiffers",
    ),
    case(
        "… by the name of Patroni 3",
        3,
        {
            'patroni_primary{instance="pg1:8008",scope="demo",name="pg1"}': GONE,
            'patroni_primary{instance="pg2:8008",scope="demo",name="pg2"}': GONE,
            'patroni_master{instance="pg1:8008",scope="demo",name="pg1"}': "1x600",
        },
        "WatcherLeaderDiffers",
    ),
    case(
        "Patroni's own metrics are not scraped",
        10,
        {
            'patroni_primary{instance="pg1:8008",scope="demo",name="pg1"}': GONE,
            'patroni_primary{instance="pg2:8008",scope="demo",name="pg2"}': GONE,
        },
    ),
    case(
        "another cluster's primary has another name",
        10,
        {'patroni_primary{instance="x:8008",scope="other",name="pgx"}': "1x600"},
    ),
    case("there is no leader for a moment", 0.5, {**UNKNOWN, **state("no_leader")}),
    case("there is no leader", 3, {**UNKNOWN, **state("no_leader")}, "WatcherNoLeader"),
    case("nobody tells who leads", 2, {**SILENT, **state("blind")}, "WatcherBlind", "WatcherEtcdUnheard"),
    case("etcd is away for a moment", 0.5, SILENT),
    case("etcd is silent, at first", 0.9, {**SILENT, **state("fallback")}),
    case("etcd is silent", 3, {**SILENT, **state("fallback")}, "WatcherEtcdUnheard", "WatcherFallbackInUse"),
    case(
        "a watch stands and says nothing",
        4,
        {f"watcher_etcd_last_contact_timestamp_seconds{WATCHER}": "0x600"},
        "WatcherEtcdUnheard",
    ),
    case("a hold cannot be made for a moment", 3, {f"watcher_target_can_hold{T1}": "0x600"}),
    case(
        "a hold cannot be made",
        8,
        {
            f"watcher_target_can_hold{T1}": "0x600",
            f"watcher_target_failing_since_timestamp_seconds{T1}": "0x600",
        },
        "WatcherTargetCannotHold",
    ),
    case("holds are off", 60, {f"watcher_target_can_hold{target}": GONE for target in (T1, T2)}),
    case(
        "there is no leader that the watcher knows of, since it does not hear etcd",
        3,
        {**UNKNOWN, **SILENT, **state("fallback")},
        "WatcherEtcdUnheard",
        "WatcherFallbackInUse",
    ),
    case("a hold was given up", 5, {f"watcher_holds_given_up_total{T1}": "0x10 1x600"}, "WatcherHoldGivenUp"),
    case(
        "… beside PgBouncer, while the watcher was still trying",
        5,
        {f"watcher_holds_ended_by_agent_total{T1}": "0x10 1x600"},
        "WatcherHoldGivenUp",
    ),
    case("… long ago", 30, {f"watcher_holds_given_up_total{T1}": "0x10 1x600"}),
    case("somebody edited a block by hand", 10, {f"watcher_corrections_total{T1}": "0x10 1x600"}),
    case("… three times", 10, {f"watcher_corrections_total{T1}": "0x10 1x4 2x4 3x600"}),
    case(
        "two hands on one block",
        10,
        {f"watcher_corrections_total{T1}": "0x10 1x4 2x4 3x4 4x600"},
        "WatcherTargetContested",
    ),
    case("… long ago", 40, {f"watcher_corrections_total{T1}": "0x10 1x4 2x4 3x4 4x600"}),
    case(
        "… who meet the one now and the other then",
        15,
        {f"watcher_corrections_total{T1}": "0x10 1x4 2x600", OTHERS_CORRECTIONS: "0x10 0x8 1x4 2x600"},
        "WatcherTargetContested",
    ),
    case(
        "a tool that puts its file there every ten minutes", 60, {f"watcher_corrections_total{T1}": EVERY_TEN}
    ),
    case("one switch in five is slow", 10, switches(quick=16, slow=4), "WatcherSwitchSlow"),
    case("one in twenty is", 10, switches(quick=19, slow=1)),
    case("switches are quick", 10, switches(quick=3, slow=0)),
    case("two switchovers and back", 10, {f'watcher_leader_changes_total{AT},source="etcd"}}': "1x10 5x600"}),
    case(
        "the leader changes again and again",
        10,
        {f'watcher_leader_changes_total{AT},source="etcd"}}': "1x10 2 3 4 5 6 7x600"},
        "WatcherFlapping",
    ),
    case(
        "the other site is not heard",
        3,
        {f"watcher_other_site_connected{WATCHER}": "0x600"},
        "WatcherOtherSiteUnheard",
    ),
    case("… for a moment", 3, {f"watcher_other_site_connected{WATCHER}": "0x2 1x600"}),
    case(
        "the standby cluster of clients that are at the other site has no leader of its own",
        3,
        {**UNKNOWN, **state("leader")},
    ),
    case("a certificate has 15 days to live", 15, expires_in(15)),
    case("a certificate has 13 days to live", 15, expires_in(13), "WatcherCertificateExpiring"),
    case(
        "settings were refused",
        2,
        {f"watcher_settings_last_read_successful{WATCHER}": "0x600"},
        "WatcherSettingsRefused",
    ),
]


def test_the_rules_are_right_and_no_two_are_the_same() -> None:
    run(["promtool", "check", "rules", "--lint-fatal", RULES])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_these_alerts_fire_and_no_other(case: Case, tmp_path: Path) -> None:
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(case.firing)]
    question = {"expr": FIRING, "eval_time": f"{case.minutes * 60:g}s", "exp_samples": expected}
    promtool_agrees(tmp_path, {**WELL, **case.series}, "15s", question)


FIRING = 'count by (alertname) (ALERTS{alertstate="firing"})'


def promtool_agrees(
    folder: Path, series: Mapping[str, str], interval: str, *questions: Mapping[str, Any]
) -> None:
    """The rules, looked at as often as their group says, of samples that are `interval` apart."""
    test = {
        "interval": interval,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": list(questions),
    }
    tests = {"rule_files": [str(RULES)], "evaluation_interval": GROUP["interval"], "tests": [test]}
    file = folder / "tests.yaml"
    file.write_text(yaml.safe_dump(tests))
    run(["promtool", "test", "rules", file])


@pytest.mark.parametrize("begins", range(60, 120, 3))
def test_a_hold_of_a_minute_is_told_of_before_it_ends_whenever_it_begins(begins: int, tmp_path: Path) -> None:
    """Scraped every 5 s, as scrape.yaml has it."""
    scraped = -(-begins // 5)  # the first scrape that sees it
    since = {f"watcher_target_held_since_timestamp_seconds{T1}": f"_x{scraped} {begins}x11 _x60"}
    told = 'max_over_time(ALERTS{alertname="WatcherHeldTooLong",alertstate="firing"}[2m])'
    labels = f'{{alertname="WatcherHeldTooLong",alertstate="firing",severity="critical",{T1[1:]}'
    promtool_agrees(
        tmp_path,
        since,
        "5s",
        {"expr": told, "eval_time": f"{begins + 60}s", "exp_samples": [{"labels": labels, "value": 1}]},
        {"expr": told.replace("[2m]", "[1s]"), "eval_time": f"{begins + 40}s", "exp_samples": []},
    )


@pytest.mark.parametrize(("times", "fires"), [(3, False), (4, True)], ids=["three", "four"])
def test_more_than_three_corrections_are_four_wherever_between_two_scrapes_they_fall(
    times: int, fires: bool, tmp_path: Path
) -> None:
    """`increase` goes beyond the samples, to the edges of its time, and makes more of both."""
    counted = " ".join(f"{number}x4" for number in range(6, 5 + times))
    series = {f"watcher_corrections_total{T1}": f"5x60 {counted} {5 + times}x200"}
    told = 'count(max_over_time(ALERTS{alertname="WatcherTargetContested",alertstate="firing"}[15m]))'
    expected = [{"labels": "{}", "value": 1}] if fires else []
    asked = {"expr": told, "eval_time": "25m", "exp_samples": expected}
    promtool_agrees(tmp_path, series, "10s", asked)


OTHER = {
    name.replace('cluster="demo"', 'cluster="other"').replace('scope="demo"', 'scope="other"'): values
    for name, values in WELL.items()
}
"""A second cluster in the same watcher, with PgBouncers of the same names."""


@pytest.mark.parametrize(
    ("what", "series", "alert", "labels"),
    [
        (
            "a PgBouncer of one cluster is lost",
            LOST,
            "WatcherTargetOutOfSync",
            {"cluster": "demo", "target": "pgb1"},
        ),
        (
            "one cluster has no leader",
            {**UNKNOWN, **state("no_leader")},
            "WatcherNoLeader",
            {"cluster": "demo"},
        ),
        (
            "a PgBouncer of one cluster is led by two",
            {f"watcher_corrections_total{T1}": " ".join(f"{count}x3" for count in range(90))},
            "WatcherTargetContested",
            {"cluster": "demo", "target": "pgb1"},
        ),
        ("one cluster's PgBouncers disagree", BEHIND, "WatcherTargetsDisagree", {"cluster": "demo"}),
        (
            "the settings of all are refused",
            {name: "0x600" for name in (*WELL, *OTHER) if "last_read_successful" in name},
            "WatcherSettingsRefused",
            {},
        ),
        (
            "a certificate that all use expires",
            {name: "1000x600" for name in (*WELL, *OTHER) if "certificate" in name},
            "WatcherCertificateExpiring",
            {"setting": "etcd.tls.ca"},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_of_several_clusters_an_alert_names_the_one_and_what_all_share_is_told_once(
    what: str, series: Mapping[str, str], alert: str, labels: Mapping[str, str], tmp_path: Path
) -> None:
    by = "cluster, target, setting"
    question = f'count by ({by}) (ALERTS{{alertname="{alert}",alertstate="firing"}})'
    told = ",".join(f'{name}="{value}"' for name, value in labels.items())
    expected = [{"labels": f"{{{told}}}", "value": 1}]
    asked = {"expr": question, "eval_time": "20m", "exp_samples": expected}
    promtool_agrees(tmp_path, {**WELL, **OTHER, **series}, "15s", asked)


def test_an_alert_about_a_pgbouncer_says_which_and_of_which_cluster() -> None:
    for alert in ALERTS:
        about, said = (
            re.findall(r"watcher_(target|hold|correction)", alert["expr"]),
            alert["annotations"]["description"],
        )
        if about and "by (cluster" not in alert["expr"]:
            assert "$labels.target" in said, alert["alert"]
        if "$labels.target" in said:
            assert "$labels.cluster" in said, alert["alert"]


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    assert {name for case in CASES for name in case.firing} == set(NAMES)


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_every_alert_says_how_bad_it_is_what_it_means_and_where_to_read_on(alert: dict[str, Any]) -> None:
    name, annotations = alert["alert"], alert["annotations"]
    assert name.startswith("Watcher")
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert annotations["summary"].endswith(".")
    assert "{{" not in annotations["summary"]
    assert "{{" in annotations["description"]
    assert annotations["runbook_url"].endswith(f"/{name}")


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_every_metric_of_an_alert_is_one_of_ours_or_of_patronis(alert: dict[str, Any]) -> None:
    told = {f"{family.full_name}{suffix}" for family in FAMILIES.values() for suffix in ("", "_bucket")}
    told |= {"watcher_build_info"}
    asked = set(re.findall(r"\b((?:watcher|patroni)_\w+)", alert["expr"]))
    assert {name for name in asked if name.startswith("watcher_")} <= told
    assert {name for name in asked if name.startswith("patroni_")} <= {"patroni_primary", "patroni_master"}


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert {file.stem for file in RUNBOOKS.glob("Watcher*.md")} == set(NAMES)
    index = (RUNBOOKS / "README.md").read_text()
    for alert in ALERTS:
        name, summary = alert["alert"], alert["annotations"]["summary"]
        assert f"| [{name}]({name}.md) | {alert['labels']['severity']} | {summary} |" in index


@pytest.mark.parametrize("name", NAMES)
def test_every_runbook_has_the_same_parts(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    assert headings == [
        name,
        "Meaning",
        "Impact",
        "Diagnosis",
        "Mitigation",
        "Verification",
        "Whom to call",
    ]
    severity = next(alert["labels"]["severity"] for alert in ALERTS if alert["alert"] == name)
    assert f"Severity: {severity}." in text
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert (RUNBOOKS / link).resolve().exists(), link


def test_the_examples_beside_the_rules_are_taken_by_the_real_programs(tmp_path: Path) -> None:
    run(["promtool", "check", "config", "--syntax-only", REPOSITORY / "deploy/prometheus/scrape.yaml"])
    run(["amtool", "check-config", REPOSITORY / "deploy/prometheus/alertmanager.yaml"])
