"""Session pools: a session that is open may fail once in a switchover, and nobody who comes anew may fail."""

from collections import Counter
from collections.abc import Sequence

from tests.benchmarks.bench import Bench
from tests.benchmarks.contenders import watcher
from tests.benchmarks.episodes import Episode, median_and_most
from tests.benchmarks.figures import Figures
from tests.benchmarks.series import explained, in_a_row
from tests.benchmarks.stage import stage
from tests.support.attempts import FRESH
from tests.support.pgbouncer import RECOMMENDED
from tests.support.traffic import MIX

NEW = (FRESH, "reconnecting")
OPEN = sum(count for kind, count in MIX.items() if kind not in NEW)
"""Clients that keep their session, those of long transactions among them."""
POOL = {"default_pool_size": "60"}
"""Sessions keep their servers, so the default of 20 would make the newcomers wait for one."""
OWNED = ("session",)
PROMISED = (
    "session.switchovers",
    "session.failed",
    "session.open_sessions",
    "session.new_failed",
    "session.most_failures_of_one",
    "session.stall_s.p50",
)


def measure(bench: Bench) -> tuple[Figures, Figures]:
    """The promised figures, of `sessions` switchovers."""
    count = bench.counts.sessions
    bench.say("the whole bed, PgBouncer with session pools")
    ini = {**RECOMMENDED, **POOL}
    with stage(watcher, ini=ini, pool_mode="session") as scene, explained(bench, scene):
        episodes = in_a_row(bench, "switchover", count, scene.switch_over)
    return {"session": session_figures(episodes)}, {"switchovers": count, "open_sessions_each": OPEN}


def session_figures(episodes: Sequence[Episode]) -> Figures:
    """`failed` of the sessions that were open, beside how many were; apart from them who came anew."""
    kept = [one.attempts.without(*NEW) for one in episodes]
    by_session = [count for met in kept for count in Counter(f.client for f in met.failures).values()]
    return {
        "switchovers": len(episodes),
        "open_sessions": OPEN * len(episodes),
        "failed": sum(met.failed for met in kept),
        "most_failures_of_one": max(by_session, default=0),
        "new_failed": sum(one.attempts.only(*NEW).failed for one in episodes),
        "stall_s": median_and_most([one.stall for one in episodes], 3),
        "stall_over_patroni_ms": median_and_most([one.stall_over_patroni * 1000 for one in episodes]),
    }
