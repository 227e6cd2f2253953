"""What the tests of holds share: clients on a real bed, a watcher that holds them, and what came of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.test_stage import at, settled, stays
from tests.support.bed import Bed, BouncerHost
from tests.support.crowd import MIX, Crowd, said
from tests.support.patroni import Node
from tests.support.pgbouncer import RECOMMENDED
from tests.support.waiting import wait_for
from tests.support.watcher import WatcherProcess, settings_for

DEFAULTS: Mapping[str, str | None] = dict.fromkeys(RECOMMENDED)
"""PgBouncer's own defaults: what we recommend is taken out."""

HELD_SECONDS = 15.0
ORDER_SECONDS = 60.0


@contextmanager
def watching(bed: Bed, folder: Path, name: str = "watcher", **sections: Any) -> Iterator[WatcherProcess]:
    """A watcher of the whole bed that has led every PgBouncer to the leader and is ready to hold."""
    with WatcherProcess(folder, settings_for(bed, **sections), name) as watcher:
        settled(watcher, bed, at(bed.leader()))
        for host in bed.bouncers:
            watcher.wait_for_line("in_sync", target=host.name)
        yield watcher


@contextmanager
def clients_on(bed: Bed, mix: Mapping[str, int] = MIX, **plan: Any) -> Iterator[Crowd]:
    """Clients on every PgBouncer of the bed."""
    with Crowd(bed.folder, bed.bouncers, mix, **plan) as clients:
        yield clients


# --- what came of it --------------------------------------------------------------------------------


def failures(clients: Crowd) -> list[str]:
    """What failed, in words."""
    return said(clients.failures())


def assert_all_on(clients: Crowd, leader: Node, after: float) -> None:
    """Every client goes on, on that leader, and none has ever failed."""
    clients.settle(after, leader.host)
    assert failures(clients) == []


def reasons(watcher: WatcherProcess, host: BouncerHost) -> list[str]:
    """Why clients of that PgBouncer were held so far, one for each hold."""
    return [line["reason"] for line in watcher.lines("hold") if line["target"] == host.name]


def wait_until_held(
    watcher: WatcherProcess, hosts: list[BouncerHost], reason: str, timeout: float = HELD_SECONDS
) -> None:
    """Until it has said of each that its clients wait, for that reason first."""
    for host in hosts:
        watcher.wait_for_line("hold", timeout, target=host.name, reason=reason)


def wait_until_released(
    watcher: WatcherProcess, hosts: list[BouncerHost], timeout: float = ORDER_SECONDS
) -> None:
    """Until it has said of each that its clients go on, as often as it has held them."""

    def is_over(host: BouncerHost) -> bool:
        over = [line for line in watcher.lines("release") if line["target"] == host.name]
        return len(over) >= len(reasons(watcher, host)) and not host.pgbouncer.is_paused()

    for host in hosts:
        wait_for(lambda: is_over(host), timeout, f"{host.name} is released", logs=[watcher.log])  # noqa: B023


def held_seconds(watcher: WatcherProcess, host: BouncerHost) -> list[float]:
    """How long each hold of that PgBouncer was, in the watcher's own words."""
    lines = (line for line in watcher.lines() if line["event"] in ("release", "hold_ended"))
    return [line["held_ms"] / 1000 for line in lines if line.get("target") == host.name]


def never_held(watcher: WatcherProcess, hosts: list[BouncerHost], seconds: float) -> None:
    """Nobody is held for so long."""
    stays(lambda: not watcher.lines("hold"), seconds, "nobody is held")
    assert not any(host.pgbouncer.is_paused() for host in hosts)


def configs(hosts: list[BouncerHost]) -> list[dict[str, str]]:
    """The live settings of each PgBouncer."""
    return [{row["key"]: row["value"] for row in host.pgbouncer.console("SHOW CONFIG")} for host in hosts]


def wait_for_configs(hosts: list[BouncerHost], before: list[dict[str, str]], timeout: float = 20) -> None:
    """Until each PgBouncer's settings are as they were."""
    wait_for(lambda: configs(hosts) == before, timeout, "PgBouncer's settings are as they were")
