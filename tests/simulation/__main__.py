"""`python -m tests.simulation`: many schedules, 1 if one broke; `--seed N` tells the story of one."""

import argparse
import os
import sys
import time

from tests.simulation.many import verdicts
from tests.simulation.schedule import LEASED, Schedule


def main() -> int:
    options = _parser().parse_args()
    if options.leased:
        options.start += LEASED
        options.seed = None if options.seed is None else options.seed % LEASED + LEASED
    if options.seed is not None:
        verdict = Schedule(options.seed, options.canary).run()
        kept = (
            f"seed {options.seed}: no promise broken; right {verdict.right_after:.1f} s after the last fault"
        )
        print(*verdict.story, verdict.why or kept, sep="\n")
        return 1 if verdict.why else 0
    began, ran, failed, latest = time.monotonic(), 0, 0, 0.0
    for verdict in verdicts(options.start, options.count, options.jobs, options.canary):
        ran += 1
        latest = max(latest, verdict.right_after)
        if verdict.why:
            failed += 1
            print(f"seed {verdict.seed}: {verdict.why}", flush=True)
            if options.first:
                break
        if ran % 10_000 == 0:
            print(f"{ran:,} schedules, {failed} broken", flush=True)
    rate = ran / (time.monotonic() - began)
    print(
        f"{ran:,} schedules, {failed} broken; right at most {latest:.1f} s after the last fault; {rate:.0f}/s"
    )
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="how many schedules")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many processes")
    parser.add_argument("--first", action="store_true", help="no further than the first that breaks")
    parser.add_argument("--seed", type=int, help="this schedule alone, with its story")
    parser.add_argument("--canary", action="store_true", help="one PgBouncer goes first")
    parser.add_argument(
        "--leased",
        action="store_true",
        help=f"one of several watchers is active by a lease; seeds are from {LEASED:,} on",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
