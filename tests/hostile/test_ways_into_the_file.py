"""A host that would break out of its place is not written, whoever tells it; no name breaks the stamp."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.way import SOURCES, Way, way
from tests.support.blocks import parse
from tests.support.folders import bed_folder
from tests.support.pgbouncer import PgBouncer

BEGIN, END = ";; [config cluster: begin]\n", ";; [config cluster: end]\n"
APP = "app = host=10.0.0.9 port=5432 user='a b'\n"
OLD = f"%include more.ini\n[databases]\n{BEGIN}{APP}{END}[pgbouncer]\nx = \xff\n"

BREAKING = {
    "a blank and a parameter": "10.6.6.6 dbname=evil",
    "a line feed": "10.6.6.6\nevil = host=10.6.6.7",
    "a carriage return": "10.6.6.6\revil",
    "a quote": "10.6.6.6' password='x",
    "two quotes": "''",
    "a marker": ";; [config cluster: end]",
    "a comment": "10.6.6.6;;x",
    "an include": "\n%include /etc/passwd\n",
    "a tab": "10.6.6.6\tport=1",
    "a NUL": "10.6.6.6\0",
    "a no-break space": "10.6.6.6\u00a0dbname=evil",
    "a line separator": "10.6.6.6\u2028evil",
    "a next line": "10.6.6.6\u0085evil",
    "a form feed": "10.6.6.6\fevil",
    "letters that look alike": "\u0064\u0432.example.org",
    "full-width digits": "\uff11\uff10.0.0.1",
    "a list": "10.6.6.6,10.6.6.7",
    "a socket": "/tmp",
    "an abstract socket": "%40evil",
    "a zone that breaks out": "[fe80::1%eth0 dbname=evil]",
    "a zone that is a quote": "[fe80::1%']",
    "too long": "a" * 64 + ".example.org",
    "too long as a whole": ".".join(["a" * 60] * 5),
    "half a surrogate pair": "10.6.6.6\ud800",
    "a star": "*",
    "nothing": "",
    "an equals sign": "host=x",
    "a percent sign": "10.6.6.6%20dbname=evil",
}
GOOD = {
    "10.1.1.1": "10.1.1.1",
    "db-1.example.org": "db-1.example.org",
    "[fd00::1]": "fd00::1",
    "[fe80::1%eth0]": "fe80::1%eth0",
}


@pytest.fixture(scope="module")
def one_way() -> Iterator[Way]:
    with bed_folder() as folder:
        file = folder / "pgbouncer.ini"
        file.write_text(OLD, encoding="latin-1")
        with way(folder, file) as found:
            yield found


@pytest.fixture
def road(one_way: Way) -> Way:
    one_way.file.write_text(OLD, encoding="latin-1")
    return one_way


def text_of(file: Path) -> str:
    return file.read_bytes().decode("latin-1")


def without_stamp(text: str) -> str:
    return re.sub(r"\n;; watcher: [!-~ ]*\n", "\n", text, count=1)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", BREAKING)
def test_a_host_that_would_break_out_is_not_written(road: Way, source: str, name: str) -> None:
    SOURCES[source](road, BREAKING[name])
    assert text_of(road.file) == OLD


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("told", GOOD)
def test_a_good_host_is_written_and_nothing_else_changes(road: Way, source: str, told: str) -> None:
    host = GOOD[told]
    SOURCES[source](road, host if source == "rest_cluster" else told)
    assert without_stamp(text_of(road.file)) == OLD.replace("10.0.0.9", host)


@pytest.mark.parametrize("host", BREAKING.values(), ids=BREAKING)
def test_a_host_that_somebody_wrote_by_hand_does_not_survive_or_nothing_is_touched(
    road: Way, host: str
) -> None:
    mine = OLD.replace("10.0.0.9", host.encode("utf-8", "replace").decode("latin-1"))
    road.file.write_bytes(mine.encode("latin-1"))
    SOURCES["conn_url"](road, "10.1.1.1")
    now = text_of(road.file)
    if now != mine:
        read = parse(now, "demo", "f")
        assert {str(db.endpoint) for db in read.databases} == {"10.1.1.1:5432"}
        assert now.startswith(mine[: mine.index(BEGIN) + len(BEGIN)])
        assert now.endswith(mine[mine.rindex(END) :])


NAMES = {
    "blanks": "a node with blanks",
    "a percent sign": "100%0a%",
    "a comment": ";; [config cluster: end]",
    "a hash": "#pg1",
    "equals": "leader=pg2 revision=9",
    "a quote": "pg'1",
    "another script": "узел-\u4e00",
    "300 letters": "x" * 256,
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_the_stamp_of_any_name_is_one_line_and_the_fence_goes_on(road: Way, name: str) -> None:
    road.etcd_tells(name, {"conn_url": "postgres://10.1.1.1:5432/p"})
    first = text_of(road.file)
    assert first.count("\n") == OLD.count("\n") + 1
    stamp = parse(first, "demo", "f").stamp
    assert stamp is not None
    assert stamp.leader == name
    road.etcd_tells("pg2", {"conn_url": "postgres://10.1.1.2:5432/p"})
    assert without_stamp(text_of(road.file)) == OLD.replace("10.0.0.9", "10.1.1.2")


@pytest.mark.parametrize("name", ["two\nlines", "x" * 300, "\x1b[2J", "\u2028", ""], ids=ascii)
def test_a_leader_of_a_name_that_is_none_is_not_followed(road: Way, name: str) -> None:
    road.etcd_tells(name, {"conn_url": "postgres://10.1.1.1:5432/p"})
    assert text_of(road.file) == OLD


def test_a_stamp_that_somebody_wrote_cannot_break_out_when_it_is_told_again(road: Way) -> None:
    field = "%0Aevil%20=%20host=x"
    evil = f";; watcher: cluster=1 system={field} revision=1 timeline=1 leader={field}\n"
    road.file.write_bytes(OLD.replace(BEGIN, BEGIN + evil).encode("latin-1"))
    SOURCES["conn_url"](road, "10.1.1.1")
    assert without_stamp(text_of(road.file)) == OLD.replace("10.0.0.9", "10.1.1.1")


def test_a_real_pgbouncer_reads_what_is_left_after_all_of_them(service_folder: Path) -> None:
    with (
        PgBouncer(service_folder / "b", server=("10.0.0.9", 5432), databases=["app", "other"]) as server,
        way(service_folder, server.ini) as road,
    ):
        for host in BREAKING.values():
            for tell in SOURCES.values():
                tell(road, host)
        server.reload()
        assert {server.route("app"), server.route("other")} == {("10.0.0.9", 5432)}
        road.etcd_tells("a b;%\u4e00", {"conn_url": "postgres://[fe80::1%eth0]:6000/p"})
        server.reload()
        assert {server.route("app"), server.route("other")} == {("fe80::1%eth0", 6000)}
        assert "ERROR" not in server.log.read_text()
