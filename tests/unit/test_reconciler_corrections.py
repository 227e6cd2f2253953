"""Which switches only correct what somebody else has written, and whom the block tells of."""

from dataclasses import replace

import pytest

from tests.support.fake_target import NODES, POLICY, led_by
from tests.unit.test_reconciler import AT_NODE3, RESYNC, World
from tests.unit.test_reconciler_hold import with_key
from watcher.decide.model import PAUSE_KEY, Endpoint, Paused

ELSEWHERE = {**NODES, "node1": Endpoint("10.9.0.1", 5432)}


@pytest.fixture
def world() -> World:
    """Led to node1 by this watcher, who has told of that."""
    world = World()
    world.turn()
    return world


def by_hand(world: World, host: str = "10.0.0.3") -> None:
    """Each line of the file leads there, stamp and marks stay, and PgBouncer reads it."""
    world.pgbouncer.text = world.pgbouncer.text.replace(str(NODES["node1"].host), host)
    world.pgbouncer.reload()


def corrections(world: World) -> list[str]:
    """Whom each correction so far told of."""
    return [switch.corrects for switch in world.reports.switches if switch.corrects]


def beside(world: World, addresses: dict[str, Endpoint]) -> World:
    """Another watcher of the same PgBouncer and cluster."""
    other = World(policy=replace(POLICY, addresses=addresses))
    other.pgbouncer = other.target.pgbouncer = world.pgbouncer
    return other


def in_turn(worlds: tuple[World, ...], rounds: int) -> None:
    """Each of them looks once a round."""
    for _ in range(rounds):
        for world in worlds:
            world.now += RESYNC + 1
            world.turn()


def test_who_leads_a_target_for_the_first_time_corrects_nobody(world: World) -> None:
    assert len(world.reports.switches) == 1
    assert corrections(world) == []


def test_a_failover_and_a_failback_correct_nobody(world: World) -> None:
    world.turn(led_by("node2", 7, world.now))
    world.turn(led_by("node1", 9, world.now))
    assert len(world.reports.switches) == 3
    assert corrections(world) == []


def test_a_failback_of_which_all_but_the_end_was_missed_corrects_nobody(world: World) -> None:
    """Another watcher had led it to node2, of whom this one has never heard."""
    other = beside(world, NODES)
    other.turn(led_by("node2", 7, world.now))
    assert world.pgbouncer.shown == {"app": NODES["node2"]}
    world.now += RESYNC + 1
    world.turn(led_by("node1", 9, world.now))
    assert world.reports.switches[-1].before == (NODES["node2"],)
    assert corrections(world) == []


def test_a_leader_that_moves_to_another_address_corrects_nobody(world: World) -> None:
    world.reconciler._policy = replace(POLICY, addresses=ELSEWHERE)
    world.turn()
    assert world.pgbouncer.shown == {"app": ELSEWHERE["node1"]}
    assert len(world.reports.switches) == 2
    assert corrections(world) == []


def test_two_watchers_of_the_same_settings_correct_nobody_over_failovers(world: World) -> None:
    pair = world, beside(world, NODES)
    for revision, leader in enumerate(("node2", "node1", "node3"), start=7):
        for one in pair:
            one.turn(led_by(leader, revision, one.now))
        in_turn(pair, 3)
    assert [corrections(one) for one in pair] == [[], []]


def test_a_single_hand_edit_is_one_correction_that_tells_of_a_stamp_as_ours(world: World) -> None:
    by_hand(world)
    world.run_for(10 * RESYNC)
    [who] = corrections(world)
    assert "of the same leader and revision as ours" in who
    assert world.reports.switches[-1].before == (Endpoint("10.0.0.3", 5432),)


def test_each_hand_edit_is_a_correction(world: World) -> None:
    for _ in range(3):
        by_hand(world)
        world.run_for(2 * RESYNC)
    assert len(corrections(world)) == 3


def test_a_correction_over_several_tries_is_one(world: World) -> None:
    by_hand(world)
    world.target.fail("write", OSError("full"), OSError("full"))
    world.run_for(3 * RESYNC)
    assert len(corrections(world)) == 1


def test_a_file_that_a_tool_put_there_tells_that_no_watcher_wrote_it(world: World) -> None:
    world.pgbouncer.text = AT_NODE3
    world.pgbouncer.reload()
    world.run_for(2 * RESYNC)
    [who] = corrections(world)
    assert "no stamp" in who


def test_a_pgbouncer_that_alone_is_wrong_tells_nothing_of_who_it_was(world: World) -> None:
    world.pgbouncer.shown = {"app": NODES["node3"]}
    world.run_for(2 * RESYNC)
    [who] = corrections(world)
    assert who.startswith("its file is right")


def test_a_block_that_lost_its_stamp_and_leads_right_is_no_correction(world: World) -> None:
    world.pgbouncer.text = AT_NODE3.replace("10.0.0.3", "10.0.0.1")
    world.run_for(2 * RESYNC)
    assert world.writes == 2
    assert corrections(world) == []


def test_a_new_line_that_leads_elsewhere_is_led_with_the_rest_and_is_no_correction(world: World) -> None:
    def add(name: str) -> None:
        world.pgbouncer.text = world.pgbouncer.text.replace(
            ";; [config cluster: end]", f"{name} = host=10.0.0.3\n;; [config cluster: end]"
        )
        world.pgbouncer.reload()
        world.run_for(2 * RESYNC)

    add("reports")
    assert world.pgbouncer.shown == {"app": NODES["node1"], "reports": NODES["node1"]}
    assert len(world.reports.switches) == 2
    assert corrections(world) == []
    world.pgbouncer.text = world.pgbouncer.text.replace(
        f"reports = host={NODES['node1'].host}", "reports = host=10.0.0.3"
    )
    world.pgbouncer.reload()
    world.run_for(2 * RESYNC)
    assert len(corrections(world)) == 1
    add("stats")
    by_hand(world)
    world.run_for(2 * RESYNC)
    assert len(corrections(world)) == 2


@pytest.mark.parametrize("looks_meanwhile", [True, False], ids=["seen while paused", "just before resume"])
def test_what_was_done_by_hand_while_paused_is_taken_back_at_once_and_is_no_correction(
    world: World, looks_meanwhile: bool
) -> None:
    led = led_by("node1", 5, world.now)
    world.turn(with_key(led, PAUSE_KEY, Paused()))
    by_hand(world)
    if looks_meanwhile:
        world.run_for(3 * RESYNC)
    assert world.pgbouncer.shown == {"app": NODES["node3"]}
    world.turn(led)
    assert world.pgbouncer.shown == {"app": NODES["node1"]}
    assert len(world.reports.switches) == 2
    assert corrections(world) == []
    by_hand(world)
    world.run_for(2 * RESYNC)
    assert len(corrections(world)) == 1


def test_two_watchers_of_other_addresses_correct_each_other_for_ever(world: World) -> None:
    other = beside(world, ELSEWHERE)
    in_turn((other, world), 5)
    assert (len(corrections(world)), len(corrections(other))) == (5, 4)
    assert all("another watcher of this cluster" in who for who in corrections(world) + corrections(other))


def test_two_watchers_of_other_clusters_correct_each_other_and_each_is_told_whose_the_stamp_is(
    world: World,
) -> None:
    """Whose leader has the lower revision writes once a read has proven it."""
    other = beside(world, NODES)
    for _ in range(4):
        for one, leader, revision in ((other, "node2", 9), (world, "node1", 5)):
            one.now += RESYNC + 1
            one.turn(led_by(leader, revision, one.now))
            one.now += 0.5
            one.turn(led_by(leader, revision, one.now))
    assert (len(corrections(world)), len(corrections(other))) == (4, 3)
    assert all("its stamp is of 'node2' at revision 9" in who for who in corrections(world))
    assert all("its stamp is of 'node1' at revision 5" in who for who in corrections(other))
