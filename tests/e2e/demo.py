"""`make demo`: a real cluster with clients on it, a planned switchover and a crash, and what the clients saw.

Everything is started here and ended here, also on Ctrl-C and SIGTERM: no process and no file is left.
Exit code 0 only if the clients of both PgBouncers ended on the new primary both times, 1 with the reason if
not, 130 and 143 after the two signals.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType

from tests.e2e.demo_episode import At, Episode, episode_of
from tests.e2e.demo_screen import Screen
from tests.support.bed import Bed
from tests.support.etcd_gateway import KeyWatch
from tests.support.folders import bed_folder
from tests.support.load import ClientLoad
from tests.support.patroni import Node
from tests.support.waiting import BedError
from tests.support.watcher import WatcherProcess, settings_for

TTL = 20
"""Seconds until a dead leader's key is gone; Patroni raises anything less to this."""
LOOP_WAIT = 2
CLIENTS = 4
BEFORE, AFTER = 1.0, 2.0
"""Seconds of undisturbed load around each deed."""
LIMIT = 60.0
ENDED_BY = (signal.SIGINT, signal.SIGTERM)


class Ended(BaseException):
    """A signal asked for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main() -> int:
    """Play it all; the exit code."""
    for number in ENDED_BY:
        signal.signal(number, _end)
    screen = Screen(sys.stdout)
    try:
        return _play(screen)
    except Ended as ended:
        screen.failed(f"ended by {signal.Signals(ended.number).name}; nothing is left running")
        return 128 + ended.number
    except (BedError, OSError) as error:
        screen.failed(str(error))
        return 1


def _end(number: int, _: FrameType | None) -> None:
    """Once: what is started is ended in peace."""
    _ignore_signals()
    raise Ended(number)


def _ignore_signals() -> None:
    for number in ENDED_BY:
        signal.signal(number, signal.SIG_IGN)


def _play(screen: Screen) -> int:
    screen.title()
    with _stage(screen) as stage:
        episodes = [
            stage.play("planned switchover", stage.switch_over),
            stage.play("leader killed", stage.kill),
        ]
    screen.step("everything is ended and removed")
    screen.table(episodes)
    faults = [fault for episode in episodes for fault in episode.faults()]
    screen.verdict(faults)
    return 1 if faults else 0


@contextmanager
def _stage(screen: Screen) -> Iterator["Stage"]:
    """The bed, the watcher as a process, and an ear of our own in etcd."""
    with ExitStack() as stack:
        folder = stack.enter_context(bed_folder())
        bed = stack.enter_context(Bed(folder, progress=screen.line, ttl=TTL, loop_wait=LOOP_WAIT))
        watcher = stack.enter_context(WatcherProcess(folder / "watcher", settings_for(bed)))
        watcher.wait_for_line("wish", reason="leader")
        screen.step("the watcher runs and knows the leader")
        keys = stack.enter_context(KeyWatch(bed.etcd.endpoints[0], bed.patroni.prefix))
        yield Stage(bed, watcher, keys, screen.step)
        _ignore_signals()


@dataclass(frozen=True)
class Stage:
    """What an episode is played on."""

    bed: Bed
    watcher: WatcherProcess
    keys: KeyWatch
    say: Callable[[str], None]

    # --- the deeds ------------------------------------------------------------------------------------

    def switch_over(self, old: Node) -> None:
        """Planned, by Patroni's REST API; returns when it is over."""
        self.say(f"planned switchover away from {old.name}")
        self.bed.patroni.switchover()

    def kill(self, old: Node) -> None:
        """Patroni and PostgreSQL of the leader, at once."""
        self.say(f"{old.name} killed (SIGKILL to Patroni and PostgreSQL); its lease lasts up to {TTL} s")
        old.kill()

    # --- an episode -----------------------------------------------------------------------------------

    def play(self, title: str, deed: Callable[[Node], None]) -> Episode:
        """Load on both PgBouncers, the deed, and all that followed from it."""
        self.bed.patroni.wait_for_replicas()
        old, known, told = self.bed.leader(), len(self.keys.events), len(self.watcher.lines("switch"))
        with self._load(0) as first, self._load(1) as second:
            time.sleep(BEFORE)
            begun = time.monotonic()
            deed(old)
            put = self.keys.wait_for("leader", after=known, other_than=old.name, timeout=LIMIT)
            new = self.bed.patroni[put.value or ""]
            commits = [
                load.wait_for_commit(new.host, after=put.at, timeout=LIMIT) for load in (first, second)
            ]
            self.say(f"clients commit on {new.name}")
            time.sleep(AFTER)
        return episode_of(
            title,
            (old.name, new.name),
            At(begun, self._gone_at(known, put.at), put.at),
            [self._line(name, new, told) for name in self._names()],
            [commit.end for commit in commits],
            [first.stop(), second.stop()],
            f"{new.host}:{new.port}",
        )

    def _load(self, bouncer: int) -> ClientLoad:
        return self.bed.load(bouncer, clients=CLIENTS)

    def _names(self) -> list[str]:
        return [host.name for host in self.bed.bouncers]

    def _line(self, target: str, new: Node, told: int) -> dict[str, object]:
        return self.watcher.wait_for_line("switch", after=told, target=target, leader=new.name)

    def _gone_at(self, known: int, until: float) -> float | None:
        gone = [
            event.at for event in self.keys.events[known:] if event.key == "leader" and event.value is None
        ]
        return next((at for at in gone if at <= until), None)


if __name__ == "__main__":
    sys.exit(main())
