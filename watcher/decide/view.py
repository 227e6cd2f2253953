"""fold(view, sighting) → view. What is newer is told by revision, never by arrival."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

from watcher.decide.fitness import judged
from watcher.decide.model import (
    OUR_KEYS,
    PAUSE_KEY,
    Alarm,
    Change,
    Config,
    Confirmed,
    Contact,
    Deletion,
    Entry,
    Handover,
    HealthRound,
    Leader,
    Leadership,
    Listing,
    Malformed,
    Member,
    OtherSite,
    Paused,
    Readiness,
    Role,
    Sighting,
    SystemId,
    Verdict,
    View,
)

_Whose = TypeVar("_Whose")


def fold(view: View, sighting: Sighting) -> View:
    """The view after one more sighting. Sightings that are older than the view change nothing."""
    match sighting:
        case Listing():
            return _fold_listing(view, sighting)
        case Change():
            return _fold_change(view, sighting)
        case Contact():
            return replace(view, contact_at=_later(view.contact_at, sighting.at))
        case HealthRound():
            return replace(view, health=sighting, primary_seen=_primary_seen(view, sighting))
        case Readiness():
            return _fold_readiness(view, sighting)
        case OtherSite() | Handover():
            return _fold_what_another_knows(view, sighting)
        case Alarm() | Confirmed():  # pragma: no branch - there is no other sighting
            return _fold_word_of_target(view, sighting)


def _fold_what_another_knows(view: View, told: OtherSite | Handover) -> View:
    return replace(view, other=told.view) if isinstance(told, OtherSite) else _fold_handover(view, told)


def _fold_handover(view: View, handover: Handover) -> View:
    """Whom a guard saw refuse that is not ours has to prove itself again: ours tells if it refuses still."""

    def doubted(alarms: Mapping[_Whose, Alarm]) -> Mapping[_Whose, Alarm]:
        return MappingProxyType(
            {
                whose: replace(alarm, refuses=False, at=handover.at) if alarm.refuses else alarm
                for whose, alarm in alarms.items()
            }
        )

    known = handover.view
    return replace(
        known,
        alarms=doubted(known.alarms),
        refusals=doubted(known.refusals),
        silence_limit=view.silence_limit,
        max_lag=view.max_lag,
        other=view.other,
    )


def _primary_seen(view: View, found: HealthRound) -> HealthRound | None:
    is_alone = len(found.primaries) == 1 and found.primaries[0].accepts_writes
    return found if is_alone else view.primary_seen


def _fold_word_of_target(view: View, word: Alarm | Confirmed) -> View:
    if isinstance(word, Alarm):
        return _fold_alarm(view, word)
    return replace(view, confirmed=MappingProxyType({**view.confirmed, word.target: word.leadership}))


def _fold_alarm(view: View, alarm: Alarm) -> View:
    if alarm.of_reader:
        whose = (alarm.target, alarm.endpoint)
        return replace(view, refusals=MappingProxyType({**view.refusals, whose: alarm}))
    return replace(view, alarms=MappingProxyType({**view.alarms, alarm.target: alarm}))


def _fold_listing(view: View, listing: Listing) -> View:
    """A linearizable read that began after our last contact is the truth, even if its revision is lower:
    then etcd was restored from a backup. One that began earlier may merely have been overtaken.
    """
    goes_back = listing.cluster_id != view.cluster_id or listing.revision < view.revision
    if goes_back and view.contact_at is not None and listing.asked_at < view.contact_at:
        return view
    after = _with_entries(view, {entry.key: entry for entry in listing.entries}, listing.revision, listing.at)
    if goes_back and view.cluster_id is not None:  # its reign may be called as one of before, and is another
        after = replace(
            after,
            leader_since=listing.at,
            readiness=None,
            pulse=None,
            silent_since=None,
            confirmed=MappingProxyType({}),
        )
    return replace(after, cluster_id=listing.cluster_id, listed_asked_at=listing.asked_at)


def _fold_change(view: View, change: Change) -> View:
    if change.cluster_id != view.cluster_id:
        return view
    news = [event for event in change.events if event.mod_revision > view.revision]
    entries = dict(view.entries)
    for event in news:
        if isinstance(event, Deletion):
            entries.pop(event.key, None)
        else:
            entries[event.key] = event
    revision = max((event.mod_revision for event in news), default=view.revision)
    return _with_entries(view, entries, revision, change.at)


def _with_entries(view: View, entries: Mapping[str, Entry], revision: int, at: float) -> View:
    after = replace(
        view,
        entries=MappingProxyType(dict(entries)),
        members=_remember(view.members, entries.values()),
        seen_at=_first_seen(view, entries, at),
        revision=revision,
        contact_at=_later(view.contact_at, at),
        first_heard_at=at if view.first_heard_at is None else view.first_heard_at,
    )
    after = judged(view, after, at)
    if _turned(view, after):  # the reign may go on, and what its leader said of itself before is of no use
        after = replace(after, turned_at=at, readiness=None, pulse=None, silent_since=None)
    return after if leadership(after) == leadership(view) else replace(after, leader_since=at)


def _turned(before: View, after: View) -> bool:
    """Whether it became a standby cluster, or ceased to be one, since etcd was heard before."""
    known = before.contact_at is not None and config_is_known(before) and config_is_known(after)
    return known and config(before).standby_cluster != config(after).standby_cluster


def _first_seen(view: View, entries: Mapping[str, Entry], at: float) -> Mapping[str, float]:
    """When each key's present revision was first seen."""

    def since(key: str, entry: Entry) -> float:
        known = view.entries.get(key)
        same = known is not None and known.mod_revision == entry.mod_revision
        return view.seen_at.get(key, at) if same else at

    return MappingProxyType({key: since(key, entry) for key, entry in entries.items()})


_REMEMBERED = 64
"""Members kept in mind though their keys are gone: a crashed primary may come back, a name that changes with
each pod does not.
"""


def _remember(members: Mapping[str, Member], entries: Iterable[Entry]) -> Mapping[str, Member]:
    """Those whose key is there, then those that are gone, the latest first."""
    seen = {e.value.name: e.value for e in entries if isinstance(e.value, Member)}
    gone = [(name, member) for name, member in members.items() if name not in seen]
    return MappingProxyType({**seen, **dict(gone[:_REMEMBERED])})


def _fold_readiness(view: View, news: Readiness) -> View:
    """Ready is kept for the rest of a reign: a leader that stumbles later is not another leader."""
    known = view.readiness
    keeps = (
        known is not None
        and known.leadership == news.leadership
        and known.verdict is Verdict.READY
        and news.verdict is not Verdict.READY
    )
    after = replace(view, pulse=news, silent_since=_silent_since(view, news))
    return after if keeps else replace(after, readiness=news)


def _silent_since(view: View, news: Readiness) -> float | None:
    """None while it answers, and where it never has in this reign."""
    before = view.pulse
    if news.verdict is not Verdict.UNKNOWN or before is None or before.leadership != news.leadership:
        return None
    return view.silent_since if before.verdict is Verdict.UNKNOWN else news.at


def _later(known: float | None, at: float) -> float:
    return at if known is None else max(known, at)


# --- questions to a view --------------------------------------------------------------------------


def leadership(view: View) -> Leadership | Malformed | None:
    """Who reigns; None if nobody does, Malformed if the leader key cannot be read."""
    entry = view.entries.get("leader")
    if entry is None:
        return None
    if isinstance(entry.value, Leader):
        return Leadership(entry.value.name, entry.create_revision)
    return entry.value if isinstance(entry.value, Malformed) else None


def is_empty(view: View) -> bool:
    """Whether etcd holds no key of such a cluster; ours make none of it."""
    return all(key.startswith(OUR_KEYS) for key in view.entries)


def config(view: View) -> Config:
    """The dynamic configuration; Patroni's defaults where it is absent or cannot be read."""
    entry = view.entries.get("config")
    return entry.value if entry is not None and isinstance(entry.value, Config) else Config()


def config_is_known(view: View) -> bool:
    """Whether the dynamic configuration is there, and can be read."""
    entry = view.entries.get("config")
    return entry is not None and isinstance(entry.value, Config)


def paused(view: View) -> Paused | None:
    """What `watcher pause` left in etcd, as far as it was ever heard; None if it left nothing."""
    entry = view.entries.get(PAUSE_KEY)
    return entry.value if entry is not None and isinstance(entry.value, Paused) else None


_LATELY, _TOGETHER = 30.0, 5.0


def urgency(view: View, now: float) -> float:
    """Who goes first where not all can: the greater. Where nobody leads clients wait; then come those whose
    leader changed within the last half minute, those of the same five seconds being alike.
    """
    if not is_empty(view) and leadership(view) is None:
        return float("inf")
    since, first = view.leader_since, view.first_heard_at
    changed = since is not None and first is not None and first < since
    return since // _TOGETHER if changed and since is not None and now < since + _LATELY else 0.0


def says_the_same(before: View, after: View) -> bool:
    """Whether nothing differs but when etcd was heard, keys that were written again as they were, and when
    the health check was told something that nobody goes by while etcd speaks.
    """
    return _facts(before) == _facts(after)


def _facts(view: View) -> tuple[object, ...]:
    values = {key: (entry.value, entry.create_revision) for key, entry in view.entries.items()}
    told = view.leader_since, view.readiness, view.pulse, view.alarms, view.confirmed, _health(view)
    reads = view.fitness, view.refusals
    return view.cluster_id, told, values, reads, None if view.other is None else _facts(view.other)


def _health(view: View) -> object:
    """What the nodes say; once etcd is silent, where each word may be the one to go by, with when."""
    health, heard_at = view.health, view.contact_at
    if health is None or heard_at is None or health.at + health.took >= heard_at + view.silence_limit:
        return health
    return health.reports


def led_since(view: View, at_other_site: bool = False) -> float | None:
    """Since when clients belong to the leader that is there, or at the other site: its reign began, or its
    cluster became the one with the primary.
    """
    there = view.other if at_other_site else view
    moments = [view.turned_at] if there is None else [there.leader_since, there.turned_at, view.turned_at]
    return max((moment for moment in moments if moment is not None), default=None)


def system_id(view: View) -> str:
    entry = view.entries.get("initialize")
    return entry.value.value if entry is not None and isinstance(entry.value, SystemId) else ""


def timeline(view: View, reign: Leadership) -> int | None:
    """The leader's timeline, by its own word once it is ready, or by a member key that it wrote as primary in
    this reign. Before its promotion it is still on another's.
    """
    readiness = view.readiness
    if (
        readiness is not None
        and readiness.leadership == reign
        and readiness.verdict is Verdict.READY
        and readiness.timeline is not None
    ):
        return readiness.timeline
    entry = view.entries.get(f"members/{reign.name}")
    if entry is None or entry.mod_revision < reign.create_revision or not isinstance(entry.value, Member):
        return None
    return entry.value.timeline if entry.value.role is Role.PRIMARY else None
