"""The REST client takes Patroni's answers, and nothing else harms it: all nonsense is one error, in time."""

import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.misbehaving_node import Answer, Node, drips, hangs, http, says, sends
from tests.support.folders import bed_folder
from tests.support.processes import run
from tests.support.tls import Authority, KeyPair
from watcher.decide.errors import AccessDenied, MalformedPayload, SourceError, WatcherError
from watcher.decide.model import Endpoint, NodeReport, Role
from watcher.observe.patroni_rest import PatroniRest, RestLimits
from watcher.observe.trust import Trust

LIMITS = RestLimits(connect=0.3, read=0.3, total=0.6)


def body(role: str = "primary", scope: str = "demo", **more: object) -> bytes:
    patroni = {"version": "4.0.4", "scope": scope, "name": "node1"}
    return json.dumps(
        {
            "state": "running",
            "role": role,
            "timeline": 3,
            "database_system_identifier": "77",
            "patroni": patroni,
        }
        | more
    ).encode()


def rest(trust: Trust | None = None) -> PatroniRest:
    return PatroniRest("demo", trust, LIMITS)


@pytest.mark.parametrize("role", ["primary", "master"])
def test_a_primary_of_any_version_is_understood(role: str) -> None:
    with Node(says(body(role))) as node:
        assert rest().report(node.url + "/patroni") == NodeReport(
            name="node1",
            api_url=node.url,
            role=Role.PRIMARY,
            state="running",
            timeline=3,
            system_id="77",
        )
        assert node.asked == ["/patroni"]


def test_a_node_that_answers_503_with_its_report_is_understood() -> None:
    with Node(says(body("replica", state="starting"), "503 Service Unavailable")) as node:
        report = rest().report(node.url)
    assert (report.role, report.state, report.accepts_writes) == (Role.REPLICA, "starting", False)


def test_keep_alive_and_chunks_are_understood_too() -> None:
    text = body()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(text), text)
    with Node(sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked)) as node:
        assert rest().report(node.url).name == "node1"


def test_the_cluster_tells_the_addresses_of_all() -> None:
    members = {
        "members": [{"name": "node1", "host": "10.0.0.1", "port": 5433}, {"name": "node2", "host": "db2"}]
    }
    with Node(says(json.dumps(members).encode())) as node:
        assert rest().endpoints(node.url) == {
            "node1": Endpoint("10.0.0.1", 5433),
            "node2": Endpoint("db2", 5432),
        }


NONSENSE: dict[str, tuple[Answer, type[WatcherError], str]] = {
    "another scope": (says(body(scope="other")), MalformedPayload, "belongs to scope 'other'"),
    "no json": (says(b"<html>It works!</html>"), MalformedPayload, "is not JSON"),
    "a list": (says(b"[]"), MalformedPayload, "JSON list"),
    "not patroni": (says(b"{}"), MalformedPayload, "no patroni.scope"),
    "not utf-8": (says(b"\xff\xfe"), MalformedPayload, "UTF-8"),
    "nothing": (sends(b""), SourceError, "broke off"),
    "no http": (sends(b"SSH-2.0-OpenSSH_9.2\r\n"), SourceError, "broke off"),
    "huge": (says(b" " * 3_000_000), MalformedPayload, "more than"),
    "huge and announced": (
        says(b" " * 3_000_000, headers="Content-Length: 3000000\r\n"),
        MalformedPayload,
        "more than",
    ),
    "cut short": (says(b"{}", headers="Content-Length: 500\r\n"), SourceError, "broke off"),
    "a redirect": (says(b"", "302 Found", "Location: http://127.0.0.1:1/patroni\r\n"), SourceError, "302"),
    "not found": (says(b"", "404 Not Found"), SourceError, "404"),
    "a login": (says(b"", "401 Unauthorized"), AccessDenied, "401"),
    "endless headers": (sends(b"HTTP/1.0 200 OK\r\n" + b"X: y\r\n" * 100_000), SourceError, "broke off"),
    "an endless line": (sends(b"HTTP/1.0 200 OK\r\nX: " + b"y" * 1_000_000), SourceError, "broke off"),
    "silence": (hangs, SourceError, "in time"),
    "a dripped body": (lambda link, _: _then_drip(link), SourceError, "in time"),
    "a dripped head": (drips(http(body())), SourceError, "in time"),
}


def _then_drip(link: socket.socket) -> None:
    link.sendall(http(b""))
    drips(body())(link, "")


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_one_error_in_time(kind: str) -> None:
    answer, error, problem = NONSENSE[kind]
    with Node(answer) as node:
        began = time.monotonic()
        with pytest.raises(error, match=problem) as caught:
            rest().report(node.url)
        assert time.monotonic() - began < LIMITS.total + 5
        assert caught.value.hint
        assert node.url in caught.value.place


def test_nobody_there_is_told_as_such() -> None:
    with pytest.raises(SourceError, match=r"no connection: .*refused"):
        rest().report("http://127.0.0.1:9")


def test_a_name_that_does_not_resolve_is_told_as_such() -> None:
    with pytest.raises(SourceError, match="cannot be resolved"):
        rest().report("http://absent.invalid:8008")


def test_an_address_that_swallows_everything_costs_the_connect_limit() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        taken = [socket.socket() for _ in range(4)]
        for link in taken:
            link.setblocking(False)
            link.connect_ex(full.getsockname())
        began = time.monotonic()
        with pytest.raises(SourceError, match="in time"):
            rest().report(f"http://127.0.0.1:{full.getsockname()[1]}")
        assert time.monotonic() - began < LIMITS.total + 5
        for link in taken:
            link.close()


@pytest.mark.parametrize("url", ["ftp://db1:8008", "db1:8008", "http://", "http://db1:99999", "http://[::1"])
def test_what_is_no_url_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(SourceError, match="is not an http"):
        rest().report(url)


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with Node(says(body())) as node:
        assert rest().report(node.url).name == "node1"


# --- TLS ------------------------------------------------------------------------------------------


@pytest.fixture
def folder() -> Iterator[Path]:
    with bed_folder() as path:
        yield path


@pytest.fixture
def authority(folder: Path) -> Authority:
    return Authority(folder / "ca")


def server_side(
    authority: Authority, *, asks_back: bool = False, pair: KeyPair | None = None
) -> ssl.SSLContext:
    pair = pair or authority.server("node1", ["127.0.0.1"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.ca_file))
    context.load_cert_chain(pair.certificate, pair.key)
    context.verify_mode = ssl.CERT_REQUIRED if asks_back else ssl.CERT_NONE
    return context


def test_tls_with_a_client_certificate_is_understood(authority: Authority) -> None:
    pair = authority.client("watcher")
    trust = Trust(authority.ca_file, pair.certificate, pair.key)
    with Node(says(body()), server_side(authority, asks_back=True)) as node:
        assert rest(trust).report(node.url).name == "node1"


def test_a_missing_client_certificate_is_an_error(authority: Authority) -> None:
    with Node(says(body()), server_side(authority, asks_back=True)) as node, pytest.raises(SourceError):
        rest(Trust(authority.ca_file)).report(node.url)


def test_a_certificate_of_another_authority_is_not_trusted(authority: Authority, folder: Path) -> None:
    trust = Trust(Authority(folder / "stranger").ca_file)
    with (
        Node(says(body()), server_side(authority)) as node,
        pytest.raises(SourceError, match=r"no TLS: .*\n  HINT: compare the CA"),
    ):
        rest(trust).report(node.url)


@pytest.mark.parametrize(
    ("flaw", "problem"),
    [("expired", "expired"), ("early", "not yet valid"), ("elsewhere", "IP address mismatch")],
)
def test_a_certificate_of_another_time_or_name_is_not_trusted_and_the_next_one_is(
    authority: Authority, flaw: str, problem: str
) -> None:
    pair = {
        "expired": lambda: authority.expired_server("expired", ["127.0.0.1"]),
        "early": lambda: authority.early_server("early", ["127.0.0.1"]),
        "elsewhere": lambda: authority.server("elsewhere", ["elsewhere.example.org", "127.0.0.2"]),
    }[flaw]()
    context = server_side(authority, pair=pair)
    asking = rest(Trust(authority.ca_file))
    with Node(says(body()), context) as node:
        with pytest.raises(SourceError, match=rf"no TLS: .*{problem}.*\n  HINT: compare the CA") as caught:
            asking.report(node.url)
        assert node.url in caught.value.place
        good = authority.server("node1", ["127.0.0.1"])
        context.load_cert_chain(good.certificate, good.key)
        assert asking.report(node.url).name == "node1"


@pytest.mark.parametrize("flaw", ["expired", "stranger"])
def test_a_client_certificate_that_the_node_refuses_is_an_error_and_its_replacement_is_taken(
    authority: Authority, folder: Path, flaw: str
) -> None:
    good, shown = authority.client("good"), authority.client("shown")
    other = Authority(folder / "stranger").client("stranger")
    bad = authority.expired_client("old") if flaw == "expired" else other
    shown.certificate.write_bytes(bad.certificate.read_bytes())
    shown.key.write_bytes(bad.key.read_bytes())
    asking = rest(Trust(authority.ca_file, shown.certificate, shown.key))
    with Node(says(body()), server_side(authority, asks_back=True)) as node:
        with pytest.raises(SourceError) as caught:
            asking.report(node.url)
        assert caught.value.hint
        print(caught.value)
        shown.certificate.write_bytes(good.certificate.read_bytes())
        shown.key.write_bytes(good.key.read_bytes())
        assert asking.report(node.url).name == "node1"


def test_a_key_of_another_certificate_is_named(authority: Authority) -> None:
    pair, other = authority.client("watcher"), authority.client("other")
    with pytest.raises(SourceError, match=r"watcher\.pem.*other\.key.*\n  HINT: .*the key must belong"):
        rest(Trust(authority.ca_file, pair.certificate, other.key)).report("https://127.0.0.1:9")


def test_plaintext_towards_tls_and_tls_towards_plaintext_are_errors(authority: Authority) -> None:
    with Node(says(body()), server_side(authority)) as node, pytest.raises(SourceError):
        rest().report(node.url.replace("https", "http"))
    with Node(says(body())) as node, pytest.raises(SourceError, match="no TLS"):
        rest(Trust(authority.ca_file)).report(node.url.replace("http", "https"))


def test_a_dripped_tls_body_ends_in_time(authority: Authority) -> None:
    with Node(lambda link, _: _then_drip(link), server_side(authority)) as node:
        began = time.monotonic()
        with pytest.raises(SourceError, match="in time"):
            rest(Trust(authority.ca_file)).report(node.url)
        assert time.monotonic() - began < LIMITS.total + 5


def test_a_renewed_certificate_is_used_without_a_restart(authority: Authority, folder: Path) -> None:
    """The trust is read anew when its file changes."""
    file = folder / "trusted.pem"
    file.write_bytes(Authority(folder / "stranger").ca_file.read_bytes())
    asking = rest(Trust(file))
    with Node(says(body()), server_side(authority)) as node:
        with pytest.raises(SourceError, match="no TLS"):
            asking.report(node.url)
        file.write_bytes(authority.ca_file.read_bytes())
        assert asking.report(node.url).name == "node1"


def test_a_trust_file_that_is_absent_is_named(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"absent\.pem.*\n  HINT: each must be PEM"):
        rest(Trust(folder / "absent.pem")).report("https://127.0.0.1:9")


def test_an_encrypted_key_is_an_error_and_no_question_at_the_terminal(
    authority: Authority, folder: Path
) -> None:
    pair = authority.client("watcher")
    locked = folder / "locked.pem"
    run(["openssl", "ec", "-aes256", "-passout", "pass:secret", "-in", str(pair.key), "-out", str(locked)])
    with pytest.raises(SourceError, match="the key is encrypted"):
        rest(Trust(authority.ca_file, pair.certificate, locked)).report("https://127.0.0.1:9")
