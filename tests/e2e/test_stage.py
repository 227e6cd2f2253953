"""What the tests of this folder share, and the proof that it can be believed: each check here can fail."""

import itertools
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from tests.support.bed import Bed, BouncerHost
from tests.support.etcd import EtcdCluster
from tests.support.patroni import Node
from tests.support.waiting import BedTimeoutError, wait_for
from tests.support.watcher import Settings, WatcherProcess, settings_for

QUICK_ETCD = {"timeout": 0.8, "reread_interval": 0.8, "silence_limit": 2.0}
QUICK_PATRONI = {"interval": 1.0, "interval_when_silent": 0.3, "timeout": 0.5}
_LED_SECONDS = 15.0
_COMMAND_LINE_LIMIT = 50_000
_numbers = itertools.count(1)


# --- a cluster that consists of its keys ----------------------------------------------------------


class Keys:
    """The keys of a Patroni cluster without the cluster, in a scope of its own: leaders change in no time.

    Where clients are sent then is any address: PgBouncer shows it without connecting to it.
    """

    def __init__(self, etcd: EtcdCluster, scope: str | None = None, namespace: str | None = None) -> None:
        """With a `scope` in a namespace of its own, or in the one that is named."""
        own = f"keys{next(_numbers)}-{time.monotonic_ns()}"
        self.etcd = etcd
        self.scope, self.namespace = (own, "service") if scope is None else (scope, namespace or own)
        self.prefix = f"/{self.namespace}/{self.scope}/"

    def put(self, key: str, value: str) -> None:
        """Any value under any key below the prefix."""
        if len(value) > _COMMAND_LINE_LIMIT:
            self.etcd.etcdctl("put", self.prefix + key, stdin=value)
        else:
            self.etcd.put(self.prefix + key, value)

    def join(self, name: str, url: str | None = None, **fields: Any) -> str:
        """A member's key as Patroni writes it; its endpoint, an address that nobody else has got."""
        endpoint = f"127.99.{next(_numbers) % 250}.{next(_numbers) % 250}:5432"
        body = {"conn_url": url or f"postgres://{endpoint}/postgres", "role": "primary", "state": "running"}
        self.put(f"members/{name}", json.dumps({**body, **fields}))
        return endpoint

    def lead(self, name: str) -> None:
        """Another reign, as Patroni begins one: the old leader's key is deleted first."""
        self.end_reign()
        self.put("leader", name)

    def end_reign(self) -> None:
        """No leader any more."""
        self.etcd.delete(self.prefix + "leader")

    def crown(self, name: str) -> str:
        """`name` joins at an address of its own and leads; the endpoint."""
        endpoint = self.join(name)
        self.lead(name)
        return endpoint


def settings_by_keys(bed: Bed, keys: Keys, **sections: Any) -> Settings:
    """Settings that follow `keys` with all of the bed's PgBouncers, the leader key being enough.

    Nobody is held: where such a leader's PostgreSQL should be nobody answers, which is held for as a crash.
    """
    named = {"scope": keys.scope, "namespace": keys.namespace}
    cluster = {**named, "ready_by": "leader_key", **sections.pop("cluster", {})}
    etcd = {"endpoints": keys.etcd.endpoints, **QUICK_ETCD, **sections.pop("etcd", {})}
    settings = {"cluster": cluster, "etcd": etcd, "patroni": {"nodes": []}, "hold": {"enabled": False}}
    return settings_for(bed, **{**settings, **sections})


def facts_of(etcd: EtcdCluster, key: str) -> dict[str, Any]:
    """What etcd says of a key: create_revision, lease …"""
    answer = json.loads(etcd.etcdctl("--write-out=json", "get", "--", key))
    facts: dict[str, Any] = answer["kvs"][0]
    return facts


def lose_lease(bed: Bed) -> None:
    """What the end of the leader's ttl does, without the wait for it."""
    lease = facts_of(bed.etcd, f"{bed.patroni.prefix}leader")["lease"]
    bed.etcd.revoke_lease(f"{lease:x}")


# --- where a PgBouncer leads ----------------------------------------------------------------------


def at(node: Node) -> str:
    """The node's PostgreSQL, as endpoints are written here."""
    return f"{node.host}:{node.port}"


def file_route(host: BouncerHost) -> str:
    """Where the file leads; all databases of it lead to one endpoint."""
    return route_in(host.pgbouncer.config_file.read_text())


def route_in(text: str) -> str:
    """The one endpoint of a file's text."""
    (route,) = set(re.findall(r"host=(\S+) port=(\d+)", text))
    return ":".join(route)


def stamp_in(host: BouncerHost) -> dict[str, str]:
    """The fields of the block's stamp."""
    match = re.search(r"^;; watcher: (.*)$", host.pgbouncer.config_file.read_text(), re.MULTILINE)
    return dict(field.split("=") for field in match[1].split()) if match else {}


def is_led(host: BouncerHost, endpoint: str) -> bool:
    """Whether file and PgBouncer itself lead there."""
    return file_route(host) == endpoint and shown_route(host) == endpoint


def shown_route(host: BouncerHost) -> str:
    """Where PgBouncer itself leads."""
    address, port = host.pgbouncer.route()
    return f"{address}:{port}"


def wait_until_led(
    hosts: Sequence[BouncerHost], endpoint: str, watcher: WatcherProcess, timeout: float = _LED_SECONDS
) -> None:
    """Until file and PgBouncer of every host lead there."""
    for host in hosts:
        what = f"{host.name} leads to {endpoint}"
        wait_for(partial(is_led, host, endpoint), timeout, what, logs=[watcher.log])


def committed_on(host: BouncerHost) -> str:
    """Commits a row through PgBouncer; the endpoint of the server that took it."""
    host.pgbouncer.sql("CREATE TABLE IF NOT EXISTS e2e (at timestamptz)")
    row = host.pgbouncer.sql(
        "INSERT INTO e2e VALUES (now()) RETURNING host(inet_server_addr()) || ':' || inet_server_port() AS at"
    )
    return row[0]["at"]


# --- that nothing happens -------------------------------------------------------------------------


@dataclass(frozen=True)
class Trace:
    """What acting on a host leaves behind; equal traces mean that nobody acted in between."""

    file: tuple[int, int]
    reloads: int
    logins: int


def trace(host: BouncerHost) -> Trace:
    """The traces so far: the file's inode and time, reloads in PgBouncer's log, logins in sshd's."""
    status = host.pgbouncer.config_file.stat()
    return Trace(
        file=(status.st_ino, status.st_mtime_ns),
        reloads=host.pgbouncer.log.read_text().count("RELOAD command issued"),
        logins=host.sshd.log.read_text().count("Accepted publickey"),
    )


def traces(bed: Bed) -> list[Trace]:
    """Those of every host."""
    return [trace(host) for host in bed.bouncers]


def stays(question: Callable[[], bool], seconds: float, what: str) -> None:
    """Fails at the first moment within `seconds` when it is not so."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert question(), f"no longer so: {what}"
        time.sleep(0.05)


def quiet(bed: Bed) -> list[Trace]:
    """The traces once nobody has acted for a moment."""
    seen = [traces(bed)]

    def is_quiet() -> bool:
        seen.append(traces(bed))
        return seen[-1] == seen[-2]

    wait_for(is_quiet, 5, "nobody acts", poll=0.15)
    return seen[-1]


def settled(watcher: WatcherProcess, bed: Bed, endpoint: str) -> list[Trace]:
    """The traces once every host is led there and the stamp is in place."""
    wait_until_led(bed.bouncers, endpoint, watcher)
    for host in bed.bouncers:
        wait_for(partial(stamp_in, host), 10, f"a stamp at {host.name}", logs=[watcher.log])
    return quiet(bed)


# --- proofs ---------------------------------------------------------------------------------------


def test_a_write_a_reload_and_a_login_each_leave_a_trace(bed: Bed) -> None:
    host = bed.bouncers[0]
    before = trace(host)
    assert trace(host) == before
    host.pgbouncer.write_block("127.0.0.9", 5432)
    assert trace(host).file != before.file
    host.pgbouncer.reload()
    wait_for(lambda: trace(host).reloads == before.reloads + 1, 5, "the reload is in the log")
    host.sshd.ssh("true")
    wait_for(lambda: trace(host).logins == before.logins + 1, 5, "the login is in the log")


def test_a_pgbouncer_that_was_not_reloaded_is_not_led(bed: Bed) -> None:
    host = bed.bouncers[0]
    host.pgbouncer.write_block("127.0.0.9", 5432)
    assert file_route(host) == "127.0.0.9:5432"
    assert not is_led(host, "127.0.0.9:5432")
    host.pgbouncer.reload()
    assert is_led(host, "127.0.0.9:5432")


def test_what_changes_does_not_stay() -> None:
    answers = iter([True, True, False])
    with pytest.raises(AssertionError, match="no longer so: calm"):
        stays(lambda: next(answers), 5, "calm")


def test_nobody_follows_without_a_watcher(bed: Bed, tmp_path: Any) -> None:
    keys = Keys(bed.etcd)
    idle = WatcherProcess(tmp_path, settings_by_keys(bed, keys))
    with pytest.raises(BedTimeoutError):
        wait_until_led(bed.bouncers, keys.crown("a"), idle, timeout=0.3)
