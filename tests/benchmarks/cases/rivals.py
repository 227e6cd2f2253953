"""Others on the same bed, under the same load: planned switchovers and crashes (SIGKILL) each.

PgBouncer has the recommended settings, of which the rivals gain too; with its defaults they are measured
again, planned only, below `planned.defaults`.
"""

from tests.benchmarks.bench import Bench
from tests.benchmarks.contenders import RIVALS, WITHOUT_PGBOUNCER, Contender
from tests.benchmarks.episodes import crash_figures, planned_figures
from tests.benchmarks.figures import Figures
from tests.benchmarks.rivals.environment import ensure_ansible
from tests.benchmarks.series import CRASH_SECONDS, PLANNED_SECONDS, explained, in_a_row, keep_sample
from tests.benchmarks.stage import stage
from tests.support.pgbouncer import RECOMMENDED

TITLES = {
    "watch_reload": "watch and RELOAD, no holds",
    "poll_ansible": "poll every 5 s and Ansible",
    "haproxy": "HAProxy, as Patroni recommends",
    "pgbouncer_haproxy": "PgBouncer behind HAProxy",
}
FIGURES = ("switchovers", "transactions", "failed", "stall_s.p50", "stall_s.max", "patroni_s.p50")
OWNED = tuple(f"rivals.{name}.{what}" for name in RIVALS for what in ("planned", "crash"))
PROMISED = (
    *(f"rivals.{name}.planned.{figure}" for name in RIVALS for figure in FIGURES),
    *(
        f"rivals.{name}.planned.defaults.{figure}"
        for name in RIVALS
        if name not in WITHOUT_PGBOUNCER
        for figure in FIGURES
    ),
    *(
        f"rivals.{name}.crash.{figure}"
        for name in RIVALS
        for figure in ("crashes", "failed", "in_flight", "stall_s.p50", "stall_s.max")
    ),
)


def measure(bench: Bench) -> tuple[Figures, Figures]:
    """The promised figures of every rival."""
    ensure_ansible(bench.say)
    counts = bench.counts
    rivals = {name: _measured(bench, name, contender) for name, contender in RIVALS.items()}
    return {"rivals": rivals}, {"switchovers": counts.rival_planned, "crashes": counts.rival_crashes}


def _measured(bench: Bench, name: str, contender: Contender) -> Figures:
    planned, crash = _recommended(bench, name, contender)
    if name not in WITHOUT_PGBOUNCER:
        planned["defaults"] = _defaults(bench, name, contender)
    return {"planned": planned, "crash": crash}


def _recommended(bench: Bench, name: str, contender: Contender) -> tuple[Figures, Figures]:
    counts = bench.counts
    bench.say(f"{name}: the whole bed, PgBouncer's settings: recommended")
    with (
        stage(contender, ini=RECOMMENDED, networks=True) as scene,
        explained(bench, scene),
    ):
        planned = in_a_row(bench, f"{name}: switchover", counts.rival_planned, scene.switch_over)
        figures = planned_figures(planned, scene.met())
        keep_sample(name, TITLES[name], scene, planned[-1], PLANNED_SECONDS)
        crashes = in_a_row(bench, f"{name}: kill", counts.rival_crashes, lambda: scene.crash("kill"))
        keep_sample(f"crash-{name}", TITLES[name], scene, crashes[-1], CRASH_SECONDS)
    return figures, crash_figures(crashes)


def _defaults(bench: Bench, name: str, contender: Contender) -> Figures:
    bench.say(f"{name}: the whole bed, PgBouncer's settings: defaults")
    with stage(contender, ini={}) as scene, explained(bench, scene):
        episodes = in_a_row(bench, f"{name}: switchover", bench.counts.rival_planned, scene.switch_over)
        return planned_figures(episodes, scene.met())
