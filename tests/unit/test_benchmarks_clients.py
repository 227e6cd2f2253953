"""From what clients met to figures and pictures: counted as promised."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks import pictures
from tests.benchmarks.bench import QUICK, Bench
from tests.benchmarks.cases import planned, session
from tests.benchmarks.contenders import known_sections
from tests.benchmarks.episodes import Episode, crash_figures, planned_figures
from tests.benchmarks.figures import at, require
from tests.benchmarks.plot import Sample, svg
from tests.benchmarks.series import REFUSALS, in_a_row, sample
from tests.support.attempts import FRESH, LONG, NOISE, Attempt, Attempts, Gap
from tests.support.traffic import Plan
from tests.support.waiting import BedError

OLD, NEW = "127.0.0.8:5432", "127.0.0.9:5432"


def tried(
    start: float, end: float, *, client: int = 0, kind: str = "simple", error: str = "", server: str = NEW
) -> Attempt:
    return Attempt(kind, client, start, end, "" if error else server, error)


def failed(start: float, end: float, *, client: int = 0, kind: str = "simple") -> Attempt:
    return tried(start, end, client=client, kind=kind, error="57P01 gone")


def episode(*attempts: Attempt, late: tuple[Attempt, ...] = (), struck: float = 10.0) -> Episode:
    """Struck at 10, writable at 12, over at 14; Patroni had no primary from 10.5 to 12."""
    return Episode(
        struck=(struck, struck),
        announced=struck + 0.01,
        gone=None,
        put=11.9,
        writable=12.0,
        gap=Gap(10.5, 12.0),
        new_host="127.0.0.9",
        end=14.0,
        attempts=Attempts.of(attempts),
        noise=0.002,
        late=Attempts.of(late),
    )


# --- stalls ---------------------------------------------------------------------------------------------


def test_a_stall_lasts_from_the_first_attempt_to_the_commit() -> None:
    met = Attempts.of([failed(1.0, 1.1), failed(1.2, 1.3), tried(1.4, 3.0), tried(3.5, 3.6)])
    assert [(one.start, one.end) for one in met.stalls(9.0)] == [(1.0, 3.0), (3.5, 3.6)]
    assert met.longest_stall(9.0) == 2.0


def test_time_to_think_is_no_stall() -> None:
    assert Attempts.of([tried(1.0, 1.5), tried(5.0, 5.25)]).longest_stall(9.0) == 0.5


def test_stalls_of_different_clients_are_not_added() -> None:
    met = Attempts.of([failed(1.0, 1.1, client=1), tried(2.0, 2.5, client=2), tried(1.2, 1.5, client=1)])
    assert met.longest_stall(9.0) == 0.5


def test_a_client_that_stays_without_a_commit_has_waited_until_the_end() -> None:
    assert Attempts.of([failed(1.0, 1.1)]).longest_stall(9.0) == 8.0


def test_a_fresh_client_that_failed_went_away_and_waits_no_more() -> None:
    assert Attempts.of([failed(1.0, 1.1, kind=FRESH)]).longest_stall(9.0) == 0.0


def test_a_long_transaction_is_no_stall() -> None:
    assert Attempts.of([tried(1.0, 2.0, kind=LONG), tried(1.0, 1.25, client=1)]).longest_stall(9.0) == 0.25


def test_the_noise_of_the_load_is_no_transaction() -> None:
    assert len(Attempts.of([tried(1.0, 2.0), tried(1.0, 5.0, kind=NOISE)])) == 1


def test_in_flight_is_what_began_before_and_ended_after_the_instant() -> None:
    met = Attempts.of([tried(1.0, 2.0), tried(1.9, 2.1), tried(2.0, 3.0)])
    assert len(met.during(2.0, 2.0 + 1e-6)) == 2
    assert [one.start for one in met.during(2.05, 2.05 + 1e-6).all] == [1.9, 2.0]


# --- figures --------------------------------------------------------------------------------------------


def test_a_stall_is_put_beside_the_time_without_a_primary() -> None:
    one = episode(tried(10.25, 12.0))
    assert one.stall == 1.75
    assert one.stall_over_patroni == 0.25
    assert one.lead == pytest.approx(0.49)


def test_long_transactions_are_counted_apart() -> None:
    one = episode(tried(10.0, 12.25), failed(10.0, 10.5, kind=LONG, client=1))
    figures = planned_figures([one], one.attempts)
    assert (figures["transactions"], figures["failed"]) == (1, 0)
    assert figures["long"] == {"transactions": 1, "failed": 1}
    assert figures["failed_by_kind"] == {"simple": 0}


def test_a_crash_tells_failures_in_flight_from_all_others() -> None:
    one = episode(failed(9.9, 10.1), failed(10.2, 10.3, client=1), tried(11.0, 12.05, client=2))
    figures = crash_figures([one])
    assert (figures["failed"], figures["in_flight"], figures["failed_not_in_flight"]) == (2, 1, 1)
    assert figures["first_commit_after_writable_ms"] == {"p50": 50.0, "max": 50.0}


def test_what_was_stuck_counts_as_in_flight_and_as_failed_if_it_failed_later() -> None:
    met = episode(tried(11.0, 12.05, client=2))
    later = [failed(9.9, 30.0), tried(9.9, 31.0, client=1), tried(12.0, 32.0, client=3)]
    figures = crash_figures([met.with_late(Attempts.of(later))])
    assert (figures["stuck"], figures["in_flight"], figures["failed"]) == (2, 2, 1)
    assert figures["failed_not_in_flight"] == 0


def test_a_commit_on_the_old_server_is_not_the_first_on_the_new() -> None:
    one = episode(tried(9.9, 10.1, server=OLD), tried(11.0, 12.25))
    assert one.first_commit_after_writable == 0.25


def test_no_commit_at_all_counts_until_the_end() -> None:
    assert episode(failed(11.0, 11.1)).first_commit_after_writable == 2.0


def test_both_settings_are_added_and_kept() -> None:
    one = episode(tried(10.25, 12.0))
    part = planned_figures([one], one.attempts)
    figures = {"planned": planned.altogether({"defaults": part, "recommended": part}, [one, one])}
    require(figures, planned.PROMISED)
    assert at(figures, "planned.switchovers") == 2
    assert at(figures, "planned.recommended.switchovers") == 1


def test_a_session_may_fail_once_and_newcomers_are_counted_apart() -> None:
    twice = episode(
        failed(10, 11), failed(11, 12), failed(10, 11, client=1), failed(9, 10, kind=FRESH, client=99)
    )
    figures = {"session": session.session_figures([twice])}
    require(figures, session.PROMISED)
    assert at(figures, "session.failed") == 3
    assert at(figures, "session.most_failures_of_one") == 2
    assert at(figures, "session.new_failed") == 1
    assert at(figures, "session.open_sessions") == session.OPEN


# --- in a row -------------------------------------------------------------------------------------------


def test_a_refused_switchover_is_said_and_made_again() -> None:
    said: list[str] = []
    answers = iter([None, episode(tried(10.25, 12.0)), episode()])

    def deed() -> Episode:
        if (answer := next(answers)) is None:
            raise BedError("Patroni refused: 412")
        return answer

    assert len(in_a_row(Bench(QUICK, said.append), "switchover", 2, deed)) == 2
    assert said[0] == "switchover: Patroni refused: 412"
    assert said[1].startswith("switchover 1 of 2: 0 failed, stall 1.750 s, Patroni 1.500 s")


def test_refusals_without_end_and_other_errors_fail_the_case() -> None:
    tries = []

    def refusing() -> Episode:
        tries.append(1)
        raise BedError("Patroni refused: 412")

    def broken() -> Episode:
        raise BedError("no replica")

    bench = Bench(QUICK, lambda _: None)
    with pytest.raises(BedError, match="refused"):
        in_a_row(bench, "switchover", 2, refusing)
    assert len(tries) == REFUSALS + 1
    with pytest.raises(BedError, match="no replica"):
        in_a_row(bench, "switchover", 2, broken)


def test_sections_that_this_version_does_not_know_are_left_out() -> None:
    assert known_sections({"log": {"level": "INFO"}, "of_tomorrow": {}}) == {"log": {"level": "INFO"}}


# --- pictures -------------------------------------------------------------------------------------------


def drawn(title: str = "ours", fails: int = 0) -> Sample:
    failures = [failed(10.5 + n, 10.6 + n) for n in range(fails)]
    met = episode(tried(9.5, 9.501), *failures, tried(10.25, 12.0))
    return sample(title, met, met.attempts, met.end)


def test_a_sample_counts_from_the_deed() -> None:
    one = drawn()
    assert one["gap"] == [0.5, 2.0]
    assert one["transactions"] == [["simple", -0.5, 0.001, True], ["simple", 0.25, 1.75, True]]
    assert (one["failed"], one["stall_s"]) == (0, 1.75)


def test_a_sample_of_a_crash_says_whether_all_that_failed_was_in_flight() -> None:
    crash = replace(episode(failed(9.9, 10.1, kind=LONG), failed(9.95, 10.1, client=1)), announced=None)
    one = sample("ours", crash, crash.attempts, crash.end)
    assert (one["failed"], one["failed_long"], one["all_in_flight"]) == (1, 1, True)
    later = replace(crash, attempts=Attempts.of([*crash.attempts.all, failed(10.5, 10.6, client=2)]))
    assert not sample("ours", later, later.attempts, later.end)["all_in_flight"]


def test_the_picture_is_an_svg_that_says_what_it_shows() -> None:
    root = ET.fromstring(svg("A <switchover>", "since", [drawn(), drawn("rival & co", 2)], 5.0))  # noqa: S314 - ours
    name = "{http://www.w3.org/2000/svg}"
    assert root.findtext(f"{name}title") == "A <switchover>"
    assert "rival & co: 2 failed · longest stall" in (root.findtext(f"{name}desc") or "")
    classes = [path.get("class") for path in root.iter(f"{name}path")]
    assert classes.count("ok") == classes.count("failed") == 3


def test_failures_are_drawn_red_and_only_there() -> None:
    def dots(one: Sample) -> str:
        root = ET.fromstring(svg("t", "since", [one], 5.0))  # noqa: S314 - ours
        return [path.get("d") or "" for path in root.iter() if path.get("class") == "failed"][-1]

    assert dots(drawn()) == ""
    assert dots(drawn(fails=2)).count("M") == 2


def test_transactions_at_one_place_are_one_dot() -> None:
    crowd = [["simple", 1.0, 0.001, True]] * 1000
    picture = svg("t", "since", [{**drawn(), "transactions": crowd}], 5.0)
    assert len(picture) < 6000


def test_what_there_are_samples_of_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "watcher.json").write_text(json.dumps(drawn()))
    assert list(pictures.draw(tmp_path, tmp_path)) == [tmp_path / "switchover.svg"]
    assert "ours" in (tmp_path / "switchover.svg").read_text()


def test_without_samples_the_remedy_is_said(tmp_path: Path) -> None:
    with pytest.raises(BedError, match="HINT: make bench"):
        list(pictures.draw(tmp_path, tmp_path / "nothing"))


# --- clients at several doors -------------------------------------------------------------------------


def test_each_door_has_the_clients_of_the_mix() -> None:
    plan = Plan("a", 1, mix={"simple": 1, "several": 1}, doors=[("b", 2)])
    assert plan.kinds == ["simple", "several"] * 2
    assert [plan.door_of(client) for client in range(5)] == [("a", 1), ("a", 1), ("b", 2), ("b", 2), ("a", 1)]
    assert Plan("a", 1).door_of(7) == ("a", 1)
