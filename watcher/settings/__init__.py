"""The settings: `load()` reads them from all their sources, or refuses them with every fault named."""

from watcher.settings.layers import flag
from watcher.settings.loading import Loaded, load, redacted
from watcher.settings.marks import Mark, mark_of
from watcher.settings.schema import (
    Cluster,
    Console,
    Etcd,
    Hold,
    Log,
    Patroni,
    Retry,
    Settings,
    Sql,
    Ssh,
    Target,
    Tls,
)

__all__ = [
    "Cluster",
    "Console",
    "Etcd",
    "Hold",
    "Loaded",
    "Log",
    "Mark",
    "Patroni",
    "Retry",
    "Settings",
    "Sql",
    "Ssh",
    "Target",
    "Tls",
    "flag",
    "load",
    "mark_of",
    "redacted",
]
