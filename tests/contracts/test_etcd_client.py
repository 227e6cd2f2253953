"""One suite on the etcd in memory and on a real one: what a session may rely on."""

from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from tests.contracts.fake_etcd import FakeEtcd
from tests.support.etcd import EtcdCluster
from tests.support.folders import bed_folder
from watcher.observe.etcd import Client, Connect
from watcher.observe.etcd_access import EtcdAccess
from watcher.observe.etcd_client import EtcdClient, EtcdUnheard, Reason

P = "/service/demo/"


class Store(Protocol):
    def put(self, key: str, value: str) -> int: ...

    def delete(self, key: str) -> int: ...

    def compact(self) -> object: ...


Bed = tuple[Store, Client]


@pytest.fixture(params=["fake", "real"])
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    if request.param == "fake":
        fake = FakeEtcd()
        yield fake, _client(fake.client, "fake:2379")
        return
    with bed_folder() as folder, EtcdCluster(folder, size=1) as etcd:
        client = _client(EtcdClient, etcd.endpoints[0])
        yield etcd, client
        client.close()


def _client(connect: Connect, endpoint: str) -> Client:
    access = EtcdAccess((endpoint,))
    return connect(access, access.parsed()[0], lambda: True)


def heard(client: Client, revision: int, count: int) -> list[tuple[bytes, bytes, bool, int]]:
    stream = client.watch(P, revision)
    events: list[tuple[bytes, bytes, bool, int]] = []
    try:
        for said in stream:
            events += [(kv.key, kv.value, kv.deleted, kv.mod_revision) for kv in said.keys]
            if len(events) >= count:
                break
    finally:
        stream.cancel()
    return events


def test_a_listing_has_all_keys_below_the_prefix_and_a_revision_even_where_there_is_none(bed: Bed) -> None:
    store, client = bed
    empty = client.list_keys(P, 2.0)
    assert empty.keys == ()
    store.put(P + "a", "1")
    store.put("/service/demo0", "not below")
    latest = store.put(P + "b", "2")
    said = client.list_keys(P, 2.0)
    assert [(kv.key, kv.value) for kv in said.keys] == [
        (b"/service/demo/a", b"1"),
        (b"/service/demo/b", b"2"),
    ]
    assert empty.revision < said.revision == latest
    assert said.cluster_id == empty.cluster_id != 0


def test_revisions_tell_a_rewrite_from_a_rebirth(bed: Bed) -> None:
    store, client = bed
    first = store.put(P + "a", "1")
    second = store.put(P + "a", "2")
    kv = client.list_keys(P, 2.0).keys[0]
    assert (kv.create_revision, kv.mod_revision) == (first, second)
    store.delete(P + "a")
    third = store.put(P + "a", "3")
    kv = client.list_keys(P, 2.0).keys[0]
    assert (kv.create_revision, kv.mod_revision) == (third, third)


def test_a_watch_tells_what_followed_a_listing_in_order(bed: Bed) -> None:
    store, client = bed
    store.put(P + "a", "before")
    at = client.list_keys(P, 2.0).revision
    store.put("/elsewhere", "x")
    store.put(P + "a", "after")
    store.delete(P + "a")
    assert heard(client, at + 1, 2) == [
        (b"/service/demo/a", b"after", False, at + 2),
        (b"/service/demo/a", b"", True, at + 3),
    ]


def test_the_first_word_of_a_watch_comes_without_any_event(bed: Bed) -> None:
    _, client = bed
    stream = client.watch(P, client.list_keys(P, 2.0).revision + 1)
    assert next(iter(stream)).keys == ()
    stream.cancel()


def test_a_watch_into_compacted_history_says_so(bed: Bed) -> None:
    store, client = bed
    at = store.put(P + "a", "1")
    store.put(P + "a", "2")
    store.put(P + "a", "3")
    store.compact()
    with pytest.raises(EtcdUnheard) as caught:
        heard(client, at, 1)
    assert caught.value.reason is Reason.COMPACTED


def test_a_cancelled_watch_ends_as_closed(bed: Bed) -> None:
    _, client = bed
    stream = client.watch(P, 1)
    stream.cancel()
    with pytest.raises(EtcdUnheard) as caught:
        _drain(stream.__iter__)
    assert caught.value.reason is Reason.CLOSED


def _drain(iterate: Callable[[], Iterator[object]]) -> None:
    for _ in iterate():
        pass
