"""Addresses from the outside → `Endpoint`, or `MalformedPayload`.

Whatever comes through here ends in PgBouncer's configuration, so only what cannot break out of its
place there is let in: a host name, an IPv4 or an IPv6 address, and a port.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from urllib.parse import urlsplit

from watcher.decide.errors import MalformedPayload
from watcher.decide.model import Endpoint

DEFAULT_PORT = 5432
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)


def check_host(host: str, place: str) -> str:
    """The host as PgBouncer takes it, or MalformedPayload.

    >>> check_host("db-1.example.org", "here")
    'db-1.example.org'
    >>> check_host("::1", "here")
    '::1'
    """
    if len(host) <= 253 and (_HOST_NAME.fullmatch(host) or _is_ipv6(host)):
        return host
    raise MalformedPayload(
        place,
        f"{host[:80]!r} is neither a host name nor an address",
        "PgBouncer gets one host; correct Patroni's connect_address, or map the member in `addresses`",
    )


def each_of(endpoint: Endpoint) -> tuple[Endpoint, ...]:
    """Those of a list of hosts, as PgBouncer takes it from 1.17 on.

    >>> each_of(Endpoint("a,b", 5432))
    (Endpoint(host='a', port=5432), Endpoint(host='b', port=5432))
    """
    return tuple(Endpoint(host, endpoint.port) for host in endpoint.host.split(","))


def _is_ipv6(host: str) -> bool:
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return "%" not in host or re.fullmatch(r"[^%]+%[A-Za-z0-9_.-]{1,15}", host) is not None


def parse_address(text: str, place: str) -> Endpoint:
    """`host`, `host:port`, `[ipv6]:port` → Endpoint; the port is 5432 where none is given.

    >>> parse_address("[fd00::1]:6000", "here")
    Endpoint(host='fd00::1', port=6000)
    >>> parse_address("db1", "here")
    Endpoint(host='db1', port=5432)
    """
    if text.count(":") > 1 and not text.startswith("["):
        return Endpoint(check_host(text, place), DEFAULT_PORT)
    return _from_netloc(text, text, place)


def parse_conn_url(url: str, place: str) -> Endpoint:
    """The host and port of Patroni's `conn_url` (`postgres://host:port/db`).

    >>> parse_conn_url("postgres://10.0.0.1:5433/postgres", "here")
    Endpoint(host='10.0.0.1', port=5433)
    >>> parse_conn_url("postgresql://[::1]/postgres?sslmode=disable", "here")
    Endpoint(host='::1', port=5432)
    """
    if not url.isprintable():  # urlsplit drops line feeds and tabs, which would make another host of it
        raise MalformedPayload(place, f"{_told(url)} holds a control character", _URL_HINT)
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise MalformedPayload(place, f"{_told(url)} is not a URL: {error}", _URL_HINT) from error
    if parts.scheme not in ("postgres", "postgresql"):
        raise MalformedPayload(place, f"{_told(url)} is not a postgres:// URL", _URL_HINT)
    return _from_netloc(parts.netloc.rpartition("@")[2], url, place)


def _told(url: str) -> str:
    """As a message may hold it: what stands before an `@` may be a password.

    >>> _told("postgres://app:s3cret@10.0.0.1:x/db")
    "'postgres://…@10.0.0.1:x/db'"
    """
    return repr(re.sub(r"(?s)^(\w+://)?.*@", r"\1…@", url)[:80])


_URL_HINT = "Patroni writes it from postgresql.connect_address; correct that on the member"


def _from_netloc(netloc: str, whole: str, place: str) -> Endpoint:
    if "," in netloc:
        raise MalformedPayload(
            place, f"{_told(whole)} names several hosts; exactly one can be the leader", _URL_HINT
        )
    match = re.fullmatch(
        r"(?:\[(?P<v6>[^\]]*)\]|(?P<name>[^:\[\]]*))(?::(?P<port>\d{1,5})?)?", netloc, re.ASCII
    )
    if match is None:
        raise MalformedPayload(place, f"{_told(whole)} has no readable host and port", _URL_HINT)
    port = int(match["port"] or DEFAULT_PORT)
    if not 1 <= port <= 65535:
        raise MalformedPayload(place, f"{_told(whole)}: port {port} is not between 1 and 65535", _URL_HINT)
    return Endpoint(check_host(match["v6"] if match["v6"] is not None else match["name"], place), port)
