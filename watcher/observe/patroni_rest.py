"""Patroni's REST API of one node → `NodeReport`.

`GET /patroni` and not `/primary`: the latter answers 200 by the lock alone, before a promotion ends and
while PostgreSQL is stopped; the body of the former carries what `pg_is_in_recovery()` said.
Patroni speaks HTTP/1.0, so each question is a connection of its own. urllib3's pool is left out, and with
it its retries, redirects and proxies.
"""

from __future__ import annotations

import http.client
import io
import ssl
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

from watcher.decide.errors import AccessDenied, MalformedPayload, SourceError
from watcher.decide.model import Endpoint, NodeReport
from watcher.decide.patroni import MAX_BYTES, read_cluster_endpoints, read_node_report
from watcher.observe.trust import Trust

if TYPE_CHECKING:
    from urllib3.response import HTTPResponse


@dataclass(frozen=True, slots=True)
class RestLimits:
    """Seconds. `total` bounds a whole answer, also of a node that sends a byte now and then. Only the
    resolver's time comes on top: no call of the system bounds that.
    """

    connect: float = 1.0
    read: float = 1.0
    total: float = 2.0


class PatroniRest:
    """Asks one node at a time; safe between threads, keeps no connection.

    Every method raises SourceError if the node does not answer (AccessDenied if it refuses us), and
    MalformedPayload if its answer is not Patroni's, or of another scope.
    """

    def __init__(
        self,
        scope: str,
        trust: Trust | None = None,
        limits: RestLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scope = scope
        self._trust = trust or Trust()
        self._clock = clock
        self.limits = limits or RestLimits()

    def report(self, url: str) -> NodeReport:
        """What the node says of itself. `api_url` of the report is `node_url(url)`."""
        node = node_url(url)
        return read_node_report(self._get(node, "/patroni"), node, self._scope)

    def endpoints(self, url: str) -> dict[str, Endpoint]:
        """Member names → where their PostgreSQL listens, as this node knows them."""
        node = node_url(url)
        return read_cluster_endpoints(self._get(node, "/cluster"), node)

    def _get(self, node: str, path: str) -> bytes:
        until = self._clock() + self.limits.total
        connection = self._connection(node, until)
        try:
            connection.connect()
            connection.timeout = self.limits.read
            connection.request("GET", path, preload_content=False, headers={"Accept-Encoding": "identity"})
            with closing(connection.getresponse()) as response:
                return _body(response, node + path)
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            raise _translated(error, node + path, self.limits) from error
        finally:
            connection.close()

    def _connection(self, node: str, until: float) -> HTTPConnection:
        parts = urlsplit(node)
        connect = self.limits.connect
        host = parts.hostname or ""
        connection = (
            HTTPSConnection(host, parts.port or 443, timeout=connect, ssl_context=self._trust.context())
            if parts.scheme == "https"
            else HTTPConnection(host, parts.port or 80, timeout=connect)
        )
        reading = _Reading(until, self.limits.read, self._clock)
        connection.response_class = partial(_BoundedResponse, reading=reading)  # type: ignore[assignment]
        return connection


def node_url(text: str) -> str:
    """The root of a node's REST API, whatever path was written behind it. SourceError if it is no URL.

    >>> node_url("HTTP://Db1:8008/patroni")
    'http://db1:8008'
    >>> node_url("https://[fd00::1]:8008/")
    'https://[fd00::1]:8008'
    """
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise _no_url(text) from error
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host or not host.isascii() or not host.isprintable():
        raise _no_url(text)
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + ("" if port is None else f":{port}")


def _no_url(text: str) -> SourceError:
    return SourceError(
        f"node URL {text[:80]!r}",
        "is not an http(s) URL",
        "correct `patroni.nodes`, or restapi.connect_address on the member",
    )


# --- one answer -----------------------------------------------------------------------------------


def _body(response: HTTPResponse, place: str) -> bytes:
    """The body where it can be Patroni's own: a status that says «not me» still comes with the JSON."""
    if response.status in (401, 403):
        raise AccessDenied(
            place,
            f"answered {response.status}",
            "does the node want a client certificate, or a proxy a login?",
        )
    if response.status not in (200, 503):
        raise SourceError(
            place, f"answered {response.status}", "is this Patroni's own address? redirects are not followed"
        )
    body = b""
    while len(body) <= MAX_BYTES and (part := response.read(65536, decode_content=False)):
        body += part  # to the end: only there urllib3 tells that it was cut short
    if len(body) > MAX_BYTES:
        raise MalformedPayload(place, f"more than {MAX_BYTES} bytes", "is this Patroni's REST API?")
    return body


@dataclass(frozen=True, slots=True)
class _Reading:
    """When reading must be over, and how long one wait within it may last."""

    until: float
    each: float
    clock: Callable[[], float] = field(repr=False)

    def next_wait(self) -> float:
        left = self.until - self.clock()
        if left <= 0:
            raise TimeoutError("the whole answer took too long")
        return min(left, self.each)


class _BoundedResponse(http.client.HTTPResponse):
    """A response whose status line, headers and body together come in time or not at all.

    A socket's timeout bounds each wait only: a byte a second would go on for ever.
    """

    def __init__(self, sock: Any, *args: Any, reading: _Reading, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        unbounded = self.fp
        self.fp = io.BufferedReader(_BoundedReader(sock, reading))
        unbounded.close()


class _BoundedReader(io.RawIOBase):
    def __init__(self, sock: Any, reading: _Reading) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._reading = reading

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._reading.next_wait())
        read: int | None = self._raw.readinto(buffer)
        return read

    def close(self) -> None:
        self._raw.close()
        super().close()


# --- errors, translated once ----------------------------------------------------------------------


def _translated(error: Exception, place: str, limits: RestLimits) -> SourceError:
    problem, hint = _meaning(error, limits)
    return SourceError(place, problem, hint)


def _meaning(error: Exception, limits: RestLimits) -> tuple[str, str]:
    cause = error.__cause__ or error
    if isinstance(error, NameResolutionError):
        return f"its name cannot be resolved: {cause}", "correct the name, or the resolver of this host"
    if isinstance(error, NewConnectionError | ConnectionRefusedError):
        return f"no connection: {cause}", "is Patroni running there, and is the port open to us?"
    if isinstance(error, TimeoutError | Urllib3TimeoutError):
        within = f"{limits.connect} s to connect, {limits.read} s for each part, {limits.total} s in all"
        return f"did not answer in time ({within})", "is the node up, and the port open to us?"
    if isinstance(error, ssl.SSLError) or isinstance(cause, ssl.SSLError):
        return f"no TLS: {cause}", "compare the CA and the client certificate with the node's own settings"
    return f"broke off: {cause!r}", "is this Patroni's REST API, and http or https as it expects?"
