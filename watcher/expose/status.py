"""The state of things as one document: `/status` is its JSON, the page and `watcher status` are made from it.

Its JSON schema is docs/status.schema.json, made from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter

from watcher.decide.decision import leads_writes
from watcher.decide.errors import WatcherError
from watcher.decide.model import (
    ActiveWatcher,
    Actual,
    Desired,
    Endpoint,
    HealthRound,
    Leadership,
    Member,
    Reason,
    Role,
    View,
)
from watcher.decide.precedence import Standing, active, in_words
from watcher.decide.readers import in_use, unfit
from watcher.decide.view import config, leadership, paused
from watcher.expose.calendar import Calendar
from watcher.expose.chronicle import Chronicle, TargetState, Told, Wish, nobody_knows
from watcher.expose.units import ago

Health = Literal["ok", "failing", "waiting", "paused", "wrong", "unknown"]
MOST_HAPPENINGS = 50
MOST_SWITCHES = 10


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Problem(_Part):
    """What is wrong, where, and what to do about it."""

    place: str
    problem: str
    hint: str


class Source(_Part):
    """Something that is listened to."""

    connected: bool = Field(description="Whether it is heard.")
    place: str = Field(description="Where it was heard, or tried, last.")
    since: AwareDatetime = Field(description="Since when it is so.")
    problem: Problem | None


class Node(_Part):
    """What one node's Patroni said in the last round of the health check."""

    name: str
    url: str
    answer: str = Field(description="Its role and state, or why it said nothing of use.")
    is_primary: bool


class MemberState(_Part):
    """A member of the cluster, by its key in etcd."""

    name: str
    role: str
    state: str
    timeline: int | None
    endpoint: str | None = Field(description="Where its PostgreSQL listens.")
    lag_bytes: int | None = Field(description="How far it is behind the leader; as old as its key.")
    present: bool = Field(description="Whether its key is there still.")


class Maintenance(_Part):
    """`watcher pause`, and who said it."""

    by: str
    why: str
    since: AwareDatetime | None


class Controller(_Part):
    """This watcher among several of the cluster, with `controller.mode: lease`."""

    standing: Standing
    words: str = Field(description="The same in a sentence.")
    active: str | None = Field(description="Name of the active watcher; None where nobody is known to be.")
    lease: Source | None = Field(description="etcd, where the lease is asked for; None until it was needed.")


class Cluster(_Part):
    """The cluster as etcd and the health check tell of it."""

    name: str
    leader: str | None
    leader_since: AwareDatetime | None = Field(
        description="When this reign began; None if that was before the watcher was started."
    )
    reason: str = Field(description="Why the wish is what it is: a value of the metric `watcher_state`.")
    detail: str = Field(description="The same in words.")
    members: tuple[MemberState, ...]
    nodes: tuple[Node, ...]
    health_check_at: AwareDatetime | None
    etcd: Source | None = Field(description="None until it was first heard or missed.")
    etcd_revision: int
    etcd_heard_at: AwareDatetime | None
    barrier: Source | None = Field(description="None where `barrier.enabled` is off.")
    controller: Controller | None = Field(description="None with `controller.mode: together`.")
    other_site: Source | None = Field(description="None where `cluster.other_site` is not set.")
    paused: Maintenance | None


class Target(_Part):
    """One PgBouncer."""

    name: str
    health: Health
    words: str = Field(description="The same in a sentence.")
    file: tuple[str, ...] = Field(description="Where the block of its file leads.")
    pgbouncer: tuple[str, ...] | None = Field(
        description="Where PgBouncer itself leads the block's databases; None where it cannot be asked."
    )
    reads: tuple[str, ...] = Field(description="Where its file leads databases for reads; empty without any.")
    not_for_reads: dict[str, str] = Field(
        description="Members that should serve no reads, and why; empty where it has no databases for them."
    )
    leader: str | None = Field(description="The leader that its block was written for.")
    in_sync_since: AwareDatetime | None
    seen_at: AwareDatetime | None
    held_since: AwareDatetime | None
    can_hold: bool = Field(description="Whether its clients could be made to wait just now.")
    failing_since: AwareDatetime | None
    problem: Problem | None


class SwitchedTarget(_Part):
    """One target's part in a switch."""

    target: str
    before: tuple[str, ...] = Field(description="Where its clients were led until then.")
    at: AwareDatetime = Field(description="When PgBouncer itself showed the new route.")
    duration_ms: float = Field(description="From the first word of the new leader to that.")
    stages_ms: dict[str, float] = Field(description="The parts of that, in order.")
    waited_ms: float | None = Field(
        description="How long clients waited; None where they were not held, or where somebody else let them"
        " go on, at a time that is not known."
    )
    corrects: str | None = Field(
        description="Who had led it elsewhere since it was led there before, as far as its block told; None"
        " where the leader is a new one."
    )


class Switch(_Part):
    """One change of leader, and what became of it at each target."""

    id: str
    leader: str
    endpoint: str
    source: str
    at: AwareDatetime = Field(description="When the first of its targets was led there.")
    targets: tuple[SwitchedTarget, ...]


class Happening(_Part):
    """A line of what happened."""

    at: AwareDatetime
    about: str
    text: str
    bad: bool


class Status(_Part):
    """All of it."""

    version: str
    now: AwareDatetime
    started_at: AwareDatetime
    settings_refused_at: AwareDatetime | None = Field(
        description="When a fault was found in the settings on the disk; those of before are at work."
    )
    health: Health = Field(description="The worst of the cluster's and all targets'.")
    words: str = Field(description="The same in a sentence: do clients reach the primary?")
    cluster: Cluster
    targets: tuple[Target, ...]
    switches: tuple[Switch, ...] = Field(description="The last ones, the newest first.")
    happenings: tuple[Happening, ...] = Field(description="The last ones, the newest first.")


class Fleet(_Part):
    """Several clusters of one watcher."""

    version: str
    now: AwareDatetime
    settings_refused_at: AwareDatetime | None = Field(description="As each of `clusters` has it.")
    health: Health = Field(description="The worst of all clusters'.")
    words: str = Field(description="The same in a sentence.")
    clusters: tuple[Status, ...]


def fleet_of(clusters: Sequence[Status]) -> Fleet:
    """All of them together; at least one."""
    return Fleet(
        version=clusters[0].version,
        now=clusters[0].now,
        settings_refused_at=clusters[0].settings_refused_at,
        health=min((status.health for status in clusters), key=WORST_FIRST.index),
        words=_words_of_all(clusters),
        clusters=tuple(clusters),
    )


WORST_FIRST: tuple[Health, ...] = ("wrong", "waiting", "failing", "unknown", "paused", "ok")
_MOST_NAMES = 5


def _words_of_all(clusters: Sequence[Status]) -> str:
    parts = [part for health in WORST_FIRST[:-1] if (part := _which(health, clusters))]
    if not parts:
        return f"Clients reach the primary of every cluster, {len(clusters)} in all."
    return f"Of {len(clusters)} clusters: {'; '.join(parts)}."


def _which(health: Health, clusters: Sequence[Status]) -> str:
    """Which clusters are so, by name as far as there is room."""
    names = [status.cluster.name for status in clusters if status.health == health]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"{len(names)} {health} ({', '.join(names[:_MOST_NAMES])}{more})" if names else ""


# --- from what is known -------------------------------------------------------------------------------


def status_of(
    scope: str,
    view: View,
    chronicle: Chronicle,
    calendar: Calendar,
    started_at: float,
    wish: Wish = nobody_knows,
    settings_refused_at: float | None = None,
    stands: Standing = Standing.TOGETHER,
) -> Status:
    """As of now."""
    states = chronicle.judged(wish)
    targets = tuple(map(_target, states))
    wishes = [state.wish for state in states if state.wish is not None]
    foremost = max(wishes, key=_weight, default=None)
    cluster = _cluster(scope, view, chronicle, calendar, foremost, stands)
    now = _date(calendar.wall())
    health, words = _verdict(view, wishes, cluster, targets, now)
    return Status(
        version=version("pgbouncer-watcher"),
        now=now,
        started_at=_date(started_at),
        settings_refused_at=None if settings_refused_at is None else _date(settings_refused_at),
        health=health,
        words=words,
        cluster=cluster,
        targets=targets,
        switches=tuple(map(_switch, chronicle.switches))[:MOST_SWITCHES],
        happenings=tuple(
            Happening(at=_date(told.at), about=told.about, text=told.text, bad=told.bad)
            for told in chronicle.happenings[:MOST_HAPPENINGS]
        ),
    )


def _weight(wish: Desired) -> tuple[bool, bool]:
    """Wishes differ from target to target: the cluster is told by the one with most to tell."""
    return wish.gave_up, wish.held


def _verdict(
    view: View, wishes: Sequence[Desired], cluster: Cluster, targets: tuple[Target, ...], now: datetime
) -> tuple[Health, str]:
    """One glance: what is worst comes first. What the cluster lacks is no fault of a PgBouncer, so it is told
    here and not with the targets (a load balancer goes by those).
    """
    who = {health: _number(health, targets) for health in _COUNTED}
    if cluster.paused is not None:
        return _while_paused(cluster.paused, who["wrong"])
    if not who["waiting"] and wishes and all(_lacks_primary(view, wish) for wish in wishes):
        return "wrong", f"The cluster has no primary that takes clients: {cluster.detail}."
    if who["wrong"]:
        return "wrong", f"{who['wrong']} not lead to the primary."
    if who["waiting"]:
        return "waiting", f"Clients of {who['waiting']} wait: {cluster.detail}."
    return _while_led(view, wishes, cluster, who, now)


def _while_paused(pause: Maintenance, wrong: str) -> tuple[Health, str]:
    if wrong:
        return "wrong", f"{wrong} not lead to the primary, and the watcher is paused{_by(pause)}."
    return "paused", f"The watcher is paused{_by(pause)}: it changes nothing, and holds nobody."


def _while_led(
    view: View, wishes: Sequence[Desired], cluster: Cluster, who: Mapping[Health, str], now: datetime
) -> tuple[Health, str]:
    """Every PgBouncer leads where it should, as far as is known."""
    stranded = next((wish for wish in wishes if wish.gave_up), None)
    if stranded is not None:
        return "wrong", f"A PgBouncer leads to a server that takes no clients: {stranded.detail}."
    doubt = next(filter(None, (_doubt(view, wish, cluster, now) for wish in wishes)), "")
    if doubt:
        return "failing", doubt
    if who["unknown"]:
        return "unknown", f"Where clients are led is not known yet: {cluster.detail}."
    title, leader = _whom(view, wishes, cluster)
    reach = f"Clients reach the {title}"
    if who["failing"]:
        return "failing", f"{reach} as far as is known, but {who['failing']} cannot be looked after."
    return "ok", f"{reach}, {leader}."


def _whom(view: View, wishes: Sequence[Desired], cluster: Cluster) -> tuple[str, str]:
    there = next((wish.route.stamp.leader for wish in wishes if wish.at_other_site and wish.route), None)
    if there is not None:
        return "primary at the other site", there
    return "standby cluster's leader" if config(view).standby_cluster else "primary", str(cluster.leader)


def _by(pause: Maintenance) -> str:
    return f" by {pause.by}" if pause.by else ""


def paused_words(pause: Maintenance, now: datetime) -> str:
    """Who, when and why."""
    since = "" if pause.since is None else f", {ago(now, pause.since)} ago"
    return f"paused{_by(pause)}{since}: {pause.why or 'no reason given'}"


def leader_words(cluster: Cluster, now: datetime) -> str:
    """Who leads by etcd, or led when it was heard last."""
    who = cluster.leader or "no leader by etcd"
    etcd, heard_at = cluster.etcd, cluster.etcd_heard_at
    if etcd is not None and not etcd.connected and heard_at is not None:
        return f"{who} when etcd was last heard, {ago(now, heard_at)} ago"
    return who if cluster.leader_since is None else f"{who} for {ago(now, cluster.leader_since)}"


def refused_words(at: datetime, now: datetime) -> str:
    """That the settings on the disk are not those at work, and how to find out why."""
    return (
        f"The settings on the disk have a fault, found {ago(now, at)} ago; those of before are at work, and"
        " a restart would fail: watcher check-config tells why."
    )


_COUNTED: tuple[Health, ...] = ("wrong", "waiting", "failing", "unknown")


def _number(health: Health, targets: tuple[Target, ...]) -> str:
    """How many of the targets are so, in words; empty for none."""
    count = sum(target.health == health for target in targets)
    if not count:
        return ""
    number = f"{count} of {len(targets)} PgBouncers" if len(targets) > 1 else "PgBouncer"
    return number if health != "wrong" else f"{number} {'does' if count == 1 else 'do'}"


_WITHOUT_PRIMARY = (
    Reason.NO_LEADER,
    Reason.NO_CLUSTER,
    Reason.LEADER_UNUSABLE,
    Reason.LEADER_NOT_READY,
    Reason.PRIMARY_REFUSES,
)


def _lacks_primary(view: View, wish: Desired) -> bool:
    """Whether nobody takes writes, by all that is known. A leader key that ended while Patroni is paused says
    nothing of that.
    """
    if wish.at_other_site and view.other is not None:
        view = view.other
    if wish.reason is Reason.BLIND:
        return view.health is not None and not view.health.failures and not view.health.primaries
    return wish.reason in _WITHOUT_PRIMARY and not (wish.reason is Reason.NO_LEADER and config(view).pause)


def _doubt(view: View, wish: Desired, cluster: Cluster, now: datetime) -> str:
    """Why it cannot be said that clients reach the primary although every PgBouncer leads where it should."""
    etcd, leader = cluster.etcd, "" if wish.route is None else wish.route.stamp.leader
    if wish.reason is Reason.BLIND:
        return f"Nobody can tell where the primary is, and clients are led where they were: {cluster.detail}."
    if wish.reason is Reason.FALLBACK:
        return f"Clients reach the primary, {leader}, by the health check alone: etcd is not heard."
    if etcd is not None and not etcd.connected and leader:
        heard = "" if cluster.etcd_heard_at is None else f", {ago(now, cluster.etcd_heard_at)} ago"
        return f"Clients are led to {leader}, the primary when etcd was last heard{heard}."
    if wish.at_other_site and view.other is not None:
        view = view.other
    if wish.reason is Reason.LEADER and _disowns(view, leader):
        return f"Clients are led to {leader}, which holds the leader key and says that it is a replica."
    return ""


def _disowns(view: View, leader: str) -> bool:
    """Whether the leader's own key, written since it last said that it takes writes, calls it a replica."""
    key = f"members/{leader}"
    entry, proven = view.entries.get(key), view.pulse
    if entry is None or not isinstance(entry.value, Member) or entry.value.role is not Role.REPLICA:
        return False
    return proven is None or view.seen_at.get(key, proven.at) > proven.at


# --- targets ------------------------------------------------------------------------------------------


def _target(state: TargetState) -> Target:
    health, words = health_of(state)
    actual = state.actual
    return Target(
        name=state.name,
        health=health,
        words=words,
        file=() if actual is None else _distinct(db.endpoint for db in actual.writes),
        pgbouncer=_shown(state),
        reads=() if actual is None else _distinct(sorted(in_use(actual))),
        not_for_reads=_not_for_reads(state),
        leader=actual.stamp.leader if actual is not None and actual.stamp is not None else None,
        in_sync_since=_date_or_none(state.in_sync_since),
        seen_at=_date_or_none(state.seen_at),
        held_since=_date_or_none(state.held_since),
        can_hold=actual is not None and actual.can_hold and state.failure is None,
        failing_since=_date_or_none(state.failing_since),
        problem=_problem(state.failure),
    )


def _not_for_reads(state: TargetState) -> dict[str, str]:
    if state.actual is None or not state.actual.reads or state.wish is None:
        return {}
    return unfit(state.wish.candidates, in_use(state.actual))


def health_of(state: TargetState) -> tuple[Health, str]:
    """How one PgBouncer is by itself, and the same in a sentence."""
    wish, console = state.wish, None if state.actual is None else state.actual.console_problem
    if wish is None or (state.actual is None and state.failure is None):
        return "unknown", "not looked at yet"
    if console is not None:
        return "wrong", f"PgBouncer does not answer: {console.problem}"
    if wish.reason is Reason.PAUSED:
        return _health_while_paused(state, wish)
    if state.held_since is not None:
        return "waiting", wish.detail if wish.held or state.failure is None else _cannot_go_on(state.failure)
    if wish.held and state.failure is None and state.actual is not None and _go_on(state.actual):
        return "failing", f"its clients do not wait, though they should: {wish.detail}"
    if wish.reason is Reason.CANARY:
        return "wrong", f"does not lead to {wish.belongs}: {wish.detail}"
    if wish.route is None:
        return "unknown", f"leads where it did: {wish.detail}"
    return _health_of_led(state, wish, wish.route.endpoint)


def _go_on(actual: Actual) -> bool:
    """Whether clients that could be held are not, by anybody, as PgBouncer shows it."""
    names = {database.name for database in actual.writes}
    rows = [
        row
        for row in actual.shown or ()
        if row.name in names or ("*" in names and row.name not in {*actual.defined, "pgbouncer"})
    ]
    return actual.can_hold and any(not row.paused for row in rows)


def _cannot_go_on(failure: WatcherError) -> str:
    return f"clients cannot go on: {failure.problem}"


def _health_while_paused(state: TargetState, wish: Desired) -> tuple[Health, str]:
    if wish.belongs is None or state.in_sync_since is not None:
        return "paused", "left alone"
    return "wrong", f"does not lead to {wish.belongs}, and is left alone"


def _health_of_led(state: TargetState, wish: Desired, endpoint: Endpoint) -> tuple[Health, str]:
    but = "" if state.failure is None else f": {state.failure.problem}"
    if wish.gave_up:
        return "failing", f"leads to {endpoint}, which takes no clients: {wish.detail}"
    if state.actual is None:
        return "failing", f"where it leads is not known{but}"
    if state.in_sync_since is None and leads_writes(state.actual, wish):
        return "failing", f"leads to {endpoint}, but not its reads where they belong{but}"
    if state.in_sync_since is None:
        return "wrong", f"does not lead to {endpoint}{but}"
    if state.failure is not None:
        return "failing", f"leads to {endpoint} as far as is known, but cannot be looked after{but}"
    return "ok", f"leads to {endpoint}"


def _shown(state: TargetState) -> tuple[str, ...] | None:
    actual = state.actual
    if actual is None or actual.shown is None or actual.console_problem is not None:
        return None
    names = {database.name for database in actual.writes}
    return _distinct(f"{row.host or 'socket'}:{row.port}" for row in actual.shown if row.name in names)


def _distinct(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(str, values)))


def _problem(error: WatcherError | None) -> Problem | None:
    return None if error is None else Problem(place=error.place, problem=error.problem, hint=error.hint)


# --- the cluster --------------------------------------------------------------------------------------


def _cluster(
    scope: str,
    view: View,
    chronicle: Chronicle,
    calendar: Calendar,
    wish: Desired | None,
    stands: Standing,
) -> Cluster:
    reign, keeps_off = leadership(view), paused(view)
    known = isinstance(reign, Leadership)
    sources = chronicle.sources

    def day(moment: float | None) -> datetime | None:
        return None if moment is None else _date(calendar.of(moment))

    def source(name: str) -> Source | None:
        found = sources.get(name)
        if found is None:
            return None
        return Source(
            connected=found.connected,
            place=found.place,
            since=_date(found.since),
            problem=_problem(found.problem),
        )

    return Cluster(
        name=scope,
        leader=reign.name if isinstance(reign, Leadership) else None,
        leader_since=_date_or_none(chronicle.reign_since) if known else None,
        reason=str(wish.reason if wish is not None else Reason.STARTING),
        detail=wish.detail if wish is not None else "nothing was heard yet",
        members=tuple(_members(view)),
        nodes=tuple(_nodes(view.health)),
        health_check_at=day(view.health.at) if view.health is not None else None,
        etcd=source("etcd"),
        etcd_revision=view.revision,
        etcd_heard_at=day(view.contact_at),
        barrier=source("barrier"),
        controller=_controller(stands, active(view), source("controller")),
        other_site=source("other_site"),
        paused=None
        if keeps_off is None
        else Maintenance(by=keeps_off.by, why=keeps_off.why, since=_date_or_none(keeps_off.since)),
    )


def _controller(stands: Standing, first: ActiveWatcher | None, lease: Source | None) -> Controller | None:
    if stands is Standing.TOGETHER:
        return None
    known = None if first is None or stands is Standing.NOBODY else first.name
    return Controller(standing=stands, words=in_words(stands, known or ""), active=known, lease=lease)


def _members(view: View) -> Iterable[MemberState]:
    reign = leadership(view)
    leader = view.members.get(reign.name) if isinstance(reign, Leadership) else None
    for name, member in sorted(view.members.items()):
        present = f"members/{name}" in view.entries
        yield MemberState(
            name=name,
            role=str(member.role),
            state=member.state,
            timeline=member.timeline,
            endpoint=None if member.conn is None else str(member.conn),
            lag_bytes=_lag(member, leader) if present else None,
            present=present,
        )


def _lag(member: Member, leader: Member | None) -> int | None:
    if leader is None or leader.position is None or member.position is None:
        return None
    return max(0, leader.position - member.position)


def _nodes(found: HealthRound | None) -> Iterable[Node]:
    if found is None:
        return
    for report in found.reports:
        yield Node(
            name=report.name,
            url=report.api_url,
            answer=", ".join(filter(None, (str(report.role), report.state))),
            is_primary=report.accepts_writes,
        )
    for url, problem in found.failures.items():
        yield Node(name="", url=url, answer=problem, is_primary=False)


# --- switches -----------------------------------------------------------------------------------------


def _switch(parts: tuple[Told, ...]) -> Switch:
    """One change of leader, of all its targets."""
    switch = parts[0].switch
    return Switch(
        id=switch.id,
        leader=switch.route.stamp.leader,
        endpoint=str(switch.route.endpoint),
        source=str(switch.route.source),
        at=_date(min(part.at for part in parts)),
        targets=tuple(_switched(part) for part in sorted(parts, key=lambda part: part.switch.target)),
    )


def _switched(told: Told) -> SwitchedTarget:
    switch = told.switch
    held = switch.held_since
    return SwitchedTarget(
        target=switch.target,
        before=_distinct(switch.before),
        at=_date(told.at),
        duration_ms=_ms(switch.confirmed_at - switch.heard_at),
        stages_ms={name: _ms(seconds) for name, seconds in switch.stages.items()},
        waited_ms=None if held is None else _ms(switch.confirmed_at - held),
        corrects=switch.corrects or None,
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _date(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _date_or_none(seconds: float | None) -> datetime | None:
    return None if seconds is None else _date(seconds)


def schema() -> Mapping[str, object]:
    """The JSON schema of `/status`."""
    return TypeAdapter(Status | Fleet).json_schema()
