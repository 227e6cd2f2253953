"""PostgreSQL's protocol from a client's side, as little of it as a load of many clients needs.

A driver would cost so much of the interpreter that twenty clients of one process would stall each other,
and the stalls that are to be measured would be its own. Here a query costs some tens of microseconds, and
which protocol it speaks, simple or extended, is in plain sight. Logins are by trust.
"""

import asyncio
import struct
from collections.abc import Iterable
from typing import Self

PROTOCOL = 196608
TERMINATE = b"X\x00\x00\x00\x04"
HEADER = struct.Struct("!ci")
ERROR_TEXT_LIMIT = 200


class WireError(Exception):
    """The server said no, or hung up; the text is the server's, with its SQLSTATE."""


class Wire(asyncio.Protocol):
    """One connection, one query at a time. Not bounded in time: that is the caller's affair."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._error = ""
        self._value = ""
        self._answer: asyncio.Future[str] | None = None

    @classmethod
    async def connect(cls, host: str, port: int, user: str, database: str, name: str = "wire") -> Self:
        """Log in. OSError if nobody listens, WireError if the server refuses."""
        _, wire = await asyncio.get_running_loop().create_connection(cls, host, port)
        words = ["user", user, "database", database, "application_name", name, ""]
        body = struct.pack("!i", PROTOCOL) + b"\x00".join(word.encode() for word in words) + b"\x00"
        try:
            await wire._ask(struct.pack("!i", len(body) + 4) + body)
        except BaseException:
            wire.close()
            raise
        return wire

    async def simple(self, sql: str) -> str:
        """Run a query by the simple protocol; the first column of its last row, or ''."""
        return await self._ask(_message(b"Q", _text(sql)))

    async def extended(self, sql: str, *parameters: str) -> str:
        """Run a statement by the extended protocol (Parse, Bind, Execute, Sync in one go), unnamed."""
        parse = _message(b"P", b"\x00" + _text(sql) + b"\x00\x00")
        bind = _message(b"B", b"\x00\x00\x00\x00" + _bound(parameters) + b"\x00\x00")
        return await self._ask(parse + bind + _message(b"E", b"\x00" * 5) + _message(b"S", b""))

    def close(self) -> None:
        """Take leave, and do not wait for it. Idempotent."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(TERMINATE)
            self._transport.close()

    # --- inside -------------------------------------------------------------------------------------

    async def _ask(self, request: bytes) -> str:
        if self._transport is None or self._transport.is_closing():
            raise WireError(self._error or "the connection was closed meanwhile")
        self._error, self._value = "", ""
        self._answer = self._loop.create_future()
        self._transport.write(request)
        return await self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio.Protocol has it."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """As asyncio.Protocol has it: take every whole message."""
        buffer, at = self._buffer + data, 0
        while len(buffer) - at >= HEADER.size:
            kind, length = HEADER.unpack_from(buffer, at)
            if len(buffer) - at <= length:
                break
            self._take(kind, buffer[at + HEADER.size : at + 1 + length])
            at += 1 + length
        self._buffer = buffer[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio.Protocol has it: who waits for an answer gets none."""
        self._error = self._error or f"the connection was lost: {exc or 'end of file'}"
        self._settle()

    def _take(self, kind: bytes, body: bytes) -> None:
        if kind == b"D":
            self._value = _first_column(body)
        elif kind == b"E":
            self._error = _said(body)
        elif kind == b"R" and body[:4] != b"\x00\x00\x00\x00":
            self._error = "the server wants a password, which this client has not"
        elif kind == b"Z":
            self._settle()

    def _settle(self) -> None:
        answer, self._answer = self._answer, None
        if answer is None or answer.done():
            return
        if self._error:
            answer.set_exception(WireError(self._error))
        else:
            answer.set_result(self._value)


def _message(kind: bytes, body: bytes) -> bytes:
    return HEADER.pack(kind, len(body) + 4) + body


def _text(text: str) -> bytes:
    return text.encode() + b"\x00"


def _bound(parameters: Iterable[str]) -> bytes:
    values = [value.encode() for value in parameters]
    return struct.pack("!h", len(values)) + b"".join(struct.pack("!i", len(one)) + one for one in values)


def _first_column(body: bytes) -> str:
    columns, length = struct.unpack_from("!hi", body)
    return body[6 : 6 + length].decode() if columns and length >= 0 else ""


def _said(body: bytes) -> str:
    """SQLSTATE and text of an ErrorResponse.

    >>> _said(b"SFATAL\\x00C57P01\\x00Mterminating connection\\x00\\x00")
    '57P01 terminating connection'
    """
    fields = {field[:1]: field[1:].decode(errors="replace") for field in body.split(b"\x00") if field}
    return f"{fields.get(b'C', '')} {fields.get(b'M', '')}".strip()[:ERROR_TEXT_LIMIT]
