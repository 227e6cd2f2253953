"""Who keeps clients on the primary: our watcher, and others, each on a bed in the same way.

A contender is given a bed, does its work on it until it is left, and says at which door clients come in.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from tests.benchmarks.rivals.environment import PollAnsible
from tests.support.bed import Bed
from tests.support.haproxy import HaProxy
from tests.support.postgres import APP, APP_PASSWORD, psql
from tests.support.waiting import wait_for
from tests.support.watcher import WatcherProcess, settings_for
from watcher.settings.schema import Settings

Door = tuple[str, int]
"""Address and port."""
Contender = Callable[[Bed], AbstractContextManager[Door]]
NODES_IN_TURN = 6


def watcher_with(**sections: Mapping[str, Any]) -> Contender:
    """The watcher, with sections of settings; those that this version does not know are left out."""

    @contextmanager
    def contender(bed: Bed) -> Iterator[Door]:
        settings = settings_for(bed, **known_sections(sections))
        with WatcherProcess(bed.folder / "watcher", settings) as process:
            process.wait_for_line("wish", reason="leader")
            yield _bouncer(bed)

    return contender


def known_sections(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Those that this version of the watcher has settings for."""
    return {name: section for name, section in sections.items() if name in Settings.model_fields}


HOLDS = {"enabled": True}
watcher = watcher_with(hold=HOLDS)
"""Clients are held."""
watch_reload = watcher_with(hold={"enabled": False})
"""The same watcher, holds off: what a watch and a reload alone can do."""


@contextmanager
def poll_ansible(bed: Bed) -> Iterator[Door]:
    """A poll of REST every 5 s, and Ansible. `ensure_ansible` goes before."""
    with PollAnsible(bed, "poll", bed.leader().host):
        yield _bouncer(bed)


@contextmanager
def haproxy(bed: Bed) -> Iterator[Door]:
    """HAProxy as Patroni recommends it, clients directly on it."""
    with HaProxy(bed.folder, bed.patroni.nodes) as server:
        _wait_for_primary((server.address, server.port))
        yield server.address, server.port


@contextmanager
def pgbouncer_haproxy(bed: Bed) -> Iterator[Door]:
    """PgBouncer, whose server is that HAProxy."""
    with haproxy(bed) as door:
        bed.bouncers[0].pgbouncer.point_at(*door)
        yield _bouncer(bed)


RIVALS: Mapping[str, Contender] = {
    "watch_reload": watch_reload,
    "poll_ansible": poll_ansible,
    "haproxy": haproxy,
    "pgbouncer_haproxy": pgbouncer_haproxy,
}
WITHOUT_PGBOUNCER = ("haproxy",)


def _bouncer(bed: Bed) -> Door:
    return bed.bouncers[0].pgbouncer.address, bed.bouncers[0].pgbouncer.port


def _wait_for_primary(door: Door) -> None:
    """HAProxy takes every node for a primary until its checks have failed: wait that out."""

    def leads_to_primary_alone() -> bool:
        question = "SELECT pg_is_in_recovery() AS r"
        answers = [psql(*door, APP, APP, question, password=APP_PASSWORD) for _ in range(NODES_IN_TURN)]
        return all(rows[0]["r"] == "f" for rows in answers)

    wait_for(leads_to_primary_alone, 30, "haproxy leads to the primary alone", poll=0.5)
