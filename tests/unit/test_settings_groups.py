"""Groups of targets: what a group says is laid over what its cluster says, and checked in the same way."""

from __future__ import annotations

from pathlib import Path

import pytest

from watcher.decide.decision import Policy
from watcher.decide.errors import SettingsError
from watcher.settings import Loaded, Settings, load, redacted

TARGET = "via: local, file: /etc/pgb.ini, console: {address: 'a:6432'}"
GROUPED = f"""\
etcd: {{endpoints: [a:2379]}}
cluster: {{scope: app}}
hold: {{limit: 40, announced_limit: 8}}
groups:
  reporting: {{hold: {{limit: 20, old_connections: leave}}}}
  batch: {{hold: {{on_crash: false}}}}
  bare: {{hold: {{enabled: false}}}}
targets:
  - {{name: pgb1, {TARGET}}}
  - {{name: pgb2, group: reporting, {TARGET}}}
  - {{name: pgb3, group: batch, {TARGET}}}
  - {{name: pgb4, group: bare, {TARGET}}}
"""


def loaded(tmp_path: Path, text: str = GROUPED, environ: dict[str, str] | None = None) -> Loaded:
    file = tmp_path / "watcher.yaml"
    file.write_text(text)
    return load({}, file, environ or {})


def policies(settings: Settings) -> list[Policy]:
    return [settings.policy(target) for target in settings.targets]


def test_a_target_has_the_policy_of_its_group(tmp_path: Path) -> None:
    settings = loaded(tmp_path).settings
    first, second, third, fourth = (policy.hold for policy in policies(settings))
    assert first is not None
    assert second is not None
    assert third is not None
    assert fourth is None
    assert (first.limit, second.limit, third.limit) == (40, 20, 40)
    assert (first.on_crash, second.on_crash, third.on_crash) == (True, True, False)
    assert [settings.hold_of(target).old_connections for target in settings.targets[:2]] == ["cut", "leave"]
    assert [settings.can_hold(target) for target in settings.targets] == [True, True, True, False]


def test_what_a_group_does_not_say_is_as_its_cluster_has_it(tmp_path: Path) -> None:
    settings = loaded(tmp_path, environ={"WATCHER_HOLD__ANNOUNCED_LIMIT": "6"}).settings
    assert [settings.hold_of(target).announced_limit for target in settings.targets] == [6.0] * 4


@pytest.mark.parametrize(
    ("old", "new", "asks"),
    [
        ("", "", True),
        ("on_crash: false", "cut_after: 1", True),
        ("hold: {limit: 40,", "hold: {on_crash: false, limit: 40,", False),
        ("limit: 20,", "limit: 20, on_crash: true,", True),
    ],
)
def test_the_leader_is_asked_again_after_a_crash_if_any_target_waits_for_it(
    old: str, new: str, asks: bool, tmp_path: Path
) -> None:
    text = (
        GROUPED.replace("hold: {limit: 40,", "hold: {on_crash: false, limit: 40,") if "20" in old else GROUPED
    )
    widest = loaded(tmp_path, text.replace(old, new, 1)).settings.policy()
    assert widest.hold is not None
    assert widest.hold.on_crash is asks


def test_nobody_need_be_asked_for_where_no_group_holds(tmp_path: Path) -> None:
    text = GROUPED.replace("hold: {limit: 40,", "hold: {enabled: false, limit: 40,")
    assert loaded(tmp_path, text).settings.policy().hold is None
    enabled = loaded(tmp_path, text.replace("limit: 20,", "limit: 20, enabled: true,")).settings.policy()
    assert enabled.hold is not None


def test_a_group_may_be_set_by_the_environment_alone(tmp_path: Path) -> None:
    found = loaded(tmp_path, environ={"WATCHER_GROUPS__REPORTING__HOLD__LIMIT": "25"})
    assert found.settings.groups["reporting"].hold.limit == 25
    assert found.settings.groups["reporting"].hold.old_connections == "leave"
    assert (
        found.sources["groups.reporting.hold.limit"] == "environment WATCHER_GROUPS__REPORTING__HOLD__LIMIT"
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("limit: 20", "limit: -2", "groups.reporting.hold.limit: -2 is not above 0 (file {file}:5)"),
        ("limit: 20", "limits: 2", "groups.reporting.hold.limits: is no setting (file {file}:5)"),
        ("limit: 20", "limit: 5", "groups.reporting.hold.announced_limit: is above `limit` = 5"),
        ("batch: {hold", "batch: {holt", "groups.batch.holt: is no setting (file {file}:6)"),
        ("group: batch", "group: bach", "targets[2].group: 'bach' is none of `groups`"),
        ("batch: {hold: {on_crash: false}}", "batch: 7", "groups.batch: 7 is not a section (file {file}:6)"),
        ("{on_crash: false}", "7", "groups.batch.hold: is not a section (file {file}:6)"),
        ("batch:", "'a b':", "groups.a b: "),
    ],
)
def test_a_fault_is_told_where_it_is(old: str, new: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        loaded(tmp_path, GROUPED.replace(old, new, 1))
    assert said.format(file=tmp_path / "watcher.yaml") in str(refused.value)


def test_a_fault_of_the_cluster_is_not_told_of_its_groups(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        loaded(tmp_path, GROUPED.replace("announced_limit: 8", "announced_limit: -8"))
    assert str(refused.value).count("announced_limit") == 1


def test_a_group_without_targets_is_warned_of(tmp_path: Path) -> None:
    assert loaded(tmp_path).warnings == ()
    spare = GROUPED.replace("  bare:", "  spare: {}\n  bare:")
    assert loaded(tmp_path, spare).warnings == ("groups.spare: no target is of this group",)


def test_groups_may_be_said_for_all_clusters(tmp_path: Path) -> None:
    head, _, targets = GROUPED.replace("cluster: {scope: app}\n", "").partition("targets:\n")
    items = "".join(f"    {line}\n" for line in targets.splitlines())
    text = f"{head}clusters:\n"
    for scope, more in (("app", ""), ("billing", "    groups: {reporting: {hold: {limit: 30}}}\n")):
        targets = items.replace("/etc/pgb.ini", f"/etc/{scope}.ini")
        text += f"  - cluster: {{scope: {scope}}}\n{more}    targets:\n{targets}"
    app, billing = loaded(tmp_path, text).fleet
    assert [each.groups["reporting"].hold.limit for each in (app, billing)] == [20, 30]
    assert billing.groups["reporting"].hold.old_connections == "leave"
    bad = text.replace("limit: 30", "limit: -3")
    with pytest.raises(SettingsError) as refused:
        loaded(tmp_path, bad)
    assert "clusters[1].groups.reporting.hold.limit: -3 is not above 0" in str(refused.value)


def test_what_a_group_has_in_force_is_shown_with_its_source(tmp_path: Path) -> None:
    lines, file = redacted(loaded(tmp_path)), tmp_path / "watcher.yaml"
    assert f"groups.reporting.hold.limit = 20.0   (file {file}:5)" in lines
    assert f"groups.reporting.hold.announced_limit = 8.0   (file {file}:3)" in lines
    assert "groups.reporting.hold.on_crash = true   (default)" in lines
    assert f"targets[1].group = reporting   (file {file}:10)" in lines
