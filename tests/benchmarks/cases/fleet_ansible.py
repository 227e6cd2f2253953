"""The replaced design over a fleet: a poll of REST every 5 s, and one playbook over all PgBouncers.

With Ansible's default of 5 hosts at once (`forks_5`), and with 50. The switchovers are real ones, for it
listens to Patroni and not to etcd. `confirmed_ms` is by the benchmark's own clock, from the leader key until
the last PgBouncer shows the new host: promotion, poll and playbook.
"""

from tests.benchmarks.bench import Bench
from tests.benchmarks.episodes import median_and_most
from tests.benchmarks.figures import Figures
from tests.benchmarks.rivals.environment import INTERVAL, PollAnsible, ansible_version, ensure_ansible
from tests.benchmarks.switchovers import follow_switchovers
from tests.support.bed import Bed

NAME = "fleet_ansible"
SIZES = (8, 64)
FORKS = (5, 50)
OWNED = (NAME,)
PROMISED = tuple(
    f"{NAME}.{size}.forks_{forks}.confirmed_ms.{which}"
    for size in SIZES
    for forks in FORKS
    for which in ("p50", "max")
)
TIMEOUT = 600.0


def measure(bench: Bench) -> tuple[Figures, Figures]:
    """The promised figures of every size."""
    ensure_ansible(bench.say)
    figures = {str(size): of_size(bench, size) for size in SIZES}
    conditions = {"interval_s": INTERVAL, "switchovers_each": bench.counts.fleet_ansible}
    return {NAME: figures}, conditions | {"ansible_core": ansible_version()}


def of_size(bench: Bench, size: int) -> Figures:
    """With each number of forks, on one bed."""
    bench.say(f"the whole bed with {size} PgBouncers for poll_ansible")
    with Bed(bouncers=size) as bed:
        return {f"forks_{forks}": {"confirmed_ms": _confirmed(bench, bed, forks)} for forks in FORKS}


def _confirmed(bench: Bench, bed: Bed, forks: int) -> Figures:
    bench.say(f"{forks} forks")
    with PollAnsible(bed, f"forks-{forks}", bed.leader().host, forks):
        followed = list(follow_switchovers(bench, bed, bench.counts.fleet_ansible, timeout=TIMEOUT))
    return median_and_most([max(one.confirmed_ms) for one in followed])
