"""May this route replace the one that a block carries?

A block's stamp says by which leadership it was written. A writer that knows less must not undo it: an
older watcher, one that was frozen, one that listens to a member of etcd that lags.

* Etcd's create revisions of the leader key only grow, so in one etcd cluster a higher revision is newer,
  and the same one is the same leader: an event is enough.
* Otherwise (another cluster id, or a lower revision) the histories differ: etcd was restored from a
  backup or built anew. A linearizable read that began *after* this block was first seen proves it, for in
  one history it could not have shown an older leader. Nothing less does.
* Of two sites with an etcd each, revisions of one say nothing of the other's: from one site's leader to the
  other's, such a read of both leads. Within one site's etcd an event is enough as long as what made that
  site the one to follow (`site`) is no older either. A block that came back to a leader differs in it from
  what it was.
* What the health check wrote carries no revision: it may know of a later promotion than any event that was
  under way meanwhile, so it too gives way to such a read alone.
* The health check knows no revision. It may replace a route only by one of the same PostgreSQL cluster
  (`initialize`): to another leader on a newer timeline, for each promotion begins one, to the same leader on
  no older one. It may replace none whose stamp cannot be read, and none by another leader whose own has not
  told its timeline: two nodes that were promoted apart may both be on the next.
"""

from __future__ import annotations

from dataclasses import replace

from watcher.decide.model import Actual, Desired, Route, Source, Stamp

UNREADABLE = Stamp(0, "", 2**63, None, "unreadable stamp")
"""Stands for a stamp that somebody edited: only a fresh read of etcd may replace it."""


def admits(actual: Actual, desired: Desired, route: Route) -> str:
    """Empty if `route` may replace the block's; otherwise why not, as one sentence."""
    old, new = actual.stamp, route.stamp
    if old is None:
        return ""
    if route.source is Source.HEALTH_CHECK:
        return _older_by_timeline(old, new)
    if old.cluster_id == new.cluster_id and new.revision >= old.revision and new.site >= old.site:
        return ""
    if desired.proven_at is not None and desired.proven_at > actual.file_read_at:
        return ""
    return f"the block was written for {old.leader!r} {_by(old)}; we know {new.leader!r} {_by(new)}"


def names_same_leader(old: Stamp | None, new: Stamp) -> bool:
    """Whether the health check wrote `old`, and for the same leader: they differ in the reign alone."""
    return old is not None and _is_by_health_check(old) and old.leader == new.leader


def learns(old: Stamp | None, new: Stamp) -> bool:
    """Whether both are of one reign, and the new one merely knows more of it."""
    return old is not None and _reign(old) == _reign(new) and old.site == new.site


def writer_of(found: Stamp | None, ours: Stamp) -> str:
    """Who has led a block of ours elsewhere, as far as the stamp that was found in it tells."""
    if found is None:
        return "its block has no stamp any more, so a tool that writes the file, or a hand"
    if found == UNREADABLE:
        return "its stamp cannot be read, so a tool that writes the file, or a hand"
    if learns(found, ours):
        return (
            "its stamp is of the same leader and revision as ours, so another watcher of this cluster with"
            " other settings; or a hand, or a tool, that left the stamp alone"
        )
    return (
        f"its stamp is of {found.leader!r} {_by(found)}, so a watcher of another cluster, or one that hears"
        " another etcd; or a tool that put an older file back"
    )


def _reign(stamp: Stamp) -> tuple[int, int, str]:
    return stamp.cluster_id, stamp.revision, stamp.leader


def _is_by_health_check(stamp: Stamp) -> bool:
    return stamp.cluster_id == 0 and stamp != UNREADABLE


def _by(stamp: Stamp) -> str:
    if _is_by_health_check(stamp):
        return "by the health check"
    site = f", by this site's word of revision {stamp.site}" if stamp.site else ""
    return f"at revision {stamp.revision} of etcd cluster {stamp.cluster_id:x}{site}"


def _older_by_timeline(old: Stamp, new: Stamp) -> str:
    if old == UNREADABLE:
        return "the stamp of the block cannot be read, so its timeline is not known"
    if old.system_id and new.system_id and old.system_id != new.system_id:
        return f"{new.leader!r} has system identifier {new.system_id}, the block {old.system_id}"
    if new.timeline is None:
        return f"{new.leader!r} does not tell its timeline"
    if new.leader == old.leader and (old.timeline is None or new.timeline >= old.timeline):
        return ""
    if old.timeline is None:
        return (
            f"{new.leader!r} is on timeline {new.timeline}, that of {old.leader!r} in the block is not known"
        )
    if new.timeline > old.timeline:
        return ""
    return f"{new.leader!r} is on timeline {new.timeline}, the block on {old.timeline} of {old.leader!r}"


def stamp_over(old: Stamp | None, route: Route) -> Stamp:
    """The stamp to write: what the route says, and what the old stamp knows that the route does not."""
    new = route.stamp
    if old is None or (new.system_id and old.system_id and new.system_id != old.system_id):
        return new
    return replace(new, system_id=new.system_id or old.system_id, timeline=_timeline_over(old, new))


def _timeline_over(old: Stamp, new: Stamp) -> int | None:
    """That of the new reign, as far as it is known: an earlier one's says nothing of it, whoever led then."""
    if _reign(old) != _reign(new):
        return new.timeline
    return max((known for known in (old.timeline, new.timeline) if known is not None), default=None)
