"""One watch for every cluster of a namespace, on an etcd in memory."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.contracts.fake_etcd import FakeEtcd
from tests.support.waiting import wait_for
from tests.unit.test_observe_etcd import ACCESS
from watcher.decide.model import Change, Contact, Deletion, Leader, Listing, Sighting
from watcher.observe.etcd import EtcdState, EtcdWatch, Reason

NAMESPACE = "/service/"
SCOPES = ("app", "app2", "app/1", "billing")


@dataclass
class Namespace:
    """What each of the followed clusters was told."""

    etcd: FakeEtcd = field(default_factory=FakeEtcd)
    told: dict[str, list[Sighting]] = field(default_factory=lambda: {scope: [] for scope in SCOPES})
    states: list[EtcdState] = field(default_factory=list)

    def changes(self, scope: str) -> list[str]:
        """Keys that were told of since the watch began, in order."""
        changes = [one for one in self.told[scope] if isinstance(one, Change)]
        return [event.key for change in changes for event in change.events]

    def listings(self, scope: str) -> list[Listing]:
        return [one for one in self.told[scope] if isinstance(one, Listing)]


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made, stop = Namespace(), threading.Event()
    for scope in (*SCOPES, "other"):
        made.etcd.put(f"{NAMESPACE}{scope}/leader", f"{scope}-1")
    posts = {scope: made.told[scope].append for scope in SCOPES}
    watch = EtcdWatch(ACCESS, NAMESPACE, posts, made.states.append, connect=made.etcd.client)
    thread = threading.Thread(target=watch.run, args=(stop,))
    thread.start()
    wait_for(lambda: made.states, 10, "a session")
    yield made
    stop.set()
    thread.join(1)
    assert not thread.is_alive()


def test_a_listing_tells_each_cluster_of_its_own_keys(namespace: Namespace) -> None:
    for scope in SCOPES:
        first = namespace.listings(scope)[0]
        assert [(entry.key, entry.value) for entry in first.entries] == [("leader", Leader(f"{scope}-1"))]
        assert first.revision == namespace.etcd.revision


def test_a_change_is_told_to_its_cluster_alone(namespace: Namespace) -> None:
    namespace.etcd.put(f"{NAMESPACE}app/members/a", "{}")
    namespace.etcd.put(f"{NAMESPACE}app2/leader", "app2-2")
    namespace.etcd.delete(f"{NAMESPACE}app/leader")
    wait_for(lambda: len(namespace.changes("app")) == 2, 10, "both")
    assert namespace.changes("app") == ["members/a", "leader"]
    assert namespace.changes("app2") == ["leader"]
    assert namespace.changes("billing") == []
    last = [one for one in namespace.told["app"] if isinstance(one, Change)][-1]
    assert last.events == (Deletion("leader", namespace.etcd.revision),)


def test_a_group_of_citus_is_a_cluster_of_its_own(namespace: Namespace) -> None:
    namespace.etcd.put(f"{NAMESPACE}app/1/leader", "worker-2")
    namespace.etcd.put(f"{NAMESPACE}app/1/members/worker-2", "{}")
    namespace.etcd.put(f"{NAMESPACE}app/2/leader", "nobody follows this group")
    namespace.etcd.put(f"{NAMESPACE}app/leader", "app-2")
    wait_for(lambda: namespace.changes("app"), 10, "the last one")
    assert namespace.changes("app/1") == ["leader", "members/worker-2"]
    assert namespace.changes("app") == ["leader"]


def test_what_nobody_follows_is_nobodys(namespace: Namespace) -> None:
    for key in ("other/leader", "stray", "app", "app3/leader", "/leader"):
        namespace.etcd.put(f"{NAMESPACE}{key}", "x")
    namespace.etcd.put(f"{NAMESPACE}billing/leader", "billing-2")
    wait_for(lambda: namespace.changes("billing"), 10, "the last one")
    assert [namespace.changes(scope) for scope in SCOPES] == [[], [], [], ["leader"]]


def test_each_re_read_says_to_all_that_etcd_was_heard(namespace: Namespace) -> None:
    wait_for(lambda: all(len(namespace.listings(scope)) > 2 for scope in SCOPES), 10, "re-reads")


def test_a_word_without_keys_is_a_contact_for_all(namespace: Namespace) -> None:
    wait_for(lambda: all(_contacts(namespace.told[scope]) for scope in SCOPES), 10, "that the watch stands")


def test_an_event_that_was_lost_is_told_by_the_next_read(namespace: Namespace) -> None:
    namespace.etcd.lossy = True
    namespace.etcd.put(f"{NAMESPACE}billing/leader", "billing-2")
    wait_for(lambda: Reason.MISSED in [state.reason for state in namespace.states], 10, "that it was missed")
    namespace.etcd.lossy = False
    assert namespace.listings("billing")[-1].entries[0].value == Leader("billing-2")


def _contacts(told: list[Sighting]) -> list[Sighting]:
    return [one for one in told if isinstance(one, Contact)]
