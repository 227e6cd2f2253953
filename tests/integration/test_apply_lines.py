"""Lines are read as a real PgBouncer reads them, and refused where it refuses them."""

from collections.abc import Iterator

import pytest

from tests.support.blocks import parse, rewrite
from tests.support.folders import bed_folder
from tests.support.pgbouncer import ADMIN, ADMIN_PASSWORD, PgBouncer
from watcher.apply.console import Console, ConsoleAccess
from watcher.decide.errors import BlockError
from watcher.decide.model import Endpoint, Route, Stamp

H = "host=127.0.0.1"
ROUTE = Route(Endpoint("10.1.2.3", 6000), Stamp(1, "7", 2, 3, "node"))

READ_ALIKE = [
    f"app = {H} port=5432",
    f"app={H}",
    f"app\t=\t{H} port=5433",
    "  app  = host = 127.0.0.1 port = 5433  ",
    "app = host='127.0.0.1' port='5433'",
    f"app = {H} dbname=a;b",
    f"app = {H} dbname=a#b",
    f"app = {H} dbname='it''s ; # host=no'",
    f"app = {H} dbname=a'b",
    f"app = password='host=evil port=1' {H}",
    f"app = dbname = host {H}",
    f"app = {H} user='a b' password='x''y' port=9",
    f"app = {H} connect_query='select ''a b'' as \"c\"'",
    f"app = {H} port=00005",
    f"app = {H} port=5433\r",
    f"app = {H} port=5432\v",
    f"\v\fapp = {H}",
    f"app = {H} dbname=x\xa0",
    f"app = {H} dbname=x\x1f",
    f"app = {H} pool_size=x",
    f"app.x-y_z = {H}",
    f"a*b = {H}",
    f"App = {H}",
    f"123 = {H}",
    "app = host=::1 port=6000",
    "app = host=fe80::1%eth0",
    "app = host=DB1.Example.ORG",
    "app = host=[::1]",
    f"app = {H}\n\n ; other = host=9.9.9.9\n\t# third = {H}\nother = {H} port=7",
]
REFUSED_BY_BOTH = [
    "app = HOST=127.0.0.1",
    f"app = {H} port=0",
    f"app = {H} dbname=",
    f"app = {H} dbname=''",
    "app = host='' port=5",
    "app = host=",
    f"app = {H} ; comment",
    f"app = {H} # x=y",
    f"app = {H} dbname='broken",
    f"app = {H} dbname='a'port=7",
    f"app = {H} =x",
    f"app == {H}",
    "app",
    f"a b = {H}",
    f"ä = {H}",
    f"@a = {H}",
    f"a:b = {H}",
    f'"app" = {H}',
    f'"a b" = {H}',
    f'"*" = {H}',
    f'"" = {H}',
    f"'' = {H}",
    f"'a''b' = {H}",
    f'"app = {H}',
    f"\x1capp = {H}",
    f"\xa0app = {H}",
    f"app = \v{H}",
    f"pgbouncer = {H}",
    "%include /nowhere",
    f"[x] app = {H}",
]
# What PgBouncer takes and we refuse: there is no host to lead elsewhere, or it would be a guess.
REFUSED_BY_US = [
    "app = port=5433",
    "app =",
    f"= {H}",
    "app = host=/tmp",
    "app = host=@abstract",
    f"app = {H},127.0.0.2",
    f"app = {H} host=127.0.0.2",
    f"app = {H} port=1 port=2",
    f"app = {H}\tport=5433",
    "app = host= port=5",
    "app = host=a\x01b",
    "app = host=' 127.0.0.1'",
    f"app = {H} port=5432abc",
    f"app = {H} port=+5432",
    f"app = {H} port=000005432",
    f"app = {H} port=' 5432'",
    f"app = {H} port=65536",
    f"app = {H} dbname='a'b",
    f"app = {H}\napp = {H}",
]
# What 1.18 refuses and a newer one may take; our write does not make such a file any worse.
LEFT_TO_PGBOUNCER = [
    f"app = {H} parameter_of_tomorrow=1",
    f"'a b' = {H}",
    f"{'n' * 100} = {H}",
]


class Bouncer:
    """A real one that is asked to read lines."""

    def __init__(self, server: PgBouncer) -> None:
        self.server = server
        login = ConsoleAccess(ADMIN, ADMIN_PASSWORD, host=server.address, port=server.port)
        self.console = Console("here", login, None, 5)
        whole, block = server.ini.read_text(), server.block("127.0.0.1", 1)
        self.head, _, self.tail = whole.partition(block)

    def read(self, block: str) -> tuple[list[tuple[str, str | None, int]], str]:
        """The databases that it shows after a reload with this block, and what it complained about."""
        self._reload(f"none = {H}\n")
        logged = self.server.log.stat().st_size
        self._reload(block)
        said = self.server.log.read_bytes()[logged:].decode()
        shown = [(row.name, row.host, row.port) for row in self.console.databases()]
        return [row for row in shown if row[0] not in ("none", "pgbouncer")], said if "ERROR" in said else ""

    def _reload(self, block: str) -> None:
        self.server.ini.write_bytes((self.head + block + self.tail).encode())
        self.console.reload()


@pytest.fixture(scope="module")
def bouncer() -> Iterator[Bouncer]:
    with bed_folder() as folder, PgBouncer(folder / "b") as server:
        found = Bouncer(server)
        yield found
        found.console.close()


def marked(line: str) -> str:
    return f";; [config cluster: begin]\n{line}\n;; [config cluster: end]\n"


def ours(block: str) -> list[tuple[str, str, int]]:
    return [(db.name, db.endpoint.host, db.endpoint.port) for db in parse(block, "c", "here").databases]


@pytest.mark.parametrize("line", READ_ALIKE)
def test_a_line_is_read_as_pgbouncer_reads_it(bouncer: Bouncer, line: str) -> None:
    shown, complaint = bouncer.read(marked(line))
    assert complaint == ""
    assert sorted(ours(marked(line))) == sorted(shown)


@pytest.mark.parametrize("line", READ_ALIKE)
def test_a_rewritten_line_leads_pgbouncer_to_the_route(bouncer: Bouncer, line: str) -> None:
    names = {name for name, _, _ in ours(marked(line))}
    shown, complaint = bouncer.read(rewrite(marked(line), "c", ROUTE, "here"))
    assert complaint == ""
    assert {row[0] for row in shown} == names
    assert {row[1:] for row in shown} == {("10.1.2.3", 6000)}


@pytest.mark.parametrize("line", REFUSED_BY_BOTH)
def test_what_pgbouncer_refuses_is_refused(bouncer: Bouncer, line: str) -> None:
    shown, complaint = bouncer.read(marked(line))
    assert shown == []
    assert complaint
    with pytest.raises(BlockError, match="here:2"):
        parse(marked(line), "c", "here")


@pytest.mark.parametrize("line", REFUSED_BY_US)
def test_what_would_be_a_guess_is_refused(bouncer: Bouncer, line: str) -> None:
    _, complaint = bouncer.read(marked(line))
    assert complaint == ""
    with pytest.raises(BlockError, match="here:2"):
        rewrite(marked(line), "c", ROUTE, "here")


@pytest.mark.parametrize("line", LEFT_TO_PGBOUNCER)
def test_what_depends_on_the_version_is_left_to_pgbouncer(bouncer: Bouncer, line: str) -> None:
    _, complaint = bouncer.read(marked(line))
    assert complaint
    assert len(ours(marked(line))) == 1


def test_of_two_lines_for_a_database_pgbouncer_takes_the_last_so_both_are_refused(bouncer: Bouncer) -> None:
    text = f"{marked(f'app = {H}')}app = host=127.0.0.9\n"
    assert bouncer.read(text) == ([("app", "127.0.0.9", 5432)], "")
    with pytest.raises(BlockError, match="here:4: database 'app' stands in line 2 too"):
        parse(text, "c", "here")
