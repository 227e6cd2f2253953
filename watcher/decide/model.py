"""The words of the domain as frozen values.

What etcd and Patroni say becomes an `Entry` or a `NodeReport` at the door (`patroni.py`); from there
on nobody sees bytes or JSON. Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeAlias

from watcher.decide.errors import WatcherError

_EMPTY: Mapping[str, Any] = MappingProxyType({})

MAX_LAG = 16 * 1024 * 1024
"""Bytes of WAL by which a replica may be behind and serve reads, unless the settings say otherwise."""


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
    position: int | None = field(
        default=None, compare=False
    )  # in the WAL; it moves all the time, and is no news
    replayed: int | None = field(default=None, compare=False)  # of the WAL, where it tells that apart
    replication: str = ""  # "streaming", or what else Patroni says of it; empty where it says nothing
    noloadbalance: bool = False


@dataclass(frozen=True, slots=True)
class Failover:
    """The value of `failover`: an announcement, never proof. Empty after the switch.

    `scheduled_at` is seconds since the epoch, None for now, infinity where it cannot be read.
    """

    leader: str | None
    candidate: str | None
    scheduled_at: float | None

    @property
    def announces(self) -> bool:
        return bool(self.leader or self.candidate)


@dataclass(frozen=True, slots=True)
class Config:
    """What matters here of the `config` key."""

    pause: bool = False
    standby_cluster: bool = False
    ttl: float = 30.0
    loop_wait: float = 10.0


@dataclass(frozen=True, slots=True)
class Status:
    """The value of `status` (`optime/leader` before Patroni 2.1): how far the leader has written its WAL."""

    position: int = field(compare=False)  # it moves all the time, and is no news


@dataclass(frozen=True, slots=True)
class SystemId:
    """The value of `initialize`: the system identifier of the PostgreSQL cluster."""

    value: str


OUR_KEYS = "pgbouncer-watcher/"
"""Below the cluster's prefix: all that watchers write there, and nothing of Patroni's."""

STOP_KEYS = "pgbouncer-watcher/stop/"
"""Below the cluster's prefix, one for each member; Patroni does not heed them."""


@dataclass(frozen=True, slots=True)
class StopRequest:
    """The value of `pgbouncer-watcher/stop/<member>`: PostgreSQL of `member` is about to be stopped, and
    `watcher barrier` waits there until every target is held for `id`. Its key outlives the wait by a few
    seconds, which is until PostgreSQL refuses.
    """

    id: str
    member: str


PAUSE_KEY = "pgbouncer-watcher/pause"
"""Below the cluster's prefix: written by `watcher pause`, removed by `watcher resume`."""


@dataclass(frozen=True, slots=True)
class Paused:
    """The value of `pgbouncer-watcher/pause`: an operator wants every watcher's hands off this cluster's
    targets. `since` is seconds since the epoch, None where it cannot be read: the wish counts all the same.
    """

    by: str = ""
    why: str = ""
    since: float | None = None


ACTIVE_KEY = "pgbouncer-watcher/active"
"""Below the cluster's prefix, on a lease: the one of several watchers that goes first."""


@dataclass(frozen=True, slots=True)
class ActiveWatcher:
    """The value of `pgbouncer-watcher/active`: `id` is of one life of one watcher, `name` is for people."""

    id: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A key of ours whose value cannot be understood. Unknown, which is not the same as absent."""

    place: str
    problem: str
    hint: str


Value: TypeAlias = (
    Leader | Member | Failover | Config | Status | SystemId | StopRequest | Paused | ActiveWatcher | Malformed
)


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
    """One round of REST probes, which began at `at` and took so many seconds. `failures` maps a node's URL to
    why it said nothing of use.
    """

    reports: tuple[NodeReport, ...]
    failures: Mapping[str, str]
    at: float
    took: float = 0.0

    @property
    def primaries(self) -> tuple[NodeReport, ...]:
        """The nodes that say that they are the primary, whether they take writes or not."""
        return tuple(report for report in self.reports if report.role is Role.PRIMARY)


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


@dataclass(frozen=True, slots=True)
class Alarm:
    """What the guard beside one PgBouncer says of the server at `endpoint`: it takes no connections (refuses
    them, or cannot be reached), or does again. `of_reader`: as one that serves reads.
    """

    target: str
    endpoint: Endpoint
    refuses: bool
    at: float
    problem: str = ""
    of_reader: bool = False


@dataclass(frozen=True, slots=True)
class Confirmed:
    """PgBouncer of `target` showed by itself that it leads to the leader of this reign, who is ready."""

    target: str
    leadership: Leadership


@dataclass(frozen=True, slots=True)
class OtherSite:
    """All that is known of the same PostgreSQL's cluster at the other site, by that site's etcd."""

    view: View


@dataclass(frozen=True, slots=True)
class Handover:
    """All that was known, by other settings, to the watcher of the same cluster whose place we take."""

    view: View
    at: float


Sighting: TypeAlias = (
    Listing | Change | Contact | HealthRound | Readiness | Alarm | Confirmed | OtherSite | Handover
)


# --- what is known, wanted, and there -------------------------------------------------------------


class Unfit(StrEnum):
    """Why a member serves no reads; a label of metrics, so a closed set."""

    LEADER = "leader"
    NO_KEY = "no_key"
    NOT_A_REPLICA = "not_a_replica"
    NOT_RUNNING = "not_running"
    NOT_STREAMING = "not_streaming"
    OTHER_TIMELINE = "other_timeline"
    TAGGED = "noloadbalance"
    LAGS = "lags"
    REFUSES = "refuses"
    NO_ADDRESS = "no_address"
    OTHER_PORT = "other_port"
    SETTLING = "settling"


@dataclass(frozen=True, slots=True)
class Fitness:
    """Whether a member is fit for reads by its own key, `problem` None, and since when it is or is not.

    `lag` is how many bytes of WAL it was behind, by that key, which was of `revision`.
    """

    problem: Unfit | None
    since: float
    lag: int | None = field(default=None, compare=False)
    revision: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A member as one that may serve reads: `problem` None if it counts; `stays` if it does where it serves
    reads already; `due_at` is when time alone changes that.
    """

    name: str
    endpoint: Endpoint | None
    problem: Unfit | None
    stays: bool = False
    due_at: float | None = None


@dataclass(frozen=True, slots=True)
class WalMark:
    """How far the leader had written its WAL at a moment that is one turn of Patroni's loop ago or more."""

    position: int
    at: float


class Choose(StrEnum):
    """Which of several replicas serve reads."""

    ALL = "all"
    LEAST_LAG = "least_lag"


@dataclass(frozen=True, slots=True)
class Readers:
    """Who may serve reads: `counts` for everybody, `stays` where it serves them already; both in the order in
    which they are preferred. `otherwise` is where reads go for want of anybody, None: where they go now.
    """

    counts: tuple[Endpoint, ...]
    stays: tuple[Endpoint, ...] = ()
    choose: Choose = Choose.ALL
    otherwise: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class View:
    """All that is known of one cluster. Made by `view.fold`, ordered by revision, never by arrival.

    `members` has the latest of those that are gone too, so that the fallback knows their addresses after
    their keys are gone. `contact_at` is when etcd was last heard, `first_heard_at` when first,
    `leader_since` when this reign was first seen, `seen_at` when each key's present revision was. `readiness`
    stays READY for the rest of a reign, `pulse` is the last answer whatever it was; `silent_since` when the
    leader, which had answered in this reign, began not to. `primary_seen` is the latest round
    of the nodes that showed one alone as the primary. `alarms` are each target's last; `confirmed` the last
    reign that each canary has confirmed. `turned_at` is when the cluster was seen to become a standby
    cluster, or to be one no longer; None where it was seen so from the start. `other` is what is known of the
    other site, None where none is named. Unheard for `silence_limit` seconds etcd counts as silent.

    Of reads: who is behind by more than `max_lag` bytes is not fit; `fitness` is each member's, by
    name; `refusals` the last alarm of each target's about each server that serves reads.
    """

    began_at: float
    cluster_id: int | None = None
    revision: int = 0
    entries: Mapping[str, Entry] = field(default_factory=lambda: _EMPTY)
    members: Mapping[str, Member] = field(default_factory=lambda: _EMPTY)
    listed_asked_at: float | None = None
    contact_at: float | None = None
    first_heard_at: float | None = None
    leader_since: float | None = None
    seen_at: Mapping[str, float] = field(default_factory=lambda: _EMPTY)
    readiness: Readiness | None = None
    pulse: Readiness | None = None
    silent_since: float | None = None
    alarms: Mapping[str, Alarm] = field(default_factory=lambda: _EMPTY)
    confirmed: Mapping[str, Leadership] = field(default_factory=lambda: _EMPTY)
    health: HealthRound | None = None
    primary_seen: HealthRound | None = None
    silence_limit: float = 0.0
    max_lag: int = MAX_LAG
    fitness: Mapping[str, Fitness] = field(default_factory=lambda: _EMPTY)
    wal_mark: WalMark | None = None
    refusals: Mapping[tuple[str, Endpoint], Alarm] = field(default_factory=lambda: MappingProxyType({}))
    turned_at: float | None = None
    other: View | None = None


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the block's comment line carries for the fence.

    `cluster_id` is etcd's, `system_id` PostgreSQL's, both 0 and empty where unknown. `revision` is the
    create revision of the leader key that the route was taken from. `timeline` is a lower bound. `site` is
    the revision of the `config` key, in the etcd of PgBouncer's own site, that said which site's leader to
    take; 0 where there is one site only.
    """

    cluster_id: int
    system_id: str
    revision: int
    timeline: int | None
    leader: str
    site: int = 0


class Source(StrEnum):
    """On whose word a route is taken."""

    ETCD = "etcd"
    HEALTH_CHECK = "health_check"


@dataclass(frozen=True, slots=True)
class Route:
    """Where every database of the block should lead, and on whose word.

    `readers` is for those that are marked for replicas: its host may be a list, «a,b»; None leaves them.
    """

    endpoint: Endpoint
    stamp: Stamp
    source: Source = Source.ETCD
    readers: Endpoint | None = None


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
    ANNOUNCED = "announced"
    STOPPING = "stopping"
    PRIMARY_REFUSES = "primary_refuses"
    CANARY = "canary"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Desired:
    """What should be. `route` None means: leave the route as it is.

    `held` is whether clients should wait, until `hold_until` at the latest; they `gave_up` once that was
    over, and go on to whatever is there. `guard` is the server that is to be watched from beside PgBouncer,
    None: leave that as it is. `stop_id` is the stop of the leader's PostgreSQL that waits for this hold
    (`watcher barrier`). `proven_at` is when the linearizable read began that showed this leadership, None if
    an event told it (see `fence.admits`). `recheck_at` is when time alone may change this answer. `belongs`
    is where clients should be while that is known and nothing may be done about it (`watcher pause`, a canary
    that goes first).
    `readers` is who may serve reads, `read_guards` are the servers that are watched for them from beside
    PgBouncer; None: leave that as it is. `candidates` is how every member stands in that, while it is known.
    `at_other_site`: it is taken from the other site, since this one is a standby cluster.
    """

    reason: Reason
    detail: str
    route: Route | None = None
    held: bool = False
    hold_until: float = float("inf")
    gave_up: bool = False
    guard: Endpoint | None = None
    stop_id: str = ""
    proven_at: float | None = None
    recheck_at: float | None = None
    belongs: Endpoint | None = None
    readers: Readers | None = None
    read_guards: tuple[Endpoint, ...] | None = None
    candidates: tuple[Candidate, ...] = ()
    at_other_site: bool = False


@dataclass(frozen=True, slots=True)
class Database:
    """One line of the block: the name as PgBouncer shows it, `*` for the fallback database.

    Of `role` REPLICA where it is marked for replicas; then the endpoint's host may be a list, «a,b».
    """

    name: str
    endpoint: Endpoint
    role: Role = Role.PRIMARY


@dataclass(frozen=True, slots=True)
class ConsoleDatabase:
    """One row of `SHOW DATABASES` (PgBouncer usage).

    `pool_mode` is None where the database has none of its own, the sizes where they are not shown.
    """

    name: str
    host: str | None
    port: int
    paused: bool = False
    disabled: bool = False
    pool_mode: str | None = None
    pool_size: int | None = None
    min_pool_size: int | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A hold of ours that is in force: since when, until when at the latest, and whether it is complete: no
    transaction runs any more (sessions aside, which may stay for ever).
    """

    databases: tuple[str, ...]
    since: float
    until: float
    complete: bool = False

    @property
    def is_felt(self) -> bool:
        """Whether anybody waits by it: not where somebody else let all of them go, or nobody was there."""
        return bool(self.databases)


@dataclass(frozen=True, slots=True)
class Actual:
    """What a target showed.

    `databases` and `stamp` are the block's; `file_read_at` is when the first look that showed this very block
    ended; `defined` are the names of all databases of the file, and `was_fallback` is where `*` led before
    the last write, both to tell PgBouncer's automatic databases from others. `shown` is `SHOW DATABASES`,
    None where the target has no console; then `reload_owed` says whether a write was not yet followed
    by a reload that succeeded. `console_problem` is why a console showed nothing, `hold_problem` why its
    clients cannot be held just now. `can_hold` is whether they could be at all, `guard` which server is
    watched from beside PgBouncer. `can_watch` is whether servers for reads could be watched, `read_guards`
    which of them are. `went_on` is whether our last hold had been ended by somebody else when we came to end
    it: since when clients go on nobody tells us.
    """

    databases: tuple[Database, ...]
    stamp: Stamp | None
    file_read_at: float
    defined: frozenset[str] = frozenset()
    was_fallback: Endpoint | None = None
    shown: tuple[ConsoleDatabase, ...] | None = None
    reload_owed: bool = False
    can_hold: bool = False
    held: Held | None = None
    guard: Endpoint | None = None
    console_problem: WatcherError | None = None
    hold_problem: WatcherError | None = None
    can_watch: bool = False
    read_guards: tuple[Endpoint, ...] = ()
    went_on: bool = False

    @property
    def writes(self) -> tuple[Database, ...]:
        """The databases that lead to the primary; all of them where the block is for reads alone."""
        return tuple(db for db in self.databases if db.role is not Role.REPLICA) or self.databases

    @property
    def reads(self) -> tuple[Database, ...]:
        """The databases that are for reads."""
        return tuple(db for db in self.databases if db.role is Role.REPLICA)

    def with_hold(
        self,
        *,
        can_hold: bool,
        can_watch: bool,
        held: Held | None,
        guard: Endpoint | None,
        read_guards: tuple[Endpoint, ...],
        hold_problem: WatcherError | None,
        went_on: bool,
    ) -> Actual:
        """The same with what is so of its hold now; itself where nothing is new, as nearly always."""
        now = can_hold, can_watch, held, guard, read_guards, hold_problem, went_on
        seen = (
            self.can_hold,
            self.can_watch,
            self.held,
            self.guard,
            self.read_guards,
            self.hold_problem,
            self.went_on,
        )
        if now == seen:
            return self
        return replace(
            self,
            can_hold=can_hold,
            can_watch=can_watch,
            held=held,
            guard=guard,
            read_guards=read_guards,
            hold_problem=hold_problem,
            went_on=went_on,
        )


# --- steps: what `decision.plan` is made of -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hold:
    """Let clients wait, until then at the latest, whatever becomes of us."""

    until: float


@dataclass(frozen=True, slots=True)
class Watch:
    """See from beside PgBouncer whether the server at `endpoint` refuses connections."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class WatchReaders:
    """See from beside PgBouncer which of these servers refuse connections, as servers for reads."""

    endpoints: tuple[Endpoint, ...]


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
    """Let clients go on.

    With an `endpoint`: once PgBouncer itself leads there, after `reload` where that is due, and the server
    there takes a login; reload, confirmation and release are one step on the host. None: as things are.
    """

    endpoint: Endpoint | None = None
    reload: bool = False


Step: TypeAlias = Hold | Watch | WatchReaders | Write | Reload | Confirm | Release


# --- what happened -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Switch:
    """One change of a target's route, from the first word of it to PgBouncer's own.

    Times are monotonic seconds: `heard_at` when the leader's reign was first seen, `ready_at`
    when it was wished for here, `steps` when each step was done, by name. `held_since` is None where nobody
    was held, or where somebody else let them go on, at a time that is not known. Where it only `corrects`
    what somebody else has written since the target was led there: who that was, as far as the block tells.
    """

    target: str
    route: Route
    before: tuple[Endpoint, ...]
    heard_at: float
    ready_at: float
    steps: tuple[tuple[str, float], ...]
    held_since: float | None = None
    corrects: str = ""

    @property
    def id(self) -> str:
        """The same for every target of one change of leader."""
        stamp = self.route.stamp
        return f"{stamp.leader}-{stamp.revision or f't{stamp.timeline or 0}'}"

    @property
    def stages(self) -> Mapping[str, float]:
        """Seconds from step to step, in order; `decide` is from the first word to the wish, readiness
        included. What came behind the confirmation (a stamp that learned something) is no part of it.
        """
        parts = {"decide": self.ready_at - self.heard_at}
        before, end = self.ready_at, self.confirmed_at
        for name, at in self.steps:
            if at > end:
                break
            parts[name] = parts.get(name, 0.0) + at - before
            before = at
        return parts

    @property
    def confirmed_at(self) -> float:
        """When PgBouncer itself showed the route; a release counts, since it looks first."""
        return next(at for name, at in reversed(self.steps) if name in ("confirm", "release"))
