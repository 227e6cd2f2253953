"""`watcher pause` and `watcher resume`: every watcher of the cluster keeps off, until told otherwise.

The word is a key in etcd, beside Patroni's own, so it outlives any restart and reaches every watcher at once.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime

from watcher import app
from watcher.board import Board
from watcher.commands.exit_code import ExitCode
from watcher.commands.saying import say, say_error
from watcher.decide.errors import AccessDenied, SourceError
from watcher.decide.model import PAUSE_KEY, Paused
from watcher.decide.view import paused
from watcher.expose.units import clock
from watcher.settings import Settings


def pause(settings: Settings, why: str) -> ExitCode:
    """Say it. Where somebody has said it already, that stays, with its reason."""
    return _told(settings, lambda: _pause(settings, why))


def resume(settings: Settings) -> ExitCode:
    """Take it back; where nobody had said it, nothing changes."""
    return _told(settings, lambda: _resume(settings))


def _pause(settings: Settings, why: str) -> str:
    known = _known(settings)
    if known is not None:
        return f"was paused already{_of(known)}; that stays, and one `watcher resume` ends it"
    word = {"by": f"{_user()}@{socket.gethostname()}", "why": why, "since": datetime.now(UTC).isoformat()}
    app.write_keys(settings, {_key(settings): json.dumps(word)}, ())
    return "is paused: no watcher changes or holds anything"


def _resume(settings: Settings) -> str:
    known = _known(settings)
    if known is None:
        return "was not paused; nothing is changed"
    app.write_keys(settings, {}, (_key(settings),))
    return f"is resumed, having been paused{_of(known)}: every watcher puts its targets right again"


def _of(known: Paused) -> str:
    since = "" if known.since is None else f" at {clock(datetime.fromtimestamp(known.since, UTC))} UTC"
    return f"{known.by and ' by '}{known.by}{since}{known.why and ' for '}{known.why}"


def _known(settings: Settings) -> Paused | None:
    board = Board(time.monotonic())
    board.post(app.etcd_watch(settings, board.post).read_once())
    return paused(board.view)


def _told(settings: Settings, deed: Callable[[], str]) -> ExitCode:
    try:
        done = deed()
    except SourceError as error:
        may_not = isinstance(error, AccessDenied)
        hint = f"let that etcd user read and write {_key(settings)}" if may_not else _WITHOUT_ETCD
        say_error(SourceError(error.place, error.problem, hint))
        return ExitCode.FAILED
    say(f"{settings.cluster.name} {done}")
    return ExitCode.OK


_WITHOUT_ETCD = (
    "without a majority of etcd nothing can be said there; meanwhile stop each watcher instead:"
    " systemctl stop pgbouncer-watcher"
)


def _key(settings: Settings) -> str:
    return settings.cluster.prefix + PAUSE_KEY


def _user() -> str:
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as containers have
        return "somebody"
