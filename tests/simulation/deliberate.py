"""Faults put into the watcher on purpose: each must be caught, or the simulator proves nothing.

Some were the watcher's own. `python -m tests.simulation.deliberate` puts one after the other into a copy of
the watcher and plays the schedule that is known to break then, a minute in all. Where a change of the watcher
has moved what happens in it, others are played until one breaks, and its seed is to be noted; 1 if a fault
survives them all.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_SCHEDULES = 6000


@dataclass(frozen=True)
class Fault:
    """`old` becomes `new` in one file of the watcher; `seed` is a schedule that is known to catch it, played
    with the options of `played`.
    """

    name: str
    file: str
    old: str
    new: str
    seed: int
    played: tuple[str, ...] = ()


FAULTS = (
    Fault(
        "fence off by one",
        "decide/fence.py",
        "new.revision >= old.revision",
        "new.revision >= old.revision - 3",
        seed=224,
    ),
    Fault(
        "fence believes another etcd at once",
        "decide/fence.py",
        "old.cluster_id == new.cluster_id and new.revision",
        "new.revision",
        seed=70,
    ),
    Fault(
        "fence takes any read for a proof",
        "decide/fence.py",
        "desired.proven_at > actual.file_read_at",
        "True",
        seed=9,
    ),
    Fault(
        "an event undoes what the health check wrote",
        "decide/fence.py",
        "    if old.cluster_id == new.cluster_id and",
        "    if old.cluster_id in (0, new.cluster_id) and",
        seed=852,
    ),
    Fault(
        "one missing answer is silence",
        "decide/decision.py",
        "    return since if pulse is None or view.silent_since is None else max(since, view.silent_since)",
        "    return since",
        seed=2,
    ),
    Fault(
        "silence lets clients go on",
        "decide/decision.py",
        "    if last.held and last.reason not in _ONLY_ANNOUNCED:",
        "    if False:",
        seed=29,
    ),
    Fault(
        "who takes a watcher's place knows nothing",
        "decide/view.py",
        "    known = handover.view\n",
        "    known = view\n",
        seed=103,
    ),
    Fault(
        "a guard that was taken off has seen its server refuse",
        "decide/decision.py",
        "(since if _is_of(reign, seen) else heard_at)",
        "since",
        seed=151,
    ),
    Fault("no fence", "decide/fence.py", "    if old is None:\n", "    if True:\n", seed=9),
    Fault(
        "the health check goes back in time",
        "decide/fence.py",
        "    if new.timeline > old.timeline:",
        "    if True:",
        seed=92,
    ),
    Fault(
        "release forgotten",
        "decide/decision.py",
        "[Release(), *lead] if wish.gave_up or wish.route is None else [Release(endpoint, reload)]",
        "[]",
        seed=0,
    ),
    Fault(
        "reload forgotten",
        "decide/decision.py",
        "[Reload(), Confirm(endpoint)] if reload else []",
        "[]",
        seed=2,
    ),
    Fault(
        "confirmation skipped",
        "decide/decision.py",
        "[Reload(), Confirm(endpoint)] if reload else []",
        "[Reload()] if misled else []",
        seed=2,
    ),
    Fault(
        "PgBouncer's own word is not asked",
        "decide/decision.py",
        "misled or actual.reload_owed or bool(unconfirmed(actual, endpoint))",
        "misled",
        seed=0,
    ),
    Fault(
        "a hold without a limit",
        "decide/decision.py",
        "    until = min(wish.hold_until, held_since + policy.hold.limit)\n",
        "    until = now + policy.hold.limit\n",
        seed=8,
    ),
    Fault(
        "a hold is begun again when it gave up",
        "reconciler.py",
        "        self._held_since = min(moment for moment in since if moment is not None)",
        "        self._held_since = self.beat_at if held is None else held.since",
        seed=2,
    ),
    Fault(
        "a lower revision is believed",
        "decide/view.py",
        "    if goes_back and view.contact_at is not None and listing.asked_at < view.contact_at:\n"
        "        return view\n",
        "",
        seed=44,
    ),
    Fault(
        "events in order of arrival",
        "decide/view.py",
        "if event.mod_revision > view.revision]",
        "]",
        seed=45,
    ),
    Fault(
        "a deletion is not heard",
        "decide/view.py",
        "            entries.pop(event.key, None)",
        "            pass",
        seed=0,
    ),
    Fault(
        "a restored etcd is never believed",
        "decide/view.py",
        "listing.asked_at < view.contact_at:",
        "True:",
        seed=5,
    ),
    Fault(
        "any of two primaries will do",
        "decide/decision.py",
        "    if len(primaries) != 1:",
        "    if not primaries:",
        seed=22,
    ),
    Fault(
        "a primary that does not run will do",
        "decide/decision.py",
        "    if not node.accepts_writes:",
        "    if False:",
        seed=5,
    ),
    Fault(
        "a leader is ready because it leads",
        "decide/decision.py",
        "    readiness = _readiness(view, reign)\n"
        "    return (\n"
        "        readiness is not None\n"
        "        and readiness.verdict is Verdict.READY\n"
        "        and readiness.role is needed_role(view, policy)\n"
        "    )",
        "    return True",
        seed=0,
    ),
    Fault(
        "an equal timeline is a newer one",
        "decide/fence.py",
        "    if new.timeline > old.timeline:",
        "    if new.timeline >= old.timeline:",
        seed=448,
    ),
    Fault(
        "whom another made wait waits longer by us",
        "reconciler.py",
        "        if until < hold.until:\n            self._target.take(Hold(until))\n",
        "",
        seed=25412,
    ),
    Fault(
        "clients are not held while there is no leader",
        "decide/decision.py",
        "        return replace(wish, held=not config(view).pause)",
        "        return wish",
        seed=1,
    ),
    Fault(
        "an announced switchover is not heeded",
        "decide/decision.py",
        "        held = _while_announced(wish, view, policy, moment, reign)",
        "        held = wish",
        seed=5,
    ),
    Fault(
        "a release without the reload",
        "decide/decision.py",
        "[Release(endpoint, reload)]",
        "[Release(endpoint, False)]",
        seed=0,
    ),
    Fault(
        "ready once is ready in the next reign",
        "decide/decision.py",
        "    return readiness if readiness is not None and readiness.leadership == reign else None",
        "    return readiness",
        seed=0,
    ),
    Fault(
        "the first wish is kept",
        "mailbox.py",
        "            self._value = value\n            if wake:",
        "            self._value = self._value if self._fresh else value\n            if wake:",
        seed=678,
    ),
    Fault(
        "news wake nobody",
        "mailbox.py",
        "                self._fresh = True\n                self._changed.notify()\n\n    def nudge",
        "                pass\n\n    def nudge",
        seed=1,
    ),
    Fault(
        "a failure is tried again in an hour",
        "reconciler.py",
        "        return patience.delay(failures, self._random)",
        "        return 3600.0",
        seed=124,
    ),
    Fault(
        "what was seen once is so for ever",
        "reconciler.py",
        "and now - self._read_at < self._resync_interval",
        "",
        seed=0,
    ),
    Fault(
        "an operator's pause is not heeded",
        "decide/decision.py",
        "    if keep_off is None:",
        "    if True:",
        seed=75,
    ),
    Fault(
        "a stamp without its revision",
        "decide/decision.py",
        "        revision=reign.create_revision,\n",
        "        revision=1,\n",
        seed=0,
    ),
    Fault(
        "clients wait for a canary without a limit",
        "decide/canary.py",
        "    limited = within_limit(waits, policy, held_since, now)",
        "    limited = waits",
        seed=3,
        played=("--canary",),
    ),
)


@contextmanager
def broken(fault: Fault) -> Iterator[Path]:
    """A copy of the watcher and of the tests, with that fault in it."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("watcher", "tests"):
            shutil.copytree(ROOT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
        file = Path(folder) / "watcher" / fault.file
        text = file.read_text()
        if text.count(fault.old) != 1:
            raise SystemExit(f"{fault.name}: its text stands {text.count(fault.old)} times in {fault.file}")
        file.write_text(text.replace(fault.old, fault.new))
        yield Path(folder)


def caught(fault: Fault) -> str:
    """Why its schedule breaks, or else which other does and why; empty if none."""
    done = _simulate(fault, *fault.played, "--seed", str(fault.seed))
    return done.stdout.splitlines()[-1] if done.returncode else searched(fault)


def searched(fault: Fault) -> str:
    """The first schedule that breaks, with why; empty if none of `MOST_SCHEDULES` does."""
    done = _simulate(fault, *fault.played, "--count", str(MOST_SCHEDULES), "--first", "--jobs", "1")
    return done.stdout.splitlines()[0] if done.returncode else ""


def _simulate(fault: Fault, *options: str) -> "subprocess.CompletedProcess[str]":
    with broken(fault) as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.simulation", *options],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode not in (0, 1):
        raise SystemExit(f"{fault.name}: the simulator itself failed\n{done.stderr[-2000:]}")
    return done


def main() -> int:
    options = _parser().parse_args()
    if options.list:
        print(*(f"{fault.seed:5} {fault.name}" for fault in FAULTS), sep="\n")
        return 0
    chosen = [one for one in FAULTS if options.only in (None, one.name)]
    survived = 0
    for fault in chosen:
        how = searched(fault) if options.search else caught(fault)
        survived += not how
        print(f"{fault.name:56} {how or 'SURVIVED'}", flush=True)
    print(f"{len(chosen)} faults, {survived} survived")
    return 1 if survived else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.deliberate", description=__doc__)
    parser.add_argument(
        "--only", metavar="NAME", choices=[fault.name for fault in FAULTS], help="this fault alone"
    )
    parser.add_argument("--list", action="store_true", help="their seeds and names")
    parser.add_argument("--search", action="store_true", help="not the recorded seeds: the first that breaks")
    return parser


if __name__ == "__main__":
    sys.exit(main())
