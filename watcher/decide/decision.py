"""desired(view) and plan(actual, desired): the two decisions that everything else carries out.

| what is known                                               | route      | held |
|--------------------------------------------------------------|------------|------|
| leader known and ready                                       | the leader | no   |
| … and its PostgreSQL takes no connections (`agent/guard.py`) | the leader | yes  |
| … and a switchover is announced, or it is about to stop      | the leader | yes  |
| leader known, says that it is not ready                      | the leader | yes  |
| … where nobody is held                                       | unchanged  | no   |
| leader known, does not answer us for `unknown_limit`         | the leader | no   |
| no leader key                                                | unchanged  | yes  |
| no leader key while Patroni is paused                        | unchanged  | no   |
| a leader key that cannot be read                             | unchanged  | no   |
| leader without a usable address                              | unchanged  | yes  |
| a standby cluster (`cluster.standby`): `keep`                | unchanged  | no   |
| … `standby_leader`                                           | its leader, as above |
| … `other_site`                                               | the other site's, as above |
| … and the other site is one too, since lately                | unchanged  | yes  |
| etcd silent, exactly one node says primary, accepts writes   | that node  | no   |
| etcd silent, and anything else; or Patroni is paused         | unchanged  | no   |
| … and there was no leader, or it was not ready, or refused   | as above   | yes  |
| `watcher pause` was said                                     | unchanged  | no   |
| any hold that has lasted its limit                           | as above   | no   |

Databases that are marked for replicas follow `readers.py` while a leader is known, and are never held, but
for those that lead to the primary for want of a replica.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from watcher.decide.config_block import goal
from watcher.decide.errors import Fenced
from watcher.decide.fence import admits, names_same_leader, stamp_over
from watcher.decide.model import (
    STOP_KEYS,
    Actual,
    Alarm,
    Candidate,
    Confirm,
    ConsoleDatabase,
    Desired,
    Endpoint,
    Failover,
    HealthRound,
    Hold,
    Leadership,
    Malformed,
    Member,
    NodeReport,
    Paused,
    Readiness,
    Reason,
    Release,
    Reload,
    Role,
    Route,
    Source,
    Stamp,
    Step,
    StopRequest,
    Verdict,
    View,
    Watch,
    WatchReaders,
    Write,
)
from watcher.decide.readers import ReadPolicy, candidates, guarded, place_for, readers
from watcher.decide.view import (
    config,
    config_is_known,
    is_empty,
    leadership,
    paused,
    system_id,
    timeline,
)


class ConnectVia(StrEnum):
    """Which of a member's addresses clients are sent to."""

    CONN_URL = "conn_url"
    PROXY_URL = "proxy_url"
    ADDRESSES = "addresses"


class Standby(StrEnum):
    """Where clients of a standby cluster belong."""

    KEEP = "keep"
    STANDBY_LEADER = "standby_leader"
    OTHER_SITE = "other_site"


class ReadyBy(StrEnum):
    """How a new leader proves that it takes clients."""

    REST = "rest"
    SQL = "sql"
    LEADER_KEY = "leader_key"


class Announced(StrEnum):
    """When a switchover that is announced in etcd makes clients wait."""

    AT_ONCE = "at_once"
    AT_BARRIER = "at_barrier"  # only when the leader's node says that it is about to stop PostgreSQL
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class HoldPolicy:
    """When clients wait instead of failing, and how long at the most. Durations in seconds."""

    limit: float = 60.0
    announced: Announced = Announced.AT_ONCE
    announced_limit: float = 10.0
    on_crash: bool = True


@dataclass(frozen=True, slots=True)
class CanaryPolicy:
    """Which targets are led to a new leader first, how many seconds the rest waits for one of them, and
    whether it goes on after that, or stays.
    """

    targets: frozenset[str]
    limit: float = 5.0
    goes_on: bool = True


@dataclass(frozen=True, slots=True)
class Policy:
    """What the user settled. Durations in seconds. Without `hold` nobody is ever held. `other_site` is the
    policy by which the other site's leader is followed, exactly with `Standby.OTHER_SITE`.
    """

    connect_via: ConnectVia = ConnectVia.CONN_URL
    addresses: Mapping[str, Endpoint] = field(default_factory=dict)
    ready_by: ReadyBy = ReadyBy.REST
    unknown_limit: float = 3.0
    silence_limit: float = 10.0
    health_fresh: float = 6.0
    standby: Standby = Standby.KEEP
    other_site: Policy | None = None
    hold: HoldPolicy | None = None
    reads: ReadPolicy = field(default_factory=ReadPolicy)
    canary: CanaryPolicy | None = None

    def without_holds(self) -> Policy:
        """The same for who does not stay, and so holds nobody."""
        other = None if self.other_site is None else self.other_site.without_holds()
        return replace(self, hold=None, other_site=other)


def desired(
    view: View, policy: Policy, now: float, target: str = "", wall: float | None = None, reads: bool = True
) -> Desired:
    """Where clients of `target` should be sent and whether they should wait, by all that is known at `now`.

    `wall` is the same moment in seconds since the epoch, for what was announced by date. Without `reads` who
    may serve those is left open.
    """
    keep_off, wish = paused(view), but_for_pause(view, policy, now, target, wall, reads)
    if keep_off is None:
        return wish
    belongs = None if wish.route is None else wish.route.endpoint
    return Desired(Reason.PAUSED, _who_paused(keep_off), recheck_at=wish.recheck_at, belongs=belongs)


def but_for_pause(
    view: View, policy: Policy, now: float, target: str, wall: float | None, reads: bool
) -> Desired:
    """The same as if `watcher pause` had not been said."""
    silent_from = (view.began_at if view.contact_at is None else view.contact_at) + policy.silence_limit
    if now >= silent_from:
        return _with_hold_in_silence(view, policy, now, target)
    if view.contact_at is None:
        return Desired(Reason.STARTING, "etcd has not been heard yet", recheck_at=silent_from)
    if policy.other_site is not None and view.entries and not config_is_known(view):
        return Desired(Reason.BLIND, _NO_CONFIG, recheck_at=silent_from)
    if policy.other_site is not None and config(view).standby_cluster:
        return _by_other_site(view, policy, policy.other_site, Moment(now, wall), target, silent_from)
    wish = _by_leader_key(view, policy, now, silent_from)
    if reads:
        wish = _with_readers(wish, view, policy, now, target)
    return _with_hold(wish, view, policy, Moment(now, wall), target)


def _who_paused(paused: Paused) -> str:
    by, why = paused.by and f" by {paused.by}", paused.why and f": {paused.why}"
    return f"`watcher pause` was said{by}{why}; nothing is changed until `watcher resume`"


def within_limit(wish: Desired, policy: Policy, held_since: float, now: float) -> Desired:
    """The same wish, no longer held once clients have waited for the longest time that the policy allows."""
    if not wish.held or policy.hold is None:
        return wish
    until = min(wish.hold_until, held_since + policy.hold.limit)
    if now >= until:
        detail = f"{wish.detail}; released: the hold has lasted its limit"
        return replace(wish, held=False, gave_up=True, detail=detail, stop_id="")
    return replace(wish, hold_until=until, recheck_at=sooner(wish.recheck_at, until))


def let_be(wish: Desired) -> Desired:
    """The same wish where somebody else has let clients go: they are not held again in the same trouble."""
    return replace(wish, held=False, stop_id="", detail=f"{wish.detail}; somebody else let clients go on")


def sooner(known: float | None, at: float) -> float:
    """The nearer of two moments, of which one may not be known."""
    return at if known is None else min(known, at)


_NO_CONFIG = "the cluster's `config` key cannot be read, so which site has the primary is not known"
_NO_CLUSTER = "etcd holds no key of this cluster; compare cluster.scope and cluster.namespace with Patroni's"


# --- etcd speaks ----------------------------------------------------------------------------------


def _by_leader_key(view: View, policy: Policy, now: float, silent_from: float) -> Desired:
    reign = leadership(view)
    if reign is None and is_empty(view):
        return Desired(Reason.NO_CLUSTER, _NO_CLUSTER, recheck_at=silent_from)
    if config(view).standby_cluster and policy.standby is not Standby.STANDBY_LEADER:
        return Desired(Reason.STANDBY_CLUSTER, "a standby cluster", recheck_at=silent_from)
    if reign is None:
        return Desired(Reason.NO_LEADER, "no leader key", recheck_at=silent_from)
    if isinstance(reign, Malformed):
        return Desired(Reason.LEADER_UNUSABLE, _what_is_wrong(reign), recheck_at=silent_from)
    endpoint = address(reign.name, view.members.get(reign.name), policy)
    if isinstance(endpoint, str):
        detail = _malformed_member(view, reign.name, policy) or endpoint
        return Desired(Reason.LEADER_UNUSABLE, detail, recheck_at=silent_from)
    route, proven_at = Route(endpoint, _stamp(view, policy, reign)), view.listed_asked_at
    given_up_at = _given_up_at(view, policy, reign)
    if given_up_at is not None and now < given_up_at:
        return Desired(
            Reason.LEADER_NOT_READY,
            f"{reign.name} leads, but is not ready: {_why_not_ready(view, reign)}",
            route if policy.hold else None,  # written while clients wait, so that it need not be later
            proven_at=proven_at,
            recheck_at=min(silent_from, given_up_at),
        )
    detail = f"{reign.name} leads since revision {reign.create_revision}"
    return Desired(Reason.LEADER, detail, route, proven_at=proven_at, recheck_at=silent_from)


def _with_readers(wish: Desired, view: View, policy: Policy, now: float, target: str) -> Desired:
    """Who serves reads, as far as a leader is known to lead clients to."""
    if wish.route is None or not isinstance(leadership(view), Leadership):
        return wish
    known = replicas(view, policy, now, target)
    recheck_at = wish.recheck_at
    for one in known:
        recheck_at = recheck_at if one.due_at is None else sooner(recheck_at, one.due_at)
    return replace(
        wish,
        readers=readers(known, policy.reads, wish.route.endpoint),
        read_guards=guarded(known),
        candidates=known,
        recheck_at=recheck_at,
    )


def replicas(view: View, policy: Policy, now: float, target: str) -> tuple[Candidate, ...]:
    """Every member as one that may serve reads of that target; none while nobody reigns."""
    reign = leadership(view)
    if not isinstance(reign, Leadership):
        return ()

    def where(name: str, member: Member | None) -> Endpoint | str:
        return address(name, member, policy)

    return candidates(view, reign, where, policy.reads, now, target)


def _stamp(view: View, policy: Policy, reign: Leadership) -> Stamp:
    return Stamp(
        cluster_id=view.cluster_id or 0,
        system_id=system_id(view),
        revision=reign.create_revision,
        timeline=timeline(view, reign),
        leader=reign.name,
        site=0 if policy.other_site is None else view.entries["config"].mod_revision,
    )


def _what_is_wrong(value: Malformed) -> str:
    return f"{value.place}: {value.problem}; {value.hint}"


def _malformed_member(view: View, name: str, policy: Policy) -> str:
    """What is wrong with a member key that is there, and cannot be read; empty if it is none of ours."""
    entry = view.entries.get(f"members/{name}")
    matters = policy.connect_via is not ConnectVia.ADDRESSES
    return _what_is_wrong(entry.value) if matters and entry and isinstance(entry.value, Malformed) else ""


def needed_role(view: View, policy: Policy) -> Role | None:
    """The role that a leader must have to be sent clients; None if no leader may."""
    if not config(view).standby_cluster:
        return Role.PRIMARY
    return Role.STANDBY_LEADER if policy.standby is Standby.STANDBY_LEADER else None


def is_ready(view: View, policy: Policy, reign: Leadership) -> bool:
    """Whether this reign's leader was seen in the role that it needs."""
    if policy.ready_by is ReadyBy.LEADER_KEY:
        return True
    readiness = _readiness(view, reign)
    return (
        readiness is not None
        and readiness.verdict is Verdict.READY
        and readiness.role is needed_role(view, policy)
    )


def _readiness(view: View, reign: Leadership) -> Readiness | None:
    readiness = view.readiness
    return readiness if readiness is not None and readiness.leadership == reign else None


def _given_up_at(view: View, policy: Policy, reign: Leadership) -> float | None:
    """When clients are sent to the leader at the latest; None is now, infinity is not before it is ready.

    A leader that says «not yet» is waited for; one that we cannot ask is not, for clients may reach it.
    One answer that is missing among others is no silence.
    """
    if is_ready(view, policy, reign):
        return None
    pulse = _pulse(view, reign)
    if pulse is not None and pulse.verdict is not Verdict.UNKNOWN:
        return float("inf")
    since = max(view.leader_since or view.began_at, view.turned_at or view.began_at)
    return _silent_from(since, view, pulse) + policy.unknown_limit


def ready_since(view: View, policy: Policy, reign: Leadership) -> float:
    """From when clients may be sent to this reign's leader; to come, or infinite, while they may not."""
    given_up_at = _given_up_at(view, policy, reign)
    if given_up_at is not None:
        return given_up_at
    begun, readiness = view.leader_since or view.began_at, _readiness(view, reign)
    if readiness is None or policy.ready_by is ReadyBy.LEADER_KEY:
        return begun
    return max(begun, readiness.at)


def _silent_from(since: float, view: View, pulse: Readiness | None) -> float:
    """From when its silence counts: `since`, or later, if it has answered after that."""
    return since if pulse is None or view.silent_since is None else max(since, view.silent_since)


def _why_not_ready(view: View, reign: Leadership) -> str:
    readiness = _readiness(view, reign)
    return "not asked yet" if readiness is None else (readiness.problem or f"its role is {readiness.role}")


def address(name: str, member: Member | None, policy: Policy) -> Endpoint | str:
    """Where clients of this member connect, or why that is not known."""
    if policy.connect_via is ConnectVia.ADDRESSES:
        return policy.addresses.get(name) or f"{name!r} is not in `cluster.addresses`; add it"
    if member is None:
        return f"{name!r} has no member key, so its address is not known; is its Patroni running?"
    found = member.conn if policy.connect_via is ConnectVia.CONN_URL else member.proxy
    if found is not None:
        return found
    why = member.problem or f"has no {policy.connect_via}"
    return f"member key of {name!r}: {why}; correct it there or map the member in `cluster.addresses`"


# --- the other site -------------------------------------------------------------------------------


def _by_other_site(
    view: View, policy: Policy, followed: Policy, moment: Moment, target: str, silent_from: float
) -> Desired:
    """This site is a standby cluster: what would be wished for at the other one, on the word of both."""
    if view.other is None:
        return Desired(Reason.STANDBY_CLUSTER, "a standby cluster, and the other site was not asked")
    wish = but_for_pause(view.other, followed, moment.now, target, moment.wall, reads=False)
    if wish.reason is Reason.STANDBY_CLUSTER:
        wish = replace(wish, held=policy.hold is not None and _turns(view, view.other))
    return replace(
        wish,
        detail=f"a standby cluster; the other site: {wish.detail}",
        route=None if wish.route is None else _as_told_here(wish.route, view),
        proven_at=_proven_by_both(view.listed_asked_at, wish.proven_at),
        recheck_at=silent_from if wish.recheck_at is None else min(wish.recheck_at, silent_from),
        stop_id="",  # the barrier there waits for that site's own PgBouncers
        at_other_site=True,
        read_guards=(),  # reads do not cross from one site to the other
    )


def _turns(*sites: View) -> bool:
    """Whether the primary is on its way from one site to the other, as was seen. Where neither site was ever
    seen to have it, clients would wait for nothing.
    """
    return any(site.turned_at is not None for site in sites)


def _as_told_here(route: Route, view: View) -> Route:
    if route.source is Source.HEALTH_CHECK:
        return route
    return replace(route, stamp=replace(route.stamp, site=view.entries["config"].mod_revision))


def _proven_by_both(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else min(one, other)


# --- whether clients should wait --------------------------------------------------------------------

_LEAD = 0.15
"""Seconds before the date of a scheduled switchover at which clients begin to wait."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment by both clocks: monotonic, and since the epoch where that is known."""

    now: float
    wall: float | None


def _with_hold(wish: Desired, view: View, policy: Policy, moment: Moment, target: str) -> Desired:
    if policy.hold is None:
        return wish
    reign = leadership(view)
    if wish.reason is Reason.NO_LEADER:
        return replace(wish, held=not config(view).pause)
    if wish.reason is Reason.LEADER_NOT_READY:
        return replace(wish, held=True)
    if wish.reason is Reason.LEADER_UNUSABLE:
        return replace(wish, held=isinstance(reign, Leadership))
    if wish.reason is not Reason.LEADER or not isinstance(reign, Leadership) or wish.route is None:
        return wish
    guarded = replace(wish, guard=wish.route.endpoint) if policy.hold.on_crash else wish
    return _by_what_threatens(guarded, view, policy, moment, target, reign)


def _by_what_threatens(
    wish: Desired, view: View, policy: Policy, moment: Moment, target: str, reign: Leadership
) -> Desired:
    """The leader leads and is ready, but may not be for long, or its PostgreSQL is not."""
    stop = _stop_of(view, reign, target)
    held = _while_refused(wish, view, policy, target)
    if not held.held:
        held = _until_proven_again(wish, view, policy, moment.now, target, reign)
    if not held.held and stop is not None:
        detail = f"{reign.name} is about to stop its PostgreSQL"
        held = replace(wish, reason=Reason.STOPPING, detail=detail, held=True)
    if not held.held:
        held = _while_announced(wish, view, policy, moment, reign)
    return replace(held, stop_id=stop.id) if held.held and stop is not None else held


def _while_refused(wish: Desired, view: View, policy: Policy, target: str) -> Desired:
    alarm = view.alarms.get(target)
    if alarm is None or not alarm.refuses or policy.hold is None or not policy.hold.on_crash:
        return wish
    if _leads_past(wish, alarm):
        return wish
    detail = f"PostgreSQL at {alarm.endpoint} takes no connections: {alarm.problem}"
    return replace(wish, reason=Reason.PRIMARY_REFUSES, detail=detail, held=True)


def _until_proven_again(
    wish: Desired, view: View, policy: Policy, now: float, target: str, reign: Leadership
) -> Desired:
    """It takes connections again; clients wait until it has said once more that it takes writes too."""
    alarm = view.alarms.get(target)
    if alarm is None or not _doubts(alarm, view, policy, reign) or _leads_past(wish, alarm):
        return wish
    trusted_at = _trusted_at(alarm, view, reign, policy)
    if now >= trusted_at:
        return wish
    detail = f"{_as_seen_last(reign.name, alarm)}, and is not ready: {_why_not_again(view, reign)}"
    return replace(
        wish,
        reason=Reason.PRIMARY_REFUSES,
        detail=detail,
        held=True,
        recheck_at=sooner(wish.recheck_at, trusted_at),
    )


def _leads_past(wish: Desired, alarm: Alarm) -> bool:
    """Whether clients are to be led elsewhere, whatever that server does."""
    return wish.route is not None and wish.route.endpoint != alarm.endpoint


def is_doubted(view: View, policy: Policy, reign: Leadership) -> bool:
    """Whether the leader, once ready, has to say again that it is: somebody saw it refuse connections."""
    return any(_doubts(alarm, view, policy, reign) for alarm in view.alarms.values())


def _doubts(alarm: Alarm, view: View, policy: Policy, reign: Leadership) -> bool:
    if policy.ready_by is ReadyBy.LEADER_KEY or policy.hold is None or not policy.hold.on_crash:
        return False
    if not _is_at(reign, alarm, view, policy):
        return False
    pulse = _pulse(view, reign)
    proven = pulse is not None and pulse.verdict is Verdict.READY and pulse.at >= alarm.at
    return alarm.refuses or not proven


def _is_at(reign: Leadership | Malformed | None, alarm: Alarm, view: View, policy: Policy) -> bool:
    """Whether the alarm is of the server of whoever reigns."""
    if not isinstance(reign, Leadership):
        return False
    return alarm.endpoint == address(reign.name, view.members.get(reign.name), policy)


def _trusted_at(alarm: Alarm, view: View, reign: Leadership, policy: Policy) -> float:
    """When clients go on at the latest. «Not yet» is waited for, silence is not."""
    pulse = _pulse(view, reign)
    says_no = pulse is not None and pulse.verdict is Verdict.NOT_YET and pulse.at >= alarm.at
    return float("inf") if says_no else _silent_from(alarm.at, view, pulse) + policy.unknown_limit


def _pulse(view: View, reign: Leadership) -> Readiness | None:
    pulse = view.pulse
    return pulse if pulse is not None and pulse.leadership == reign else None


def _why_not_again(view: View, reign: Leadership) -> str:
    pulse = _pulse(view, reign)
    return "it has not said so again" if pulse is None or not pulse.problem else pulse.problem


def _stop_of(view: View, reign: Leadership, target: str) -> StopRequest | None:
    """A stop of the leader's PostgreSQL that is still to come or under way.

    Over with this reign, or once its PostgreSQL was seen to refuse connections and to take them again.
    """
    key = STOP_KEYS + reign.name
    entry, alarm = view.entries.get(key), view.alarms.get(target)
    if entry is None or not isinstance(entry.value, StopRequest):
        return None
    if entry.mod_revision < reign.create_revision:
        return None
    back = alarm is not None and not alarm.refuses and alarm.at > view.seen_at.get(key, alarm.at)
    return None if back else entry.value


def _while_announced(wish: Desired, view: View, policy: Policy, moment: Moment, reign: Leadership) -> Desired:
    """A switchover that was asked for since this reign began, for now or for a date that has come.

    A hint, never proof: it may be refused, withdrawn or put off, so it counts for `announced_limit` only.
    """
    due = _announced_for(view, reign, moment)
    hold = policy.hold
    if due is None or hold is None or hold.announced is not Announced.AT_ONCE:
        return wish
    until = due + hold.announced_limit
    if moment.now >= until:
        return wish
    if moment.now < due:
        return replace(wish, recheck_at=sooner(wish.recheck_at, due))
    detail = f"a switchover away from {reign.name} is announced"
    return replace(wish, reason=Reason.ANNOUNCED, detail=detail, held=True, hold_until=until)


def _announced_for(view: View, reign: Leadership, moment: Moment) -> float | None:
    """The moment, by the monotonic clock, from which clients should wait; None if nothing is announced."""
    entry = view.entries.get("failover")
    if entry is None or not isinstance(entry.value, Failover) or entry.mod_revision < reign.create_revision:
        return None
    asked = entry.value
    if not asked.announces or asked.leader not in (None, reign.name) or asked.candidate == reign.name:
        return None
    if asked.scheduled_at is None:
        return view.seen_at.get("failover", moment.now)
    return None if moment.wall is None else moment.now + (asked.scheduled_at - moment.wall) - _LEAD


# --- etcd is silent -------------------------------------------------------------------------------


def _with_hold_in_silence(view: View, policy: Policy, now: float, target: str) -> Desired:
    """Silence lets nobody go on to where there was no primary, until a round of the nodes has shown one. From
    then on it holds nobody but by what the guard sees.
    """
    wish = _by_health_check(view, policy, now)
    if policy.hold is None:
        return wish
    if wish.route is not None and policy.hold.on_crash:
        wish = replace(wish, guard=wish.route.endpoint)
    held = _until_it_says_so(wish, view, policy, now, target)
    if held.route is None and not held.held:
        held = _as_it_was(held, view, policy, now, target)
    return held if held.held else _while_refused(held, view, policy, target)


_ONLY_ANNOUNCED = (Reason.ANNOUNCED, Reason.STOPPING)
"""Whether nothing came of it etcd would tell."""


def _as_it_was(wish: Desired, view: View, policy: Policy, now: float, target: str) -> Desired:
    """Held for what etcd, the leader and the guard have said, until a node alone was the primary since; where
    the leader has said so itself, until the next round.
    """
    heard_at, refused_at = view.contact_at or view.began_at, _refused_at(view, policy, target)
    since, seen, reign = max(heard_at, refused_at), view.primary_seen, leadership(view)
    if policy.other_site is not None:
        return wish
    if seen is not None and seen.at >= (since if _is_of(reign, seen) else heard_at):
        return wish
    spoken = _by_leader_key(view, policy, now, math.inf)
    last = _with_hold(spoken, view, policy, Moment(now, None), target)
    if last.held and last.reason not in _ONLY_ANNOUNCED:
        detail = f"{last.detail}; since then {wish.detail}"
        return Desired(last.reason, detail, held=True, recheck_at=last.recheck_at, guard=last.guard)
    pulse = view.pulse
    if pulse is None or pulse.leadership != reign or pulse.verdict is not Verdict.READY or pulse.at < since:
        return wish
    says = f"{pulse.leadership.name} says that it is ready"
    return _until_asked_since(pulse.at, says, wish, view, policy, now)


def _refused_at(view: View, policy: Policy, target: str) -> float:
    """When the guard has told last of whoever led by etcd's word: that it refuses, or does no more."""
    alarm = view.alarms.get(target)
    if alarm is None or not _is_at(leadership(view), alarm, view, policy):
        return -math.inf
    return alarm.at


def _is_of(reign: Leadership | Malformed | None, seen: HealthRound) -> bool:
    """Whether it was the one who led by etcd's word that was seen to be the primary, and no other since."""
    return isinstance(reign, Leadership) and seen.primaries[0].name == reign.name


def _until_it_says_so(wish: Desired, view: View, policy: Policy, now: float, target: str) -> Desired:
    """Who is followed on the nodes' word, refused, and takes connections again has to say again, as a leader
    has, that it takes writes.
    """
    alarm, reign = view.alarms.get(target), leadership(view)
    if alarm is None or alarm.refuses or policy.hold is None or not policy.hold.on_crash:
        return wish
    if _leads_past(wish, alarm) or (wish.route is None and _is_at(reign, alarm, view, policy)):
        return wish
    detail = _as_seen_last(f"PostgreSQL at {alarm.endpoint}", alarm)
    return _until_asked_since(alarm.at, detail, wish, view, policy, now)


def _as_seen_last(who: str, alarm: Alarm) -> str:
    """Of one that is not said to refuse: by a guard that asked it, or because no guard asks it any more."""
    return (
        f"{who} took no connections when it was last asked"
        if alarm.problem
        else f"{who} takes connections again"
    )


def _until_asked_since(
    at: float, what: str, wish: Desired, view: View, policy: Policy, now: float
) -> Desired:
    """Held until the nodes were asked since then, for `unknown_limit` at the longest."""
    until = at + policy.unknown_limit
    if now >= until or (view.health is not None and view.health.at >= at):
        return wish
    detail = f"{what}, and the nodes were not asked since; {wish.detail}"
    return replace(wish, reason=Reason.PRIMARY_REFUSES, detail=detail, held=True, recheck_at=until)


def _by_health_check(view: View, policy: Policy, now: float) -> Desired:
    problem = _why_no_fallback(view, policy, now)
    if problem:
        return Desired(Reason.BLIND, f"etcd is silent, and {problem}")
    assert view.health is not None  # noqa: S101 - _why_no_fallback looked
    node = view.health.primaries[0]
    endpoint = _endpoint_of(node, view, policy)
    if isinstance(endpoint, str):
        return Desired(Reason.BLIND, f"etcd is silent, and {endpoint}")
    stamp = Stamp(0, node.system_id, 0, node.timeline, node.name)
    detail = f"etcd is silent; {node.name} alone says that it is the primary"
    return Desired(Reason.FALLBACK, detail, Route(endpoint, stamp, Source.HEALTH_CHECK))


def _why_no_fallback(view: View, policy: Policy, now: float) -> str:
    health = view.health
    if health is None or now - health.at > policy.health_fresh or health.at < (view.contact_at or 0.0):
        return "no health check has answered lately"
    primaries = health.primaries
    if not primaries:
        return "no node says that it is the primary"
    if len(primaries) != 1:
        names = ", ".join(sorted(node.name for node in primaries))
        return f"{len(primaries)} nodes say that they are the primary: {names}"
    return _why_not_this_node(primaries[0], view)


def _why_not_this_node(node: NodeReport, view: View) -> str:
    if not node.accepts_writes:
        return f"{node.name} is {node.role}, but {node.state or 'in no known state'}"
    if node.paused or config(view).pause:
        return "Patroni is paused: the route is kept"
    if system_id(view) and node.system_id and node.system_id != system_id(view):
        return f"{node.name} has another system identifier"
    return ""


def _endpoint_of(node: NodeReport, view: View, policy: Policy) -> Endpoint | str:
    found = address(node.name, view.members.get(node.name), policy)
    if isinstance(found, str) and node.conn is not None and policy.connect_via is ConnectVia.CONN_URL:
        return node.conn
    return found


# --- from what is to what should be ---------------------------------------------------------------


_EARLIER, _LATER = 0.25, 1.0
"""Seconds by which a hold may end before and after it should, and is not asked for again: its end is told by
another clock, and seems the later the longer that word was on its way. In a rush that may be half a second.
"""


def plan(actual: Actual, wish: Desired) -> tuple[Step, ...]:
    """The steps between; none where nothing differs. Raises Fenced where the block knows better.

    While clients wait the file is written, and no more: PgBouncer reads it in the step that releases them,
    and a stamp that merely learned something has time until after that.
    """
    steps: list[Step] = []
    if wish.held and actual.can_hold and not _is_held_until(actual, wish.hold_until):
        steps.append(Hold(wish.hold_until))
    route = route_for(actual, wish)
    misled = route is not None and _is_misled(actual, route)
    writes = [] if route is None else _write_steps(actual, wish, route, misled)
    goes_on = [] if wish.held else _go_on_steps(actual, wish, misled)
    steps += writes + goes_on if misled else goes_on + writes
    if wish.guard is not None and actual.can_hold and actual.guard != wish.guard:
        steps.append(Watch(wish.guard))
    if wish.read_guards is not None and actual.can_watch and _watched_for(actual, wish.read_guards):
        steps.append(WatchReaders(wish.read_guards))
    return tuple(steps)


def route_for(actual: Actual, wish: Desired) -> Route | None:
    """The route that is wished for, with the place for the reads of this target."""
    if wish.route is None or wish.readers is None or not actual.reads:
        return wish.route
    return replace(wish.route, readers=place_for(wish.readers, actual))


def _watched_for(actual: Actual, endpoints: tuple[Endpoint, ...]) -> bool:
    """Whether others should be watched than are. Nobody is where no line is marked for replicas."""
    return bool(actual.reads) and actual.read_guards != endpoints


def _is_held_until(actual: Actual, until: float) -> bool:
    return actual.held is not None and -_EARLIER <= actual.held.until - until <= _LATER


def _is_misled(actual: Actual, route: Route) -> bool:
    return any(goal(db, route) not in (None, db.endpoint) for db in actual.databases)


def _write_steps(actual: Actual, wish: Desired, route: Route, misled: bool) -> list[Step]:
    stamp = stamp_over(actual.stamp, route)
    stale = route.source is Source.ETCD and stamp != actual.stamp
    if not stale and not misled:
        return []
    refusal = admits(actual, wish, route)
    if refusal and not misled and names_same_leader(actual.stamp, stamp):
        return []  # on whose word it leads there can wait for a proof, and nothing else waits for that
    if refusal:
        raise Fenced("fence", refusal, _FENCED_HINTS[route.source])
    return [Write(replace(route, stamp=stamp))]


def _go_on_steps(actual: Actual, wish: Desired, misled: bool) -> list[Step]:
    """PgBouncer is made to follow the file, and clients that wait go on."""
    endpoint = _to_follow(actual, wish) if wish.route is None else wish.route.endpoint
    if endpoint is None:
        return [Release()] if actual.held is not None else []
    reload = misled or actual.reload_owed or bool(unconfirmed(actual, endpoint))
    lead: list[Step] = [Reload(), Confirm(endpoint)] if reload else []
    if actual.held is None:
        return lead
    return [Release(), *lead] if wish.gave_up or wish.route is None else [Release(endpoint, reload)]


def _to_follow(actual: Actual, wish: Desired) -> Endpoint | None:
    """Where the file leads: what was written while clients waited, though nobody knows any more who leads."""
    ends = {database.endpoint for database in actual.writes}
    return ends.pop() if len(ends) == 1 and (wish.gave_up or wish.reason is Reason.BLIND) else None


_FENCED_HINTS = {
    Source.ETCD: "a newer watcher wrote it; ours looks again at its next read of etcd",
    Source.HEALTH_CHECK: "etcd decides as soon as it is heard; where it stays away, see which node is right",
}


def unconfirmed(actual: Actual, endpoint: Endpoint) -> tuple[str, ...]:
    """The databases that PgBouncer itself does not yet lead to `endpoint`, by name; of those for reads, that
    it does not lead where its file says.

    `*` is not a row of `SHOW DATABASES`; the databases made from it are, while they are in use, and
    show where it led. Without a console nothing can be said, and nothing is.
    """
    if actual.shown is None:
        return ()
    rows = {row.name: row for row in actual.shown}
    goals = {db.name: db.endpoint if db.role is Role.REPLICA else endpoint for db in actual.databases}
    wrong = [name for name, goal in goals.items() if name != "*" and not _leads_to(rows.get(name), goal)]
    if any(db.name == "*" for db in actual.databases) and actual.was_fallback not in (None, endpoint):
        wrong += [name for name, row in rows.items() if name not in actual.defined and _still(row, actual)]
    return tuple(wrong)


def is_led_to(actual: Actual, wish: Desired) -> bool:
    """Whether clients are led where the wish says already, or were by its very word: then what is wrong now
    came later.
    """
    if wish.route is None:
        return True
    old, new = actual.stamp, wish.route.stamp
    if old is not None and (old.cluster_id, old.revision) == (new.cluster_id, new.revision):
        return True
    endpoint = wish.route.endpoint
    return not (_is_misled(actual, wish.route) or unconfirmed(actual, endpoint))


def is_in_sync(actual: Actual, wish: Desired) -> bool:
    """Whether clients are led where they should be, by PgBouncer's own word where it can be asked, and go."""
    route = route_for(actual, wish)
    endpoint = wish.belongs if route is None else route.endpoint
    if endpoint is None or wish.held or actual.held is not None or actual.console_problem is not None:
        return False
    misled = _is_misled(actual, route or Route(endpoint, NO_STAMP))
    return not (misled or actual.reload_owed or unconfirmed(actual, endpoint))


def leads_writes(actual: Actual, wish: Desired) -> bool:
    """The same of all but the databases for reads. PgBouncer shows whether it owes a reload to others than
    these, but where it has no console, or makes databases from `*`.
    """
    cannot_tell = actual.shown is None or any(db.name == "*" for db in actual.writes)
    seen = replace(actual, databases=actual.writes, reload_owed=actual.reload_owed and cannot_tell)
    return is_in_sync(seen, replace(wish, readers=None))


NO_STAMP = Stamp(0, "", 0, None, "")
"""Of a route that is compared, and never written."""


def _leads_to(row: ConsoleDatabase | None, endpoint: Endpoint) -> bool:
    return row is not None and (row.host, row.port) == (endpoint.host, endpoint.port)


def _still(row: ConsoleDatabase, actual: Actual) -> bool:
    return actual.was_fallback is not None and _leads_to(row, actual.was_fallback)
