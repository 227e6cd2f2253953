"""Every error that the watcher raises on purpose, each with its place and its remedy.

    WatcherError
    ├── MalformedPayload       what etcd or Patroni's REST API said cannot be understood
    ├── BlockError             the marked block of a PgBouncer configuration cannot be used
    ├── Fenced                 the block was written by a newer view of the cluster than ours
    ├── SettingsError          the settings cannot be used
    ├── SourceError            etcd or a REST endpoint could not be heard
    │   └── AccessDenied       … because it refused our credentials
    └── TargetError            a step on a target failed; trying again may help
        ├── TargetUnreachable  no connection, or it broke, or it did not answer in time
        ├── TargetRefused      the other side refused a step: permission, disk, another agent
        │   └── LoginRefused   … or refused to let us in: host key, key, password
        ├── PrimaryRefuses     the primary takes no login from PgBouncer's host, so nobody is released yet
        ├── FileChanged        the file is not what it was when the step was planned
        ├── NotConfirmed       PgBouncer does not show the route that was written
        └── NotWanted          the watcher is about to stop, so nothing was begun

Whoever catches one decides on a retry in one place (`reconciler.py`); nobody logs and goes on.
"""

from __future__ import annotations


class WatcherError(Exception):
    """`place` says what failed, `problem` why, `hint` what to do about it."""

    def __init__(self, place: str, problem: str, hint: str = "") -> None:
        super().__init__(place, problem, hint)
        self.place = place
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.place}: {self.problem}"
        return f"{text}\n  HINT: {self.hint}" if self.hint else text


class MalformedPayload(WatcherError):
    """A key's value or a REST body that is not what Patroni writes."""


class BlockError(WatcherError):
    """Markers or lines of a block that cannot be edited safely."""


class Fenced(WatcherError):
    """Refused: the block carries a newer leadership than the one that we know."""


class SettingsError(WatcherError):
    """Settings that cannot be used, refused whole."""


class SourceError(WatcherError):
    """A source of knowledge could not be heard."""


class AccessDenied(SourceError):
    """A source refused our credentials."""


class TargetError(WatcherError):
    """A step on a target failed."""


class TargetUnreachable(TargetError):
    """The target's host or console cannot be reached, broke off, or did not answer in time."""


class TargetRefused(TargetError):
    """The target's host or console refused us; a retry without a change will not help."""


class LoginRefused(TargetRefused):
    """The target's host or console does not let us in; asking often may lock us out."""


class PrimaryRefuses(TargetError):
    """The server that clients would be released to takes no login; they go on waiting."""


class FileChanged(TargetError):
    """Somebody else wrote the file between our read and our write; nothing was written."""


class NotConfirmed(TargetError):
    """PgBouncer answered, but does not show the route of its file."""


class NotWanted(TargetError):
    """The watcher, or its work on this target, is about to end: nothing is connected any more."""
