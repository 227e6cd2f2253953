"""The whole way of an address, from the bytes of whoever tells it to PgBouncer's file, by a real agent."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.misbehaving_node import Node, http
from tests.support.fake_target import Reports
from watcher.apply.local import LocalPlace
from watcher.apply.pooler import Pooler
from watcher.decide.backoff import Backoff
from watcher.decide.decision import ConnectVia, Policy, ReadyBy
from watcher.decide.errors import SettingsError
from watcher.decide.model import Listing, View
from watcher.decide.patroni import read_entry
from watcher.decide.view import fold
from watcher.mailbox import Mailbox
from watcher.observe.health_probe import HealthProbe
from watcher.observe.patroni_rest import PatroniRest, RestLimits
from watcher.reconciler import Reconciler
from watcher.settings.loading import load


class Way:
    """One file that a target leads. `told` are the reports of the last turn."""

    def __init__(self, folder: Path, file: Path) -> None:
        self.file = file
        self.told = Reports()
        self._folder = folder
        self._place = LocalPlace("here", ["--file", str(file)])
        self._target = Pooler(
            self._place, file=str(file), block="demo", console=None, reloads_by_command=False, step_limit=30
        )
        self._revision = 100

    def close(self) -> None:
        self._target.close()

    def etcd_tells(self, name: str, member: object, policy: Policy | None = None) -> None:
        """The leader key and its member key, as they are read from etcd; and one turn."""
        self._revision += 1
        keys = {"leader": name.encode(), f"members/{name}": json.dumps(member).encode()}
        entries = (read_entry(key, value, self._revision, self._revision, key) for key, value in keys.items())
        now = time.monotonic()
        found = Listing(1, self._revision, tuple(entry for entry in entries if entry), now, now)
        self._turn(fold(View(began_at=now), found), policy or by(ConnectVia.CONN_URL))

    def settings_tell(self, address: str) -> None:
        """The table of addresses in a settings file; refused as a whole, or one turn by it."""
        values = {
            "cluster": {"scope": "demo", "connect_via": "addresses", "addresses": {"pg1": address}},
            "etcd": {"endpoints": ["127.0.0.1:2379"]},
            "targets": [{"name": "here", "via": "local", "file": "/x", "console": {"socket": "/s"}}],
        }
        file = self._folder / "watcher.yaml"
        file.write_text(json.dumps(values))  # which is YAML
        try:
            addresses = load({}, file, {}).settings.policy().addresses
        except SettingsError:
            return
        self.etcd_tells("pg1", {}, by(ConnectVia.ADDRESSES, addresses))

    def rest_tells(self, host: str) -> None:
        """`GET /patroni` and `/cluster` of a node, while etcd is silent; and one turn by the health check."""
        report = {"role": "primary", "state": "running", "timeline": 3}
        bodies = {
            "/patroni": {**report, "patroni": {"scope": "demo", "name": "pg1"}},
            "/cluster": {"members": [{"name": "pg1", "host": host, "port": 5432}]},
        }
        with Node(lambda link, path: link.sendall(http(json.dumps(bodies[path]).encode()))) as node:
            rest = PatroniRest("demo", limits=RestLimits(30, 30, 30))
            probe = HealthProbe(rest, lambda: [node.url], lambda _: None, limit=30, needs_conn=lambda _: True)
            found = probe.look_once()
        assert found.reports or found.failures
        self._turn(fold(View(began_at=0.0), found), by(ConnectVia.CONN_URL, silence_limit=0.0))

    def _turn(self, view: View, policy: Policy) -> None:
        self.told = Reports()
        Reconciler(
            self._target,
            Mailbox(view),
            policy,
            self.told,
            resync_interval=60,
            backoff=Backoff(),
            clock=time.monotonic,
            random=lambda: 0.5,
        ).turn(view)


def by(via: ConnectVia, addresses: object = None, silence_limit: float = 1e9) -> Policy:
    return Policy(
        connect_via=via,
        addresses=addresses if isinstance(addresses, dict) else {},
        ready_by=ReadyBy.LEADER_KEY,
        silence_limit=silence_limit,
        health_fresh=1e9,
    )


@contextmanager
def way(folder: Path, file: Path) -> Iterator[Way]:
    found = Way(folder, file)
    try:
        yield found
    finally:
        found.close()


SOURCES: dict[str, Callable[[Way, str], None]] = {
    "conn_url": lambda way, host: way.etcd_tells("pg1", {"conn_url": f"postgres://{host}:5432/p"}),
    "proxy_url": lambda way, host: way.etcd_tells(
        "pg1", {"proxy_url": f"postgres://{host}:5432/p"}, by(ConnectVia.PROXY_URL)
    ),
    "settings": lambda way, host: way.settings_tell(host),
    "rest_cluster": lambda way, host: way.rest_tells(host),
}
