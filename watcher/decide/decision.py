"""desired(view) and plan(actual, desired): the two decisions that everything else carries out.

| what is known                                               | route      |
|--------------------------------------------------------------|------------|
| leader known and ready                                       | the leader |
| leader known, says that it is not ready                      | unchanged  |
| leader known, does not answer us for `unknown_limit`         | the leader |
| no leader key, or one that cannot be read                    | unchanged  |
| leader without a usable address                              | unchanged  |
| a standby cluster, and `follow_standby_leader` is off        | unchanged  |
| etcd silent, exactly one node says primary, accepts writes   | that node  |
| etcd silent, and anything else; or Patroni is paused         | unchanged  |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from watcher.decide.errors import Fenced
from watcher.decide.fence import admits, stamp_over
from watcher.decide.model import (
    Actual,
    Confirm,
    ConsoleDatabase,
    Desired,
    Endpoint,
    Hold,
    Leadership,
    Malformed,
    Member,
    NodeReport,
    Readiness,
    Reason,
    Release,
    Reload,
    Role,
    Route,
    Source,
    Stamp,
    Step,
    Verdict,
    View,
    Write,
)
from watcher.decide.view import config, leadership, system_id, timeline


class ConnectVia(StrEnum):
    """Which of a member's addresses clients are sent to."""

    CONN_URL = "conn_url"
    PROXY_URL = "proxy_url"
    ADDRESSES = "addresses"


class ReadyBy(StrEnum):
    """How a new leader proves that it takes clients."""

    REST = "rest"
    SQL = "sql"
    LEADER_KEY = "leader_key"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the user settled. Durations in seconds."""

    connect_via: ConnectVia = ConnectVia.CONN_URL
    addresses: Mapping[str, Endpoint] = field(default_factory=dict)
    ready_by: ReadyBy = ReadyBy.REST
    unknown_limit: float = 3.0
    silence_limit: float = 10.0
    health_fresh: float = 6.0
    follow_standby_leader: bool = False


def desired(view: View, policy: Policy, now: float) -> Desired:
    """Where clients should be sent, by all that is known at `now`."""
    silent_from = (view.began_at if view.contact_at is None else view.contact_at) + policy.silence_limit
    if now >= silent_from:
        return _by_health_check(view, policy, now)
    if view.contact_at is None:
        return Desired(Reason.STARTING, "etcd has not been heard yet", recheck_at=silent_from)
    return _by_leader_key(view, policy, now, silent_from)


_NO_CLUSTER = "etcd holds no key of this cluster; compare cluster.scope and cluster.namespace with Patroni's"


# --- etcd speaks ----------------------------------------------------------------------------------


def _by_leader_key(view: View, policy: Policy, now: float, silent_from: float) -> Desired:
    reign = leadership(view)
    if reign is None and not view.entries:
        return Desired(Reason.NO_CLUSTER, _NO_CLUSTER, recheck_at=silent_from)
    if reign is None:
        return Desired(Reason.NO_LEADER, "no leader key", recheck_at=silent_from)
    if isinstance(reign, Malformed):
        return Desired(Reason.LEADER_UNUSABLE, _what_is_wrong(reign), recheck_at=silent_from)
    if needed_role(view, policy) is None:
        detail = "a standby cluster; follow_standby_leader is off"
        return Desired(Reason.STANDBY_CLUSTER, detail, recheck_at=silent_from)
    endpoint = address(reign.name, view.members.get(reign.name), policy)
    if isinstance(endpoint, str):
        detail = _malformed_member(view, reign.name, policy) or endpoint
        return Desired(Reason.LEADER_UNUSABLE, detail, recheck_at=silent_from)
    given_up_at = _given_up_at(view, policy, reign)
    if given_up_at is not None and now < given_up_at:
        detail = f"{reign.name} leads, but is not ready: {_why_not_ready(view, reign)}"
        return Desired(Reason.LEADER_NOT_READY, detail, recheck_at=min(silent_from, given_up_at))
    stamp = Stamp(
        view.cluster_id or 0, system_id(view), reign.create_revision, timeline(view, reign), reign.name
    )
    return Desired(
        Reason.LEADER,
        f"{reign.name} leads since revision {reign.create_revision}",
        Route(endpoint, stamp),
        proven_at=view.listed_asked_at,
        recheck_at=silent_from,
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
    return Role.STANDBY_LEADER if policy.follow_standby_leader else None


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
    """
    if is_ready(view, policy, reign):
        return None
    readiness = _readiness(view, reign)
    if readiness is not None and readiness.verdict is not Verdict.UNKNOWN:
        return float("inf")
    return (view.leader_since or view.began_at) + policy.unknown_limit


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


# --- etcd is silent -------------------------------------------------------------------------------


def _by_health_check(view: View, policy: Policy, now: float) -> Desired:
    problem = _why_no_fallback(view, policy, now)
    if problem:
        return Desired(Reason.BLIND, f"etcd is silent, and {problem}")
    assert view.health is not None  # noqa: S101 - _why_no_fallback looked
    node = _primaries(view.health.reports)[0]
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
    primaries = _primaries(health.reports)
    if len(primaries) != 1:
        names = ", ".join(sorted(node.name for node in primaries))
        return f"{len(primaries)} nodes say that they are the primary{names and ': '}{names}"
    return _why_not_this_node(primaries[0], view)


def _why_not_this_node(node: NodeReport, view: View) -> str:
    if not node.accepts_writes:
        return f"{node.name} is {node.role}, but {node.state or 'in no known state'}"
    if node.paused or config(view).pause:
        return "Patroni is paused: the route is kept"
    if system_id(view) and node.system_id and node.system_id != system_id(view):
        return f"{node.name} has another system identifier"
    return ""


def _primaries(reports: tuple[NodeReport, ...]) -> list[NodeReport]:
    return [report for report in reports if report.role is Role.PRIMARY]


def _endpoint_of(node: NodeReport, view: View, policy: Policy) -> Endpoint | str:
    found = address(node.name, view.members.get(node.name), policy)
    if isinstance(found, str) and node.conn is not None and policy.connect_via is ConnectVia.CONN_URL:
        return node.conn
    return found


# --- from what is to what should be ---------------------------------------------------------------


def plan(actual: Actual, wish: Desired) -> tuple[Step, ...]:
    """The steps between; none where nothing differs. Raises Fenced where the block knows better."""
    steps: list[Step] = []
    if wish.held and not actual.held:
        steps.append(Hold())
    if wish.route is not None:
        steps += _route_steps(actual, wish, wish.route)
    if actual.held and not wish.held:
        steps.append(Release())
    return tuple(steps)


def _route_steps(actual: Actual, wish: Desired, route: Route) -> list[Step]:
    misled = any(database.endpoint != route.endpoint for database in actual.databases)
    stamp = stamp_over(actual.stamp, route)
    stale = route.source is Source.ETCD and stamp != actual.stamp
    steps: list[Step] = []
    if misled or stale:
        refusal = admits(actual, wish, route)
        if refusal:
            raise Fenced("fence", refusal, _FENCED_HINTS[route.source])
        steps.append(Write(Route(route.endpoint, stamp, route.source)))
    if misled or actual.reload_owed or unconfirmed(actual, route.endpoint):
        steps += [Reload(), Confirm(route.endpoint)]
    return steps


_FENCED_HINTS = {
    Source.ETCD: "a newer watcher wrote it; ours looks again at its next read of etcd",
    Source.HEALTH_CHECK: "etcd decides as soon as it is heard; where it stays away, see which node is right",
}


def unconfirmed(actual: Actual, endpoint: Endpoint) -> tuple[str, ...]:
    """The databases that PgBouncer itself does not yet lead to `endpoint`, by name.

    `*` is not a row of `SHOW DATABASES`; the databases made from it are, while they are in use, and
    show where it led. Without a console nothing can be said, and nothing is.
    """
    if actual.shown is None:
        return ()
    rows = {row.name: row for row in actual.shown}
    wrong = [
        db.name for db in actual.databases if db.name != "*" and not _leads_to(rows.get(db.name), endpoint)
    ]
    if any(db.name == "*" for db in actual.databases) and actual.was_fallback not in (None, endpoint):
        wrong += [name for name, row in rows.items() if name not in actual.defined and _still(row, actual)]
    return tuple(wrong)


def _leads_to(row: ConsoleDatabase | None, endpoint: Endpoint) -> bool:
    return row is not None and (row.host, row.port) == (endpoint.host, endpoint.port)


def _still(row: ConsoleDatabase, actual: Actual) -> bool:
    return actual.was_fallback is not None and _leads_to(row, actual.was_fallback)
