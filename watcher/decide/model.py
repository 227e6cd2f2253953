"""The words of the domain as frozen values.

What etcd and Patroni say becomes an `Entry` or a `NodeReport` at the door (`patroni.py`); from there
on nobody sees bytes or JSON. Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeAlias

from watcher.decide.errors import WatcherError

_EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """Where PostgreSQL listens. `host` is an address or a name, an IPv6 address without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


# --- what Patroni writes into etcd ----------------------------------------------------------------


class Role(StrEnum):
    """A member's role, names of every Patroni version brought together."""

    PRIMARY = "primary"
    STANDBY_LEADER = "standby_leader"
    REPLICA = "replica"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Leader:
    """The value of the `leader` key: a member's name."""

    name: str


@dataclass(frozen=True, slots=True)
class Member:
    """The value of `members/<name>`."""

    name: str
    conn: Endpoint | None
    proxy: Endpoint | None
    api_url: str | None
    role: Role
    state: str
    timeline: int | None = None
    problem: str = ""  # why `conn` or `proxy` is missing, where it was there but could not be read


@dataclass(frozen=True, slots=True)
class Failover:
    """The value of `failover`: an announcement, never proof. Empty after the switch."""

    leader: str | None
    candidate: str | None
    scheduled_at: str | None

    @property
    def is_for_now(self) -> bool:
        return self.scheduled_at is None and bool(self.leader or self.candidate)


@dataclass(frozen=True, slots=True)
class Config:
    """What matters here of the `config` key."""

    pause: bool = False
    standby_cluster: bool = False
    ttl: float = 30.0


@dataclass(frozen=True, slots=True)
class SystemId:
    """The value of `initialize`: the system identifier of the PostgreSQL cluster."""

    value: str


@dataclass(frozen=True, slots=True)
class StopRequest:
    """The value of `pgbouncer-watcher/stop/<member>`: PostgreSQL of `member` is about to be stopped, and
    `watcher barrier` waits there until every target is held for `id`. Its key outlives the wait by a few
    seconds, which is until PostgreSQL refuses.
    """

    id: str
    member: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """A key of ours whose value cannot be understood. Unknown, which is not the same as absent."""

    place: str
    problem: str
    hint: str


Value: TypeAlias = Leader | Member | Failover | Config | SystemId | StopRequest | Malformed


@dataclass(frozen=True, slots=True)
class Entry:
    """One key as etcd holds it. `key` is relative to `/{namespace}/{scope}/`."""

    key: str
    value: Value
    create_revision: int
    mod_revision: int


# --- sightings: one report each, with its source --------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listing:
    """All keys of the cluster by one linearizable read that began at `asked_at`."""

    cluster_id: int
    revision: int
    entries: tuple[Entry, ...]
    asked_at: float
    at: float


@dataclass(frozen=True, slots=True)
class Deletion:
    """A key that went away at `mod_revision`."""

    key: str
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Change:
    """One response of the watch, whole and in etcd's order."""

    cluster_id: int
    events: tuple[Entry | Deletion, ...]
    at: float


@dataclass(frozen=True, slots=True)
class Contact:
    """The watch said that it is alive and has nothing new (progress, or a watch that was accepted)."""

    at: float


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What one node said of itself over REST, by the body of `GET /patroni`.

    `role` comes from PostgreSQL's own `pg_is_in_recovery()` (Patroni api.py, get_postgresql_status).
    `conn` is filled by `GET /cluster`, asked only where no member key ever told it.
    """

    name: str
    api_url: str
    role: Role
    state: str
    timeline: int | None = None
    system_id: str = ""
    paused: bool = False
    conn: Endpoint | None = None

    @property
    def accepts_writes(self) -> bool:
        return self.role is Role.PRIMARY and self.state == "running"


@dataclass(frozen=True, slots=True)
class HealthRound:
    """One round of REST probes. `failures` maps a node's URL to why it said nothing of use."""

    reports: tuple[NodeReport, ...]
    failures: Mapping[str, str]
    at: float


@dataclass(frozen=True, slots=True)
class Leadership:
    """One reign: the same name with another create revision is another reign."""

    name: str
    create_revision: int


class Verdict(StrEnum):
    """Whether a leader is ready for clients."""

    READY = "ready"
    NOT_YET = "not yet"  # it answers, and says that it is not
    UNKNOWN = "unknown"  # it does not answer us, which need not mean that clients cannot reach it


@dataclass(frozen=True, slots=True)
class Readiness:
    """What the leader of one reign answered when asked whether it takes clients."""

    leadership: Leadership
    verdict: Verdict
    role: Role
    timeline: int | None
    at: float
    problem: str = ""


Sighting: TypeAlias = Listing | Change | Contact | HealthRound | Readiness


# --- what is known, wanted, and there -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class View:
    """All that is known of one cluster. Made by `view.fold`, ordered by revision, never by arrival.

    `members` remembers every member ever seen, so that the fallback knows their addresses after their
    keys are gone. `contact_at` is when etcd was last heard, `leader_since` when this reign was first seen.
    """

    began_at: float
    cluster_id: int | None = None
    revision: int = 0
    entries: Mapping[str, Entry] = field(default_factory=lambda: _EMPTY)
    members: Mapping[str, Member] = field(default_factory=lambda: _EMPTY)
    listed_asked_at: float | None = None
    contact_at: float | None = None
    leader_since: float | None = None
    readiness: Readiness | None = None
    health: HealthRound | None = None


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the block's comment line carries for the fence.

    `cluster_id` is etcd's, `system_id` PostgreSQL's, both 0 and empty where unknown. `revision` is the
    create revision of the leader key that the route was taken from. `timeline` is a lower bound.
    """

    cluster_id: int
    system_id: str
    revision: int
    timeline: int | None
    leader: str


class Source(StrEnum):
    """On whose word a route is taken."""

    ETCD = "etcd"
    HEALTH_CHECK = "health_check"


@dataclass(frozen=True, slots=True)
class Route:
    """Where every database of the block should lead, and on whose word."""

    endpoint: Endpoint
    stamp: Stamp
    source: Source = Source.ETCD


class Reason(StrEnum):
    """Why the wish is what it is; a label of metrics, so a closed set."""

    LEADER = "leader"
    FALLBACK = "fallback"
    STARTING = "starting"
    NO_LEADER = "no_leader"
    NO_CLUSTER = "no_cluster"
    LEADER_NOT_READY = "leader_not_ready"
    LEADER_UNUSABLE = "leader_unusable"
    STANDBY_CLUSTER = "standby_cluster"
    BLIND = "blind"


@dataclass(frozen=True, slots=True)
class Desired:
    """What should be. `route` None means: leave the route as it is.

    `proven_at` is when the linearizable read began that showed this leadership, None if an event told
    it (see `fence.admits`). `recheck_at` is when time alone may change this answer.
    """

    reason: Reason
    detail: str
    route: Route | None = None
    held: bool = False
    proven_at: float | None = None
    recheck_at: float | None = None


@dataclass(frozen=True, slots=True)
class Database:
    """One line of the block: the name as PgBouncer shows it, `*` for the fallback database."""

    name: str
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class ConsoleDatabase:
    """One row of `SHOW DATABASES` (PgBouncer usage)."""

    name: str
    host: str | None
    port: int
    paused: bool = False
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class Actual:
    """What a target showed.

    `databases` and `stamp` are the block's; `file_read_at` is when the look that showed them ended;
    `defined` are the names of all databases of the file, and `was_fallback` is where `*` led before the
    last write, both to tell PgBouncer's automatic databases from others. `shown` is `SHOW DATABASES`,
    None where the target has no console; then `reload_owed` says whether a write was not yet followed
    by a reload that succeeded. `console_problem` is why a console showed nothing.
    """

    databases: tuple[Database, ...]
    stamp: Stamp | None
    file_read_at: float
    defined: frozenset[str] = frozenset()
    was_fallback: Endpoint | None = None
    shown: tuple[ConsoleDatabase, ...] | None = None
    reload_owed: bool = False
    held: bool = False
    console_problem: WatcherError | None = None


# --- steps: what `decision.plan` is made of -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hold:
    """Let clients wait."""


@dataclass(frozen=True, slots=True)
class Write:
    """Put `route` into the block."""

    route: Route


@dataclass(frozen=True, slots=True)
class Reload:
    """Make PgBouncer read its file."""


@dataclass(frozen=True, slots=True)
class Confirm:
    """See that PgBouncer itself leads to `endpoint`."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Release:
    """Let clients go on."""


Step: TypeAlias = Hold | Write | Reload | Confirm | Release


# --- what happened -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Switch:
    """One change of a target's route, from the first word of it to PgBouncer's own.

    Times are monotonic seconds: `heard_at` when the leader's reign was first seen, `ready_at`
    when it was wished for here, `steps` when each step was done, by name.
    """

    target: str
    route: Route
    before: tuple[Endpoint, ...]
    heard_at: float
    ready_at: float
    steps: tuple[tuple[str, float], ...]

    @property
    def confirmed_at(self) -> float:
        return self.steps[-1][1]
