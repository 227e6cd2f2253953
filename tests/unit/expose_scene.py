"""A chronicle with targets in every state, and what they are made of."""

from collections.abc import Mapping
from dataclasses import replace

from watcher.decide.errors import TargetUnreachable, WatcherError
from watcher.decide.model import (
    Actual,
    ConsoleDatabase,
    Database,
    Desired,
    Endpoint,
    Entry,
    HealthRound,
    Held,
    Leader,
    Member,
    NodeReport,
    Paused,
    Reason,
    Role,
    Route,
    Source,
    Stamp,
    Switch,
    View,
)
from watcher.expose.calendar import Calendar
from watcher.expose.chronicle import Chronicle

EPOCH = 1_800_000_000.0
PRIMARY, OLD = Endpoint("10.0.0.2", 5432), Endpoint("10.0.0.1", 5432)
STAMP = Stamp(0xCDF8, "7", 42, 3, "pg2")
ROUTE = Route(PRIMARY, STAMP)
LEADS = Desired(Reason.LEADER, "pg2 leads since revision 42", ROUTE)
NO_LEADER = Desired(Reason.NO_LEADER, "no leader key", held=True)
BLIND = Desired(Reason.BLIND, "etcd is silent")
PAUSED = Desired(Reason.PAUSED, "`watcher pause` was said")
LOST = TargetUnreachable("pgb1", "no answer within 5 s", "is its host up?")


class Clock:
    """Both clocks, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def calendar(self) -> Calendar:
        return Calendar(lambda: self.now, lambda: EPOCH + self.now)


def actual(at: Endpoint = PRIMARY, shown: Endpoint | None = PRIMARY, held: Held | None = None) -> Actual:
    rows = None if shown is None else (ConsoleDatabase("app", shown.host, shown.port),)
    return Actual((Database("app", at),), STAMP, 999.0, shown=rows, can_hold=True, held=held)


def switch(
    target: str = "pgb1",
    source: Source = Source.ETCD,
    held_since: float | None = 999.5,
    revision: int = STAMP.revision,
    corrects: str = "",
) -> Switch:
    stamp = replace(STAMP, revision=revision if source is Source.ETCD else 0)
    route = Route(PRIMARY, stamp, source)
    steps = (("write", 1000.06), ("ready", 1000.16), ("release", 1000.2))
    return Switch(target, route, (OLD,), 1000.0, 1000.05, steps, held_since, corrects)


def view(
    leader: str | None = "pg2",
    paused: Paused | None = None,
    reports: tuple[NodeReport, ...] = (),
    failures: Mapping[str, str] | None = None,
) -> View:
    members = {
        "pg1": Member("pg1", OLD, None, "http://10.0.0.1:8008", Role.REPLICA, "running", 3, position=900),
        "pg2": Member(
            "pg2", PRIMARY, None, "http://10.0.0.2:8008", Role.PRIMARY, "running", 3, position=1000
        ),
    }
    entries = {f"members/{name}": Entry(f"members/{name}", member, 1, 1) for name, member in members.items()}
    if leader is not None:
        entries["leader"] = Entry("leader", Leader(leader), 42, 42)
    if paused is not None:
        entries["pgbouncer-watcher/pause"] = Entry("pgbouncer-watcher/pause", paused, 50, 50)
    return View(
        began_at=990.0,
        cluster_id=1,
        revision=50,
        entries=entries,
        members=members,
        contact_at=999.0,
        leader_since=995.0,
        health=HealthRound(reports, failures or {}, 998.0, 0.02) if reports or failures else None,
    )


def chronicle(clock: Clock, *names: str) -> Chronicle:
    return Chronicle(names or ("pgb1",), clock.calendar())


def well(told: Chronicle, target: str = "pgb1") -> None:
    """The target is in sync."""
    told.looked(target, LEADS, actual(), None)


def lost(told: Chronicle, target: str = "pgb1", error: WatcherError = LOST) -> None:
    """The target cannot be reached."""
    told.looked(target, LEADS, None, error)
