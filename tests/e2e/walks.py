"""The walk of someone just paged, through three faults on the bed, written down as docs/walks.md.

    python -m tests.e2e.walks

takes about two minutes. Every output and picture of that page comes from here: the alerts from a real
Prometheus with the project's rules (the minutes of `for` made seconds), the commands from the runbooks.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.e2e.runbook import CONFIG, Operator, Said
from tests.e2e.test_alerts import quick_rules
from tests.e2e.test_stage import at, wait_until_led
from tests.support.bed import Bed
from tests.support.chromium import Look, picture
from tests.support.prometheus import Prometheus
from tests.support.waiting import wait_for
from tests.support.watcher import WatcherProcess, settings_for

DOCS = Path(__file__).parents[2] / "docs"
PAGE = Look(height=1250)
LONG = 60.0
LOOK_BACK = {"WatcherHoldGivenUp": 10, "WatcherSwitchSlow": 30}

HEAD = """# Three walks from the page to the mend

What somebody who was just paged sees and types, for three faults: a PgBouncer's host that cannot be reached \
during a switchover, an etcd without quorum, and a hold that its limit had to end. It is real output of real \
servers: `python -m tests.e2e.walks` causes the faults on the test bed (three etcd members, three Patroni \
nodes, two PgBouncers) and writes this page and its pictures anew. There, the `for` of each alert is two \
seconds, and `hold.limit` is 8 s; on the bed `systemctl` stands for starting the process. Of etcdctl's own \
log (lines of JSON) nothing is shown.
"""


class Walk:
    """One fault: what happened, what fired, what was typed and what came of it."""

    def __init__(self, bed: Bed, folder: Path, watcher: WatcherProcess, prometheus: Prometheus) -> None:
        self.bed = bed
        self._folder = folder
        self._watcher = watcher
        self._prometheus = prometheus
        self._operator = Operator(bed, watcher, f"{bed.patroni.prefix}")
        self.text: list[str] = []

    def tell(self, text: str) -> None:
        """A paragraph."""
        self.text.append(text)

    def fires(self, *alerts: str) -> None:
        """Wait until these fire, and say all that do."""
        wait_for(lambda: set(alerts) <= self._prometheus.firing(), LONG, f"{alerts} fire")
        links = (f"[{name}](runbooks/{name}.md)" for name in sorted(self._prometheus.firing()))
        self.tell(f"**Firing:** {', '.join(links)}")

    def reads(self, alert: str, part: str = "Diagnosis", programs: tuple[str, ...] = ()) -> None:
        """The runbook's commands of that part, or those of these programs, and their output."""
        self.tell(f"From the runbook of {alert}, «{part}»:")
        for said in self._operator.follow(alert, part):
            if not programs or said.command.split()[0] in programs:
                self._show(said)

    def _show(self, said: Said) -> None:
        output = said.output.replace(str(self._watcher.config), CONFIG).replace(str(self._folder), "…")
        for host in self.bed.bouncers:
            output = output.replace(str(host.pgbouncer.folder), "/etc/pgbouncer")
        output = "\n".join(line for line in output.splitlines() if not line.startswith('{"level":'))
        ended = f"(exit code {said.code})\n" if said.code else ""
        self.tell(f"```console\n$ {said.command}\n{output.rstrip()}\n{ended}```")

    def looks(self, name: str, what: str) -> None:
        """A picture of the status page."""
        picture(f"http://{self._watcher.http}/", DOCS / f"walk-{name}.png", PAGE)
        self.tell(f"![{what}](walk-{name}.png)")

    def verifies(self, alert: str) -> None:
        """Once it is mended, the runbook's own commands say so."""
        self._operator.verify(alert)
        self.reads(alert, "Verification")

    def quiet(self) -> None:
        """Nothing fires any more but what looks back on what happened."""
        wait_for(lambda: self._prometheus.firing() <= set(LOOK_BACK), LONG, "all else is quiet")
        left = sorted(self._prometheus.firing())
        self.tell("No alert fires any more." if not left else "No alert fires any more, but for:")
        for alert in left:
            self.tell(f"* {alert}, which looks back over {LOOK_BACK[alert]} minutes")


@contextmanager
def walk(bed: Bed) -> Iterator[Walk]:
    bed.heal()
    with TemporaryDirectory(prefix="walk-") as name:
        folder = Path(name)
        settings = settings_for(bed, hold={"limit": 8.0, "announced_limit": 8.0}, log={"format": "text"})
        watcher = WatcherProcess(folder, settings)
        patronis = [f"{node.host}:8008" for node in bed.patroni.nodes]
        with watcher, Prometheus(folder / "prometheus", [watcher.http], patronis, quick_rules) as prometheus:
            wait_until_led(bed.bouncers, at(bed.leader()), watcher)
            wait_for(lambda: prometheus.value("min(watcher_target_in_sync)") == 1, 15, "all is well")
            yield Walk(bed, folder, watcher, prometheus)


def lost_host(bed: Bed) -> list[str]:
    """sshd of a target is down during a switchover."""
    with walk(bed) as at_work:
        lost = bed.bouncers[0]
        at_work.tell("## A PgBouncer's host cannot be reached during a switchover")
        at_work.tell(f"sshd of `{lost.name}` is dead, and `patronictl switchover` was typed at noon.")
        lost.sshd.kill()
        bed.patroni.switchover()
        at_work.fires("WatcherTargetFailing", "WatcherTargetOutOfSync", "WatcherTargetsDisagree")
        at_work.looks("lost-host", "The status page: one PgBouncer out of sync, with its error and what now")
        at_work.reads("WatcherTargetOutOfSync", programs=("watcher",))
        at_work.tell("Its error names sshd; on that host it is started: `systemctl start ssh`.")
        lost.sshd.start()
        at_work.verifies("WatcherTargetOutOfSync")
        at_work.quiet()
        at_work.looks("lost-host-mended", "The status page: clients reach the primary")
        return at_work.text


def no_quorum(bed: Bed) -> list[str]:
    """Two of three members of etcd are dead."""
    with walk(bed) as at_work:
        at_work.tell("## etcd without quorum")
        at_work.tell(
            "Two of three members of etcd are dead. Patroni cannot renew its leader key and, without"
            " `failsafe_mode`, stops its primary."
        )
        for member in bed.etcd.members[:2]:
            member.kill()
        at_work.fires("WatcherEtcdUnheard")
        at_work.looks("no-quorum", "The status page: etcd is not heard")
        at_work.reads("WatcherEtcdUnheard")
        at_work.tell("Ten seconds (Patroni's `retry_timeout`) later the cluster has no primary any more:")
        wait_for(lambda: not any(node.accepts_writes() for node in bed.patroni.nodes), LONG, "no primary")
        at_work.reads("WatcherEtcdUnheard", programs=("watcher",))
        at_work.looks("no-quorum-later", "The status page: no primary, and etcd is not heard")
        at_work.tell("Two members refuse connections. On their hosts: `systemctl start etcd`.")
        bed.etcd.start()
        at_work.verifies("WatcherEtcdUnheard")
        at_work.quiet()
        at_work.looks("no-quorum-mended", "The status page: etcd is heard, clients reach the primary")
        return at_work.text


def given_up(bed: Bed) -> list[str]:
    """The primary dies, and no replica can take over."""
    with walk(bed) as at_work:
        at_work.tell("## A hold that its limit had to end")
        at_work.tell("The primary is dead, and both replicas hang: nobody can take over.")
        leader = bed.leader()
        others = [node for node in bed.patroni.nodes if node is not leader]
        for node in others:
            node.freeze()
        leader.kill()
        at_work.fires("WatcherHoldGivenUp", "WatcherNoLeader")
        at_work.looks("given-up", "The status page: no leader, and a hold that was given up")
        at_work.reads("WatcherHoldGivenUp")
        at_work.tell("No leader: on to the runbook of WatcherNoLeader. The replicas are let go on.")
        for node in others:
            node.thaw()
        at_work.verifies("WatcherNoLeader")
        at_work.quiet()
        at_work.reads("WatcherHoldGivenUp", programs=("watcher",))
        at_work.looks("given-up-mended", "The status page: clients reach the new primary")
        return at_work.text


WALKS: tuple[Callable[[Bed], list[str]], ...] = (lost_host, no_quorum, given_up)


def main() -> None:
    """Walk, and write."""
    text = [HEAD.rstrip()]
    with Bed() as bed:
        for one in WALKS:
            text += one(bed)
            sys.stdout.write(f"{one.__name__}: walked\n")
    (DOCS / "walks.md").write_text("\n\n".join(text) + "\n")
    sys.stdout.write("docs/walks.md\n")


if __name__ == "__main__":
    main()
