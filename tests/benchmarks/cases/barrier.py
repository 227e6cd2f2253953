"""Planned switchovers with `watcher barrier` as Patroni's `before_stop`: long transactions survive too.

The barrier runs as it would be installed: one file, by Patroni's own Python, as user postgres. Once clients
are held as soon as the switchover is announced (`barrier`), once only when the barrier asks (`at_barrier`).
The stop waits for the transactions that run, so stalls are longer than without by what those take.
"""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

from tests.benchmarks.bench import Bench
from tests.benchmarks.cases.planned import FIGURES
from tests.benchmarks.contenders import HOLDS, watcher_with
from tests.benchmarks.episodes import planned_figures
from tests.benchmarks.figures import Figures
from tests.benchmarks.series import PLANNED_SECONDS, explained, in_a_row, keep_sample
from tests.benchmarks.stage import stage
from tests.support.accounts import POSTGRES_ACCOUNT, own_file
from tests.support.bed import Bed
from tests.support.install import PATRONI_VENV
from tests.support.pgbouncer import RECOMMENDED
from tests.support.waiting import BedError

MODULE = "watcher.barrier"
LIMIT = 10
ANNOUNCED = {"barrier": "at_once", "at_barrier": "at_barrier"}
OWNED = tuple(f"planned.{name}" for name in ANNOUNCED)
PROMISED = tuple(f"planned.{name}.{figure}" for name in ANNOUNCED for figure in FIGURES)


def measure(bench: Bench) -> tuple[Figures, Figures]:
    """The promised figures, of `barriers` switchovers each."""
    figures = {name: _measured(bench, name, announced) for name, announced in ANNOUNCED.items()}
    return {"planned": figures}, {"switchovers_each": bench.counts.barriers, "limit_s": LIMIT}


def _measured(bench: Bench, name: str, announced: str) -> Figures:
    contender = watcher_with(hold={**HOLDS, "announced": announced}, barrier={"enabled": True})
    bench.say(f"the whole bed with the barrier, hold.announced = {announced}")
    with (
        stage(contender, ini=RECOMMENDED, prepare=install_barrier) as scene,
        explained(bench, scene),
    ):
        episodes = in_a_row(bench, "switchover", bench.counts.barriers, scene.switch_over)
        figures = planned_figures(episodes, scene.met())
        keep_sample(name, "this watcher, with the barrier", scene, episodes[-1], PLANNED_SECONDS)
    return figures


def install_barrier(bed: Bed) -> None:
    """On every Patroni node, which has not been started yet. BedError where the watcher has no barrier."""
    program = Path(shutil.copy(_source(), bed.folder / "pgbouncer-watcher-barrier"))
    program.chmod(0o644)
    for node in bed.patroni.nodes:
        config = json.loads(node.config_file.read_text())
        command = f"{PATRONI_VENV}/bin/python {program} --patroni-config {node.config_file}"
        config["postgresql"]["before_stop"] = f"{command} --limit {LIMIT}"
        own_file(node.config_file, json.dumps(config, indent=1), POSTGRES_ACCOUNT, 0o600)


def _source() -> str:
    found = find_spec(MODULE)
    if found is None or found.origin is None:
        raise BedError(f"this version of the watcher has no {MODULE}")
    return found.origin
