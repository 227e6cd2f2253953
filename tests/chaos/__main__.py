"""`make chaos`: faults in random order from a seed, for so long, and what was lost: nothing.

Exit code 1 if a promise was broken. A stage that does not become whole again is built anew.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext

from tests.chaos.faults import FAULTS, broken_watcher
from tests.chaos.play import play
from tests.chaos.registry import Case, all_cases
from tests.chaos.scene import Scene
from tests.chaos.verdict import Verdict, summary, table
from tests.support.waiting import BedError

INSIDE = "CHAOS_IS_IN_ITS_OWN_NETWORK"


def own_world() -> None:
    """Go on as the same program in a network and a mount namespace of its own."""
    if INSIDE not in os.environ:
        os.environ[INSIDE] = "1"
        inside = ["sh", "-c", 'ip link set lo up && exec "$0" "$@"', sys.executable, "-m", "tests.chaos"]
        os.execvp("unshare", ["unshare", "--net", "--mount", *inside, *sys.argv[1:]])  # noqa: S606


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.chaos", description=__doc__)
    parser.add_argument("--list", action="store_true", help="the cases, and what each promises")
    parser.add_argument(
        "--case", action="append", choices=all_cases(), metavar="NAME", help="only this; may be given again"
    )
    parser.add_argument("--seed", type=int, default=1, help="the order (1)")
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="begin cases for so long (0: each one once)"
    )
    parser.add_argument(
        "--fault", choices=sorted(FAULTS), help="break the product on purpose: it must be seen"
    )
    parser.add_argument(
        "--faults", action="store_true", help="every such fault on the case that should see it"
    )
    parser.add_argument("--errors", action="store_true", help="print all that was not as promised")
    return parser.parse_args(argv)


def rounds(cases: Sequence[Case], seed: int, seconds: float) -> Iterator[Case]:
    """Every case once in each round, in another order each time; one round, or rounds until time is up."""
    chance, until = random.Random(seed), time.monotonic() + seconds  # noqa: S311  # no secret
    while True:
        for one in chance.sample(list(cases), len(cases)):
            yield one
            if seconds and time.monotonic() > until:
                return
        if not seconds:
            return


class Stages:
    """The stage, built anew after a case that left it broken."""

    def __init__(self, stack: ExitStack, fault: str | None) -> None:
        self._stack = stack
        self._program = stack.enter_context(broken_watcher(fault) if fault else nullcontext())
        self._scene: Scene | None = None

    def play(self, case: Case) -> Verdict:
        """The verdict. What goes wrong with the stage itself counts as broken."""
        try:
            self._scene = self._scene or self._stack.enter_context(Scene(self._program))
            verdict = play(self._scene, case)
        except (BedError, OSError) as error:
            verdict = Verdict(case.name, broken=(f"the stage: {error}",))
        if not verdict.kept:
            self._tear_down()
        return verdict

    def _tear_down(self) -> None:
        if self._scene is not None:
            self._scene.__exit__(None, None, None)
            self._scene = None


def _said(verdict: Verdict, seconds: float, *, errors: bool) -> str:
    mark = "kept  " if verdict.kept else "BROKEN"
    line = f"{mark} {verdict.case}: {verdict.transactions} transactions, {verdict.failed} failed, "
    line += f"{verdict.lost or 'nothing'} lost ({seconds:.0f} s)"
    return "\n    ".join([line, *(verdict.broken if errors else verdict.broken[:1])])


def _unseen(known: dict[str, Case]) -> int:
    """How many faults put into the product on purpose are not seen."""
    unseen = 0
    for name, fault in FAULTS.items():
        began = time.monotonic()
        with broken_watcher(name) as program, Scene(program) as scene:  # which is well until it is struck
            verdict = play(scene, known[fault.seen_by])
        seen = any(fault.how in line for line in verdict.broken)
        unseen += not seen
        told = verdict.broken[0].splitlines()[0] if verdict.broken else "nothing"
        mark = "seen    " if seen else "NOT SEEN"
        print(f"{mark} {name}: {fault.seen_by} ({time.monotonic() - began:.0f} s): {told}", flush=True)
    return unseen


def main(argv: Sequence[str]) -> int:
    """The program."""
    arguments, known = _arguments(argv), all_cases()
    if arguments.list:
        print(
            "\n".join(
                f"{one.group:10} {one.meanwhile.value:20} {name:36} {one.promise}"
                for name, one in known.items()
            )
        )
        return 0
    if arguments.faults:
        return _unseen(known)
    chosen = [known[name] for name in arguments.case or known]
    verdicts = []
    with ExitStack() as stack:
        stages = Stages(stack, arguments.fault)
        for one in rounds(chosen, arguments.seed, arguments.seconds):
            began = time.monotonic()
            verdicts.append(stages.play(one))
            print(_said(verdicts[-1], time.monotonic() - began, errors=arguments.errors), flush=True)
    print(table(verdicts, {name: one.promise for name, one in known.items()}))
    print(summary(verdicts, arguments.seed))
    return 0 if all(one.kept for one in verdicts) else 1


if __name__ == "__main__":
    if "--list" not in sys.argv:
        own_world()
    sys.exit(main(sys.argv[1:]))
