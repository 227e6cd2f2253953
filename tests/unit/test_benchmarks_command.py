"""The command keeps what it measured, says what is missing, and shows both in a table."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.benchmarks import __main__ as command
from tests.benchmarks import table
from tests.benchmarks.bench import Bench
from tests.benchmarks.cases import switch
from tests.benchmarks.figures import Figures, MissingFigureError, at, spreads
from tests.benchmarks.lines import LogTail, written_at
from tests.benchmarks.rivals import poll_ansible
from tests.support.waiting import BedError, BedTimeoutError

Measure = Callable[[Bench], tuple[Figures, Figures]]
Install = Callable[[Measure], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a case that needs no servers in the place of every real one."""

    def put(measure: Measure) -> None:
        case = SimpleNamespace(PROMISED=("idle.rss_mib",), OWNED=("idle",), measure=measure)
        monkeypatch.setattr(command, "load_case", lambda _: case)
        monkeypatch.setattr(command, "conditions", lambda: {"cores": 2})

    return put


def test_a_measured_case_is_kept_with_its_conditions_beside_the_others(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bench/latest.json"
    command.write(file, {"start": {"confirmed_s": {"p50": 1.25}}, "idle": {"old": 1}})
    install(lambda _: ({"idle": {"rss_mib": 60.5}}, {"seconds": 60}))
    assert command.main(["idle", "--output", str(file)]) == 0
    assert json.loads(file.read_text()) == {
        "start": {"confirmed_s": {"p50": 1.25}},
        "idle": {"rss_mib": 60.5},
        "conditions": {"idle": {"seconds": 60, "cores": 2}},
    }
    shown = capsys.readouterr().out
    assert "60.5 MiB" in shown
    assert "1.25 s" in shown


def test_a_missing_figure_fails_and_leaves_the_old_ones(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "latest.json"
    command.write(file, {"idle": {"rss_mib": 1.0}})
    install(lambda _: ({"idle": {"rss_mib": None}}, {}))
    assert command.main(["idle", "--output", str(file)]) == 1
    assert "idle failed: not measured: idle.rss_mib" in capsys.readouterr().err
    assert json.loads(file.read_text()) == {"idle": {"rss_mib": 1.0}}


def test_a_bed_that_fails_fails_the_case(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(bench: Bench) -> tuple[Figures, Figures]:
        raise BedError("etcd did not start")

    install(measure)
    assert command.main(["idle", "--output", str(tmp_path / "latest.json")]) == 1
    assert "idle failed: etcd did not start" in capsys.readouterr().err


def test_a_report_of_less_than_everything_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "latest.json"
    command.write(file, {"idle": {"rss_mib": 60.5}})
    assert command.main(["--report", "--output", str(file)]) == 1
    said = capsys.readouterr()
    assert "| idle: memory (RSS) | 60.5 MiB | — |" in said.out
    assert "switch.confirmed_ms.p50" in said.err


def test_every_row_of_the_table_is_a_figure_that_some_case_promises() -> None:
    promised = set(command.promised(command.CASES))
    rows = {path for each in table.TABLES for row in each.rows for path in row.paths if path}
    assert rows <= promised


def test_machine_and_versions_are_noted_once_for_cases_that_share_them() -> None:
    machine = {"cores": 2, "versions": {"etcd": "3.4"}}
    figures = {"conditions": {"idle": {"seconds": 60, **machine}, "start": {"starts": 10, **machine}}}
    assert list(table.notes(figures)) == ["idle: seconds 60", "start: starts 10", "on: cores 2; etcd 3.4"]


# --- from log lines to figures ------------------------------------------------------------------------


def line(duration: float, **parts: float) -> dict[str, Any]:
    known = {"decide": 4.0, "write": 2.0, "ready": 1.0, "release": 1.0}
    return {"duration_ms": duration, "parts_ms": known | parts}


def test_a_switch_counts_for_each_target_and_once_for_the_slower() -> None:
    figures = switch.figures_of([[line(8.0), line(10.0, write=4.0)], [line(6.0), line(7.0)]])
    assert at(figures, "confirmed_ms.p50") == 7.0
    assert at(figures, "all_confirmed_ms.p50") == 7.0
    assert at(figures, "parts_ms.write.p99") == 4.0
    assert all(at({"switch": figures}, path) is not None for path in spreads(["switch.parts_ms.release"]))


def test_a_part_that_a_line_lacks_is_a_missing_figure() -> None:
    with pytest.raises(MissingFigureError, match="no part 'write'"):
        switch.figures_of([[{"duration_ms": 8.0, "parts_ms": {"decide": 4.0}}]])


def test_a_log_is_read_on_from_where_it_was_left(tmp_path: Path) -> None:
    log = tmp_path / "log"
    tail = LogTail(log)
    assert tail.new("switch") == []
    log.write_text('{"event": "switch", "n": 1}\nTraceback\n{"event": "wish"}\n{"event": "swi')
    assert tail.new("switch") == [{"event": "switch", "n": 1}]
    with log.open("a") as more:
        more.write('tch", "n": 2}\n')
    assert tail.collect("switch", 1, 1) == [{"event": "switch", "n": 2}]
    with pytest.raises(BedTimeoutError, match="0 of 1 lines 'switch'"):
        tail.collect("switch", 1, 0.02)


def test_lines_of_several_events_are_gathered_in_one_go(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text('{"event": "hold"}\n{"event": "wish"}\n{"event": "switch"}\n{"event": "hold", "n": 2}\n')
    found = LogTail(log).lines_of(("hold", "switch"), 1, 1)
    assert found == {"hold": [{"event": "hold"}, {"event": "hold", "n": 2}], "switch": [{"event": "switch"}]}


def test_the_time_of_a_line_has_its_zone() -> None:
    assert written_at({"time": "1970-01-01T01:00:00.250+01:00"}) == 0.25


# --- the rival ----------------------------------------------------------------------------------------


def test_the_rival_knows_what_it_deployed(tmp_path: Path) -> None:
    block = tmp_path / "block"
    assert poll_ansible.deployed_host(block) is None
    block.write_text("app = host=10.0.0.1 port=5432 dbname=app\n")
    assert poll_ansible.deployed_host(block) == "10.0.0.1"


@pytest.mark.parametrize(("primaries", "expected"), [([], None), (["a"], "a"), (["a", "b"], None)])
def test_the_rival_follows_exactly_one_primary(
    monkeypatch: pytest.MonkeyPatch, primaries: list[str], expected: str | None
) -> None:
    monkeypatch.setattr(poll_ansible, "is_primary", lambda node: node["name"] in primaries)
    found = poll_ansible.primary_of([{"name": "a"}, {"name": "b"}])
    assert (found and found["name"]) == expected
