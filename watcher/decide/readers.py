"""Who serves reads: the replicas that are fit for it, and where the marked lines of a block lead. Pure.

A replica is fit by its own key in etcd (`fitness.py`), while it is not the leader, is on the leader's
timeline, and the guard beside this PgBouncer does not see it refuse. One that was not counts again only once
it has been for `settle` seconds, so that one that comes and goes does not take clients along each time; where
it serves reads already it stays.

In the first `ttl` seconds of a reign, what a change of leader brings about by itself (replicas look for their
new leader, their keys are written a turn later) takes nobody out who serves reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass

from watcher.decide.endpoint import each_of
from watcher.decide.fitness import SOFT, behind
from watcher.decide.model import (
    Actual,
    Alarm,
    Candidate,
    Choose,
    Endpoint,
    Fitness,
    Leadership,
    Member,
    Readers,
    Unfit,
    View,
)
from watcher.decide.view import config, timeline


@dataclass(frozen=True, slots=True)
class ReadPolicy:
    """What the user settled of reads. `settle` in seconds. `to_primary`: where nobody is fit."""

    choose: Choose = Choose.ALL
    to_primary: bool = True
    settle: float = 10.0


Address = Callable[[str, Member | None], Endpoint | str]


def candidates(
    view: View, reign: Leadership, address: Address, policy: ReadPolicy, now: float, target: str
) -> tuple[Candidate, ...]:
    """Every member that is remembered, whom reads prefer first."""

    def preferred(name: str) -> tuple[int, str]:
        return (behind(view.fitness, name) if policy.choose is Choose.LEAST_LAG else 0, name)

    found = []
    for name in sorted(view.fitness, key=preferred):
        where = address(name, view.members.get(name))
        endpoint = where if isinstance(where, Endpoint) else None
        alarm = view.refusals.get((target, endpoint)) if endpoint else None
        found.append(_candidate(name, endpoint, alarm, view, reign, policy, now))
    return _of_one_port(found) if policy.choose is Choose.ALL else tuple(found)


def readers(known: Iterable[Candidate], policy: ReadPolicy, primary: Endpoint) -> Readers:
    """Whom reads may be sent to, by these."""
    known = tuple(known)
    return Readers(
        counts=tuple(one.endpoint for one in known if one.endpoint and one.problem is None),
        stays=tuple(one.endpoint for one in known if one.endpoint and one.stays),
        choose=policy.choose,
        otherwise=primary if policy.to_primary else None,
    )


def guarded(known: Iterable[Candidate]) -> tuple[Endpoint, ...]:
    """Whom to watch: who is fit but for a refusal, so that its end is seen too."""
    seen = (Unfit.REFUSES, Unfit.SETTLING, None)
    return tuple(
        sorted({one.endpoint for one in known if one.endpoint and (one.problem in seen or one.stays)})
    )


def place_for(readers: Readers, actual: Actual) -> Endpoint | None:
    """Where the marked lines of this target should lead; None: where they do."""
    used = in_use(actual)
    fit = set(readers.counts) | (used & set(readers.stays))
    order = [one for one in dict.fromkeys((*readers.counts, *readers.stays)) if one in fit]
    if not order and readers.otherwise is None:
        order = list(readers.stays)  # who has not settled is better than who is known to be unfit
    if not order:
        return readers.otherwise
    if readers.choose is Choose.LEAST_LAG:
        return next((one for one in order if one in used), order[0])
    return Endpoint(",".join(sorted(one.host for one in order)), order[0].port)


def in_use(actual: Actual) -> frozenset[Endpoint]:
    """Who serves reads there, by the block."""
    return frozenset(one for database in actual.reads for one in each_of(database.endpoint))


def unfit(candidates: Iterable[Candidate], used: Container[Endpoint]) -> dict[str, str]:
    """Who serves no reads, and why. Who stays where it serves them already does serve them."""
    return {
        one.name: str(one.problem)
        for one in candidates
        if one.problem is not None and not (one.stays and one.endpoint in used)
    }


# --- one member -----------------------------------------------------------------------------------


def _candidate(
    name: str,
    endpoint: Endpoint | None,
    alarm: Alarm | None,
    view: View,
    reign: Leadership,
    policy: ReadPolicy,
    now: float,
) -> Candidate:
    fit = view.fitness[name]
    grown_at = (view.leader_since or view.began_at) + config(view).ttl
    problem = _problem(name, endpoint, fit, view, reign)
    if (problem is None or problem in SOFT) and alarm is not None and alarm.refuses:
        problem = Unfit.REFUSES
    if problem is not None:
        stays = problem in SOFT and now < grown_at
        return Candidate(name, endpoint, problem, stays, grown_at if stays else None)
    since = fit.since if alarm is None else max(fit.since, alarm.at)
    settled_at = since + policy.settle
    if now < settled_at:
        return Candidate(name, endpoint, Unfit.SETTLING, stays=True, due_at=settled_at)
    return Candidate(name, endpoint, None, stays=True)


def _problem(
    name: str, endpoint: Endpoint | None, fit: Fitness, view: View, reign: Leadership
) -> Unfit | None:
    if name == reign.name:
        return Unfit.LEADER
    if endpoint is None:
        return Unfit.NO_ADDRESS
    if fit.problem is not None:
        return fit.problem
    member, leads = view.members[name], timeline(view, reign)
    others = member.timeline is not None and leads is not None and member.timeline != leads
    return Unfit.OTHER_TIMELINE if others else None


def _of_one_port(found: list[Candidate]) -> tuple[Candidate, ...]:
    """A list of hosts has one port in PgBouncer: the one that most of those have who count; where nobody
    does, of those who would stay.
    """
    may_serve = [(one.endpoint.port, one) for one in found if one.endpoint is not None and one.stays]
    if len({port for port, _ in may_serve}) < 2:
        return tuple(found)
    counting = [port for port, one in may_serve if one.problem is None]
    ports = Counter(counting or [port for port, _ in may_serve])
    most = min(ports, key=lambda port: (-ports[port], port))

    def at_most(one: Candidate) -> Candidate:
        fits = one.endpoint is None or one.endpoint.port == most or not one.stays
        return one if fits else Candidate(one.name, one.endpoint, Unfit.OTHER_PORT)

    return tuple(map(at_most, found))
