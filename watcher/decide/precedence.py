"""Who of several watchers goes first, and what the others leave to it for a while.

With a lease in etcd one watcher is active. The others stand by: they hold clients as it does, for a hold must
outlive the watcher that dies in it, but what leads clients elsewhere they leave to the active one, as long as
it has not had its time for it. Nothing is safe by that alone: the fence is what keeps two that act apart, so
whenever it is not known who is active, everybody acts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from watcher.decide.model import ACTIVE_KEY, ActiveWatcher, Confirm, Release, Reload, Step, View, Write


class Standing(StrEnum):
    """What a watcher is among those of its cluster; a label of metrics, so a closed set."""

    TOGETHER = "together"  # by setting: all act
    ACTIVE = "active"
    STANDBY = "standby"
    NOBODY = "nobody"  # is known to be active: all act


@dataclass(frozen=True, slots=True)
class Lease:
    """What a watcher knows of its own: `id` is what the key says if it is the active one, and its keys live
    until then at least, by our own clock.
    """

    id: str
    kept_until: float


def active(view: View) -> ActiveWatcher | None:
    """Who holds the lease, as far as it was ever heard."""
    entry = view.entries.get(ACTIVE_KEY)
    return entry.value if entry is not None and isinstance(entry.value, ActiveWatcher) else None


def standing(view: View, lease: Lease, now: float, silence_limit: float) -> Standing:
    """By all that is known at `now`. Whose own lease may have run out stands by, until etcd says who follows;
    a silent etcd says nothing.
    """
    first = active(view)
    if first is None or view.contact_at is None or now >= view.contact_at + silence_limit:
        return Standing.NOBODY
    is_ours = first.id == lease.id and now < lease.kept_until
    return Standing.ACTIVE if is_ours else Standing.STANDBY


def in_words(stands: Standing, first: str) -> str:
    """What a watcher is among several, and what follows from that."""
    match stands:
        case Standing.TOGETHER:
            return "acts, as every other watcher of these targets does"
        case Standing.ACTIVE:
            return "is the active watcher"
        case Standing.STANDBY:
            return f"stands by for {first}, the active watcher"
        case Standing.NOBODY:  # pragma: no branch - there is no other
            return "acts, as every other does: no watcher is known to be active"


def leads(step: Step) -> bool:
    """Whether it is part of leading clients elsewhere; a release without a reload is not."""
    return isinstance(step, Write | Reload | Confirm) or (isinstance(step, Release) and step.reload)


@dataclass(frozen=True, slots=True)
class Share:
    """What of a plan is taken now, and since when there is work in it that the active watcher should do. The
    rest `waits_until` then at the latest; None where there is no rest.
    """

    steps: tuple[Step, ...]
    since: float | None = None
    waits_until: float | None = None


def share(
    steps: tuple[Step, ...], standing: Standing, since: float | None, now: float, patience: float
) -> Share:
    """A standby leaves to the active one what leads clients, for `patience` seconds from when there was such
    work, `since` as the last share said; then it does it. All else is taken at once by everybody.
    """
    if standing is not Standing.STANDBY or not any(map(leads, steps)):
        return Share(steps)
    since = now if since is None else since
    if now >= since + patience:
        return Share(steps, since)
    return Share(tuple(step for step in steps if not leads(step)), since, since + patience)
