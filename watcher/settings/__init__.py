"""The settings: `load()` reads them from all their sources, or refuses them with every fault named."""

from watcher.settings.layers import flag
from watcher.settings.loading import Loaded, files_read_later, load, redacted
from watcher.settings.schema import (
    Cluster,
    Console,
    Etcd,
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
    "Loaded",
    "Log",
    "Patroni",
    "Retry",
    "Settings",
    "Sql",
    "Ssh",
    "Target",
    "Tls",
    "files_read_later",
    "flag",
    "load",
    "redacted",
]
