"""The pages of several clusters: an overview, and each one's own below its name."""

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest
from prometheus_client.openmetrics import parser as openmetrics

from tests.unit.expose_scene import BLIND, LEADS, OLD, STAMP, Clock, actual, view
from watcher.decide.model import Desired, Route
from watcher.expose.lobby import pages_of
from watcher.expose.server import Answer, Page
from watcher.expose.window import Shown, Window

ACCEPTS_OPENMETRICS = "application/openmetrics-text; version=1.0.0"
ELSEWHERE = replace(LEADS, route=Route(OLD, STAMP))
"""… than where its targets lead."""

ODD = 'a"b <i>&é'


def window(scope: str, wish: Desired = LEADS, ails: str = "", targets: tuple[str, ...] = ("pgb1",)) -> Window:
    """Of a cluster whose targets lead right, or of which its wish says otherwise."""
    made = Window(scope, targets, Shown(view, lambda: ails, dict), Clock().calendar())
    for target in targets:
        made.listener.looked(target, wish, actual(), None)
        if wish.route is not None:
            made.listener.in_sync(target, actual())
    return made


def asked(pages: Mapping[str, Page], path: str, accept: str = "") -> Answer:
    return pages[path]("", accept)


def test_a_single_cluster_has_its_pages_at_the_top_and_below_its_name() -> None:
    pages = pages_of([window("app")])
    for path in ("/status", "/clusters/app/status"):
        assert json.loads(asked(pages, path).body)["cluster"]["name"] == "app"


def test_each_cluster_has_all_pages_below_its_name() -> None:
    single = set(window("app").pages())
    pages = pages_of([window("app"), window("billing")])
    for scope in ("app", "billing"):
        assert {path.removeprefix(f"/clusters/{scope}") for path in pages if scope in path} == single
        assert json.loads(asked(pages, f"/clusters/{scope}/status").body)["cluster"]["name"] == scope
    assert pages["/clusters/app/targets/*"]("pgb1", "").status == 200


def test_a_target_whose_name_no_other_cluster_has_is_told_of_at_the_top() -> None:
    pages = pages_of([window("app"), window("billing", ELSEWHERE, targets=("pgb2",))])
    for name, status in (("pgb1", 200), ("pgb2", 503), ("pgb3", 404)):
        assert pages["/targets/*"](name, "").status == status


def test_of_a_name_that_targets_of_several_clusters_have_it_is_told_where_to_ask() -> None:
    pages = pages_of([window("app/0"), window("billing"), window("other", targets=("pgb2",))])
    answer = pages["/targets/*"]("pgb1", "")
    words, *paths = answer.body.decode().splitlines()
    assert (answer.status, words) == (
        409,
        "2 clusters have a target of that name; ask for the one that is meant:",
    )
    assert paths == ["/clusters/app%2F0/targets/pgb1", "/clusters/billing/targets/pgb1"]
    for path in paths:
        page, _, name = path.rpartition("/")
        assert pages[f"{page}/*"](name, "").status == 200


def test_a_target_that_comes_by_a_reread_counts_from_then_on() -> None:
    app, billing = window("app"), window("billing", targets=("pgb2",))
    page = pages_of([app, billing])["/targets/*"]
    billing.show(("pgb1",), Shown(view, lambda: "", dict))
    assert page("pgb1", "").status == 409
    assert page("pgb2", "").status == 404


def test_the_overview_says_that_all_is_well() -> None:
    said = json.loads(asked(pages_of([window("app"), window("billing")]), "/status").body)
    assert (said["health"], said["words"]) == ("ok", "Clients reach the primary of every cluster, 2 in all.")
    assert [each["cluster"]["name"] for each in said["clusters"]] == ["app", "billing"]


def test_the_overview_names_who_is_not_well_and_shows_it_first() -> None:
    windows = [window("app"), *(window(f"blind{number}", BLIND) for number in range(7))]
    pages = pages_of(windows)
    said = json.loads(asked(pages, "/status").body)
    assert said["health"] != "ok"
    assert said["words"] == "Of 8 clusters: 7 failing (blind0, blind1, blind2, blind3, blind4 and 2 more)."
    page = asked(pages, "/").body.decode()
    assert page.index("blind6") < page.index('href="clusters/app/"')


def test_a_name_is_text_on_the_page_and_quoted_in_a_path() -> None:
    pages = pages_of([window(ODD), window("app")])
    page = asked(pages, "/").body.decode()
    assert "<i>" not in page
    assert 'href="clusters/a%22b%20%3Ci%3E%26%C3%A9/"' in page
    assert asked(pages, "/clusters/a%22b%20%3Ci%3E%26%C3%A9/").status == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_a_probe_tells_the_first_problem_with_its_cluster(path: str) -> None:
    well, ailing = window("app"), window("billing", ails="stuck: pgb1")
    assert asked(pages_of([well, window("other")]), path).status == 200
    answer = asked(pages_of([well, ailing]), path)
    assert (answer.status, answer.body) == (503, b"billing: stuck: pgb1\n")


def test_who_was_never_in_sync_keeps_the_whole_from_being_ready() -> None:
    answer = asked(pages_of([window("app"), window("billing", BLIND)]), "/startupz")
    assert (answer.status, answer.body) == (503, b"billing: not every target was in sync yet\n")


def test_metrics_of_all_clusters_are_one_exposition() -> None:
    text = asked(pages_of([window("app"), window("billing")]), "/metrics", ACCEPTS_OPENMETRICS).body.decode()
    families = list(openmetrics.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    samples = [
        (sample.name, tuple(sorted(sample.labels.items()))) for one in families for sample in one.samples
    ]
    assert len(samples) == len(set(samples))
    (in_sync,) = (family for family in families if family.name == "watcher_target_in_sync")
    assert {sample.labels["cluster"] for sample in in_sync.samples} == {"app", "billing"}


def test_when_a_fault_in_the_settings_was_found_is_not_when_they_were_read() -> None:
    clock = Clock()
    shown = Shown(view, str, dict)
    window = Window("app", ["pgb1"], shown, clock.calendar())
    clock.now += 360.0
    window.settings_refused()
    clock.now += 2.0
    refused_at = window.status.settings_refused_at
    assert refused_at is not None
    assert (window.status.now - refused_at).total_seconds() == pytest.approx(2.0)
    window.show(["pgb1"], shown)
    assert window.status.settings_refused_at is None
