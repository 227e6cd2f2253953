"""What comes from outside becomes a host and a port, or is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.decide.endpoint import check_host, parse_address, parse_conn_url
from watcher.decide.errors import MalformedPayload
from watcher.decide.model import Endpoint

LONGEST = "a." * 126 + "a"  # 253 characters

GOOD_HOSTS = [
    "db1",
    "db-1.example.org",
    "db_1",
    "example.org.",
    "10.0.0.1",
    "::1",
    "FD00::A",
    "::ffff:10.0.0.1",
    "fe80::1%eth0",
    "fe80::1%ETH0",
    "a" * 63,
    ".".join(["a" * 60] * 4),
    LONGEST,
]
BAD_HOSTS = [
    "",
    f"{LONGEST}b",
    " ",
    "a b",
    "a'b",
    'a"b',
    "a=b",
    "a;b",
    "a#b",
    "a,b",
    "a\nb",
    "a\n",
    "a\0",
    "-a",
    "/tmp",
    "@abstract",
    "[::1]",
    "ä",
    "١",
    "a..b",
    ".a",
    "a" * 64,
    ".".join(["a" * 63] * 5),
    "::1\n",
    "fe80::1%",
    "fe80::1%eth0 port=1",
    "fe80::1%" + "x" * 16,
    "::g",
    "1:2",
]


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_names_and_addresses_are_let_in_as_they_are(host: str) -> None:
    assert check_host(host, "here") == host


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_whatever_else_is_refused_with_its_place(host: str) -> None:
    with pytest.raises(MalformedPayload) as caught:
        check_host(host, "here")
    assert caught.value.place == "here"
    assert repr(host[:80]) in caught.value.problem
    assert caught.value.hint


@given(st.text())
def test_what_is_let_in_holds_no_character_that_ends_a_value(host: str) -> None:
    try:
        check_host(host, "here")
    except MalformedPayload:
        return
    assert host
    assert not set(host) & set(" \t\r\n\v\f'\"=;#,/@[]\\\0")
    assert host.isascii()


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("db1", Endpoint("db1", 5432)),
        ("db1:6000", Endpoint("db1", 6000)),
        ("db1:", Endpoint("db1", 5432)),
        ("10.0.0.1:1", Endpoint("10.0.0.1", 1)),
        ("fd00::1", Endpoint("fd00::1", 5432)),
        ("[fd00::1]", Endpoint("fd00::1", 5432)),
        ("[fd00::1]:65535", Endpoint("fd00::1", 65535)),
    ],
)
def test_addresses_are_read(text: str, endpoint: Endpoint) -> None:
    assert parse_address(text, "here") == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":5432",
        "::g",
        "h:0",
        "h:65536",
        "h:99999999",
        "h:x",
        "h:٣",
        "[::1",
        "::1]:5",
        "[]:5",
        "a,b",
        "a:1,b:2",
    ],
)
def test_addresses_that_cannot_be_used_are_refused(text: str) -> None:
    with pytest.raises(MalformedPayload) as caught:
        parse_address(text, "here")
    assert caught.value.place == "here"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("postgres://10.0.0.1:5433/postgres", Endpoint("10.0.0.1", 5433)),
        ("postgresql://db1/postgres?sslmode=disable", Endpoint("db1", 5432)),
        ("postgres://user:pa@ss@db1:6000", Endpoint("db1", 6000)),
        ("postgres://[fd00::1]:5433/x", Endpoint("fd00::1", 5433)),
        ("POSTGRES://db1/x", Endpoint("db1", 5432)),
    ],
)
def test_the_url_of_a_member_is_read(url: str, endpoint: Endpoint) -> None:
    assert parse_conn_url(url, "here") == endpoint


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://10.0.0.1:5433/", "not a postgres:// URL"),
        ("10.0.0.1:5433", "not a postgres:// URL"),
        ("", "not a postgres:// URL"),
        ("postgres://[::1/x", "is not a URL"),
        ("postgres://a:1,b:2/x", "several hosts"),
        ("postgres:///x", "neither a host name"),
        ("postgres://:5432/x", "neither a host name"),
        ("postgres://db1:0/x", "port 0 is not between"),
        ("postgres://db1:70000/x", "port 70000 is not between"),
        ("postgres://db1:port/x", "no readable host and port"),
        ("postgres://db 1:5432/x", "neither a host name"),
        ("postgres://db1'%20x/", "neither a host name"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_the_reason(url: str, problem: str) -> None:
    with pytest.raises(MalformedPayload, match=problem) as caught:
        parse_conn_url(url, "here")
    assert caught.value.place == "here"
    assert caught.value.hint


@given(st.text(max_size=200))
def test_no_text_is_more_than_refused(text: str) -> None:
    for read in (parse_address, parse_conn_url):
        try:
            found = read(text, "here")
        except MalformedPayload:
            continue
        assert check_host(found.host, "here")
        assert 1 <= found.port <= 65535


@pytest.mark.parametrize("url", ["postgres://10.0.0.1\n9/p", "postgres://a\tb/p", "postgres://a\x00/p"])
def test_a_url_with_a_control_character_is_refused_rather_than_read_as_another(url: str) -> None:
    with pytest.raises(MalformedPayload, match="control character") as caught:
        parse_conn_url(url, "here")
    assert caught.value.place == "here"
    assert caught.value.hint


def test_of_a_long_url_the_first_80_characters_are_told() -> None:
    url = "http://" + "a" * 100
    with pytest.raises(MalformedPayload) as caught:
        parse_conn_url(url, "here")
    assert caught.value.problem.startswith(repr(url[:80]))


def test_an_endpoint_is_told_as_an_address_that_can_be_read_again() -> None:
    assert str(Endpoint("fd00::1", 6000)) == "[fd00::1]:6000"
    assert str(Endpoint("db1", 6000)) == "db1:6000"
