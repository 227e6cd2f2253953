"""Who is fit for reads by what Patroni writes of itself into etcd, and since when. A part of `view.fold`.

Patroni writes a member's key in a turn of its loop, and only where something in it has changed; the leader
writes how far its WAL is in its own turns. So how far a replica is behind is told at two moments: when its
key is written, by the leader's newest word; and when it was *not* written although the leader went on for a
whole turn, by the leader's word before that turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from watcher.decide.model import (
    Config,
    Entry,
    Fitness,
    Malformed,
    Member,
    Role,
    Status,
    Unfit,
    View,
    WalMark,
)

SOFT = frozenset({Unfit.NO_KEY, Unfit.NOT_STREAMING, Unfit.OTHER_TIMELINE})
"""What a change of leader brings about by itself, and takes away again: then it sends nobody away."""

STATUS_KEYS = ("status", "optime/leader")
_STREAMING = "streaming"
_MEMBERS = "members/"
_A_TURN = 0.9  # of `loop_wait`: two turns are never quite so far apart


def judged(before: View, after: View, at: float) -> View:
    """`after` with each member's fitness by its entries, `before` being the view before these."""
    names = {key.removeprefix(_MEMBERS) for key in after.entries if key.startswith(_MEMBERS)}
    names |= before.fitness.keys() & after.members.keys()  # of those that are gone, who is remembered
    fitness = {name: _fitness(name, before, after, at) for name in names}
    return replace(after, fitness=MappingProxyType(fitness), wal_mark=_marked(before, after, at))


def _fitness(name: str, before: View, after: View, at: float) -> Fitness:
    known, entry = before.fitness.get(name), after.entries.get(_MEMBERS + name)
    if entry is not None and isinstance(entry.value, Malformed):
        return known or Fitness(Unfit.NO_KEY, at)  # not known, which changes nothing
    if entry is None or not isinstance(entry.value, Member):
        return _since(Fitness(Unfit.NO_KEY, at), known)
    lag = _lag(entry, entry.value, known, before, after, at)
    problem = _problem(entry.value, lag, after.max_lag)
    first = float("-inf") if before.listed_asked_at is None and problem is None else at
    return _since(Fitness(problem, first, lag, entry.mod_revision), known)


def _since(news: Fitness, known: Fitness | None) -> Fitness:
    """A problem that becomes another one does not begin anew."""
    if known is None or (known.problem is None) != (news.problem is None):
        return news
    return replace(news, since=known.since)


def _problem(member: Member, lag: int | None, max_lag: int) -> Unfit | None:
    """As Patroni's own `GET /replica?lag=…` (api.py), which asks for a replica that runs, without
    `noloadbalance`, not too far behind; and for one that streams, where its Patroni tells that.
    """
    if member.role is not Role.REPLICA:
        return Unfit.NOT_A_REPLICA
    if member.state != "running":
        return Unfit.NOT_RUNNING
    if member.noloadbalance:
        return Unfit.TAGGED
    if lag is not None and lag > max_lag:
        return Unfit.LAGS
    return Unfit.NOT_STREAMING if member.replication not in ("", _STREAMING) else None


def _lag(
    entry: Entry, member: Member, known: Fitness | None, before: View, after: View, at: float
) -> int | None:
    told, newest = member.position if member.replayed is None else member.replayed, written(after)
    if told is None:
        return newest  # as Patroni counts: at the very beginning
    if known is None or known.revision != entry.mod_revision:
        return None if newest is None else max(0, newest - told)
    mark = before.wal_mark
    if mark is None or not _is_a_turn_old(mark, after, at) or after.seen_at[entry.key] >= mark.at:
        return known.lag
    return max(known.lag or 0, mark.position - told)


def _marked(before: View, after: View, at: float) -> WalMark | None:
    mark, newest = before.wal_mark, written(after)
    if newest is None or (mark and (mark.position == newest or not _is_a_turn_old(mark, after, at))):
        return mark
    return WalMark(newest, at)


def _is_a_turn_old(mark: WalMark, after: View, at: float) -> bool:
    config = after.entries.get("config")
    known = config.value if config is not None and isinstance(config.value, Config) else Config()
    return at - mark.at >= _A_TURN * known.loop_wait


def written(view: View) -> int | None:
    """How far the leader has written its WAL, by its newest word; None where there is none."""
    for key in STATUS_KEYS:
        entry = view.entries.get(key)
        if entry is not None and isinstance(entry.value, Status):
            return entry.value.position
    return None


def behind(fitness: Mapping[str, Fitness], name: str) -> int:
    """Bytes, for an order among replicas; who tells nothing comes last."""
    fit = fitness.get(name)
    return 2**64 if fit is None or fit.lag is None else fit.lag
