"""Patroni's keys and bodies become values, or are refused with the reason."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from watcher.decide.errors import MalformedPayload
from watcher.decide.model import (
    ACTIVE_KEY,
    ActiveWatcher,
    Config,
    Endpoint,
    Entry,
    Failover,
    Leader,
    Malformed,
    Member,
    NodeReport,
    Role,
    Status,
    StopRequest,
    SystemId,
)
from watcher.decide.patroni import (
    MAX_BYTES,
    read_active,
    read_cluster_endpoints,
    read_config,
    read_entry,
    read_failover,
    read_leader,
    read_member,
    read_node_report,
    read_status,
    read_stop_request,
    read_system_id,
)

MEMBER = {
    "conn_url": "postgres://10.0.0.1:5433/postgres",
    "api_url": "http://10.0.0.1:8008/patroni",
    "state": "running",
    "role": "primary",
    "version": "4.0.5",
    "xlog_location": 67394704,
    "timeline": 3,
}


def text(data: Any) -> bytes:
    return json.dumps(data).encode()


def test_a_request_to_stop_names_its_stop_and_its_member() -> None:
    value = text({"id": "a1", "member": "node1", "limit": 10, "more": []})
    entry = read_entry("pgbouncer-watcher/stop/node1", value, 5, 9, "here")
    assert entry == Entry("pgbouncer-watcher/stop/node1", StopRequest("a1", "node1"), 5, 9)


# --- which key is what --------------------------------------------------------------------------------


def test_keys_of_ours_become_entries_with_their_revisions() -> None:
    entry = read_entry("leader", b"node1", 5, 9, "here")
    assert entry == Entry("leader", Leader("node1"), 5, 9)
    for key, value, kind in (
        ("members/node1", text(MEMBER), Member),
        ("members/a/b", text(MEMBER), Member),
        ("config", b"{}", Config),
        ("failover", b"{}", Failover),
        ("initialize", b"730", SystemId),
        ("pgbouncer-watcher/stop/node1", b'{"id": "a1", "member": "node1"}', StopRequest),
    ):
        found = read_entry(key, value, 1, 2, "here")
        assert found is not None
        assert isinstance(found.value, kind)
        assert key.startswith("members/") is isinstance(found.value, Member)
        if isinstance(found.value, Member):
            assert found.value.name == key.partition("/")[2]


@pytest.mark.parametrize(
    "key",
    [
        *("history", "sync", "failsafe", "", "leaders", "members", "optime"),
        *("pgbouncer-watcher/targets/pgb1/w1", "pgbouncer-watcher/stop", "stop/node1"),
    ],
)
def test_other_keys_mean_nothing(key: str) -> None:
    assert read_entry(key, b"x", 1, 2, "here") is None


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("leader", b"", "not a member's name"),
        ("members/a\nb", text(MEMBER), "not of a member's name"),
        ("members/" + "a" * 257, text(MEMBER), "not of a member's name"),
        ("members/x", b"\xff", "is not UTF-8"),
        ("pgbouncer-watcher/stop/x", text({"id": "a" * 65, "member": "x"}), "no readable `id`"),
        ("pgbouncer-watcher/stop/" + "x" * 81, b'{"id": "a1"}', f"of member '{'x' * 80}'"),
        ("leader", b"a\nb", "not a member's name"),
        ("pgbouncer-watcher/stop/node1", b"", "not JSON"),
        ("pgbouncer-watcher/stop/node1", b'{"member": "node1"}', "no readable `id`"),
        ("pgbouncer-watcher/stop/node1", b'{"id": "a\\nb", "member": "node1"}', "no readable `id`"),
        ("pgbouncer-watcher/stop/node1", b'{"id": "a1", "member": "node2"}', "not of member 'node1'"),
        ("pgbouncer-watcher/stop/node1", b'{"id": "a1"}', "not of member 'node1'"),
        ("leader", b"a" * 257, "not a member's name"),
        ("leader", b"\xff", "is not UTF-8"),
        ("members/x", b"", "is not JSON"),
        ("members/x", b"[]", "is a JSON list, not an object"),
        ("members/x", b"null", "is a JSON NoneType"),
        ("members/x", b"[" * 100_000, "is not JSON"),
        ("config", b"{", "is not JSON"),
        ("failover", b"7", "is a JSON int"),
        ("status", b"\xff", "is not UTF-8"),
        ("status", b"[]", "is a JSON list, not an object"),
        ("status", b"{}", "tells no `optime`"),
        ("optime/leader", b"9" * 20, "tells no `optime`"),
        ("optime/leader", b"-1", "is a JSON int, not an object"),
        (ACTIVE_KEY, b"ctl1", "is not JSON"),
        (ACTIVE_KEY, b"{}", "no readable `watcher`"),
        (ACTIVE_KEY, text({"watcher": 7}), "no readable `watcher`"),
        (ACTIVE_KEY, text({"watcher": "a" * 201}), "no readable `watcher`"),
        (ACTIVE_KEY, text({"watcher": "a\nb"}), "no readable `watcher`"),
        ("initialize", b"7" * 65, "not a system identifier"),
        ("initialize", b"x" * (MAX_BYTES + 1), "is too long"),
    ],
)
def test_a_value_that_cannot_be_understood_is_malformed_and_not_absent(
    key: str, value: bytes, problem: str
) -> None:
    entry = read_entry(key, value, 5, 9, "here")
    assert entry is not None
    assert isinstance(entry.value, Malformed)
    assert (entry.create_revision, entry.mod_revision) == (5, 9)
    assert entry.value.place == "here"
    assert problem in entry.value.problem
    assert entry.value.hint


@given(st.sampled_from(["leader", "members/x", "config", "failover", "initialize"]), st.binary(max_size=200))
def test_no_bytes_are_more_than_malformed(key: str, value: bytes) -> None:
    assert read_entry(key, value, 1, 2, "here") is not None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(
    suppress_health_check=[HealthCheck.too_slow], deadline=None
)  # so is a machine that does other things
@given(
    st.dictionaries(
        st.sampled_from([*MEMBER, "proxy_url", "ttl", "pause", "standby_cluster", "member"]), JSON
    )
)
def test_no_json_is_more_than_malformed(data: dict[str, Any]) -> None:
    for key in ("members/x", "config", "failover", "status", "pgbouncer-watcher/stop/x"):
        assert read_entry(key, text(data), 1, 2, "here") is not None
    for body in (data, {"patroni": data, **data}, {"members": data}, {"members": [data]}):
        for read in (
            lambda b: read_node_report(b, "url", "demo"),
            lambda b: read_cluster_endpoints(b, "url"),
        ):
            with suppress(MalformedPayload):
                read(text(body))


# --- members -------------------------------------------------------------------------------------------


def test_a_member_is_read_with_all_that_matters() -> None:
    assert read_member("node1", text(MEMBER), "here") == Member(
        name="node1",
        conn=Endpoint("10.0.0.1", 5433),
        proxy=None,
        api_url="http://10.0.0.1:8008/patroni",
        role=Role.PRIMARY,
        state="running",
        timeline=3,
    )


def test_a_member_that_says_nothing_is_a_member() -> None:
    assert read_member("n", b"{}", "here") == Member("n", None, None, None, Role.OTHER, "")


def test_a_replica_tells_how_it_replicates_and_how_far_it_is() -> None:
    told = {"replication_state": "streaming", "replay_lsn": 6, "receive_lsn": 8, "xlog_location": 8}
    member = read_member("n", text({**MEMBER, **told}), "here")
    assert (member.replication, member.position, member.replayed) == ("streaming", 8, 6)


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ({"noloadbalance": True}, True),
        ({"noloadbalance": "yes"}, True),
        ({"noloadbalance": False}, False),
        ({"nofailover": True}, False),
        ({}, False),
        (["noloadbalance"], False),
        ("noloadbalance", False),
        (None, False),
    ],
)
def test_only_noloadbalance_keeps_reads_away(tags: object, wanted: bool) -> None:
    assert read_member("n", text({**MEMBER, "tags": tags}), "here").noloadbalance is wanted


@pytest.mark.parametrize("key", ["status", "optime/leader"])
@pytest.mark.parametrize("value", [b'{"optime": 67394704, "slots": {"pg2": 67394000}}', b"67394704"])
def test_how_far_the_leader_is_is_read_in_either_form(key: str, value: bytes) -> None:
    entry = read_entry(key, value, 5, 9, "here")
    assert entry is not None
    assert isinstance(entry.value, Status)
    assert entry.value.position == 67394704


@pytest.mark.parametrize("value", [b"0", b" 7\n", str(2**64 - 1).encode()])
def test_a_number_alone_is_a_position_up_to_the_last_of_the_wal(value: bytes) -> None:
    assert read_status(value, "here").position == int(value)


@pytest.mark.parametrize(
    "value",
    [
        *(b"{}", b"null", b"[]", b"-1", b"1.5", b"", b"9" * 21, b"0" * 20 + b"7", b"9" * 5000),
        *(b'{"optime": "1"}', b'{"optime": true}'),
    ],
)
def test_a_status_without_a_position_is_malformed(value: bytes) -> None:
    entry = read_entry("status", value, 5, 9, "here")
    assert entry is not None
    assert isinstance(entry.value, Malformed)


@pytest.mark.parametrize(
    ("role", "wanted"),
    [
        ("master", Role.PRIMARY),
        ("primary", Role.PRIMARY),
        ("standby_leader", Role.STANDBY_LEADER),
        ("replica", Role.REPLICA),
        ("uninitialized", Role.OTHER),
        ("promoted", Role.OTHER),
        (7, Role.OTHER),
        (None, Role.OTHER),
    ],
)
def test_roles_of_every_version_are_known(role: object, wanted: Role) -> None:
    assert read_member("n", text({"role": role}), "here").role is wanted


@pytest.mark.parametrize(
    ("timeline", "wanted"),
    [
        (1, 1),
        (2**32 - 1, 2**32 - 1),
        (0, None),
        (-1, None),
        (2**32, None),
        ("3", None),
        (3.0, None),
        (True, None),
    ],
)
def test_a_timeline_is_a_number_that_postgresql_has(timeline: object, wanted: int | None) -> None:
    assert read_member("n", text({"timeline": timeline}), "here").timeline == wanted


def test_an_address_that_cannot_be_read_leaves_the_member_and_says_why() -> None:
    member = read_member("n", text({"conn_url": "http://x", "proxy_url": 7, "api_url": 8}), "here")
    assert (member.conn, member.proxy, member.api_url) == (None, None, None)
    assert member.problem == "conn_url 'http://x' is not a postgres:// URL; proxy_url is not a text"


POSITIONS = [
    (0, 0),
    (67394704, 67394704),
    (2**64 - 1, 2**64 - 1),
    (2**64, None),
    (-1, None),
    (True, None),
    ("67394704", None),
]


@pytest.mark.parametrize(("position", "wanted"), POSITIONS)
def test_a_members_position_is_one_that_the_wal_can_have(position: object, wanted: int | None) -> None:
    assert read_member("n", text({"xlog_location": position}), "here").position == wanted
    assert read_member("n", b"{}", "here").position is None


def test_a_members_name_may_be_as_long_as_a_leaders() -> None:
    assert read_member("a" * 256, b"{}", "here").name == "a" * 256


@pytest.mark.parametrize("stop_id", ["a", "a" * 64])
def test_a_stop_may_have_a_short_or_a_long_name(stop_id: str) -> None:
    value = text({"id": stop_id, "member": "x"})
    assert read_stop_request("x", value, "here") == StopRequest(stop_id, "x")


@pytest.mark.parametrize("watcher", ["a", "a" * 200])
def test_a_watcher_may_have_a_short_or_a_long_name(watcher: str) -> None:
    assert read_active(text({"watcher": watcher}), "here") == ActiveWatcher(watcher)


def test_a_value_may_be_as_long_as_the_limit() -> None:
    assert read_member("n", b"{}".ljust(MAX_BYTES), "here").name == "n"


def test_a_proxy_is_read_like_an_address() -> None:
    assert read_member("n", text({"proxy_url": "postgres://h:6/x"}), "here").proxy == Endpoint("h", 6)


# --- the small keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["node1", "node 1", "ü", "a" * 256])
def test_a_leader_is_a_printable_name(name: str) -> None:
    assert read_leader(name.encode(), "here") == Leader(name)


@pytest.mark.parametrize(
    ("value", "wanted", "announces"),
    [
        (b"", Failover(None, None, None), False),
        (b" \n", Failover(None, None, None), False),
        (b"{}", Failover(None, None, None), False),
        (text({"leader": "a", "member": "b"}), Failover("a", "b", None), True),
        (text({"member": "b"}), Failover(None, "b", None), True),
        (text({"leader": "a", "scheduled_at": ""}), Failover("a", None, None), True),
        (text({"leader": "", "member": 7}), Failover(None, None, None), False),
        (text({"scheduled_at": "2030-01-01T00:00:00+00:00"}), Failover(None, None, 1893456000.0), False),
    ],
)  # fmt: skip
def test_a_failover_announces_something_unless_it_names_nobody(
    value: bytes, wanted: Failover, announces: bool
) -> None:
    failover = read_failover(value, "here")
    assert failover == wanted
    assert failover.announces is announces


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("1970-01-01T00:01:00+00:00", 60.0),
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-01T02:01:00.500000+02:00", 60.5),
        ("1970-01-01T00:01:00", float("inf")),  # whose clock?
        ("2030-01-01", float("inf")),
        ("tomorrow", float("inf")),
        ("9" * 400, float("inf")),
    ],
)
def test_the_date_of_a_switchover_counts_by_its_zone_and_never_comes_without_one(
    date: str, seconds: float
) -> None:
    assert read_failover(text({"leader": "a", "scheduled_at": date}), "here").scheduled_at == seconds


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ({}, Config()),
        ({"pause": True, "ttl": 20}, Config(pause=True, ttl=20.0)),
        ({"pause": "yes", "ttl": "20"}, Config()),
        ({"ttl": 0}, Config()),
        ({"ttl": 1}, Config(ttl=1.0)),
        ({"ttl": 86399}, Config(ttl=86399.0)),
        ({"ttl": 86400}, Config()),
        ({"ttl": 1e9}, Config()),
        ({"loop_wait": 5, "ttl": 20}, Config(ttl=20.0, loop_wait=5.0)),
        ({"loop_wait": "5"}, Config()),
        ({"standby_cluster": {"host": "x"}}, Config(standby_cluster=True)),
        ({"standby_cluster": {}}, Config()),
        ({"standby_cluster": True}, Config()),
    ],
)
def test_the_configuration_is_read_with_patronis_defaults(data: dict[str, Any], wanted: Config) -> None:
    assert read_config(text(data), "here") == wanted


def test_a_system_identifier_is_a_short_text() -> None:
    assert read_system_id(b" 7301 \n", "here") == SystemId("7301")
    assert read_system_id(b"", "here") == SystemId("")
    assert read_system_id(b"7" * 64, "here") == SystemId("7" * 64)


# --- REST bodies ---------------------------------------------------------------------------------------


def test_a_node_reports_what_it_is() -> None:
    body = {
        "state": "running",
        "role": "master",
        "timeline": 3,
        "database_system_identifier": "730",
        "pause": True,
        "patroni": {"version": "3.0", "scope": "demo", "name": "node1"},
    }
    report = read_node_report(text(body), "http://u", "demo")
    assert report == NodeReport("node1", "http://u", Role.PRIMARY, "running", 3, "730", paused=True)
    assert report.accepts_writes
    assert not read_node_report(text({**body, "state": "starting"}), "u", "demo").accepts_writes
    assert not read_node_report(text({**body, "role": "replica"}), "u", "demo").accepts_writes


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ([], "not an object"),
        ({}, "no patroni.scope"),
        ({"patroni": "demo"}, "no patroni.scope"),
        ({"patroni": {"scope": 7}}, "no patroni.scope"),
        ({"patroni": {"scope": "other"}}, "belongs to scope 'other', not 'demo'"),
        ({"patroni": {"scope": "o" * 81}}, f"belongs to scope '{'o' * 80}', not 'demo'"),
    ],
)
def test_a_node_of_another_scope_is_refused(body: Any, problem: str) -> None:
    with pytest.raises(MalformedPayload, match=problem) as caught:
        read_node_report(text(body), "http://u", "demo")
    assert caught.value.place == "http://u"
    assert caught.value.hint


def test_of_a_nodes_system_identifier_64_characters_are_kept() -> None:
    body = {"patroni": {"scope": "demo"}, "database_system_identifier": "7" * 65}
    assert read_node_report(text(body), "u", "demo").system_id == "7" * 64


def test_the_members_of_a_cluster_body_have_endpoints() -> None:
    body = {
        "members": [
            {"name": "a", "host": "10.0.0.1", "port": 6000},
            {"name": "b", "host": "10.0.0.2"},
            {"name": "no host"},
            {"name": "odd port", "host": "h", "port": True},
            {"name": "the first port", "host": "h", "port": 1},
            {"name": "the last port", "host": "h", "port": 65535},
            {"name": "before the first", "host": "h", "port": 0},
            {"name": "after the last", "host": "h", "port": 65536},
            "odd",
        ]
    }
    assert read_cluster_endpoints(text(body), "u") == {
        "a": Endpoint("10.0.0.1", 6000),
        "b": Endpoint("10.0.0.2", 5432),
        "the first port": Endpoint("h", 1),
        "the last port": Endpoint("h", 65535),
    }


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ([], "not an object"),
        ({}, "has no members"),
        ({"members": {}}, "has no members"),
        ({"members": [{"name": "a", "host": "a b"}]}, "'a b' is neither"),
    ],
)
def test_a_cluster_body_without_members_or_with_an_odd_host_is_refused(body: Any, problem: str) -> None:
    with pytest.raises(MalformedPayload, match=problem) as caught:
        read_cluster_endpoints(text(body), "u")
    assert caught.value.place == "u"
    assert caught.value.hint
