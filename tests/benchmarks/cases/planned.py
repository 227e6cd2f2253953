"""Planned switchovers in a row under load: what fails, and how much longer clients wait than Patroni needs.

Once with PgBouncer's default settings, once with the recommended ones. Transactions of a second are counted
apart (`long`): without the barrier a shutdown cuts them.
"""

from collections.abc import Mapping, Sequence

from tests.benchmarks.bench import Bench
from tests.benchmarks.contenders import watcher
from tests.benchmarks.episodes import Episode, planned_figures, waits
from tests.benchmarks.figures import Figures
from tests.benchmarks.series import PLANNED_SECONDS, explained, in_a_row, keep_sample
from tests.benchmarks.stage import stage
from tests.support.pgbouncer import RECOMMENDED

COUNTED = ("switchovers", "transactions", "failed")
FIGURES = (
    *COUNTED,
    "long.transactions",
    "long.failed",
    "stall_over_patroni_ms.p50",
    "stall_over_patroni_ms.max",
    "stall_s.p50",
    "stall_s.max",
    "patroni_s.p50",
    "patroni_s.max",
    "lead_ms.p50",
    "lead_ms.max",
    "first_commit_after_writable_ms.p50",
    "first_commit_after_writable_ms.max",
    "load_late_ms",
)
SETTINGS: Mapping[str, Mapping[str, str]] = {"defaults": {}, "recommended": RECOMMENDED}
OWNED = (*(f"planned.{one}" for one in SETTINGS), *(f"planned.{one.split('.')[0]}" for one in FIGURES))
PROMISED = tuple(
    f"planned.{where}{figure}" for where in ("", *(f"{one}." for one in SETTINGS)) for figure in FIGURES
)


def measure(bench: Bench) -> tuple[Figures, Figures]:
    """The promised figures, of `planned` switchovers with each of the settings."""
    count = bench.counts.planned
    of_settings: dict[str, Figures] = {}
    all_episodes: list[Episode] = []
    for name, ini in SETTINGS.items():
        bench.say(f"the whole bed, PgBouncer's settings: {name}")
        with stage(watcher, ini=ini) as scene, explained(bench, scene):
            episodes = in_a_row(bench, "switchover", count, scene.switch_over)
            of_settings[name] = planned_figures(episodes, scene.met())
            keep_sample("watcher", "this watcher", scene, episodes[-1], PLANNED_SECONDS)
        all_episodes += episodes
    return {"planned": altogether(of_settings, all_episodes)}, {"switchovers_each": count}


def altogether(of_settings: Mapping[str, Figures], episodes: Sequence[Episode]) -> Figures:
    """Sums and spreads over all settings, with each of them below."""
    parts = list(of_settings.values())
    return {
        **{name: sum(part[name] for part in parts) for name in COUNTED},
        "long": {name: sum(part["long"][name] for part in parts) for name in ("transactions", "failed")},
        **waits(episodes),
        **of_settings,
    }
