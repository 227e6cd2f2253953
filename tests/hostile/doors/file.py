"""PgBouncer's file: the block, its stamp, and the address that is written into it."""

from __future__ import annotations

import re
from contextlib import suppress

from tests.hostile.door import Door, as_text, repeated
from tests.hostile.doors.pages import check_told
from tests.support.blocks import parse, rewrite
from watcher.decide.endpoint import parse_address, parse_conn_url
from watcher.decide.errors import BlockError, MalformedPayload
from watcher.decide.fence import admits, stamp_over
from watcher.decide.model import Actual, Desired, Endpoint, Reason, Route, Stamp, View

STAMP = Stamp(0xCDF8, "7", 42, 3, "pg2")
ROUTE = Route(Endpoint("10.0.0.2", 6543), STAMP)
BEGIN, END = ";; [config cluster: begin]\n", ";; [config cluster: end]\n"
GOOD = f"%include /etc/more.ini\n[databases]\n{BEGIN}app = host=10.0.0.9 port=5432\n{END}[pgbouncer]\na = 1\n"


def outside(text: str) -> tuple[str, str]:
    """What stands before the begin marker of the cluster's block, and behind its end marker."""
    marker = r"(?a:[^\S\n]*;;[^\S\n]*\[config cluster(?:[ \t][^:\]\n]*)?:[ \t]*%s\]\s*)"
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    begins = [i for i, line in enumerate(lines) if re.fullmatch(marker % "begin", line)]
    ends = [i for i, line in enumerate(lines) if re.fullmatch(marker % "end", line)]
    if len(begins) != 1 or len(ends) != 1:
        return "", ""
    return "".join(lines[: begins[0] + 1]), "".join(lines[ends[0] :])


def check_rewrite(text: str, route: Route) -> None:
    """BlockError, or the route everywhere in the block, once and for good, and nothing else touched."""
    before = parse(text, "demo", "f")
    after = rewrite(text, "demo", route, "f")
    read = parse(after, "demo", "f")
    assert [db.name for db in read.databases] == [db.name for db in before.databases]
    assert {db.endpoint for db in read.databases} == {route.endpoint}
    assert read.stamp == route.stamp
    assert read.defined == before.defined
    assert outside(after) == outside(text)
    assert rewrite(after, "demo", route, "f") == after
    after.encode("utf-8", "surrogateescape")


def check_block(data: bytes) -> None:
    with suppress(BlockError):
        check_rewrite(as_text(data), ROUTE)


def check_stamp(data: bytes) -> None:
    """A stamp that anybody edited: the fence has an answer, and the stamp that is written reads the same."""
    text = GOOD.replace("app =", ";; watcher: " + as_text(data).replace("\n", " ") + "\napp =")
    try:
        old = parse(text, "demo", "f").stamp
    except BlockError:
        return
    if old is not None:
        check_told(View(began_at=0.0), old)
    actual = Actual((), old, 0.0)
    admits(actual, Desired(Reason.LEADER, "", ROUTE), ROUTE).encode("utf-8", "backslashreplace")
    route = Route(ROUTE.endpoint, stamp_over(old, Route(ROUTE.endpoint, Stamp(0, "", 0, None, "pg2"))))
    assert parse(rewrite(text, "demo", route, "f"), "demo", "f").stamp == route.stamp


def check_address(data: bytes) -> None:
    """What is let in as an address leads there, and breaks out of nothing."""
    text = as_text(data)
    for read in (parse_address, parse_conn_url):
        with suppress(MalformedPayload):
            check_rewrite(GOOD, Route(read(text, "here"), STAMP))


def check_leader_name(data: bytes) -> None:
    """Whatever a leader calls itself, the stamp is one line, and is read as it was written."""
    name = data.decode("utf-8", "replace")
    route = Route(ROUTE.endpoint, Stamp(1, name[::-1], 2, 3, name))
    check_rewrite(GOOD, route)
    assert rewrite(GOOD, "demo", route, "f").count("\n") == GOOD.count("\n") + 1


DOORS = (
    Door(
        "block",
        "read or refused (BlockError); a rewrite leads every database there, twice is once, and outside of"
        " the block no byte changes",
        check_block,
        (
            *(
                b"[databases]\n",
                BEGIN.encode(),
                END.encode(),
                b";; [config cluster demo: begin]\n",
                b"[pgbouncer]\n",
            ),
            *(
                b"%include /x\n",
                b"app = host=10.0.0.9",
                b" port=5432",
                b"\n",
                b"\r\n",
                b" ",
                b"=",
                b"'",
                b"''",
            ),
            *(
                b"host=",
                b"port=",
                b"dbname='it''s'",
                b";; watcher: cluster=1",
                b"\0",
                b"\xff",
                b"\xc2\x85",
                b"\xe2\x80\xa8",
            ),
            *(b"\t", b"\v", b"\f", b"* = ", b"'my db' = host=h", b"pgbouncer = host=h\n", b";;", b"#", b"]"),
        ),
        60,
        {
            "lines": repeated(f"{BEGIN}a = host=h\n".encode(), b";x\n", END.encode()),
            "blanks in a value": repeated(f"{BEGIN}a = host=h".encode(), b" ", f"x\n{END}".encode()),
            "quotes": repeated(f"{BEGIN}a = host=h dbname=".encode(), b"'", f"\n{END}".encode()),
            "nearly markers": repeated(b"", b";; [config cluster\n", f"{BEGIN}a = host=h\n{END}".encode()),
            "brackets": repeated(b"", b"[", f"\n{BEGIN}a = host=h\n{END}".encode()),
        },
    ),
    Door(
        "stamp",
        "a stamp that anybody edited is read or unreadable; the next one is written and read alike, and our"
        " pages tell of it",
        check_stamp,
        (
            *(
                b"cluster=",
                b"system=",
                b"revision=",
                b"timeline=",
                b"leader=",
                b" ",
                b"%0a",
                b"%",
                b"-1",
                b"1_0",
            ),
            *(
                b"9" * 30,
                b"9" * 4301,
                b"f" * 40,
                b"%ff",
                b"\xff",
                b"\xd9\xa1",
                b"nan",
                b";; watcher:",
                b"cdf8",
                b"0x1",
            ),
        ),
        4,
        {
            "digits": repeated(b"cluster=1 system=7 timeline=3 leader=a revision=", b"9"),
            "percents": repeated(b"leader=", b"%41"),
        },
    ),
    Door(
        "address",
        "refused (MalformedPayload), or one host and one port that break out of no line",
        check_address,
        (
            *(
                b"postgres://",
                b"postgresql://",
                b"user:s3cret@",
                b"10.0.0.1",
                b"db1.example.org",
                b"[",
                b"]",
                b"::1",
            ),
            *(
                b":5432",
                b":",
                b"%eth0",
                b"/postgres",
                b"?sslmode=require",
                b",",
                b" dbname=y",
                b"\n",
                b"\t",
                b"\r",
                b"\0",
            ),
            *(
                b"'",
                b'"',
                b";;",
                b"%include",
                b"\xc2\xa0",
                b"\xe2\x80\xa8",
                b"\xef\xbc\x8e",
                b"\xe2\x84\x80",
                b"a" * 64,
                b"@",
                b"#",
            ),
        ),
        60,
        {
            "at signs": repeated(b"postgres://", b"@"),
            "words": repeated(b"", b"w"),
            "colons": repeated(b"[", b":", b"]"),
        },
    ),
    Door(
        "leader_name",
        "a stamp of any leader's name and any system id is one line, and is read as it was written",
        check_leader_name,
        (
            b" ",
            b"%",
            b"%0a",
            b"\n",
            b"\r",
            b"\0",
            b";",
            b"#",
            b"=",
            b"a" * 300,
            b"\xe2\x80\xa8",
            b"\xff",
            b"leader=",
            b"]",
        ),
        20,
        {"percents": repeated(b"", b"%")},
    ),
)
