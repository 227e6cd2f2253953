"""The dashboard asks for metrics and labels that exist, and for all that an operator wants to see."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from watcher.expose.families import FAMILIES

DASHBOARD = json.loads((Path(__file__).parents[2] / "deploy/grafana/dashboard.json").read_text())
FAMILY = {
    f"{family.full_name}{suffix}": family
    for family in FAMILIES.values()
    for suffix in (("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",))
}
PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}


def queries() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (annotation["expr"] for annotation in DASHBOARD["annotations"]["list"])
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


@pytest.mark.parametrize("query", sorted(set(queries())))
def test_every_query_asks_for_metrics_and_labels_that_exist(query: str) -> None:
    names = set(re.findall(r"\b((?:watcher|process)_\w+)", query))
    assert names
    assert names <= set(FAMILY) | PROCESS
    for name, selector in re.findall(r"\b(watcher_\w+)\{([^}]*)\}", query):
        assert set(re.findall(r"(\w+)=~?", selector)) <= {*FAMILY[name].labels, "instance", "job"}
    for by in re.findall(r"by \(([^)]*)\)", query):
        labels = {label.strip() for label in by.split(",")} - {"le"}
        assert all(labels <= set(FAMILY[name].labels) for name in names)


def test_legends_name_labels_that_their_metric_has() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            names = set(re.findall(r"\b(watcher_\w+)", target["expr"])) & set(FAMILY)
            known = {label for name in names for label in FAMILY[name].labels} | {"instance"}
            assert used <= known, panel["title"]


def test_whatever_is_told_of_one_pgbouncer_or_cluster_is_told_with_the_cluster_s_name() -> None:
    """A watcher may follow many clusters, and two of them may have a PgBouncer of the same name."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            grouped = [set(by.split(", ")) for by in re.findall(r"by \(([^)]*)\)", target["expr"])]
            assert all("cluster" in by for by in grouped if "target" in by), panel["title"]
            used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert "cluster" in used or used <= _OF_ALL, panel["title"]


_OF_ALL = {"stage", "instance"}
"""What a figure over all clusters that are chosen may be told by."""


def test_the_first_row_is_of_all_clusters_and_has_no_tile_for_each() -> None:
    rows = [panel["gridPos"]["y"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    first = [panel for panel in DASHBOARD["panels"] if rows[0] < panel["gridPos"]["y"] < rows[1]]
    stats = [panel["targets"][0]["expr"] for panel in first if panel["type"] == "stat"]
    assert len(stats) == 5
    assert all(expr.startswith("count(") for expr in stats)


def test_panels_have_ids_of_their_own_descriptions_and_do_not_overlap() -> None:
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        where = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(where["x"], where["x"] + where["w"])
            for y in range(where["y"], where["y"] + where["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells
        assert panel["type"] == "row" or panel["description"]


def test_cluster_and_target_can_be_chosen_and_changes_of_leader_are_marked() -> None:
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == [
        "datasource",
        "cluster",
        "target",
    ]
    assert [one["name"] for one in DASHBOARD["annotations"]["list"]] == ["Changes of leader"]
