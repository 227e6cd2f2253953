"""Text ⇄ marked block of a PgBouncer configuration.

    [databases]
    ;; [config cluster: begin]
    ;; watcher: cluster=cdf8 system=730 revision=1042 timeline=3 leader=node2
    app = host=10.0.0.1 port=5432 dbname=app
    ;; [config cluster: end]

Only the lines between the markers are touched, and in them only the values of `host` and `port` and
the comment line that carries the stamp; every other byte stays. Lines are read as PgBouncer reads them
(PgBouncer src/loader.c, libusual cfparser.c): a value ends at a blank, quotes are doubled to escape
them. What PgBouncer could read in two ways is refused, never guessed.

Text is bytes decoded as UTF-8 with `surrogateescape`, so that every byte survives the way back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, unquote

from watcher.decide.endpoint import DEFAULT_PORT
from watcher.decide.errors import BlockError
from watcher.decide.model import Database, Endpoint, Route, Stamp

_MARKER = re.compile(
    r"\s*;;\s*\[config cluster(?:[ \t]+(?P<name>[^:\]]+?))?[ \t]*:[ \t]*(?P<edge>begin|end)\]\s*"
)
_NEARLY = re.compile(r"\s*[;#]+.*config\s+cluster.*(begin|end)", re.IGNORECASE)
_STAMP = re.compile(r"\s*;;\s*watcher:(?P<fields>.*)", re.DOTALL)
_SECTION = re.compile(r"\s*\[(?P<name>[^\]\n]*)\]")
_NAME = r"""(?:"(?:[^"]|"")*"|'[^']*'|[A-Za-z0-9_.*-]+)"""
_SETTING = re.compile(
    rf"(?P<before>\s*)(?P<name>{_NAME})(?P<equals>[ \t]*=[ \t]*)(?P<value>.*?)(?P<after>\s*)", re.DOTALL
)
_PAIR = re.compile(r" *(?P<key>[^= ]+) *= *(?:'(?P<quoted>(?:[^']|'')+)'(?= |$)|(?P<plain>[^' ][^ ]*))")


@dataclass(frozen=True, slots=True)
class Block:
    """One block as read. `defined` names every database of the file, in the block or not."""

    databases: tuple[Database, ...]
    stamp: Stamp | None
    defined: frozenset[str]


def parse(text: str, cluster: str, file: str) -> Block:
    """The block of `cluster`, or BlockError with the line and the remedy."""
    lines = _split(text)
    first, last = _find(lines, cluster, file)
    inside = list(_databases(lines, first, last, file))
    stamps = [_read_stamp(line) for line in lines[first + 1 : last] if _STAMP.fullmatch(line)]
    return Block(
        databases=tuple(line.database for line in inside),
        stamp=stamps[0] if len(stamps) == 1 else _UNREADABLE if stamps else None,
        defined=frozenset(_defined(lines)),
    )


def rewrite(text: str, cluster: str, route: Route, file: str) -> str:
    """The text with the block led to `route` and stamped. Idempotent; same errors as `parse`."""
    lines = _split(text)
    first, last = _find(lines, cluster, file)
    for found in list(_databases(lines, first, last, file)):
        lines[found.index] = found.led_to(route.endpoint)
    stamp_line = f";; watcher: {write_stamp(route.stamp)}{_line_end(lines[first])}"
    rest = [line for line in lines[first + 1 : last] if not _STAMP.fullmatch(line)]
    at = next((i for i in range(first + 1, last) if _STAMP.fullmatch(lines[i])), first + 1) - first - 1
    return "".join([*lines[: first + 1], *rest[:at], stamp_line, *rest[at:], *lines[last:]])


# --- the stamp ------------------------------------------------------------------------------------

_UNREADABLE = Stamp(0, "", 2**63, None, "unreadable stamp")
"""Stands for a stamp that somebody edited: only a fresh read of etcd may replace it."""


def write_stamp(stamp: Stamp) -> str:
    """
    >>> write_stamp(Stamp(0xCDF8, "730", 1042, 3, "node 2"))
    'cluster=cdf8 system=730 revision=1042 timeline=3 leader=node%202'
    """
    timeline = "" if stamp.timeline is None else str(stamp.timeline)
    return (
        f"cluster={stamp.cluster_id:x} system={quote(stamp.system_id, safe='')} revision={stamp.revision} "
        f"timeline={timeline} leader={quote(stamp.leader, safe='')}"
    )


def _read_stamp(line: str) -> Stamp:
    match = _STAMP.fullmatch(line)
    fields = dict(part.partition("=")[::2] for part in match["fields"].split()) if match else {}
    try:
        return Stamp(
            cluster_id=int(fields["cluster"], 16),
            system_id=unquote(fields["system"]),
            revision=int(fields["revision"]),
            timeline=int(fields["timeline"]) if fields["timeline"] else None,
            leader=unquote(fields["leader"]),
        )
    except (KeyError, ValueError):
        return _UNREADABLE


# --- finding the block ----------------------------------------------------------------------------


def _split(text: str) -> list[str]:
    """Lines with their ends; only a line feed ends one, as in PgBouncer."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _line_end(line: str) -> str:
    return "\r\n" if line.endswith("\r\n") else "\n"


def _find(lines: list[str], cluster: str, file: str) -> tuple[int, int]:
    """The indices of the begin and end markers of the cluster's block."""
    if any("\0" in line for line in lines):
        raise BlockError(file, "holds a NUL byte, behind which PgBouncer reads nothing", "restore the file")
    blocks = list(_blocks(lines, file))
    named = [b for b in blocks if b[0] == cluster]
    plain = [b for b in blocks if b[0] is None]
    if len(named) > 1 or len(plain) > 1:
        twice = (named if len(named) > 1 else plain)[1]
        raise BlockError(
            f"{file}:{twice[1] + 1}", "a second block of the same cluster", "leave one block a cluster"
        )
    if named:
        chosen = named[0]
    elif plain and len(blocks) > 1:
        hint = f"name it: ;; [config cluster {cluster}: begin]"
        raise BlockError(f"{file}:{plain[0][1] + 1}", "a block without a name beside named ones", hint)
    elif plain:
        chosen = plain[0]
    else:
        raise BlockError(file, _no_marker(blocks, cluster), _no_marker_hint(lines, cluster))
    _check_section(lines, chosen[1], file)
    return chosen[1], chosen[2]


def _no_marker(blocks: list[tuple[str | None, int, int]], cluster: str) -> str:
    others = ", ".join(repr(name) for name, _, _ in blocks)
    return f"has no block for cluster {cluster!r}" + (f", only for {others}" if others else "")


def _no_marker_hint(lines: list[str], cluster: str) -> str:
    near = next(
        (i for i, line in enumerate(lines) if _NEARLY.match(line) and not _MARKER.fullmatch(line)), None
    )
    if near is not None:
        return f"line {near + 1} is nearly a marker; it must be ;; [config cluster: begin] or … end]"
    return f"put ;; [config cluster: begin] and ;; [config cluster: end] around the databases of {cluster!r}"


def _blocks(lines: list[str], file: str) -> Iterator[tuple[str | None, int, int]]:
    """Every block as (name, begin, end), or BlockError where the markers do not pair up."""
    opened: tuple[str | None, int] | None = None
    for index, line in enumerate(lines):
        match = _MARKER.fullmatch(line)
        if match is None:
            continue
        name, place = match["name"], f"{file}:{index + 1}"
        if match["edge"] == "begin":
            if opened is not None:
                raise BlockError(
                    place, f"a block begins inside the one of line {opened[1] + 1}", "end that one first"
                )
            opened = (name, index)
        elif opened is None:
            raise BlockError(place, "an end marker without its begin", "put the begin marker above it")
        elif opened[0] != name:
            raise BlockError(
                place, f"ends {name!r}, but line {opened[1] + 1} begins {opened[0]!r}", "use one name"
            )
        else:
            yield name, opened[1], index
            opened = None
    if opened is not None:
        raise BlockError(
            f"{file}:{opened[1] + 1}", "this block is never ended", "put the end marker below it"
        )


def _check_section(lines: list[str], begin: int, file: str) -> None:
    """An included file may have no section header; a file that has one must open the block in [databases]."""
    sections = [m["name"] for m in map(_SECTION.match, lines[:begin]) if m]
    if sections and sections[-1] != "databases":
        hint = "move the block into [databases]"
        raise BlockError(f"{file}:{begin + 1}", f"the block stands in section [{sections[-1]}]", hint)


# --- the lines of a block -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    """One database line: its text before the value, the value, and after it; where host and port stand."""

    index: int
    before: str
    value: str
    after: str
    host: re.Match[str]
    port: re.Match[str] | None
    database: Database

    def led_to(self, endpoint: Endpoint) -> str:
        edits = [(self.host, endpoint.host)]
        if self.port is not None:
            edits.append((self.port, str(endpoint.port)))
        value = self.value
        for pair, new in sorted(edits, key=lambda edit: -edit[0].start()):
            group = "plain" if pair["quoted"] is None else "quoted"
            value = value[: pair.start(group)] + new + value[pair.end(group) :]
        if self.port is None and endpoint.port != DEFAULT_PORT:
            at = self.host.end() + len(value) - len(self.value)
            value = f"{value[:at]} port={endpoint.port}{value[at:]}"
        return self.before + value + self.after


def _databases(lines: list[str], first: int, last: int, file: str) -> Iterator[_Line]:
    found = [_read_line(i, lines[i], f"{file}:{i + 1}") for i in range(first + 1, last) if _matters(lines[i])]
    if not found:
        raise BlockError(
            f"{file}:{first + 1}", "the block has no database", "put at least one line name = host=… in it"
        )
    names = [line.database.name for line in found]
    for line in found:
        if names.count(line.database.name) > 1:
            problem = f"database {line.database.name!r} stands twice in the block"
            raise BlockError(f"{file}:{line.index + 1}", problem, "leave one line a database")
    return iter(found)


def _matters(line: str) -> bool:
    return bool(line.strip()) and line.lstrip()[0] not in "#;"


def _read_line(index: int, line: str, place: str) -> _Line:
    match = _SETTING.fullmatch(line)
    if match is None:
        raise BlockError(
            place, "is not a line name = key=value …", "only databases and comments belong in a block"
        )
    pairs = _pairs(match["value"], place)
    host, port = _only(pairs, "host", place), _only(pairs, "port", place)
    if host is None:
        raise BlockError(
            place, "has no host, so it is a local socket", "give it a host, or move it out of the block"
        )
    return _Line(
        index=index,
        before=match["before"] + match["name"] + match["equals"],
        value=match["value"],
        after=match["after"],
        host=host,
        port=port,
        database=Database(_name(match["name"]), Endpoint(_host(host, place), _port(port, place))),
    )


def _pairs(value: str, place: str) -> list[re.Match[str]]:
    found: list[re.Match[str]] = []
    at = 0
    while value[at:].strip(" "):
        pair = _PAIR.match(value, at)
        if pair is None:
            rest = value[at:].split("password", 1)[0].strip()[:40]
            raise BlockError(
                place, f"cannot be read from {rest!r} on: a broken quote, or no key=value", "correct it"
            )
        found.append(pair)
        at = pair.end()
    return found


def _only(pairs: list[re.Match[str]], key: str, place: str) -> re.Match[str] | None:
    found = [pair for pair in pairs if pair["key"] == key]
    if len(found) > 1:
        raise BlockError(place, f"has {key} twice", f"leave one {key}")
    return found[0] if found else None


def _value(pair: re.Match[str]) -> str:
    return pair["plain"] if pair["quoted"] is None else pair["quoted"].replace("''", "'")


def _host(pair: re.Match[str], place: str) -> str:
    host = _value(pair)
    if "," in host:
        raise BlockError(place, "has a list of hosts", "give one host, or move the line out of the block")
    if host.startswith(("/", "@")):
        raise BlockError(place, "leads to a local socket", "give it a host, or move it out of the block")
    if any(ord(c) < 33 or c == "\x7f" for c in host):
        raise BlockError(place, "has a control character in its host", "use blanks between the parameters")
    return host


def _port(pair: re.Match[str] | None, place: str) -> int:
    if pair is None:
        return DEFAULT_PORT
    text = _value(pair)
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII):
        raise BlockError(place, f"has port {text[:20]!r}", "give a number")
    return int(text)


def _name(text: str) -> str:
    if text[0] == '"':
        return text[1:-1].replace('""', '"')
    return text.strip("'")


def _defined(lines: list[str]) -> Iterator[str]:
    """Names of all databases; what stands before any section counts, for an included file has none."""
    section = "databases"
    for line in lines:
        header, match = _SECTION.match(line), _SETTING.fullmatch(line) if _matters(line) else None
        if header is not None:
            section = header["name"]
        elif match is not None and section == "databases":
            yield _name(match["name"])
