"""`watcher pause` and `watcher resume`: every watcher of the cluster keeps off, until told otherwise.

The word is a key in etcd, beside Patroni's own, so it outlives any restart and reaches every watcher at once.
"""

from __future__ import annotations

import getpass
import json
import socket
from datetime import UTC, datetime

from watcher import app
from watcher.commands.exit_code import ExitCode
from watcher.commands.saying import say, say_error
from watcher.decide.errors import SourceError
from watcher.decide.model import PAUSE_KEY
from watcher.settings import Settings


def pause(settings: Settings, why: str) -> ExitCode:
    """Say it; said again, the latest reason counts."""
    word = {"by": f"{_user()}@{socket.gethostname()}", "why": why, "since": datetime.now(UTC).isoformat()}
    return _write(
        settings, {_key(settings): json.dumps(word)}, "paused: no watcher changes or holds anything"
    )


def resume(settings: Settings) -> ExitCode:
    """Take it back; where nobody had said it, nothing changes."""
    return _write(settings, {}, "resumed: every watcher puts its targets right again")


def _write(settings: Settings, puts: dict[str, str], done: str) -> ExitCode:
    deletes = () if puts else (_key(settings),)
    try:
        app.write_keys(settings, puts, deletes)
    except SourceError as error:
        say_error(error)
        return ExitCode.FAILED
    say(f"{settings.cluster.scope} is {done}")
    return ExitCode.OK


def _key(settings: Settings) -> str:
    return settings.cluster.prefix + PAUSE_KEY


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as containers have
        return "somebody"
