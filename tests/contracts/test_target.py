"""What every target promises: the fake in memory, and the real one by each of its ways to a PgBouncer."""

import os
import stat
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.contracts.target_worlds import (
    APP_AT_NODE1,
    BLOCK,
    FAKES,
    NODE1,
    NODE2,
    NODE3,
    WAYS,
    FakeWorld,
    RealWorld,
    World,
    marked,
    route,
    wish,
)
from tests.support.blocks import parse
from tests.support.folders import bed_folder
from tests.support.waiting import wait_for
from watcher.decide.decision import plan
from watcher.decide.endpoint import each_of
from watcher.decide.errors import FileChanged, NotConfirmed
from watcher.decide.model import Confirm, Endpoint, Readers, Reload, Route, Write
from watcher.reconciler import Target


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


def test_a_block_is_as_old_as_the_first_look_at_it(world: World) -> None:
    """Or a proof of etcd's would be outdated by each further look, for ever where looks are frequent, and
    where somebody goes on editing the file beside it.
    """
    target = world.begin(marked(APP_AT_NODE1))
    first = target.read().file_read_at
    assert target.read().file_read_at == first
    world.scribble(f"; a remark\n{world.databases()}")
    assert target.read().file_read_at == first
    target.close()
    assert target.read().file_read_at == first
    target.take(Write(route(NODE2)))
    assert target.read().file_read_at > first


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


def test_a_database_for_reads_is_led_to_a_list_of_hosts_and_the_others_stay(world: World) -> None:
    reads = f";; role=replica\nro = host={NODE1.host} port={NODE1.port} dbname=app\n"
    target = world.begin(marked(APP_AT_NODE1 + reads))
    target.read()
    both = Endpoint(f"{NODE2.host},{NODE3.host}", NODE2.port)
    for readers in (both, NODE3):
        switch(target, replace(route(NODE1), readers=readers))
        wait_for(lambda: world.leads_to("ro") == readers, 5, "the reload by a signal")  # noqa: B023
        assert world.leads_to("app") == NODE1
        actual = target.read()
        assert [db.endpoint for db in actual.reads] == [readers]
        leads = replace(wish(NODE1), readers=Readers(each_of(readers)))
        assert plan(actual, leads) == ()


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
