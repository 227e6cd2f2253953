"""PgBouncer's console: its bytes relayed, or, once the watcher has logged in through us, simple queries.

Whoever logs in is the watcher, so no password comes here. After that this end can speak by itself, which
a hold needs that must end without the watcher. Columns are looked up by name (PgBouncer usage, «Admin
console»).
"""

import contextlib
import os
import re
import select
import socket
import struct
import sys
import time
from typing import Callable, Collection, Dict, Iterator, List, Optional, Tuple

from watcher.apply.agent.bounds import Gate
from watcher.apply.agent.wire import PROTOCOL, Refused, say

MOST_AT_ONCE = 100
"""Statements in one piece: of some 270 small answers that nobody has read yet PgBouncer hangs up."""

_CHUNK = 65536
_HEAD, _COUNT, _SIZE = struct.Struct("!BI"), struct.Struct("!H"), struct.Struct("!i")
_ROW, _COLUMNS, _DONE, _ERROR, _READY = b"DTCEZ"
"""First bytes of messages (PostgreSQL protocol 3, «Message Formats»)."""


def dial(address: str) -> socket.socket:
    """A connection to a Unix socket's path, or to host:port. OSError names the address."""
    try:
        pooler = _dial_socket(address) if address.startswith("/") else _dial_port(address)
    except OSError as error:
        raise OSError(error.errno or 0, "%s: %s" % (address, error.strerror or error)) from error
    pooler.settimeout(None)
    return pooler


def _dial_socket(path: str) -> socket.socket:
    pooler = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        pooler.settimeout(5)
        pooler.connect(path)
    except OSError:
        pooler.close()
        raise
    return pooler


def _dial_port(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    pooler = socket.create_connection((host.strip("[]"), int(port)), 5)
    pooler.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return pooler


def relay(address: str, gate: Optional[Gate] = None) -> None:
    """Bytes between our standard streams and PgBouncer until either side ends, or says what may not pass."""
    try:
        pooler = dial(address)
    except OSError as error:
        say({"error": "console", "problem": error.strerror or str(error)})
        return
    say({"agent": PROTOCOL})
    ends = {0: pooler.fileno(), pooler.fileno(): 1}
    while True:
        for source in select.select(list(ends), [], [])[0]:
            chunk = os.read(source, _CHUNK)
            if not chunk:
                return
            try:
                _send(ends[source], gate.admit(chunk) if gate and source == 0 else chunk)
            except Refused as error:
                sys.stderr.write("%s\n" % error.problem)
                return


def _send(fd: int, chunk: bytes) -> None:
    while chunk:
        chunk = chunk[os.write(fd, chunk) :]


class Reply:
    """The answer to one statement: its rows by column, its tag, or PgBouncer's error.

    Rows are read when they are asked for: a switch asks for SHOW CONFIG several times, and wants a few of its
    hundred rows. OSError then, where they are none.
    """

    def __init__(self) -> None:
        self.tag = ""
        self.error = ""
        self._columns: List[str] = []
        self._bodies: List[bytes] = []

    def add(self, kind: int, body: bytes) -> None:
        """One message of the server's."""
        if kind == _ROW:
            self._bodies.append(body)
        elif kind == _COLUMNS:
            self._columns = _column_names(body)
        elif kind == _DONE:
            self.tag = body.rstrip(b"\0").decode("utf-8", "replace")
        elif kind == _ERROR:
            self.error = error_fields(body).get("M", "an error without a message")

    @property
    def rows(self) -> List[Dict[str, Optional[str]]]:
        with _as_pgbouncer_speaks():
            return [dict(zip(self._columns, _values(body))) for body in self._bodies]

    def pairs(self, key: str, value: str, wanted: Collection[str]) -> Dict[str, str]:
        """Two columns, as a map from one to the other, of the rows whose key is wanted; empty where there are
        no columns of these names.
        """
        if key not in self._columns or value not in self._columns:
            return {}
        at, other = self._columns.index(key), self._columns.index(value)
        names = {name.encode("utf-8") for name in wanted}
        is_named = re.compile(b"|".join(re.escape(_SIZE.pack(len(name)) + name) for name in names)).search
        with _as_pgbouncer_speaks():
            rows = [_values(body) for body in self._bodies if is_named(body)]
            return {row[at] or "": row[other] or "" for row in rows if row[at] in wanted}


@contextlib.contextmanager
def _as_pgbouncer_speaks() -> Iterator[None]:
    try:
        yield
    except (IndexError, ValueError, struct.error) as error:
        raise OSError("what answers there does not speak as PgBouncer does") from error


class Console:
    """One connection whose login is done. Not for two threads. OSError once it is broken."""

    def __init__(self, pooler: socket.socket) -> None:
        self._pooler = pooler
        self._pending = bytearray()

    def fileno(self) -> int:
        return self._pooler.fileno()

    def close(self) -> None:
        self._pooler.close()

    def post(self, *statements: str) -> None:
        """Send them in one piece, so that PgBouncer takes them up in one turn of its loop; no wait."""
        queries = (statement.encode("utf-8") + b"\0" for statement in statements)
        self._pooler.sendall(b"".join(b"Q" + struct.pack("!I", len(query) + 4) + query for query in queries))

    def ask(self, limit: float, *statements: str) -> List[Reply]:
        """Post them and wait for every answer, at most `limit` seconds. An answer may be an error.

        Only the last may have an answer that grows with what PgBouncer has: it writes the next one into the
        middle of one that the socket does not take whole (pktbuf.c, pktbuf_send_queued).
        """
        until, replies = time.monotonic() + limit, []  # type: float, List[Reply]
        for begin in range(0, len(statements), MOST_AT_ONCE):
            piece = statements[begin : begin + MOST_AT_ONCE]
            self.post(*piece)
            replies += [self._reply(until) for _ in piece]
        return replies

    def rows(self, limit: float, statement: str) -> List[Dict[str, Optional[str]]]:
        """The rows of one statement. Refused where PgBouncer refuses it."""
        (reply,) = self.ask(limit, statement)
        if reply.error:
            raise Refused("console", "%s: %s" % (statement, reply.error))
        return reply.rows

    def arrived(self) -> List[Reply]:
        """Answers that are there already, without a wait; OSError if PgBouncer hung up."""
        found: List[Reply] = []
        while select.select([self._pooler], [], [], 0)[0]:
            self._receive()
            while self._has_reply():
                found.append(self._reply(0.0))
        return found

    def _reply(self, until: float) -> Reply:
        reply, at = Reply(), 0
        with _as_pgbouncer_speaks():
            while True:
                at, is_whole = self._take_up(reply.add, at)
                if is_whole:
                    break
                self._await(until)
        del self._pending[:at]
        return reply

    def _take_up(self, add: Callable[[int, bytes], None], begin: int) -> Tuple[int, bool]:
        """The messages from `begin` on that are whole, up to ReadyForQuery; where they end, and whether by
        that. SHOW CONFIG has a hundred of them, in every switch.
        """
        arrived, at, unpack = bytes(self._pending[begin:]), 0, _HEAD.unpack_from
        last = len(arrived) - 5
        while at <= last:
            kind, size = unpack(arrived, at)
            end = at + 1 + size
            if end > last + 5:
                break
            if kind == _READY:
                return begin + end, True
            add(kind, arrived[at + 5 : end])
            at = end
        return begin + at, False

    def _await(self, until: float) -> None:
        """More of what PgBouncer says."""
        if not select.select([self._pooler], [], [], max(0.0, until - time.monotonic()))[0]:
            self.close()  # or what it says late would be taken for the answer to something else
            raise OSError("PgBouncer's console did not answer in time")
        self._receive()

    def _receive(self) -> None:
        chunk = self._pooler.recv(_CHUNK)
        if not chunk:
            raise OSError("PgBouncer closed its console")
        self._pending += chunk

    def _has_reply(self) -> bool:
        """Whether a whole answer, up to ReadyForQuery, is there."""
        return self._take_up(lambda *_: None, 0)[1]


def _column_names(body: bytes) -> List[str]:
    names: List[str] = []
    at = 2
    for _ in range(_COUNT.unpack_from(body)[0]):
        end = body.index(b"\0", at)
        names.append(body[at:end].decode("utf-8", "replace"))
        at = end + 19
    return names


def _values(body: bytes) -> List[Optional[str]]:
    values: List[Optional[str]] = []
    at = 2
    for _ in range(_COUNT.unpack_from(body)[0]):
        size = _SIZE.unpack_from(body, at)[0]
        at += 4
        values.append(None if size < 0 else body[at : at + size].decode("utf-8", "replace"))
        at += max(size, 0)
    return values


def error_fields(body: bytes) -> Dict[str, str]:
    """The fields of an ErrorResponse: M the message, C the code."""
    parts = body.split(b"\0")
    return {
        part[:1].decode("ascii", "replace"): part[1:].decode("utf-8", "replace") for part in parts if part
    }
