"""Canary first: some targets are led to a new leader before the rest, which waits until one confirms it.

| a target that is no canary                                       | route     | held      |
|------------------------------------------------------------------|-----------|-----------|
| is led to the leader already, or was in this reign               | as wished | as wished |
| a canary has confirmed this reign                                | as wished | as wished |
| the leader is not ready yet                                      | unchanged | as wished |
| … it is, since less than `limit`                                 | unchanged | if any are |
| … for longer, and `goes_on`; or clients waited `hold.limit`      | as wished | as wished |
| … and not `goes_on`                                              | unchanged | no        |

So a target that drifts, or is read again, waits for nobody; nor does one at the start of a watcher whose
file leads where it should. What the health check says waits for nobody either: it decides in an emergency.
"""

from __future__ import annotations

from dataclasses import replace

from watcher.decide.decision import Policy, is_led_to, ready_since, sooner, within_limit
from watcher.decide.model import Actual, Desired, Leadership, Reason, Route, Source, View
from watcher.decide.view import led_since


def after_canary(
    wish: Desired, actual: Actual | None, view: View, policy: Policy, now: float, target: str
) -> Desired:
    """`wish` where nothing is to be waited for; otherwise what should be until then."""
    if policy.canary is None or wish.route is None or not _waits(wish.route, view, policy, target):
        return wish
    if actual is None or is_led_to(actual, wish):
        return wish
    until = _may_go_since(wish, reign_of(wish.route), view, policy) + policy.canary.limit
    if now >= until and policy.canary.goes_on:
        return wish
    waits = replace(wish, route=None, guard=None, belongs=wish.route.endpoint)
    if wish.held or wish.reason is Reason.LEADER_NOT_READY:
        return waits
    names = " or ".join(sorted(policy.canary.targets))
    return replace(
        waits,
        reason=Reason.CANARY,
        detail=f"{wish.route.stamp.leader} leads, and {names} has not been led there yet, which goes first",
        held=policy.hold is not None and now < until,
        recheck_at=sooner(wish.recheck_at, until) if now < until else wish.recheck_at,
    )


def _waits(route: Route, view: View, policy: Policy, target: str) -> bool:
    """Whether such a route waits for a canary that has not confirmed its reign."""
    if policy.canary is None or target in policy.canary.targets or route.source is not Source.ETCD:
        return False
    return all(view.confirmed.get(name) != reign_of(route) for name in policy.canary.targets)


def _may_go_since(wish: Desired, reign: Leadership, view: View, policy: Policy) -> float:
    """From when clients might be led to the leader, wherever that is."""
    there, rules = (view.other, policy.other_site) if wish.at_other_site else (view, policy)
    if there is None or rules is None:
        return view.began_at
    return max(ready_since(there, rules, reign), led_since(view, wish.at_other_site) or view.began_at)


def reign_of(route: Route) -> Leadership:
    """By whose word of which reign it was taken."""
    return Leadership(route.stamp.leader, route.stamp.revision)


def within_limits(wish: Desired, waits: Desired, policy: Policy, held_since: float, now: float) -> Desired:
    """`waits` while clients have not waited for too long; then they go on, and to the new leader if that is
    the policy: at the old one they would fare worse.
    """
    limited = within_limit(waits, policy, held_since, now)
    goes_on = policy.canary is not None and policy.canary.goes_on
    return within_limit(wish, policy, held_since, now) if limited.gave_up and goes_on else limited
