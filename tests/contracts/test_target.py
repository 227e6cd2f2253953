"""What every target promises: the fake in memory, and the real one by each of its ways to a PgBouncer."""

import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import pytest

from tests.support.accounts import own_file
from tests.support.agent import write_agent
from tests.support.fake_target import FakePgBouncer, FakeTarget
from tests.support.folders import bed_folder
from tests.support.pgbouncer import ADMIN, ADMIN_PASSWORD, STATS, STATS_PASSWORD, PgBouncer
from tests.support.sshd import Sshd
from tests.support.waiting import wait_for
from watcher.apply.agent_link import Place
from watcher.apply.console import Console, ConsoleAccess
from watcher.apply.local import LocalPlace
from watcher.apply.pooler import Pooler
from watcher.apply.ssh import SshAccess, SshPlace
from watcher.decide.config_block import parse
from watcher.decide.decision import plan
from watcher.decide.errors import FileChanged, NotConfirmed
from watcher.decide.model import Confirm, Desired, Endpoint, Reason, Reload, Route, Stamp, Write
from watcher.reconciler import Target

NODE1, NODE2, NODE3 = (Endpoint(f"127.0.0.{n}", 5432 + n) for n in (11, 12, 13))
BLOCK = "demo"
APP_AT_NODE1 = f"app = host={NODE1.host} port={NODE1.port} dbname=app\n"
LIMIT = 5.0


def marked(lines: str, name: str = "") -> str:
    """Lines between the markers of a block."""
    word = f" {name}" if name else ""
    return f";; [config cluster{word}: begin]\n{lines};; [config cluster{word}: end]\n"


def route(endpoint: Endpoint, revision: int = 7) -> Route:
    return Route(endpoint, Stamp(0xCDF8, "7301", revision, 3, "node 2"))


def wish(endpoint: Endpoint, revision: int = 7) -> Desired:
    return Desired(Reason.LEADER, "", route(endpoint, revision))


class World(Protocol):
    """A target with all that is around it."""

    has_console: bool

    @property
    def file(self) -> Path | None:
        """The file, where it is a real one."""

    def begin(self, databases: str) -> Target:
        """A new target whose [databases] are these, and whose PgBouncer has read them."""

    def another(self) -> Target:
        """One more target on the same file and PgBouncer, which knows nothing of the first."""

    def databases(self) -> str:
        """The [databases] that are in the file now."""

    def scribble(self, databases: str) -> None:
        """Somebody else writes the file."""

    def leads_to(self, database: str) -> Endpoint | None:
        """Where the running PgBouncer leads it."""

    def use(self, database: str) -> AbstractContextManager[object]:
        """A client that stays connected to it."""


class FakeWorld:
    file: Path | None = None

    def __init__(self, *, has_console: bool) -> None:
        self.has_console = has_console

    def begin(self, databases: str) -> Target:
        self._pgbouncer = FakePgBouncer(databases, BLOCK)
        return self.another()

    def another(self) -> Target:
        return FakeTarget(self._pgbouncer, console=self.has_console)

    def databases(self) -> str:
        return self._pgbouncer.text

    def scribble(self, databases: str) -> None:
        self._pgbouncer.text = databases

    def leads_to(self, database: str) -> Endpoint | None:
        found = {row.name: Endpoint(row.host or "", row.port) for row in self._pgbouncer.rows()}
        return found.get(database)

    def use(self, database: str) -> AbstractContextManager[object]:
        self._pgbouncer.in_use.add(database)
        return ExitStack()


class RealWorld(AbstractContextManager["RealWorld"]):
    """PgBouncer, sshd, and a way to them; `way` makes a Pooler out of this world."""

    def __init__(
        self, folder: Path, way: "Callable[[RealWorld], Pooler]", *, has_console: bool, include_file: bool
    ) -> None:
        self.has_console = has_console
        self.pgbouncer = PgBouncer(folder / "pgbouncer", include_file=include_file)
        self.sshd = Sshd(folder / "sshd", account=self.pgbouncer.account)
        self.file = self.pgbouncer.config_file
        self.agent = write_agent(folder)
        self._way = way
        self._targets = ExitStack()
        whole, block = self.file.read_text(), self.pgbouncer.block("127.0.0.1", 1)
        self._head, _, self._tail = whole.partition(block)

    def __enter__(self) -> Self:
        self.pgbouncer.start()
        self.sshd.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._targets.close()
        self.sshd.stop()
        self.pgbouncer.stop()

    def begin(self, databases: str) -> Target:
        self._targets.close()
        self.scribble(databases)
        self.pgbouncer.reload()
        return self.another()

    def another(self) -> Target:
        target = self._way(self)
        self._targets.callback(target.close)
        return target

    def databases(self) -> str:
        text = self.file.read_bytes().decode()
        assert text.startswith(self._head)
        assert text.endswith(self._tail)
        return text[len(self._head) : len(text) - len(self._tail)]

    def scribble(self, databases: str) -> None:
        text = self._head + databases + self._tail
        own_file(self.file, "", self.pgbouncer.account)
        self.file.write_bytes(text.encode())

    def leads_to(self, database: str) -> Endpoint | None:
        rows = {row["name"]: row for row in self.pgbouncer.console("SHOW DATABASES")}
        row = rows.get(database)
        return None if row is None else Endpoint(row["host"], int(row["port"]))

    def use(self, database: str) -> AbstractContextManager[object]:
        """By the startup packet of PostgreSQL's protocol; there is no server to go further."""
        parameters = b"user\0app\0database\0" + database.encode() + b"\0\0"
        client = socket.create_connection((self.pgbouncer.address, self.pgbouncer.port), 5)
        client.sendall(struct.pack("!II", len(parameters) + 8, 196608) + parameters)
        wait_for(lambda: self.leads_to(database), 5, f"{database} in use", logs=[self.pgbouncer.log])
        return closing(client)


# --- ways to a PgBouncer ---------------------------------------------------------------------------


def over_ssh(world: RealWorld) -> Pooler:
    world.sshd.authorize()
    place = SshPlace("target", access(world), options(world))
    return pooler(world, place, Console("target", ConsoleAccess(), lambda: place.open("console"), LIMIT))


def behind_forced_command(world: RealWorld) -> Pooler:
    command = " ".join(["/usr/bin/python3", "-I", str(world.agent), *options(world)])
    world.sshd.authorize("restrict", command)
    place = SshPlace("target", access(world, agent_command="whatever"), [])
    return pooler(world, place, Console("target", ConsoleAccess(), lambda: place.open("console"), LIMIT))


def beside_it(world: RealWorld) -> Pooler:
    login = console_login(world, ADMIN, ADMIN_PASSWORD)
    return pooler(world, LocalPlace("target", options(world)), Console("target", login, None, LIMIT))


def by_command(world: RealWorld) -> Pooler:
    """The console may only SHOW."""
    login = console_login(world, STATS, STATS_PASSWORD)
    place = LocalPlace("target", [*options(world), "--reload-command", hup(world)])
    return pooler(world, place, Console("target", login, None, LIMIT), reloads_by_command=True)


def by_command_without_console(world: RealWorld) -> Pooler:
    place = SshPlace("target", access(world), [*options(world), "--reload-command", hup(world)])
    world.sshd.authorize()
    return pooler(world, place, None, reloads_by_command=True)


def options(world: RealWorld) -> list[str]:
    return ["--file", str(world.file), "--console", str(world.pgbouncer.socket)]


def hup(world: RealWorld) -> str:
    return f"kill -HUP {world.pgbouncer.pid}"


def access(world: RealWorld, agent_command: str | None = None) -> SshAccess:
    sshd = world.sshd
    return SshAccess(
        sshd.address,
        sshd.port,
        sshd.account,
        sshd.known_hosts,
        sshd.client_key,
        agent_command=agent_command,
        python="/usr/bin/python3",
    )


def console_login(world: RealWorld, user: str, password: str) -> ConsoleAccess:
    return ConsoleAccess(user, password, host=world.pgbouncer.address, port=world.pgbouncer.port)


def pooler(
    world: RealWorld, place: Place, console: Console | None, *, reloads_by_command: bool = False
) -> Pooler:
    return Pooler(
        place,
        file=str(world.file),
        block=BLOCK,
        console=console,
        reloads_by_command=reloads_by_command,
        step_limit=LIMIT,
    )


WAYS: dict[str, tuple[Callable[[RealWorld], Pooler], bool, bool]] = {
    "over ssh": (over_ssh, True, False),
    "behind a forced command": (behind_forced_command, True, False),
    "beside it": (beside_it, True, False),
    "included file": (over_ssh, True, True),
    "reload by command": (by_command, True, False),
    "without console": (by_command_without_console, False, False),
}
FAKES = {"fake": True, "fake without console": False}


@pytest.fixture(scope="module", params=[*FAKES, *WAYS])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param in FAKES:
        yield FakeWorld(has_console=FAKES[request.param])
        return
    way, has_console, include_file = WAYS[request.param]
    with (
        bed_folder() as folder,
        RealWorld(folder, way, has_console=has_console, include_file=include_file) as real,
    ):
        yield real


def switch(target: Target, to: Route) -> None:
    for step in (Write(to), Reload(), Confirm(to.endpoint)):
        target.take(step)


def settled(world: World, databases: str) -> Target:
    """A target of which nothing is owed from an earlier run."""
    target = world.begin(databases)
    target.read()
    target.take(Reload())
    target.take(Confirm(NODE1))
    return target


# --- the contract ------------------------------------------------------------------------------------


def test_read_shows_the_file_and_pgbouncer(world: World) -> None:
    actual = world.begin(marked(APP_AT_NODE1)).read()
    assert [(db.name, db.endpoint) for db in actual.databases] == [("app", NODE1)]
    assert actual.stamp is None
    assert actual.console_problem is None
    if not world.has_console:
        assert actual.shown is None
        return
    assert actual.shown is not None
    assert {row.name: (row.host, row.port) for row in actual.shown}["app"] == (NODE1.host, NODE1.port)


def test_write_reload_and_confirm_move_the_route_and_leave_nothing_to_do(world: World) -> None:
    target = world.begin(marked(APP_AT_NODE1))
    target.read()
    switch(target, route(NODE2))
    assert world.leads_to("app") == NODE2
    assert plan(target.read(), wish(NODE2)) == ()
    switch(target, route(NODE3, 8))
    assert world.leads_to("app") == NODE3
    assert plan(target.read(), wish(NODE3, 8)) == ()


def test_after_the_steps_the_last_look_needs_no_further_one(world: World) -> None:
    target = world.begin(marked(APP_AT_NODE1))
    target.read()
    switch(target, route(NODE2))
    assert target.last is not None
    assert plan(target.last, wish(NODE2)) == ()


def test_a_new_stamp_alone_is_written_once_and_owes_no_reload(world: World) -> None:
    target = settled(world, marked(APP_AT_NODE1))
    assert plan(target.read(), wish(NODE1)) == (Write(route(NODE1)),)
    target.take(Write(route(NODE1)))
    assert target.last is not None
    assert plan(target.last, wish(NODE1)) == ()
    assert plan(target.read(), wish(NODE1)) == ()


def test_every_step_may_be_taken_twice(world: World) -> None:
    target = world.begin(marked(APP_AT_NODE1))
    target.read()
    for step in (Write(route(NODE2)), Reload(), Confirm(NODE2)):
        target.take(step)
        target.take(step)
    once = world.databases()
    switch(target, route(NODE2))
    assert world.databases() == once
    assert world.leads_to("app") == NODE2


def test_a_route_without_reload_is_neither_confirmed_nor_forgotten(world: World) -> None:
    target = settled(world, marked(APP_AT_NODE1))
    target.read()
    target.take(Write(route(NODE2)))
    if world.has_console:
        with pytest.raises(NotConfirmed, match=r"instead of|elsewhere"):
            target.take(Confirm(NODE2))
        assert target.last is None
    assert plan(target.read(), wish(NODE2)) == (Reload(), Confirm(NODE2))
    assert world.leads_to("app") == NODE1


def test_what_somebody_else_wrote_meanwhile_is_not_overwritten(world: World) -> None:
    target = world.begin(marked(APP_AT_NODE1))
    target.read()
    theirs = marked(f"# by hand\n{APP_AT_NODE1}")
    world.scribble(theirs)
    with pytest.raises(FileChanged):
        target.take(Write(route(NODE2)))
    assert world.databases() == theirs
    assert target.last is None
    target.read()
    switch(target, route(NODE2))
    assert "# by hand" in world.databases()
    assert world.leads_to("app") == NODE2


def test_the_stamp_is_read_back_by_this_target_and_by_the_next(world: World) -> None:
    target = world.begin(marked(APP_AT_NODE1))
    target.read()
    switch(target, route(NODE2))
    assert target.read().stamp == route(NODE2).stamp
    assert world.begin(world.databases()).read().stamp == route(NODE2).stamp


def test_only_host_port_and_the_stamp_change(world: World) -> None:
    before = f"# ü\n  app\t= dbname='it''s' host={NODE1.host}   port={NODE1.port} user=x  \n; end\n"
    target = world.begin(f"; above\n\n{marked(before)}; below \n")
    target.read()
    switch(target, route(NODE2))
    head, stamp, rest = world.databases().partition(
        ";; watcher: cluster=cdf8 system=7301 revision=7 timeline=3 leader=node%202\n"
    )
    assert stamp
    moved = before.replace(NODE1.host, NODE2.host).replace(str(NODE1.port), str(NODE2.port))
    assert head + rest == f"; above\n\n{marked(moved)}; below \n"


def test_another_clusters_block_in_the_same_file_stays(world: World) -> None:
    other = marked(f"other = host={NODE3.host} port=6000\n", "other")
    target = world.begin(other + marked(APP_AT_NODE1, BLOCK))
    target.read()
    switch(target, route(NODE2))
    assert world.databases().startswith(other)
    assert world.leads_to("app") == NODE2
    if isinstance(world, RealWorld):
        assert world.leads_to("other") == Endpoint(NODE3.host, 6000)


def test_line_ends_stay_those_of_the_block(world: World) -> None:
    target = world.begin(marked(APP_AT_NODE1).replace("\n", "\r\n"))
    target.read()
    switch(target, route(NODE2))
    text = world.databases()
    assert text.count("\n") == text.count("\r\n") == 4
    assert world.leads_to("app") == NODE2
    assert plan(target.read(), wish(NODE2)) == ()


def test_all_databases_of_a_block_move_together(world: World) -> None:
    lines = "".join(f"app{n} = host={NODE1.host} port={NODE1.port}\n" for n in range(40))
    target = world.begin(marked(lines))
    target.read()
    switch(target, route(NODE2))
    assert {world.leads_to(f"app{n}") for n in (0, 17, 39)} == {NODE2}
    assert {db.endpoint for db in parse(world.databases(), BLOCK, "here").databases} == {NODE2}


def test_the_fallback_database_moves_where_nobody_uses_it(world: World) -> None:
    target = world.begin(marked(f"* = host={NODE1.host} port={NODE1.port}\n"))
    target.read()
    switch(target, route(NODE2))
    with world.use("made_after"):
        assert world.leads_to("made_after") == NODE2
    assert plan(target.read(), wish(NODE2)) == ()


def test_the_fallback_database_moves_under_its_clients(world: World) -> None:
    target = world.begin(marked(f"* = host={NODE1.host} port={NODE1.port}\n"))
    with world.use("made_before"):
        assert world.leads_to("made_before") == NODE1
        target.read()
        target.take(Write(route(NODE2)))
        if world.has_console:
            with pytest.raises(NotConfirmed, match="made_before"):
                target.take(Confirm(NODE2))
            target.read()
        target.take(Reload())
        target.take(Confirm(NODE2))
        wait_for(lambda: world.leads_to("made_before") == NODE2, 5, "the reload by a signal")
        assert plan(target.read(), wish(NODE2)) == ()


def test_what_an_earlier_watcher_wrote_and_never_reloaded_is_reloaded_by_the_next(world: World) -> None:
    """PgBouncer cannot be asked where `*` leads, nor anything without a console: one reload settles it."""
    earlier = world.begin(marked(f"* = host={NODE1.host} port={NODE1.port}\n"))
    with world.use("made_before"):
        assert world.leads_to("made_before") == NODE1
        earlier.read()
        earlier.take(Write(route(NODE2)))
        earlier.close()
        later = world.another()
        steps = plan(later.read(), wish(NODE2))
        assert [type(step).__name__ for step in steps] == ["Reload", "Confirm"]
        for step in steps:
            later.take(step)
        wait_for(lambda: world.leads_to("made_before") == NODE2, 5, "the reload by a signal")
        assert plan(later.read(), wish(NODE2)) == ()


def test_a_closed_target_opens_itself_again(world: World) -> None:
    target = world.begin(marked(APP_AT_NODE1))
    target.read()
    target.close()
    target.close()
    target.read()
    switch(target, route(NODE2))
    target.close()
    assert plan(target.read(), wish(NODE2)) == ()


def test_owner_mode_and_attributes_of_the_file_stay(world: World) -> None:
    if world.file is None:
        pytest.skip("a file in memory has none")
    target = world.begin(marked(APP_AT_NODE1))
    world.file.chmod(0o640)
    os.setxattr(world.file, "user.note", b"kept")
    before, inode = world.file.stat(), world.file.stat().st_ino
    target.read()
    switch(target, route(NODE2))
    after = world.file.stat()
    assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)) == (before.st_uid, before.st_gid, 0o640)
    assert os.getxattr(world.file, "user.note") == b"kept"
    assert after.st_ino != inode
    assert [p.name for p in world.file.parent.iterdir() if "watcher-new" in p.name] == []
