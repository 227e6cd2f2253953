"""Which mutants may survive: what `python -m tests.mutants` judges by."""

import json
from pathlib import Path

import pytest

from tests.mutants import reasons, results
from tests.mutants.__main__ import report
from tests.mutants.reasons import Reason, judge
from tests.mutants.results import Fate, Mutant, diff_of, fate_of, is_wording

ALIVE = Mutant(
    "watcher.decide.a.x_f__mutmut_1", "watcher.decide.a.f", "- 1\n+ 2", Fate.SURVIVED, wording=False
)
WHY = Reason("watcher.decide.a.f", "- 1\n+ 2", "nobody can tell")


def changed(**to: object) -> Mutant:
    values = {name: getattr(ALIVE, name) for name in ("key", "function", "diff", "fate", "wording")}
    return Mutant(**{**values, **to})


WORDINGS = [
    ("raise E(p, 'is not JSON')", "raise E(p, 'XXis not JSONXX')", True),
    ("raise E(p, 'is not JSON')", "raise E(p, 'IS NOT JSON')", True),
    ("raise E(p, f'{n!r} is' ' too long')", "raise E(p, f'{n!r} is' 'XX too longXX')", True),
    ("raise E(p, 'is not JSON')", "raise E(p, None)", False),
    ("raise E(p, 'is not JSON')", "raise E('is not JSON')", False),
    ("raise E(p, 'is not JSON')", "raise E(p, 'is another text')", False),
    ("raise E(p, 'is not JSON')", "raise E(q, 'XXis not JSONXX')", False),
    ("d.get('ttl')", "d.get('TTL')", False),
    ("'; '.join(d)", "'XX; XX'.join(d)", False),
    ("float('inf')", "float('INF')", False),
    ("a < 1", "a <= 1", False),
]


@pytest.mark.parametrize(("old", "new", "wording"), WORDINGS)
def test_only_a_sentence_that_is_still_there_may_be_worded_otherwise(
    old: str, new: str, wording: bool
) -> None:
    assert is_wording(old, new) is wording


def test_a_change_is_told_by_its_lines_wherever_they_stand() -> None:
    assert diff_of("if a:\n    b = 2", "if a:\n    b = 3") == "- b = 2\n+ b = 3"
    assert diff_of("x = 1\nif a:\n  b = 2", "x = 1\nif a:\n  b = 3") == "- b = 2\n+ b = 3"


@pytest.mark.parametrize(
    ("code", "fate"),
    [(1, Fate.KILLED), (36, Fate.KILLED), (0, Fate.SURVIVED), (33, Fate.SURVIVED), (None, Fate.UNKNOWN)],
)
def test_a_mutant_that_no_test_runs_survived_and_one_that_was_not_run_is_not_known(
    code: int | None, fate: Fate
) -> None:
    assert fate_of(code) is fate


JUDGED: dict[str, tuple[list[Mutant], list[Reason], bool]] = {
    "killed": ([changed(fate=Fate.KILLED)], [], True),
    "survived": ([ALIVE], [], False),
    "survived with its reason": ([ALIVE], [WHY], True),
    "survived twice with one reason": ([ALIVE, ALIVE], [WHY], True),
    "survived with another's reason": ([changed(function="watcher.decide.a.g")], [WHY], False),
    "survived as another wording": ([changed(wording=True)], [], True),
    "not run": ([changed(fate=Fate.UNKNOWN)], [], False),
    "a reason for what was killed": ([changed(fate=Fate.KILLED)], [WHY], False),
    "a reason for what is not there": ([], [WHY], False),
}


@pytest.mark.parametrize("name", JUDGED)
def test_whoever_survives_needs_a_reason_and_every_reason_its_survivor(name: str) -> None:
    mutants, why, clean = JUDGED[name]
    judgement = judge(mutants, why)
    assert judgement.is_clean is clean
    assert (ALIVE.diff in report(judgement)) is not clean


def test_what_mutmut_leaves_behind_is_read(tmp_path: Path) -> None:
    source = "def x_f__mutmut_orig(a):\n    return a < 1\n\ndef x_f__mutmut_1(a):\n    return a <= 1\n"
    (tmp_path / "a.py").write_text(source)
    spans = {"x_f__mutmut_orig": [1, 2], "x_f__mutmut_1": [4, 5]}
    (tmp_path / "a.py.spans").write_text(json.dumps({"spans": spans}))
    (tmp_path / "a.py.meta").write_text(json.dumps({"exit_code_by_key": {"w.a.x_f__mutmut_1": 0}}))
    assert list(results.read(tmp_path)) == [
        Mutant("w.a.x_f__mutmut_1", "w.a.f", "- return a < 1\n+ return a <= 1", Fate.SURVIVED, wording=False)
    ]


def test_who_survived_is_run_again_and_who_was_killed_is_not(tmp_path: Path) -> None:
    meta = tmp_path / "a.py.meta"
    meta.write_text(json.dumps({"exit_code_by_key": {"killed": 1, "survived": 0, "left out": 33}, "else": 7}))
    results.forget_survivors(tmp_path)
    codes = {"killed": 1, "survived": None, "left out": None}
    assert json.loads(meta.read_text()) == {"exit_code_by_key": codes, "else": 7}


def test_a_reason_has_to_say_something(tmp_path: Path) -> None:
    file = tmp_path / "survivors.toml"
    file.write_text("[[survivor]]\nin = 'w.a.f'\ndiff = '''\n- 1\n+ 2'''\nwhy = ' '\n")
    with pytest.raises(ValueError, match="no reason"):
        reasons.read(file)


def test_every_reason_of_ours_can_be_read() -> None:
    assert len({reason.identity for reason in reasons.read()}) == len(reasons.read())
