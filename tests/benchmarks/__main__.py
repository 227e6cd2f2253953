"""Measure, print the table, and keep the figures in build/bench/latest.json."""

import argparse
import importlib
import json
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import cast

from tests.benchmarks import pictures, table
from tests.benchmarks.bench import FOLDER, QUICK, Bench, Case, Counts
from tests.benchmarks.conditions import conditions
from tests.benchmarks.figures import Figures, MissingFigureError, merged, require
from tests.support.waiting import BedError

LATEST = FOLDER / "latest.json"
CASES = (
    "switch",
    "switchover",
    "start",
    "idle",
    "poll_ansible",
    "planned",
    "barrier",
    "crash",
    "false_alarm",
    "session",
    "rivals",
    "page",
    "fleet",
    "fleet_planned",
    "fleet_ansible",
    "fleet_start",
    "canary",
    "clusters",
    "replicas",
    "takeover",
)


def main(arguments: list[str] | None = None) -> int:
    """0, or 1 if a case failed or a figure is missing; the others' figures are kept all the same."""
    options = _parser().parse_args(arguments)
    if options.report:
        return _report(options.output)
    if options.plot:
        return _plot()
    names = CASES if options.case == "all" else (options.case,)
    bench = Bench(QUICK if options.quick else Counts(), _say)
    failed = [name for name in names if not _run(name, bench, options.output)]
    print(table.text(read(options.output)))
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("case", nargs="?", default="all", choices=("all", *CASES), help="one case alone")
    parser.add_argument("--quick", action="store_true", help="a few of everything, to see that it works")
    parser.add_argument("--report", action="store_true", help="only print the last figures, as Markdown")
    parser.add_argument("--plot", action="store_true", help="only draw docs/*.svg from the last samples")
    parser.add_argument("--output", type=Path, default=LATEST, help="the file of figures")
    return parser


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


# --- measuring ----------------------------------------------------------------------------------------


def load_case(name: str) -> Case:
    """The module of that name."""
    return cast(Case, importlib.import_module(f"tests.benchmarks.cases.{name}"))


def _run(name: str, bench: Bench, output: Path) -> bool:
    """Measure one case and put its figures into the file; False, with the reason said, if that failed."""
    print(f"{name}", file=sys.stderr, flush=True)
    case = load_case(name)
    try:
        figures, counted = case.measure(bench)
        require(figures, case.PROMISED)
    except (BedError, MissingFigureError, OSError) as error:
        print(f"{name} failed: {error}", file=sys.stderr)
        return False
    figures["conditions"] = {name: counted | conditions()}
    write(output, merged(read(output), figures, [*case.OWNED, f"conditions.{name}"]))
    return True


def read(file: Path) -> Figures:
    """The figures so far; none if there is no file."""
    figures: Figures = json.loads(file.read_text()) if file.exists() else {}
    return figures


def write(file: Path, figures: Figures) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"{file.name}.new")
    new.write_text(json.dumps(figures, indent=2) + "\n")
    os.replace(new, file)  # noqa: PTH105 - atomic


# --- reporting ----------------------------------------------------------------------------------------


def _report(file: Path) -> int:
    figures = read(file)
    print(table.markdown(figures))
    try:
        require(figures, promised(CASES))
    except MissingFigureError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _plot() -> int:
    try:
        for file in pictures.draw():
            print(file)
    except BedError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def promised(names: Iterable[str]) -> list[str]:
    """Every figure of these cases."""
    return [path for name in names for path in load_case(name).PROMISED]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
