"""Break `watcher/decide/` in some three thousand ways, one at a time, and see that its tests notice.

    python -m tests.mutants              all mutants, anew
    python -m tests.mutants --again      who survived the last time, was not run, or was edited since
    python -m tests.mutants --report     run nothing, judge what was found last

A survivor is a change that no test notices. Each needs its reason in `survivors.toml`, but those that
change no more than the wording of a sentence. Leaves with 1 where a survivor has no reason, where a
reason has no survivor any more, or where a mutant was not run to its end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.mutants import reasons, results
from tests.mutants.results import Mutant

HOME = Path("mutants")


def main() -> int:
    options = _options()
    if (options.report or options.again) and not results.TREE.is_dir():
        raise SystemExit("no mutant was run here yet: python -m tests.mutants")
    if not options.report:
        _run(options.again, options.jobs)
    judgement = reasons.judge(results.read(), reasons.read())
    print(report(judgement))
    return 0 if judgement.is_clean else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("--again", action="store_true", help="only those that survived the last time")
    parser.add_argument("--report", action="store_true", help="judge what was found last, and run nothing")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    return parser.parse_args()


def _run(again: bool, jobs: int) -> None:
    if again:
        results.forget_survivors()
    else:
        shutil.rmtree(HOME, ignore_errors=True)
    loud = None if sys.stdout.isatty() else subprocess.DEVNULL  # a spinner, hundreds of times a line
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(jobs)]
    done = subprocess.run(command, stdout=loud, check=False)
    if done.returncode:
        raise SystemExit("mutmut could not run: the tests have to pass before the code is broken")


def report(judgement: reasons.Judgement) -> str:
    """What to do first, the figures last."""
    return "\n".join(
        [
            *_block("survived, and no reason is given:", map(_told, judgement.unreasoned)),
            *_block(
                "not run to its end (python -m tests.mutants --again):", map(_told, judgement.unknown[:10])
            ),
            *_block("a reason without its survivor:", (f"{r.function}\n{r.diff}" for r in judgement.stale)),
            f"{len(judgement.killed):5} killed",
            f"{len(judgement.wording):5} survived: the wording of a sentence",
            f"{len(judgement.reasoned):5} survived, with a reason",
            f"{len(judgement.unreasoned):5} survived, without a reason",
            f"{len(judgement.unknown):5} not run to its end",
            f"{len(judgement.stale):5} reasons without a survivor",
        ]
    )


def _told(mutant: Mutant) -> str:
    return f"{mutant.function}\n{mutant.diff}"


def _block(title: str, items: Iterable[str]) -> list[str]:
    return [f"{title}\n{item}\n" for item in items]


if __name__ == "__main__":
    raise SystemExit(main())
