"""Keys of etcd and bodies of Patroni's REST API, from their bytes to the wish and to our own pages."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from tests.hostile.door import Door, repeated
from tests.hostile.doors.file import GOOD
from tests.hostile.doors.pages import EPOCH, check_told
from tests.support.blocks import parse, rewrite
from watcher.decide.decision import ConnectVia, HoldPolicy, Policy, ReadyBy, desired
from watcher.decide.errors import MalformedPayload
from watcher.decide.model import ACTIVE_KEY, PAUSE_KEY, STOP_KEYS, Entry, HealthRound, Leader, Listing, View
from watcher.decide.patroni import read_cluster_endpoints, read_entry, read_node_report
from watcher.decide.view import fold

NUMBERS = (b"NaN", b"Infinity", b"-1", b"1e999", b"0.1", b"9" * 25, b"9" * 5000, b"true", b"null")
JSON = (
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b'"',
        b"\\ud800",
        b"\\u0000",
        b"\\n",
        b"\\u2028",
        b"\xff",
        b"[" * 2000,
    ),
    *NUMBERS,
)


def _view(*entries: Entry | None) -> View:
    found = tuple(entry for entry in entries if entry is not None)
    return fold(View(began_at=0.0), Listing(1, 50, found, 1.0, 1.0))


def check_decided(view: View) -> None:
    """There is a wish; where it has a route the file takes it, or nobody is led there."""
    for via in (ConnectVia.CONN_URL, ConnectVia.PROXY_URL):
        policy = Policy(connect_via=via, ready_by=ReadyBy.LEADER_KEY, hold=HoldPolicy())
        for now in (1.5, 10_000.0):
            wish = desired(view, policy, now, "pgb1", EPOCH)
            if wish.route is not None:
                after = rewrite(GOOD, "demo", wish.route, "f")
                assert {db.endpoint for db in parse(after, "demo", "f").databases} == {wish.route.endpoint}


def check_key(key: str, data: bytes) -> None:
    entry = read_entry(key, data, 40, 41, "here")
    assert entry is not None
    leader = None if key == "leader" else Entry("leader", Leader("pg1"), 40, 40)
    view = _view(entry, leader)
    check_decided(view)
    check_told(view)


def check_other_key(data: bytes) -> None:
    """A key that Patroni may write and that means nothing here, and member keys of any name."""
    name, _, value = data.partition(b"\n")
    key = name.decode("utf-8", "replace")
    view = _view(read_entry(key, value, 40, 41, "here"), read_entry("members/" + key, value, 40, 41, "here"))
    check_decided(view)
    check_told(view)


def check_report(data: bytes) -> None:
    with suppress(MalformedPayload):
        report = read_node_report(data, "http://10.0.0.1:8008", "demo")
        view = fold(_view(), HealthRound((report,), {}, 2.0))
        check_decided(view)
        check_told(view)


def check_cluster(data: bytes) -> None:
    with suppress(MalformedPayload):
        for endpoint in read_cluster_endpoints(data, "http://10.0.0.1:8008").values():
            assert 1 <= endpoint.port <= 65535
            assert endpoint.host.isascii()
            assert not set(endpoint.host) & set(" '\"\n\r\t\0;#=,/@")


_PROMISE = "understood, or Malformed with a place; there is a wish, and our pages tell of it"


def _key_door(name: str, key: str, pieces: tuple[bytes, ...], share: int = 5) -> Door:
    swollen = {"nesting": repeated(b"", b"["), "digits": repeated(b"", b"9"), "quotes": repeated(b"", b'"')}
    return Door(name, _PROMISE, partial(check_key, key), (*pieces, *JSON), share, swollen)


DOORS = (
    _key_door(
        "member",
        "members/pg1",
        (
            *(
                b'{"conn_url":"postgres://10.0.0.1:5432/p",',
                b'"proxy_url":"postgres://10.0.0.1:5432/p",',
                b'"role":"primary"',
            ),
            *(
                b'"state":"running"',
                b'"timeline":',
                b'"xlog_location":',
                b'"api_url":"http://x"',
                b"<evil>",
                b" dbname=y",
                b"\\n",
            ),
        ),
        10,
    ),
    _key_door("leader", "leader", (b"pg1", b"a b", b"\n", b"%", b"<evil>", b"\xe2\x80\xa8", b"x" * 300)),
    _key_door(
        "failover",
        "failover",
        (
            b'{"leader":"pg1",',
            b'"member":"pg2",',
            b'"scheduled_at":"2027-01-15T08:00:00+00:00"}',
            b"9999-12-31T23:59:59-23:59",
            b"0001-01-01T00:00:00+23:59",
        ),
    ),
    _key_door("config", "config", (b'{"ttl":', b'"pause":true,', b'"standby_cluster":{"host":"x"}', b"30}")),
    _key_door("initialize", "initialize", (b"7312345678901234567", b" ", b"\n", b"<evil>", b"\x1b[2J")),
    _key_door(
        "stop",
        STOP_KEYS + "pg1",
        (b'{"id":"00ff",', b'"member":"pg1",', b'"limit":10}', b'"id":', b"x" * 65),
    ),
    _key_door(
        "pause",
        PAUSE_KEY,
        (
            b'{"by":"ann",',
            b'"why":"<evil>",',
            b'"since":"2027-01-15T08:00:00+00:00"}',
            b"0001-01-01T00:00:00+23:59",
        ),
    ),
    _key_door(
        "active",
        ACTIVE_KEY,
        (b'{"watcher":"ctl1-7-ab",', b'"name":"<evil>"}', b'"name":"\xe2\x80\xa8"}', b"x" * 201),
    ),
    Door(
        "other_keys",
        "a key that means nothing here is passed over, and a member key of any name is read or Malformed",
        check_other_key,
        (
            b'history\n[[1,2,"x"]]',
            b"status\n",
            b"sync\n",
            b"members/",
            b"\n",
            b"pg 1",
            b"<evil>",
            b"%",
            b"x" * 300,
            *JSON,
        ),
        8,
        {"names": repeated(b"", b"<"), "nesting": repeated(b"history\n", b"[")},
    ),
    Door(
        "rest_patroni",
        "MalformedPayload, or a report that the decision and our pages can tell of",
        check_report,
        (
            *(
                b'{"patroni":{"scope":"demo","name":"pg1"},',
                b'"role":"primary",',
                b'"state":"running",',
                b'"timeline":',
                b"3}",
            ),
            *(b'"database_system_identifier":"', b'"pause":true', b"<evil>", *JSON),
        ),
        12,
        {"nesting": repeated(b"", b"["), "digits": repeated(b'{"timeline":', b"9", b"}")},
    ),
    Door(
        "rest_cluster",
        "MalformedPayload, or hosts and ports that cannot break out of their place",
        check_cluster,
        (
            *(
                b'{"members":[',
                b'{"name":"pg1","host":"10.0.0.1","port":5432}',
                b'"host":"',
                b'"port":',
                b" dbname=y",
                b"%include",
            ),
            *(b"::1", b"fe80::1%eth0", b"'", b";;", *JSON),
        ),
        20,
        {
            "members": repeated(b'{"members":[', b'{"name":"a","host":"h"},', b"{}]}"),
            "nesting": repeated(b"", b'{"a":'),
        },
    ),
)
