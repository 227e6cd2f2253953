"""The list of cases is whole, chaos can fail, and one case goes through from end to end."""

import inspect
import sys

import pytest

from tests.chaos.__main__ import rounds
from tests.chaos.faults import FAULTS
from tests.chaos.registry import MODULES, Case, Undo, all_cases
from tests.support.processes import run
from tests.support.watcher import REPOSITORY

CASES = all_cases()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_case_says_what_is_broken_what_is_promised_and_how_it_is_undone(case: Case) -> None:
    assert case.fault.endswith(".")
    assert case.promise
    source = inspect.getsource(inspect.getmodule(case.strike) or case.strike)
    assert "undo" in inspect.signature(case.strike).parameters
    assert "undo.by(" in source


def test_every_module_has_cases() -> None:
    assert {case.group for case in CASES.values()} == set(MODULES)


def test_what_was_done_is_undone_backwards_and_wholly_even_if_a_step_fails() -> None:
    undo, seen = Undo(), list[str]()

    def fails() -> None:
        seen.append("second")
        raise OSError("no")

    undo.by(lambda: seen.append("first"))
    undo.by(fails)
    with pytest.raises(OSError, match="no"):
        undo.run()
    assert seen == ["second", "first"]


def test_a_seed_gives_the_same_order_again_and_a_round_has_each_case_once() -> None:
    cases = list(CASES.values())
    once, again = [list(rounds(cases, seed=7, seconds=0)) for _ in range(2)]
    assert once == again
    assert sorted(case.name for case in once) == sorted(CASES)
    assert once != list(rounds(cases, seed=8, seconds=0))


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_of_the_product_still_fits_it_and_names_a_case(name: str) -> None:
    fault = FAULTS[name]
    text = (REPOSITORY / "watcher" / fault.file).read_text()
    assert fault.apply_to(text) != text
    assert fault.seen_by in CASES


def test_a_case_goes_through_from_end_to_end(installed: None) -> None:
    del installed
    done = run(
        [sys.executable, "-m", "tests.chaos", "--case", "etcd-member-gone", "--errors"],
        cwd=REPOSITORY,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kept   etcd-member-gone" in done.stdout
