"""Several clusters in one watcher: what is said for all, for one, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from watcher.decide.errors import SettingsError
from watcher.settings import Loaded, load, redacted

TARGET = "{name: pgb1, via: local, file: /etc/pgb.ini, console: {address: 'a:6432'}}"
OTHER = TARGET.replace("/etc/pgb.ini", "/etc/other.ini")
FLEET = f"""\
etcd: {{endpoints: [a:2379]}}
hold: {{limit: 20}}
clusters:
  - cluster: {{scope: app}}
    targets: [{TARGET}]
  - cluster: {{scope: billing}}
    hold: {{limit: 30, announced_limit: 5}}
    targets: [{OTHER}]
"""


def loaded(tmp_path: Path, text: str = FLEET, environ: dict[str, str] | None = None) -> Loaded:
    file = tmp_path / "watcher.yaml"
    file.write_text(text)
    file.chmod(0o600)
    return load({}, file, environ or {})


def fault_of(tmp_path: Path, text: str) -> str:
    with pytest.raises(SettingsError) as refused:
        loaded(tmp_path, text)
    return str(refused.value)


def test_a_cluster_says_what_is_not_as_for_all(tmp_path: Path) -> None:
    app, billing = loaded(tmp_path).fleet
    assert [app.cluster.scope, billing.cluster.scope] == ["app", "billing"]
    assert (app.hold.limit, app.hold.announced_limit) == (20, 10)
    assert (billing.hold.limit, billing.hold.announced_limit) == (30, 5)
    assert app.etcd == billing.etcd


def test_what_it_says_for_itself_goes_before_the_environment(tmp_path: Path) -> None:
    app, billing = loaded(tmp_path, environ={"WATCHER_HOLD__LIMIT": "25"}).fleet
    assert (app.hold.limit, billing.hold.limit) == (25, 30)


def test_each_value_has_its_source(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    app, billing = (one.sources for one in found.clusters)
    file = tmp_path / "watcher.yaml"
    assert app["hold.limit"] == f"file {file}:2"
    assert billing["hold.limit"] == f"file {file}:7"
    assert app["targets[0].name"] == f"file {file}:5"
    assert billing["retry.first"] == "default"


def test_clusters_may_come_from_the_environment(tmp_path: Path) -> None:
    text = '[{"cluster": {"scope": "x"}, "targets": [{"name": "a", "via": "local", "file": "/a",'
    text += ' "reload_command": "true"}]}]'
    (only,) = loaded(tmp_path, environ={"WATCHER_CLUSTERS": text}).fleet
    assert only.cluster.scope == "x"


def in_files(tmp_path: Path, **clusters: str) -> tuple[Path, str]:
    """The folder with a file for each, and settings that name it."""
    folder = tmp_path / "clusters.d"
    folder.mkdir()
    for name, text in clusters.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder, f"etcd: {{endpoints: [a:2379]}}\ncluster_files: {folder}/*.yaml\n"


def test_files_are_clusters_too_in_the_order_of_their_names(tmp_path: Path) -> None:
    targets = {"b": TARGET, "a": OTHER}
    texts = {scope: f"cluster: {{scope: {scope}}}\ntargets: [{one}]\n" for scope, one in targets.items()}
    folder, text = in_files(tmp_path, **texts)
    found = loaded(tmp_path, text)
    assert [each.cluster.scope for each in found.fleet] == ["a", "b"]
    assert found.clusters[0].sources["cluster.scope"] == f"file {folder}/a.yaml:1"


def test_the_pattern_of_files_that_were_read_is_shown(tmp_path: Path) -> None:
    text = f"cluster: {{scope: app}}\ntargets: [{TARGET}]\n"
    folder, said = in_files(
        tmp_path, app=text, billing=text.replace("app", "billing").replace("pgb.ini", "x")
    )
    found = redacted(loaded(tmp_path, said))
    assert [line for line in found if line.startswith("cluster_files")] == [
        f"cluster_files = {folder}/*.yaml   (file {tmp_path}/watcher.yaml:2)"
    ]
    assert [line for line in redacted(loaded(tmp_path)) if "cluster_files" in line] == [
        "cluster_files = none   (default)"
    ]


def test_clusters_are_shown_by_what_they_say_and_not_as_a_list_of_none(tmp_path: Path) -> None:
    assert [line for line in redacted(loaded(tmp_path)) if line.startswith("clusters")] == []


def test_a_fault_in_one_file_refuses_all(tmp_path: Path) -> None:
    whole = f"cluster: {{scope: a}}\ntargets: [{TARGET}]\n"
    folder, text = in_files(tmp_path, a=whole, b="cluster: {scope: b}\n")
    said = fault_of(tmp_path, text)
    assert said.startswith(f"targets: is required, and missing (file {folder}/b.yaml)")


def test_of_two_clusters_of_one_name_the_first_is_named_too(tmp_path: Path) -> None:
    assert "; the first is clusters[0]" in fault_of(tmp_path, FLEET.replace("scope: billing", "scope: app"))


def test_secrets_of_a_cluster_are_read_from_their_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush\n")
    target = TARGET.replace("'a:6432'", f"'a:6432', password_file: {secret}")
    first, second = loaded(tmp_path, FLEET.replace(TARGET, target, 1)).fleet
    console = first.targets[0].console
    assert console is not None
    assert console.password is not None
    assert console.password.get_secret_value() == "hush"
    assert second.targets[0].console != console


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("limit: 30", "limit: -3", "clusters[1].hold.limit: -3 is not above 0 (file {file}:7)"),
        ("limit: 20", "limit: -2", "hold.limit: -2 is not above 0 (file {file}:2)"),
        ("scope: billing", "scop: billing", "clusters[1].cluster.scope: is required, and missing"),
        ("scope: billing", "scope: app", "clusters[1].cluster.scope: a second cluster is named 'app'"),
        ("hold: {limit: 20}", "targets: []", "targets: is said for all, but there are `clusters`"),
        ("hold: {limit: 20}", "cluster: {scope: x}", "cluster.scope: is said for all, but there are"),
        ("    hold:", "    http: {listen: 'a:1'}\n    hold:", "clusters[1].http: is no setting of one"),
        ("    hold:", "    clusters: [{}]\n    hold:", "clusters[1].clusters: is no setting of one"),
        ("    hold:", "    holt: 1\n    hold:", "clusters[1].holt: is no setting (file {file}:7)"),
        ("clusters:\n", "clusters:\n  - 1\n", "clusters[0]: is not a section (file {file}:4)"),
        ("clusters:", "cluster_files: /no/such/*.yaml\nclusters:", "cluster_files: matches no file"),
        ("clusters:", "cluster_files: x/*.yaml\nclusters:", "cluster_files: is not the pattern of an"),
    ],
)
def test_a_fault_is_told_where_it_is(old: str, new: str, said: str, tmp_path: Path) -> None:
    fault = fault_of(tmp_path, FLEET.replace(old, new, 1))
    assert said.format(file=tmp_path / "watcher.yaml") in fault


def test_a_fault_for_all_is_told_once(tmp_path: Path) -> None:
    assert fault_of(tmp_path, FLEET.replace("limit: 20", "limit: -2")).count("hold.limit") == 1


@pytest.mark.parametrize("clusters", ["{}", "7", "text"])
def test_no_clusters_are_no_fleet(clusters: str, tmp_path: Path) -> None:
    text = f"etcd: {{endpoints: [a:2379]}}\nclusters: {clusters}\n"
    assert "clusters" in fault_of(tmp_path, text)


def test_groups_of_a_citus_cluster_are_clusters_of_their_own(tmp_path: Path) -> None:
    text = FLEET.replace("{scope: app}", "{scope: app, group: 0}").replace("billing", "app, group: 1")
    names = [(each.cluster.name, each.cluster.prefix) for each in loaded(tmp_path, text).fleet]
    assert names == [("app/0", "/service/app/0/"), ("app/1", "/service/app/1/")]
    assert "'app/0'" in fault_of(tmp_path, text.replace("group: 1", "group: 0"))


def test_what_is_the_same_for_all_is_shown_once(tmp_path: Path) -> None:
    lines = redacted(loaded(tmp_path))
    assert sum(line.startswith("etcd.endpoints = ") for line in lines) == 1
    assert [line for line in lines if "hold.limit" in line] == [
        f"app: hold.limit = 20.0   (file {tmp_path}/watcher.yaml:2)",
        f"billing: hold.limit = 30.0   (file {tmp_path}/watcher.yaml:7)",
    ]


def test_one_of_several_can_be_picked_out(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    assert found.only("billing").one.cluster.scope == "billing"
    assert found.only(None) is found
    with pytest.raises(SettingsError, match="--cluster: the settings know no cluster 'nobody'") as refused:
        found.only("nobody")
    assert refused.value.hint == "name one: app, billing"
    with pytest.raises(SettingsError, match="--cluster: is missing") as refused:
        _ = found.one
    assert refused.value.hint == "name one: app, billing"


SAME_FILE = FLEET.replace("/etc/other.ini", "/etc/pgb.ini")


def test_a_file_that_two_clusters_lead_is_a_fault(tmp_path: Path) -> None:
    said = fault_of(tmp_path, SAME_FILE)
    assert said.startswith(
        "clusters[1].targets[0].file: /etc/pgb.ini there is led by a target of cluster 'app'"
    )
    assert "set `block` of both" in said


@pytest.mark.parametrize(
    ("first", "second", "may"),
    [("app", "billing", True), ("app", "app", False), (None, "billing", False), ("app", None, False)],
)
def test_a_file_may_have_blocks_of_two_clusters_if_both_are_named(
    first: str | None, second: str | None, may: bool, tmp_path: Path
) -> None:
    one, other = (
        TARGET if name is None else TARGET.replace("name: pgb1", f"name: pgb1, block: {name}")
        for name in (first, second)
    )
    head, _, tail = SAME_FILE.partition(TARGET)
    text = head + one + tail.replace(TARGET, other)
    if may:
        assert [each.targets[0].block for each in loaded(tmp_path, text).fleet] == [first, second]
    else:
        assert "is led by a target of cluster 'app' too" in fault_of(tmp_path, text)


def test_two_hosts_may_have_a_file_of_the_same_name(tmp_path: Path) -> None:
    way = "name: pgb1, via: ssh, ssh: {host: %s, user: u, known_hosts: /k, key_file: /f}"
    one, other = (TARGET.replace("name: pgb1, via: local", way % host) for host in ("h1", "h2"))
    head, _, tail = SAME_FILE.partition(TARGET)
    assert len(loaded(tmp_path, head + one + tail.replace(TARGET, other)).fleet) == 2
