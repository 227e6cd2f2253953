"""What an installed agent refuses whoever holds its key: texts, hosts, and words to the console."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties.test_config_block import ROUTES, files
from tests.support.blocks import rewrite
from watcher.apply.agent.bounds import Bounds, is_allowable
from watcher.apply.agent.main import main
from watcher.apply.agent.wire import Refused
from watcher.decide.model import Route

HEAD = b"[databases]\nadmin = host=10.0.9.9\n;; [config cluster demo: begin]\n"
INSIDE = (
    b";; watcher: cluster=1 revision=2\n# note\n;; role=replica\nro = host=10.0.0.2 port=6432 dbname=app\n"
    b"app = host=10.0.0.1 port=5432 dbname=app password='a b'\n"
)
TAIL = (
    b";; [config cluster demo: end]\n;; [config cluster x: begin]\ny = host=h\n;; [config cluster x: end]\n"
)
OLD = HEAD + INSIDE + TAIL
BOUNDS = Bounds("demo", ["10.0.0.1", "10.0.0.2", "::1"])


@given(files(), ROUTES)
def test_whatever_the_watcher_writes_may_be_written(text: str, route: Route) -> None:
    new = rewrite(text, "demo", route, "file").encode("utf-8", "surrogateescape")
    hosts = [route.endpoint.host, *(route.readers.host.split(",") if route.readers else ())]
    Bounds("demo", hosts).check_text(text.encode("utf-8", "surrogateescape"), new)


@given(files(), st.binary(max_size=8), st.data())
def test_no_other_byte_outside_the_block_may_be_written(text: str, more: bytes, data: st.DataObject) -> None:
    old = text.encode("utf-8", "surrogateescape")
    begin, end = old.index(b": begin]") + 8, old.index(b": end]")
    places = st.integers(0, begin) | st.integers(end, len(old))
    at = data.draw(places)
    new = old[:at] + more + old[at + data.draw(st.integers(0, 3)) :]
    if new[:begin] == old[:begin] and new.endswith(old[end:]):
        return  # the text came out the same outside, or only the block grew
    with pytest.raises(Refused):
        Bounds("demo", None).check_text(old, new)


GOOD = {
    "the same": (b"", b""),
    "another address": (b"host=10.0.0.1", b"host=10.0.0.2"),
    "an IPv6 address": (b"host=10.0.0.1", b"host=::1"),
    "a list of hosts where a line is marked for replicas": (b"host=10.0.0.2", b"host=10.0.0.2,::1,10.0.0.1"),
    "another port": (b"port=5432", b"port=6000"),
    "another stamp": (b"cluster=1 revision=2", b"cluster=cdf8 system=7 revision=3 timeline=1 leader=n%202"),
    "no stamp": (b";; watcher: cluster=1 revision=2\n", b""),
}


@pytest.mark.parametrize("change", GOOD.values(), ids=GOOD)
def test_an_address_and_a_stamp_may_be_written(change: tuple[bytes, bytes]) -> None:
    BOUNDS.check_text(OLD, OLD.replace(*change))


@pytest.mark.parametrize(
    "stamp", [b";; watcher: \xc3\xa4\n", b" ;;watcher:\0\n", b";; watcher: a\n;; watcher: b\n"]
)
def test_a_stamp_that_nobody_can_read_may_be_replaced(stamp: bytes) -> None:
    damaged = OLD.replace(b";; watcher: cluster=1 revision=2\n", stamp)
    assert damaged != OLD
    BOUNDS.check_text(damaged, OLD)


BAD = {
    "an address that is not allowed": (b"host=10.0.0.1", b"host=10.6.6.6"),
    "a socket": (b"host=10.0.0.1", b"host=/tmp"),
    "a list of hosts": (b"host=10.0.0.1", b"host=10.0.0.1,10.0.0.2"),
    "a host in a list that is not allowed": (b"host=10.0.0.2", b"host=10.0.0.2,10.6.6.6"),
    "a list with nothing in it": (b"host=10.0.0.2", b"host=10.0.0.2,"),
    "the mark of another line": (b";; role=replica\n", b";; role=other\n"),
    "a host in quotes with more in it": (b"host=10.0.0.1", b"host='10.0.0.1 auth_user=x'"),
    "a parameter behind the host": (b"host=10.0.0.1", b"host=10.0.0.1 connect_query='x'"),
    "a host said twice": (b"host=10.0.0.1", b"host=10.0.0.1 host=10.6.6.6"),
    "a host in another's stead": (b"port=5432", b"host=10.6.6.6"),
    "no port": (b" port=5432", b""),
    "a port that is none": (b"port=5432", b"port=5432;"),
    "another database of the server": (b"dbname=app", b"dbname=postgres"),
    "another password": (b"'a b'", b"'a c'"),
    "another name": (b"app = ", b"apq = "),
    "the line as a comment": (b"app = ", b";app = "),
    "a line more": (b"# note\n", b"# note\nevil = host=10.0.0.1\n"),
    "a line less": (b"# note\n", b""),
    "the last line less": (INSIDE[INSIDE.index(b"app") :], b""),
    "a line in the stamp's stead": (b";; watcher: cluster=1 revision=2\n", b"evil = host=10.0.0.1\n"),
    "a line behind the last": (TAIL, b"evil = host=10.0.0.1\n" + TAIL),
    "another comment": (b"# note", b"# nots"),
    "an include in the block": (b"# note", b"%include /etc/shadow"),
    "a section in the block": (b"# note", b"[pgbouncer]"),
    "a stamp with a second line": (b"revision=2\n", b"revision=2\n;; watcher: x\n"),
    "a stamp with a carriage return": (b"revision=2\n", b"revision=2\rauth_type = any\n"),
    "a stamp with a NUL": (b"revision=2", b"revision=2\0"),
    "a line joined with the end marker": (b"'a b'\n;; [config cluster demo: end]", b"'a b';;"),
    "an end marker sooner": (b"# note\n", b";; [config cluster demo: end]\n"),
    "another cluster's block": (b"y = host=h", b"y = host=10.0.0.2"),
    "a line outside": (b"10.0.9.9", b"10.0.0.2"),
    "a text behind": (TAIL, TAIL + b"[pgbouncer]\nauth_type = any\n"),
    "an empty file": (OLD, b""),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_more_than_an_address_may_not_be_written(change: tuple[bytes, bytes]) -> None:
    new = OLD.replace(*change)
    assert new != OLD
    with pytest.raises(Refused) as caught:
        BOUNDS.check_text(OLD, new)
    assert caught.value.code == "bounds"


def test_a_block_that_is_not_there_or_twice_there_may_not_be_written() -> None:
    for old in (OLD.replace(b"demo", b"other"), OLD + OLD, b""):
        with pytest.raises(Refused, match="no one block"):
            BOUNDS.check_text(old, old)


def test_a_line_that_names_two_hosts_is_left_alone() -> None:
    twice = OLD.replace(b"host=10.0.0.1", b"host=10.0.0.1 host=10.0.0.1")
    with pytest.raises(Refused, match="more than an address"):
        BOUNDS.check_text(twice, twice.replace(b"host=10.0.0.1", b"host=10.6.6.6", 1))


def test_without_allowed_hosts_any_host_and_nothing_else_may_be_written() -> None:
    bounds = Bounds("demo", None)
    bounds.check_text(OLD, OLD.replace(b"host=10.0.0.1", b"host=db.example.org"))
    for host in ("/tmp", "a b", "a\n", "", "-x", "a,b", "a;", "a'"):
        with pytest.raises(Refused):
            bounds.check_address(host, "5432")


@pytest.mark.parametrize("text", ["10.0.0.1", "db.x", "10.0.0.1:5432", "::1", "fe80::1%eth0", "[::1]:65535"])
def test_an_address_may_be_allowed(text: str) -> None:
    assert is_allowable(text)


@pytest.mark.parametrize(
    "text", ["", "10.0.0.1:abc", "10.0.0.1:", "a b", "::1:0]", "[::1]:65536", "[::1]", ":5"]
)
def test_what_is_no_address_is_refused_at_the_start(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_allowable(text)
    with pytest.raises(SystemExit):
        main(["hold", "--file", "/x", "--block", "demo", "--allow", text], None)
    assert f"--allow {text}: not HOST, HOST:PORT or [HOST]:PORT" in capsys.readouterr().err


def test_where_a_port_is_allowed_it_alone_may_be_written() -> None:
    bounds = Bounds("demo", ["10.0.0.1:5432", "[::1]:6000", "10.0.0.2"])
    for good in (b"host=10.0.0.2 port=6000", b"host=::1 port=6000", b"host=10.0.0.1 port=5432"):
        bounds.check_text(OLD, OLD.replace(b"host=10.0.0.1 port=5432", good))
    for bad in (b"host=10.0.0.1 port=6000", b"host=::1 port=5432"):
        with pytest.raises(Refused, match="is none of the ports of"):
            bounds.check_text(OLD, OLD.replace(b"host=10.0.0.1 port=5432", bad))
    without = OLD.replace(b" port=5432", b"")
    bounds.check_text(without, without.replace(b"host=10.0.0.1", b"host=10.0.0.2"))
    with pytest.raises(Refused, match="5432 is none of the ports of ::1"):
        bounds.check_text(without, without.replace(b"host=10.0.0.1", b"host=::1"))


@pytest.mark.parametrize("port", ["", "5432 ", "-1", "123456", "x"])
def test_what_is_no_port_is_refused(port: str) -> None:
    with pytest.raises(Refused, match="is no port"):
        BOUNDS.check_address("10.0.0.1", port)


def test_without_a_block_nothing_is_refused() -> None:
    bounds = Bounds(None, None)
    bounds.check_text(OLD, b"anything")
    bounds.check_address("anywhere else", "no port")
    assert bounds.gate() is None


# --- the console ----------------------------------------------------------------------------------


def start(database: str = "pgbouncer", protocol: int = 196608) -> bytes:
    body = struct.pack("!I", protocol) + f"user\0pgbouncer\0database\0{database}\0\0".encode()
    return struct.pack("!I", len(body) + 4) + body


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def query(text: str) -> bytes:
    return message(b"Q", text.encode() + b"\0")


def admitted(*said: bytes, login_only: bool = False) -> bytes:
    gate = Bounds("demo", None).gate(login_only)
    assert gate is not None
    return b"".join(gate.admit(chunk) for chunk in said)


USUAL = [start(), message(b"p", b"secret\0"), query("SHOW DATABASES"), query("RELOAD"), message(b"X", b"")]


def test_a_login_and_the_watchers_words_pass_whole_and_in_pieces() -> None:
    whole = b"".join(USUAL)
    assert admitted(whole) == whole
    assert admitted(*(bytes([byte]) for byte in whole)) == whole
    assert admitted(start(), query("RESUME pgbouncer_watcher_no_such_database"))


@pytest.mark.parametrize(
    "said",
    [
        "SHUTDOWN",
        "SET auth_type='any'",
        "PAUSE",
        "KILL app",
        "SUSPEND",
        "RESUME",
        "SHOW VERSION; SHUTDOWN",
        "RELOAD\0SHUTDOWN",
        "",
    ],
)
def test_no_other_word_passes(said: str) -> None:
    with pytest.raises(Refused):
        admitted(start(), query(said))


@pytest.mark.parametrize("kind", [b"P", b"B", b"E", b"F", b"S", b"d", b"f", b"\0"])
def test_no_other_message_passes(kind: bytes) -> None:
    with pytest.raises(Refused):
        admitted(start(), message(kind, b"SHUTDOWN\0"))


def test_no_other_database_no_cancellation_and_no_endless_message_passes() -> None:
    for said in (start("app"), start(protocol=80877102), struct.pack("!I", 1 << 30), struct.pack("!I", 0)):
        with pytest.raises(Refused):
            admitted(said)


def test_before_a_hold_only_the_login_passes() -> None:
    assert admitted(start(), message(b"p", b"secret\0"), login_only=True)
    with pytest.raises(Refused):
        admitted(start(), query("RELOAD"), login_only=True)
