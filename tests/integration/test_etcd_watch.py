"""The watch follows the leader key through everything that a real etcd does to it."""

import os
import resource
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.etcd_follower import LEADER, PREFIX, Follower, access_to
from tests.support.etcd import EtcdCluster, Member
from tests.support.folders import bed_folder
from tests.support.waiting import wait_for
from watcher.decide.backoff import Backoff
from watcher.decide.model import Change, Contact, Leader, Listing, Malformed, Sighting
from watcher.observe.etcd import Reason
from watcher.observe.etcd_client import EtcdClient


@pytest.fixture
def folder() -> Iterator[Path]:
    with bed_folder() as path:
        yield path


@pytest.fixture
def one(folder: Path) -> Iterator[EtcdCluster]:
    with EtcdCluster(folder, size=1) as etcd:
        etcd.put(LEADER, "node1")
        yield etcd


@pytest.fixture
def three(folder: Path) -> Iterator[EtcdCluster]:
    with EtcdCluster(folder) as etcd:
        etcd.put(LEADER, "node1")
        yield etcd


def connected_to(etcd: EtcdCluster, follower: Follower) -> Member:
    endpoint = follower.states[-1].endpoint
    return next(member for member in etcd.members if member.endpoint == endpoint)


def print_times(what: str, follower: Follower, began: float) -> None:
    ended, again = (state.at - began for state in follower.states[1:3])
    print(f"{what}: noticed after {ended:.3f} s, watching again after {again:.3f} s")


def test_what_is_there_is_listed_and_what_changes_is_told_in_order(one: EtcdCluster) -> None:
    with Follower(access_to(one)) as follower:
        follower.sees("node1", 5)
        follower.comes_to(Reason.STARTED, 5)
        one.txn(f"put {PREFIX}failover x", f"put {LEADER} node2", f"put {PREFIX}history ignored")
        follower.sees("node2", 1)
        one.delete(LEADER)
        follower.sees(None, 1)
    kinds = [type(sighting) for sighting in follower.sightings]
    assert kinds[:2] == [Listing, Contact]
    change = next(sighting for sighting in follower.sightings if isinstance(sighting, Change))
    assert [event.key for event in change.events] == ["failover", "leader"]
    assert change.events[0].mod_revision == change.events[1].mod_revision


def test_a_lease_that_ends_takes_the_leader_and_its_member_away_together(one: EtcdCluster) -> None:
    lease = one.grant_lease(60)
    one.put(LEADER, "node1", lease=lease)
    one.put(PREFIX + "members/node1", "{}", lease=lease)
    with Follower(access_to(one)) as follower:
        follower.comes_to(Reason.STARTED, 5)
        one.revoke_lease(lease)
        follower.sees(None, 2)
    change = next(sighting for sighting in follower.sightings if isinstance(sighting, Change))
    assert sorted(event.key for event in change.events) == ["leader", "members/node1"]


def test_an_empty_prefix_is_no_error_and_its_first_leader_is_followed(folder: Path) -> None:
    with EtcdCluster(folder, size=1) as etcd, Follower(access_to(etcd)) as follower:
        follower.comes_to(Reason.STARTED, 5)
        assert follower.leader is None
        follower.follows_the_next_change(etcd)


def test_neighbouring_prefixes_are_not_heard(one: EtcdCluster) -> None:
    with Follower(access_to(one)) as follower:
        follower.comes_to(Reason.STARTED, 5)
        one.put("/service/demo2/leader", "stranger")
        one.put("/service/demo", "stranger")
        one.put("/service/demo0leader", "stranger")
        follower.follows_the_next_change(one)
    assert sum(isinstance(sighting, Change) for sighting in follower.sightings) == 1


def test_every_reread_is_posted_and_idle_time_costs_next_to_nothing(one: EtcdCluster) -> None:
    with Follower(access_to(one, reread_interval=0.5)) as follower:
        follower.comes_to(Reason.STARTED, 5)
        before = time.process_time()
        time.sleep(3)
        assert (time.process_time() - before) / 3 < 0.1
    assert sum(isinstance(sighting, Listing) for sighting in follower.sightings) >= 5
    assert follower.reasons == [Reason.STARTED]


def test_the_connected_member_is_killed(three: EtcdCluster) -> None:
    with Follower(access_to(three)) as follower:
        follower.comes_to(Reason.STARTED, 5)
        began = time.monotonic()
        connected_to(three, follower).kill()
        follower.comes_to(Reason.CLOSED, 5)
        follower.comes_to(Reason.STARTED, 10, since=2)
        print_times("killed", follower, began)
        follower.follows_the_next_change(three)


def test_the_connected_member_freezes(three: EtcdCluster) -> None:
    with Follower(access_to(three)) as follower:
        follower.comes_to(Reason.STARTED, 5)
        began = time.monotonic()
        connected_to(three, follower).freeze()
        assert follower.comes_to(Reason.SILENT, 10) < 5
        follower.comes_to(Reason.STARTED, 10, since=2)
        print_times("frozen", follower, began)
        follower.follows_the_next_change(three)


def test_an_election_of_etcd_loses_nothing(three: EtcdCluster) -> None:
    with Follower(access_to(three)) as follower:
        follower.comes_to(Reason.STARTED, 5)
        three.leader().terminate()
        follower.follows_the_next_change(three, within=15)


def test_all_members_stop_and_come_back(three: EtcdCluster) -> None:
    with Follower(access_to(three)) as follower:
        follower.comes_to(Reason.STARTED, 5)
        for member in three.members:
            member.kill()
        follower.comes_to(Reason.REFUSED, 10)
        time.sleep(5)  # each member may end in several ways while they die: closed, without quorum, refused
        told = len(follower.states)
        time.sleep(4)
        assert len(follower.states) == told  # and then nothing is repeated
        three.start()
        ready_at = time.monotonic()
        follower.comes_to(Reason.STARTED, 10, since=told)
        print(f"back: watching {time.monotonic() - ready_at:.3f} s after etcd was ready")
        follower.follows_the_next_change(three)


def test_while_etcd_is_away_nothing_spins_and_nothing_is_repeated(one: EtcdCluster) -> None:
    with Follower(access_to(one)) as follower:
        follower.comes_to(Reason.STARTED, 5)
        one.members[0].kill()
        follower.comes_to(Reason.REFUSED, 5)
        told, before = len(follower.states), _cpu()
        time.sleep(6)
        share = (_cpu() - before) / 6
        print(f"etcd away: {share:.2%} of a core")
        assert share < 0.15
        assert len(follower.states) == told


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def test_etcd_may_come_up_after_the_watcher(folder: Path) -> None:
    etcd = EtcdCluster(folder, size=1)
    with Follower(access_to(etcd)) as follower:
        follower.comes_to(Reason.REFUSED, 5)
        with etcd:
            etcd.put(LEADER, "node1")
            follower.sees("node1", 5)
            follower.follows_the_next_change(etcd)


def test_history_compacted_between_the_listing_and_the_watch_is_listed_again(one: EtcdCluster) -> None:
    compacted = threading.Event()

    def overtake(sighting: Sighting) -> None:
        if isinstance(sighting, Listing) and not compacted.is_set():
            compacted.set()
            one.put(LEADER, "node2")
            one.put(LEADER, "node3")
            one.compact()

    with Follower(access_to(one), overtake) as follower:
        follower.comes_to(Reason.COMPACTED, 5)
        follower.sees("node3", 5)
        follower.comes_to(Reason.STARTED, 5)
        follower.follows_the_next_change(one)


def test_a_member_cut_off_from_its_quorum_is_noticed_though_it_lives(three: EtcdCluster) -> None:
    with Follower(access_to(three)) as follower:
        follower.comes_to(Reason.STARTED, 5)
        began = time.monotonic()
        three.lose_quorum(survivor=connected_to(three, follower))
        wait_for(lambda: len(follower.states) > 1, 12, "a watch that ends")
        print(f"quorum lost: noticed after {follower.states[1].at - began:.3f} s: {follower.problems[0]}")
        follower.comes_to(Reason.NO_QUORUM, 12)
        three.start()
        follower.follows_the_next_change(three, within=15)


def test_the_whole_cluster_freezes_and_thaws(three: EtcdCluster) -> None:
    with Follower(access_to(three)) as follower:
        follower.comes_to(Reason.STARTED, 5)
        three.freeze()
        follower.comes_to(Reason.SILENT, 6)
        time.sleep(6)
        three.thaw()
        three.wait_until_ready(15)
        follower.follows_the_next_change(three, within=15)


@pytest.mark.parametrize("value", ["", "a" * 300_000, "two\nlines"])
def test_a_leader_that_cannot_be_read_is_unknown_and_the_next_is_followed(
    one: EtcdCluster, value: str
) -> None:
    with Follower(access_to(one)) as follower:
        follower.comes_to(Reason.STARTED, 5)
        one.etcdctl("put", LEADER, stdin=value) if value else one.put(LEADER, "")
        wait_for(
            lambda: isinstance(follower.view.entries["leader"].value, Malformed),
            5,
            "a value seen as malformed",
        )
        follower.follows_the_next_change(one)
    assert follower.reasons == [Reason.STARTED]


def test_keys_that_no_single_message_holds_are_read_in_several(one: EtcdCluster) -> None:
    """Eight times what a message may hold, by one large key and small ones in turn."""
    for number in range(40):
        one.etcdctl("put", f"{PREFIX}members/{number:02}", stdin="x" * (1 + 25_000 * (number % 4)))
    with Follower(access_to(one, max_message_bytes=200_000)) as follower:
        follower.sees("node1", 5)
        assert {f"members/{number:02}" for number in range(40)} <= follower.view.entries.keys()
        follower.follows_the_next_change(one)
        before = _listings_of(follower)
        wait_for(lambda: _listings_of(follower) > before, 10, "a listing again")
    assert follower.reasons == [Reason.STARTED]


def test_what_is_read_in_several_messages_is_of_one_revision(one: EtcdCluster) -> None:
    """The first key and the last are written together all the while, with large ones between them."""
    for number in range(8):
        one.etcdctl("put", f"{PREFIX}large/{number}", stdin="x" * 75_000)
    written, over = [0], threading.Event()

    def write() -> None:
        while not over.is_set():
            one.txn(f"put {PREFIX}a {written[0]}", f"put {PREFIX}z {written[0]}")
            written[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    access = access_to(one, max_message_bytes=100_000)
    client = EtcdClient(access, access.parsed()[0], lambda: True)
    try:
        wait_for(lambda: written[0] > 0, 10, "the first two")
        seen: set[tuple[bytes, bytes]] = set()
        while len(seen) < 10:
            values = {kv.key: kv.value for kv in client.list_keys(PREFIX, 5).keys}
            seen.add((values[b"/service/demo/a"], values[b"/service/demo/z"]))
    finally:
        over.set()
        writer.join()
        client.close()
    assert all(first == last for first, last in seen)


def _listings_of(follower: Follower) -> int:
    return sum(isinstance(sighting, Listing) for sighting in follower.sightings)


def test_values_beyond_the_limit_are_an_error_with_a_hint_and_no_endless_loop(one: EtcdCluster) -> None:
    access = access_to(one, max_message_bytes=200_000)
    with Follower(access) as follower:
        follower.comes_to(Reason.STARTED, 5)
        one.etcdctl("put", PREFIX + "members/huge", stdin="x" * 300_000)
        follower.comes_to(Reason.TOO_LARGE, 5)
        before, sightings = time.process_time(), len(follower.sightings)
        time.sleep(4)
        assert (time.process_time() - before) / 4 < 0.15
        assert len(follower.sightings) == sightings
        assert "HINT: see who writes so much" in follower.problems[0]
        one.delete(PREFIX + "members/huge")
        follower.follows_the_next_change(one)


def test_a_restored_backup_with_an_earlier_revision_is_believed(one: EtcdCluster, folder: Path) -> None:
    one.put(LEADER, "before")
    one.save_snapshot(folder / "backup.db")
    for number in range(20):
        one.put(LEADER, f"after-{number}")
    with Follower(access_to(one)) as follower:
        follower.sees("after-19", 5)
        revision = follower.view.revision
        one.restore_from_snapshot(folder / "backup.db")
        follower.sees("before", 15)
        assert follower.view.revision < revision
        follower.follows_the_next_change(one)


def test_a_hundred_sessions_leave_no_thread_behind(one: EtcdCluster) -> None:
    sessions = 0

    def end_it(sighting: Sighting) -> None:
        nonlocal sessions
        if isinstance(sighting, Contact) and sessions < 100:
            sessions += 1
            raise RuntimeError("the consumer fails")

    before = set(threading.enumerate())
    with Follower(access_to(one, backoff=Backoff(first=0.001, limit=0.01)), end_it) as follower:
        wait_for(lambda: sessions == 100, 60, "a hundred sessions")
        follower.comes_to(Reason.STARTED, 5)
        follower.follows_the_next_change(one)
    wait_for(lambda: set(threading.enumerate()) <= before, 5, "every thread to end")


def test_one_listing_serves_a_command_that_does_not_watch(three: EtcdCluster) -> None:
    access = access_to(three)
    three.members[0].kill()
    listing = Follower(access).watch.read_once()
    assert [entry.value for entry in listing.entries] == [Leader("node1")]
    assert listing.asked_at <= listing.at


def test_a_stop_does_not_wait_for_an_answer_that_is_outstanding(one: EtcdCluster) -> None:
    one.freeze()
    with Follower(access_to(one)) as follower:
        time.sleep(0.5)
        assert follower.states == []
    one.thaw()


def test_children_start_unharmed_beside_a_watch(one: EtcdCluster) -> None:
    """A real fork, which `preexec_fn` forces: grpc's fork handlers kill one child in seven."""
    with Follower(access_to(one)) as follower:
        follower.comes_to(Reason.STARTED, 5)
        codes = {subprocess.run(["true"], preexec_fn=os.getpid, check=False).returncode for _ in range(200)}
        assert codes == {0}
        follower.follows_the_next_change(one)
