"""What an installed agent refuses whoever holds its key: `--block` and `--allow` of its command line.

With a block named, a write may change nothing but the addresses and the stamp in it, and the console may be
asked for `SHOW …` and `RELOAD` alone; all else that a hold needs the agent says itself. With hosts named,
those addresses are among them, and with ports named, those ports. Without `--block` nothing is refused here.
"""

import re
import struct
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from watcher.apply.agent.wire import Refused

MAX_MESSAGE = 16384
"""Bytes of one message to the console. Names of databases do not go this way."""

# As watcher/decide/config_block.py reads them; there they are explained.
_BLOCK_EDGE = re.compile(rb"\s*;;\s*\[config cluster((?:[ \t][^:\]]*)?):[ \t]*(begin|end)\]\s*")
_STAMP_THERE = re.compile(rb"\s*;;\s*watcher:.*", re.DOTALL)
_STAMP_TO_COME = re.compile(rb"[ \t]*;;[ \t]*watcher:[ -~]{0,65536}\r?\n")
_READS_MARK = re.compile(rb"\s*;;[ \t]*role=replica\s*")
_DATABASE_LINE = re.compile(rb"(\s*(?:'[^']+'|[A-Za-z0-9_.*-]+)[ \t]*=[ \t]*)(.*)", re.DOTALL)
_PARAMETER = re.compile(
    rb" *(?P<key>[^= ]+) *= *(?:'(?P<quoted>(?:[^']|'')+)'(?= |\Z)|(?P<plain>[^' ][^ ]*))"
)
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:%-]{0,252}|::[A-Za-z0-9_.:%-]{0,251}")
_PORT = re.compile(r"[0-9]{1,5}")
_DEFAULT_PORT = "5432"  # PgBouncer's, where a line names none
_ALLOWED = re.compile(r"(?:\[(?P<v6>[^]]*)\]|(?P<host>[^:]*)):(?P<port>[0-9]+)")

_LOGIN = struct.pack("!H", 3)  # protocol 3, whatever its minor version
_TLS_ASKED = struct.pack("!I", 80877103)
_STATEMENT = re.compile(
    rb"(?:SHOW [A-Z_]+|RELOAD|RESUME pgbouncer_watcher_no_such_database)\0", re.IGNORECASE
)


class Bounds:
    """What the agent's own command line allows. Every check raises Refused, with the code `bounds`."""

    def __init__(self, block: Optional[str], hosts: Optional[Sequence[str]]) -> None:
        self._block = block
        self.is_set = block is not None
        self._allowed = frozenset(_allowed(text) for text in hosts or ())
        self._hosts = frozenset(host for host, _ in self._allowed)
        self.allows_any_address = not self._hosts

    def check_text(self, old: bytes, new: bytes) -> None:
        """Whether `new` is `old` but for addresses and the stamp in the block."""
        if self._block is None:
            return
        before, inside, after = _parts(old, self._block.encode("utf-8", "surrogateescape"))
        if not (new.startswith(before) and new.endswith(after)):
            raise Refused("bounds", "something outside the block %r would change" % self._block)
        self._check_block(inside, new[len(before) : len(new) - len(after)])

    def check_address(self, host: str, port: str) -> None:
        """Whether clients may be sent there, and the agent itself may connect there."""
        if self._block is None:
            return
        if not _HOST.fullmatch(host):
            raise Refused("bounds", "%r is no address" % host[:80])
        if not _PORT.fullmatch(port):
            raise Refused("bounds", "%r is no port" % port[:20])
        if self._hosts and host not in self._hosts:
            raise Refused("bounds", "%s is none of the hosts that --allow names" % host)
        if self._hosts and not {(host, ""), (host, port)} & self._allowed:
            raise Refused("bounds", "%s is none of the ports of %s that --allow names" % (port, host))

    def gate(self, login_only: bool = False) -> "Optional[Gate]":
        """One for each connection to the console; None where everything may pass."""
        return None if self._block is None else Gate(login_only)

    def _check_block(self, old: bytes, new: bytes) -> None:
        was, becomes = _without(_STAMP_THERE, old), _without(_STAMP_TO_COME, new)
        if len(becomes) != len(was) or len(_lines(new)) > len(was) + 1:
            raise Refused("bounds", "lines would be added to the block, or taken from it")
        for above, before, after in zip([b"", *was], was, becomes):
            if before != after:
                self._check_line(before, after, bool(_READS_MARK.fullmatch(above)))

    def _check_line(self, before: bytes, after: bytes, is_marked: bool) -> None:
        """A line that is marked for replicas may have a list of hosts."""
        was, becomes = _shape(before), _shape(after)
        if was is None or becomes is None or not _differ_in_address(was, becomes):
            raise Refused("bounds", "more than an address would change in a line of the block")
        port = _DEFAULT_PORT if becomes.port is None else _text(becomes.port)
        hosts = _text(becomes.host)
        for host in hosts.split(",") if is_marked else [hosts]:
            self.check_address(host, port)


def _allowed(text: str) -> Tuple[str, str]:
    """`HOST` is any port of it, `HOST:PORT` and `[HOST]:PORT` that one."""
    match = _ALLOWED.fullmatch(text)
    if match is None:
        return text, ""
    return (match.group("host") if match.group("v6") is None else match.group("v6")), match.group("port")


def is_allowable(text: str) -> bool:
    """Whether it is an address as `--allow` takes it, so that a slip is not an address that nobody has."""
    host, port = _allowed(text)
    is_port = not port or 0 < int(port) <= 65535
    return bool(_HOST.fullmatch(host)) and is_port and (bool(port) or host.count(":") != 1)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _lines(text: bytes) -> List[bytes]:
    """With their ends; only a line feed ends one, as in PgBouncer."""
    return re.findall(rb"[^\n]*\n|[^\n]+", text)


def _without(stamp: "re.Pattern[bytes]", text: bytes) -> List[bytes]:
    return [line for line in _lines(text) if not stamp.fullmatch(line)]


def _parts(text: bytes, block: bytes) -> Tuple[bytes, bytes, bytes]:
    """Up to the end of the block's begin marker, what is in the block, and the rest."""
    lines = _lines(text)
    edges = [(i, match) for i, match in enumerate(map(_BLOCK_EDGE.fullmatch, lines)) if match]
    named = [(i, match) for i, match in edges if match.group(1).strip() == block]
    plain = [(i, match) for i, match in edges if not match.group(1).strip()]
    chosen = named or (plain if len(edges) == 2 else [])
    if [match.group(2) for _, match in chosen] != [b"begin", b"end"]:
        raise Refused("bounds", "there is no one block %r in the file" % block.decode("utf-8", "replace"))
    first, last = chosen[0][0] + 1, chosen[1][0]
    return b"".join(lines[:first]), b"".join(lines[first:last]), b"".join(lines[last:])


_Shape = NamedTuple("_Shape", [("pieces", List[bytes]), ("host", bytes), ("port", Optional[bytes])])
"""A database's line in pieces, a NUL for each value of host and port; and these values."""

_PORT_ADDED = b" port=\0"


def _shape(line: bytes) -> Optional[_Shape]:
    match = _DATABASE_LINE.fullmatch(line)
    if match is None:
        return None
    value = match.group(2).rstrip()
    pieces, found, at = [match.group(1)], {}, 0  # type: List[bytes], Dict[bytes, bytes], int
    while at < len(value):
        pair = _PARAMETER.match(value, at)
        if pair is None or pair.group("key") in found:
            return None
        pieces.append(_piece(pair, found))
        at = pair.end()
    if b"host" not in found:
        return None
    return _Shape([*pieces, match.group(2)[len(value) :]], found[b"host"], found.get(b"port"))


def _piece(pair: "re.Match[bytes]", found: Dict[bytes, bytes]) -> bytes:
    key, group = pair.group("key"), "plain" if pair.group("quoted") is None else "quoted"
    if key not in (b"host", b"port"):
        return pair.group()
    found[key] = pair.group(group)
    whole, start = pair.group(), pair.start()
    return whole[: pair.start(group) - start] + b"\0" + whole[pair.end(group) - start :]


def _differ_in_address(was: _Shape, becomes: _Shape) -> bool:
    """A port may be added where there was none."""
    pieces = list(becomes.pieces)
    if was.port is None and _PORT_ADDED in pieces:
        pieces.remove(_PORT_ADDED)
    return pieces == was.pieces


class Gate:
    """Lets through what a client may say to the console: its login, and the watcher's statements."""

    def __init__(self, login_only: bool) -> None:
        self._login_only = login_only
        self._is_started = False
        self._pending = b""

    def admit(self, chunk: bytes) -> bytes:
        """The messages that are whole by now. Refused at the first that may not pass."""
        self._pending += chunk
        admitted = b""
        while True:
            message = self._next()
            if not message:
                return admitted
            self._check(message)
            admitted += message

    def _next(self) -> bytes:
        """The next whole message, empty where it is not whole yet."""
        at = 1 if self._is_started else 0
        if len(self._pending) < at + 4:
            return b""
        size = at + int(struct.unpack("!I", self._pending[at : at + 4])[0])
        if not at + 4 <= size <= MAX_MESSAGE:
            raise Refused("bounds", "a message to the console of %d bytes" % size)
        if len(self._pending) < size:
            return b""
        message, self._pending = self._pending[:size], self._pending[size:]
        return message

    def _check(self, message: bytes) -> None:
        if not self._is_started:
            if message[4:8] != _TLS_ASKED:
                self._check_start(message)
                self._is_started = True
        elif message[:1] == b"Q":
            if self._login_only or not _STATEMENT.fullmatch(message[5:]):
                raise Refused("bounds", "this key may say SHOW and RELOAD to the console, and no more")
        elif message[:1] not in (b"p", b"X"):  # a password, and good-bye
            raise Refused("bounds", "this key may send no message %r to the console" % message[:1])

    def _check_start(self, message: bytes) -> None:
        words = message[8:].split(b"\0")
        if message[4:6] != _LOGIN or dict(zip(words[::2], words[1::2])).get(b"database") != b"pgbouncer":
            raise Refused("bounds", "this key logs in to the console, and to no other database")
