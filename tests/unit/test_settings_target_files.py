"""Targets that have a file each."""

from __future__ import annotations

from pathlib import Path

import pytest

from watcher.decide.errors import SettingsError
from watcher.settings import Loaded, load, redacted

TARGET = "via: local\nfile: /etc/pgb.ini\nconsole: {address: 'a:6432'}\n"
HEAD = "etcd: {endpoints: [a:2379]}\n"
INLINE = "targets: [{name: inline, via: local, file: /etc/pgb.ini, console: {address: 'a:6432'}}]\n"


class Place:
    """Settings that name a folder of targets."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "watcher.yaml"
        self.targets = folder / "targets.d"
        self.targets.mkdir()

    def put(self, name: str, text: str = TARGET) -> Path:
        file = self.targets / f"{name}.yaml"
        file.write_text(f"name: {name}\n{text}")
        return file

    def load(self, text: str = "cluster: {scope: app}\n") -> Loaded:
        self.file.write_text(f"{HEAD}{text}target_files: {self.targets}/*.yaml\n")
        return load({}, self.file, {})

    def fault(self, text: str = "cluster: {scope: app}\n") -> str:
        with pytest.raises(SettingsError) as refused:
            self.load(text)
        return str(refused.value)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def names(loaded: Loaded) -> list[str]:
    return [target.name for target in loaded.settings.targets]


def test_each_file_is_a_target_in_the_order_of_their_names(place: Place) -> None:
    place.put("b")
    place.put("a")
    found = place.load()
    assert names(found) == ["a", "b"]
    assert found.sources["targets[1].via"] == f"file {place.targets}/b.yaml:2"
    assert found.settings.target_files is None


def test_the_pattern_that_they_were_read_by_is_shown(place: Place) -> None:
    place.put("a")
    found = place.load()
    assert f"target_files = {place.targets}/*.yaml   (file {place.file}:3)" in redacted(found)
    assert found.sources["target_files"] == f"file {place.file}:3"


def test_they_stand_behind_those_of_the_settings(place: Place) -> None:
    place.put("a")
    found = place.load(f"cluster: {{scope: app}}\n{INLINE}")
    assert names(found) == ["inline", "a"]
    assert found.sources["targets[0].name"] == f"file {place.file}:3"
    assert found.sources["targets[1].name"] == f"file {place.targets}/a.yaml:1"


def test_a_fault_is_told_with_its_file(place: Place) -> None:
    place.put("a")
    place.put("b", TARGET.replace("local", "lokal"))
    place.put("c", f"{TARGET}nmae: x\n")
    said = place.fault()
    assert f"targets[1].via: 'lokal' is none of its values (file {place.targets}/b.yaml:2)" in said
    assert f"targets[2].nmae: is no setting (file {place.targets}/c.yaml:5)" in said


def test_two_targets_of_one_name_are_a_fault(place: Place) -> None:
    place.put("inline")
    said = place.fault(f"cluster: {{scope: app}}\n{INLINE}")
    assert f"targets[1].name: a second target is named 'inline' (file {place.targets}/inline.yaml:1)" in said


def test_a_file_that_is_none_refuses_all(place: Place) -> None:
    place.put("a")
    place.put("b", "via: [\n")
    assert f"{place.targets}/b.yaml:" in place.fault()


def test_a_pattern_that_matches_nothing_is_a_fault(place: Place) -> None:
    assert f"target_files: matches no file: {place.targets}/*.yaml (file {place.file}:3)" in place.fault()


def test_a_pattern_that_is_none_is_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "watcher.yaml"
    file.write_text(f"{HEAD}cluster: {{scope: app}}\ntarget_files: targets.d/*.yaml\n")
    with pytest.raises(SettingsError, match="target_files: is not the pattern of an absolute path"):
        load({}, file, {})


def test_secrets_are_read_and_warned_of_as_ever(place: Place, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush\n")
    place.put("a", TARGET.replace("'a:6432'", f"'a:6432', password_file: {secret}"))
    open_to_all = place.put("b", TARGET.replace("'a:6432'", "'a:6432', password: hush"))
    open_to_all.chmod(0o644)
    found = place.load()
    for target in found.settings.targets:
        assert target.console is not None
        assert target.console.password is not None
        assert target.console.password.get_secret_value() == "hush"
    (warning,) = found.warnings
    assert f"{open_to_all} holds targets[1].console.password, and everybody may read it" in warning


def test_each_cluster_has_files_of_its_own(place: Place) -> None:
    place.put("a")
    text = f"clusters:\n  - cluster: {{scope: app}}\n    target_files: {place.targets}/*.yaml\n"
    place.file.write_text(f"{HEAD}{text}")
    assert names(load({}, place.file, {})) == ["a"]
    place.put("b", "via: local\n")
    place.file.write_text(f"{HEAD}{text}")
    with pytest.raises(SettingsError, match=r"clusters\[0\].targets\[1\].file: is required, and missing"):
        load({}, place.file, {})
    said = place.fault("clusters:\n  - cluster: {scope: app}\n")
    assert "target_files: is said for all, but there are `clusters`" in said
