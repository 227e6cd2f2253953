"""Text ⇄ marked block of a PgBouncer configuration.

    [databases]
    ;; [config cluster: begin]
    ;; watcher: cluster=cdf8 system=730 revision=1042 timeline=3 leader=node2
    app = host=10.0.0.1 port=5432 dbname=app
    ;; [config cluster: end]

A database whose line has `;; role=replica` directly above it, or that the settings name, is for reads: its
host may be a list.

Only the lines between the markers are touched, and in them only the values of `host` and `port` and
the comment line that carries the stamp; every other byte stays. Lines are read as PgBouncer reads them
(PgBouncer src/loader.c, libusual cfparser.c): a value ends at a blank, quotes are doubled to escape
them. What PgBouncer could read in two ways is refused, never guessed. Names in quotes ('my db') are read
by newer versions of PgBouncer alone.

Text is bytes decoded as UTF-8 with `surrogateescape`, so that every byte survives the way back.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import quote, unquote

from watcher.decide.endpoint import DEFAULT_PORT, check_host, each_of
from watcher.decide.errors import BlockError, MalformedPayload
from watcher.decide.fence import UNREADABLE
from watcher.decide.model import Database, Endpoint, Role, Route, Stamp

# Every pattern takes time in proportion to its line: no two neighbours can match the same characters.
# re.ASCII, for PgBouncer's blanks are those of C: a no-break space is none, and begins no comment.
_BLANKS = " \t\n\r\f\v"
_MARKER = re.compile(
    r"\s*;;\s*\[config cluster(?P<name>(?:[ \t][^:\]]*)?):[ \t]*(?P<edge>begin|end)\]\s*", re.ASCII
)
_MARK = re.compile(r"\s*;;[ \t]*role=replica\s*", re.ASCII)
_NEARLY_MARK = re.compile(
    r"\s*(?:;;[ \t]*role[ \t]*=.*|[;#]+[ \t]*role[ \t]*[=:][ \t]*replica\s*)", re.DOTALL | re.ASCII | re.I
)
_STAMP = re.compile(r"\s*;;\s*watcher:(?P<fields>.*)", re.DOTALL | re.ASCII)
_SECTION = re.compile(r"\s*\[(?P<name>[^\]\n]*)\]", re.ASCII)
_SETTING = re.compile(
    r"(?P<before>\s*)(?P<name>'[^']+'|[A-Za-z0-9_.*-]+)(?P<equals>[ \t]*=[ \t]*)(?P<rest>.*)",
    re.DOTALL | re.ASCII,
)
_PAIR = re.compile(r" *(?P<key>[^= ]+) *= *(?:'(?P<quoted>(?:[^']|'')+)'(?= |\Z)|(?P<plain>[^' ][^ ]*))")
_RESERVED = "pgbouncer"  # the console's own database


@dataclass(frozen=True, slots=True)
class Block:
    """One block as read. `defined` names every database of the file, in the block or not."""

    databases: tuple[Database, ...]
    stamp: Stamp | None
    defined: frozenset[str]


class MarkedFile:
    """The text of a file with the block of one cluster. BlockError with the line and the remedy, where the
    block cannot be read. `replicas` names databases that are for reads, marked or not. `named`: a block whose
    markers have no name is none of ours.
    """

    def __init__(
        self, text: str, cluster: str, file: str, replicas: Collection[str] = (), named: bool = False
    ) -> None:
        self.text = text
        self._cluster, self._file, self._replicas, self._named = cluster, file, replicas, named
        self._lines = _split(text)
        self._first, self._last = _find(self._lines, cluster, file, named)
        self._databases = _databases(self._lines, self._first, self._last, file, replicas)
        defined = tuple(_defined(self._lines))
        _check_once(self._databases, defined, file)
        inside = range(self._first + 1, self._last)
        self._stamps = [index for index in inside if _STAMP.fullmatch(self._lines[index])]
        self.block = Block(
            databases=tuple(line.database for line in self._databases),
            stamp=self._stamp(),
            defined=frozenset(name for _, name in defined),
        )

    def _stamp(self) -> Stamp | None:
        if len(self._stamps) == 1:
            return _read_stamp(self._lines[self._stamps[0]])
        return UNREADABLE if self._stamps else None

    def led_to(self, route: Route) -> MarkedFile:
        """With the block led to `route` and stamped. Idempotent.

        Refuses an endpoint that could break out of its place, whoever let it in.
        """
        _check_endpoint(route.endpoint, self._file)
        for endpoint in () if route.readers is None else each_of(route.readers):
            _check_endpoint(endpoint, self._file)
        lines = list(self._lines)
        for found in self._databases:
            leads_to = goal(found.database, route)
            if leads_to is not None:
                lines[found.index] = found.led_to(leads_to)
        stamp_line = f";; watcher: {write_stamp(route.stamp)}{_line_end(lines[self._first])}"
        if len(self._stamps) == 1:
            lines[self._stamps[0]] = stamp_line
            return self._with_lines(lines)
        for index in self._stamps:
            lines[index] = ""
        lines[self._stamps[0] if self._stamps else self._first] += stamp_line
        return MarkedFile("".join(lines), self._cluster, self._file, self._replicas, self._named)

    def _with_lines(self, lines: list[str]) -> MarkedFile:
        """The same with these lines, of which only addresses and the stamp are others: the rest of a long
        file is not read again.
        """
        after = copy.copy(self)
        after.text, after._lines = "".join(lines), lines
        after._databases = _databases(lines, self._first, self._last, self._file, self._replicas)
        after.block = Block(
            databases=tuple(line.database for line in after._databases),
            stamp=after._stamp(),
            defined=self.block.defined,
        )
        return after


def goal(database: Database, route: Route) -> Endpoint | None:
    """Where this line should lead; None: where it does."""
    return route.readers if database.role is Role.REPLICA else route.endpoint


def _check_endpoint(endpoint: Endpoint, file: str) -> None:
    try:
        check_host(endpoint.host, file)
    except MalformedPayload as error:
        raise BlockError(file, f"is not led there: {error.problem}", error.hint) from error
    if not 1 <= endpoint.port <= 65535:
        raise BlockError(file, f"is not led there: there is no port {endpoint.port}", "correct the address")


# --- the stamp ------------------------------------------------------------------------------------


def write_stamp(stamp: Stamp) -> str:
    """
    >>> write_stamp(Stamp(0xCDF8, "730", 1042, 3, "node 2"))
    'cluster=cdf8 system=730 revision=1042 timeline=3 leader=node%202'

    Of two sites, also when it was said from which of them to take the leader:

    >>> write_stamp(Stamp(0xCDF8, "730", 1042, 3, "node2", site=99))
    'cluster=cdf8 system=730 revision=1042 timeline=3 leader=node2 site=99'
    """
    timeline = "" if stamp.timeline is None else str(stamp.timeline)
    site = f" site={stamp.site}" if stamp.site else ""
    return (
        f"cluster={stamp.cluster_id:x} system={_quote(stamp.system_id)} revision={stamp.revision} "
        f"timeline={timeline} leader={_quote(stamp.leader)}{site}"
    )


def _quote(text: str) -> str:
    return quote(text, safe="", errors="replace")  # JSON may hold half a surrogate pair, which no UTF-8 has


def _read_stamp(line: str) -> Stamp:
    match = _STAMP.fullmatch(line)
    fields = dict(part.partition("=")[::2] for part in match["fields"].split()) if match else {}
    if not line.isascii():  # which ours always are: it would be written otherwise than it was read
        return UNREADABLE
    try:
        return Stamp(
            cluster_id=int(fields["cluster"], 16),
            system_id=unquote(fields["system"]),
            revision=int(fields["revision"]),
            timeline=int(fields["timeline"]) if fields["timeline"] else None,
            leader=unquote(fields["leader"]),
            site=int(fields.get("site", "0")),
        )
    except (KeyError, ValueError):
        return UNREADABLE


# --- finding the block ----------------------------------------------------------------------------


def _split(text: str) -> list[str]:
    """Lines with their ends; only a line feed ends one, as in PgBouncer."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _line_end(line: str) -> str:
    return "\r\n" if line.endswith("\r\n") else "\n"


def _find(lines: list[str], cluster: str, file: str, must_be_named: bool) -> tuple[int, int]:
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
    elif plain and (must_be_named or len(blocks) > 1):
        hint = f"name it: ;; [config cluster {cluster}: begin]"
        beside = "where `block` names one" if must_be_named else "beside named ones"
        raise BlockError(f"{file}:{plain[0][1] + 1}", f"a block without a name {beside}", hint)
    elif plain:
        chosen = plain[0]
    else:
        raise BlockError(file, _no_marker(blocks, cluster), _no_marker_hint(lines, cluster, bool(blocks)))
    _check_section(lines, chosen[1], file)
    return chosen[1], chosen[2]


def _no_marker(blocks: list[tuple[str | None, int, int]], cluster: str) -> str:
    others = ", ".join(repr(name) for name, _, _ in blocks)
    return f"has no block for cluster {cluster!r}" + (f", only for {others}" if others else "")


def _no_marker_hint(lines: list[str], cluster: str, beside_others: bool) -> str:
    name = f" {cluster}" if beside_others else ""
    near = next((i for i, line in enumerate(lines) if _nearly_marker(line)), None)
    if near is not None:
        return f"line {near + 1} is nearly a marker; it must be ;; [config cluster{name}: begin] or … end]"
    marks = f";; [config cluster{name}: begin] and ;; [config cluster{name}: end]"
    return f"put {marks} around the databases of {cluster!r}"


def _nearly_marker(line: str) -> bool:
    words = line.lower()
    return (
        not _matters(line)
        and "config" in words
        and "cluster" in words
        and ("begin" in words or "end" in words)
        and not _MARKER.fullmatch(line)
    )


def _blocks(lines: list[str], file: str) -> Iterator[tuple[str | None, int, int]]:
    """Every block as (name, begin, end), or BlockError where the markers do not pair up."""
    opened: tuple[str | None, int] | None = None
    for index, line in enumerate(lines):
        match = _MARKER.fullmatch(line)
        if match is None:
            continue
        name, place = match["name"].strip(_BLANKS) or None, f"{file}:{index + 1}"
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


def _databases(lines: list[str], first: int, last: int, file: str, replicas: Collection[str]) -> list[_Line]:
    marked = frozenset(_marked(lines, first, last, file))
    found = [
        _read_line(i, lines[i], f"{file}:{i + 1}", i in marked, replicas)
        for i in range(first + 1, last)
        if _matters(lines[i])
    ]
    if not found:
        raise BlockError(
            f"{file}:{first + 1}", "the block has no database", "put at least one line name = host=… in it"
        )
    return found


def _marked(lines: list[str], first: int, last: int, file: str) -> Iterator[int]:
    """The indices of the lines that are marked for replicas. A mark that is none, or marks nothing, would
    send reads to the primary, so it is refused.
    """
    for index in range(first + 1, last):
        if _NEARLY_MARK.fullmatch(lines[index]):
            place = f"{file}:{index + 1}"
            if not _MARK.fullmatch(lines[index]):
                raise BlockError(place, "is nearly a mark for replicas", "write it as ;; role=replica")
            if index + 1 == last or not _matters(lines[index + 1]):
                problem = "a mark for replicas with no database in the next line"
                raise BlockError(place, problem, "put it directly above the database that it is about")
            yield index + 1


def _check_once(found: list[_Line], defined: Iterable[tuple[int, str]], file: str) -> None:
    """Of several lines for one database PgBouncer takes the last, in a block or not."""
    ours = {line.database.name: line.index for line in found}
    for index, name in defined:
        if ours.get(name, index) != index:
            problem = f"database {name!r} stands in line {ours[name] + 1} too"
            raise BlockError(f"{file}:{index + 1}", problem, "leave one line a database")


def _matters(line: str) -> bool:
    """Whether it is neither blank nor a comment."""
    return line.strip(_BLANKS)[:1] not in ("", "#", ";")


def _read_line(index: int, line: str, place: str, marked: bool, replicas: Collection[str]) -> _Line:
    match = _SETTING.fullmatch(line)
    if match is None:
        raise BlockError(
            place, "is not a line name = key=value …", "only databases and comments belong in a block"
        )
    name = _name(match["name"], place)
    role = Role.REPLICA if marked or name in replicas else Role.PRIMARY
    if role is Role.REPLICA and name == "*":
        raise BlockError(
            place, "`*` is marked for replicas", "give the databases for reads names of their own"
        )
    value = match["rest"].rstrip(_BLANKS)
    pairs = _pairs(value, place)
    host, port = _only(pairs, "host", place), _only(pairs, "port", place)
    if host is None:
        raise BlockError(
            place, "has no host, so it is a local socket", "give it a host, or move it out of the block"
        )
    return _Line(
        index=index,
        before=match["before"] + match["name"] + match["equals"],
        value=value,
        after=match["rest"][len(value) :],
        host=host,
        port=port,
        database=Database(name, Endpoint(_host(host, place, role), _port(port, place)), role),
    )


def _pairs(value: str, place: str) -> list[re.Match[str]]:
    found: list[re.Match[str]] = []
    at = 0
    while at < len(value):  # which ends in no blank
        pair = _PAIR.match(value, at)
        if pair is None:
            rest = value[at:].partition("password")[0].strip()[:40]
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


def _host(pair: re.Match[str], place: str, role: Role) -> str:
    host = _value(pair)
    if "," in host and role is not Role.REPLICA:
        hint = "give one host, or mark the line for replicas, or move it out of the block"
        raise BlockError(place, "has a list of hosts", hint)
    if "=" in host:
        raise BlockError(place, f"has no host: PgBouncer reads {host!r} as such", "give it a host")
    if any(one.startswith(("/", "@")) for one in host.split(",")):
        raise BlockError(place, "leads to a local socket", "give it a host, or move it out of the block")
    if any(ord(c) < 33 or c == "\x7f" for c in host):
        raise BlockError(
            place, "has a blank or a control character in its host", "use blanks between the parameters"
        )
    return host


def _port(pair: re.Match[str] | None, place: str) -> int:
    if pair is None:
        return DEFAULT_PORT
    text = _value(pair)
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or not 1 <= int(text) <= 65535:
        raise BlockError(place, f"has port {text[:20]!r}", "give a number between 1 and 65535")
    return int(text)


def _name(text: str, place: str) -> str:
    name = text.strip("'")
    if name == _RESERVED:
        raise BlockError(place, f"{name!r} is PgBouncer's own database", "give the database another name")
    return name


def _defined(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Index and name of every database; what stands before any section counts: an included file has none."""
    section = "databases"
    for index, line in enumerate(lines):
        header, match = _SECTION.match(line), _SETTING.fullmatch(line)  # no comment matches
        if header is not None:
            section = header["name"]
        elif match is not None and section == "databases":
            yield index, match["name"].strip("'")
