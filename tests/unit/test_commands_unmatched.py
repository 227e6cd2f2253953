"""Names in the settings that match nothing: which, where, and what to do about it."""

from pathlib import Path

import pytest

from tests.unit.test_settings_fleet import loaded
from watcher.commands import check_config
from watcher.commands.check_config import names_of_several
from watcher.commands.exit_code import ExitCode
from watcher.commands.unmatched import Unmatched, databases_for_reads, members_with_addresses
from watcher.decide.model import Actual, Database, Endpoint
from watcher.settings import Settings

PRIMARY = Endpoint("10.0.0.1", 5432)


def showing(*names: str, outside: str = "") -> Actual:
    """A target whose block has these databases, and whose file has one more."""
    block = tuple(Database(name, PRIMARY) for name in names)
    return Actual(block, None, 0.0, defined=frozenset({*names, outside} - {""}))


def told(names: list[str], **targets: Actual) -> list[Unmatched]:
    return list(databases_for_reads(names, targets))


def test_a_database_of_every_block_is_no_news() -> None:
    assert told(["app_ro"], pgb1=showing("app", "app_ro"), pgb2=showing("app_ro")) == []


def test_a_database_that_no_block_has_is_told_with_its_place_and_one_that_is_nearly_so_named() -> None:
    (one,) = told(["app_ro", "stats_r"], pgb1=showing("app", "app_ro", "stats_ro"))
    assert one.place == "replicas.databases[1]"
    assert one.problem == "'stats_r' is no database in the block of pgb1"
    assert one.remedy == "put its line between the marks, or correct the name: did you mean 'stats_ro'?"


def test_a_database_is_told_of_the_targets_that_lack_it_alone() -> None:
    (one,) = told(["app_ro"], pgb1=showing("app", "app_ro"), pgb2=showing("main"), pgb3=showing("other"))
    assert one.problem == "'app_ro' is no database in the block of pgb2, pgb3"
    assert one.remedy == "put its line between the marks, or name one of: main, other"


def test_of_many_targets_a_few_are_named() -> None:
    (one,) = told(["app_ro"], **{f"pgb{n}": showing("app") for n in range(7)})
    assert one.problem.endswith("the block of pgb0, pgb1, pgb2, pgb3, pgb4 and 2 more")


def test_of_a_database_outside_of_the_marks_that_is_said() -> None:
    (one,) = told(["app_ro"], pgb1=showing("app", outside="app_ro"))
    assert one.remedy == "move its line between the marks; outside of them it stays as it is"


def test_where_no_target_could_be_read_nothing_is_told() -> None:
    assert told(["app_ro"]) == []


def at(*names: str) -> dict[str, Endpoint]:
    """Each at an address of its own."""
    return {name: Endpoint(f"{name}.example", 5432) for name in names}


@pytest.mark.parametrize(
    ("addresses", "members", "places"),
    [
        ({"pg1", "pg2"}, {"pg1", "pg2"}, []),
        ({"pg1", "pg3"}, {"pg1"}, ["t.pg3"]),
        ({"pg1"}, {"pg1", "pg2"}, ["t"]),
        ({"pg1", "pg4", "pg3"}, {"pg1", "pg2"}, ["t.pg3", "t.pg4", "t"]),
    ],
)
def test_addresses_and_members_that_do_not_match_are_told(
    addresses: set[str], members: set[str], places: list[str]
) -> None:
    assert [one.place for one in members_with_addresses("t", at(*addresses), members)] == places


def test_a_member_that_is_not_there_may_be_down_or_misspelled() -> None:
    (one,) = members_with_addresses("t", at("node1", "nod2"), {"node1"})
    assert one.problem == "etcd has no member of that name just now"
    assert one.remedy == "if it is down, do nothing; else correct the name: did you mean 'node1'?"


def test_a_member_without_an_address_is_named_and_what_follows() -> None:
    (one,) = members_with_addresses("t", {}, {"pg2"})
    assert str(one) == (
        "t: has no address for pg2\n"
        "         HINT: name every member and its host:port: while such a one leads, nobody is led anywhere"
    )


def test_members_at_one_address_are_told_with_it() -> None:
    addresses = {**at("pg1", "pg3"), "pg2": at("pg1")["pg1"]}
    (one,) = members_with_addresses("t", addresses, addresses)
    assert (one.place, one.problem) == ("t", "pg1, pg2 are all at pg1.example:5432")


def test_a_target_that_two_clusters_name_alike_is_told_with_the_paths_that_answer(tmp_path: Path) -> None:
    (advice,) = names_of_several(loaded(tmp_path).fleet)
    assert advice == (
        "/targets/pgb1 answers 409, for there are 2:"
        " ask /clusters/app/targets/pgb1 or /clusters/billing/targets/pgb1"
    )
    assert list(names_of_several(loaded(tmp_path).fleet[:1])) == []


def test_of_several_clusters_those_that_failed_are_named_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {"billing"}

    def check(settings: Settings) -> ExitCode:
        return ExitCode.BAD_SETTINGS if settings.cluster.name in bad else ExitCode.OK

    monkeypatch.setattr(check_config, "_check", check)
    monkeypatch.setattr(check_config, "_check_namespace", lambda _: True)
    assert check_config.check_config(loaded(tmp_path)) is ExitCode.BAD_SETTINGS
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 2 clusters passed; not billing"
    bad.clear()
    assert check_config.check_config(loaded(tmp_path)) is ExitCode.OK
    assert capsys.readouterr().out.splitlines()[-1] == "2 of 2 clusters passed"
    monkeypatch.setattr(check_config, "_check_namespace", lambda _: False)
    assert check_config.check_config(loaded(tmp_path)) is ExitCode.BAD_SETTINGS
    assert capsys.readouterr().out.splitlines()[-1] == "0 of 2 clusters passed; not app, billing"
