"""One suite on the etcd in memory and on a real one: what the herald and the candidate may rely on."""

from collections.abc import Iterator
from typing import Protocol

import pytest

from tests.contracts.fake_etcd import FakeClient, FakeEtcd
from tests.support.etcd import EtcdCluster
from tests.support.folders import bed_folder
from tests.support.waiting import wait_for
from watcher.expose.leased import Client as LeaseClient
from watcher.observe.etcd_access import EtcdAccess
from watcher.observe.etcd_client import EtcdClient, EtcdUnheard, Said

P = "/service/demo/"


class Client(LeaseClient, Protocol):
    """… and what a test looks with."""

    def list_keys(self, prefix: str, limit: float) -> Said: ...


@pytest.fixture(params=["fake", "real"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    if request.param == "fake":
        yield FakeClient(FakeEtcd(), "fake:2379")
        return
    with bed_folder() as folder, EtcdCluster(folder, size=1) as etcd:
        access = EtcdAccess(tuple(etcd.endpoints))
        real = EtcdClient(access, access.parsed()[0], lambda: True)
        yield real
        real.close()


def keys(client: Client) -> dict[str, str]:
    said = client.list_keys(P, 2.0)
    return {kv.key.decode().removeprefix(P): kv.value.decode() for kv in said.keys}


def test_what_was_written_goes_with_its_lease_and_no_other(client: Client) -> None:
    ours, others = client.grant(60), client.grant(60)
    client.write({P + "a": "1", P + "b": "2"}, (), ours)
    client.write({P + "c": "3"}, (), others)
    client.revoke(ours)
    assert keys(client) == {"c": "3"}


def test_a_key_written_again_goes_with_the_lease_of_the_last_write(client: Client) -> None:
    before, after = client.grant(60), client.grant(60)
    client.write({P + "a": "1"}, (), before)
    client.write({P + "a": "2"}, (), after)
    client.revoke(before)
    assert keys(client) == {"a": "2"}
    client.revoke(after)
    assert keys(client) == {}


def test_one_write_puts_and_deletes_and_does_not_mind_what_is_not_there(client: Client) -> None:
    lease = client.grant(60)
    client.write({P + "a": "1", P + "b": "2"}, (), lease)
    before = client.list_keys(P, 2.0).revision
    client.write({P + "c": "3"}, [P + "a", P + "never"], lease)
    assert keys(client) == {"b": "2", "c": "3"}
    assert client.list_keys(P, 2.0).revision > before


def test_a_lease_that_has_gone_says_so_to_whoever_keeps_it_alive_or_writes(client: Client) -> None:
    lease = client.grant(60)
    assert client.keep_alive(lease)
    client.revoke(lease)
    assert not client.keep_alive(lease)
    with pytest.raises(EtcdUnheard, match="lease not found"):
        client.write({P + "a": "1"}, (), lease)


def test_a_key_is_claimed_by_the_first_who_asks_and_by_nobody_while_it_is_there(client: Client) -> None:
    ours, others = client.grant(60), client.grant(60)
    assert client.claim(P + "a", "ours", ours)
    assert not client.claim(P + "a", "theirs", others)
    assert not client.claim(P + "a", "ours again", ours)
    assert keys(client) == {"a": "ours"}
    client.revoke(ours)
    assert client.claim(P + "a", "theirs", others)
    assert keys(client) == {"a": "theirs"}


def test_nothing_is_claimed_with_a_lease_that_has_gone(client: Client) -> None:
    lease = client.grant(60)
    client.revoke(lease)
    with pytest.raises(EtcdUnheard, match="lease not found"):
        client.claim(P + "a", "1", lease)
    assert keys(client) == {}


def test_a_lease_that_nobody_keeps_alive_takes_its_keys_along() -> None:
    """On the real one alone: the fake knows no time."""
    with bed_folder() as folder, EtcdCluster(folder, size=1) as etcd:
        access = EtcdAccess(tuple(etcd.endpoints))
        client = EtcdClient(access, access.parsed()[0], lambda: True)
        kept, left = client.grant(2), client.grant(2)
        client.write({P + "kept": ""}, (), kept)
        client.write({P + "left": ""}, (), left)
        wait_for(lambda: client.keep_alive(kept) and "left" not in keys(client), 15, "the lease ends")
        assert keys(client) == {"kept": ""}
        client.close()
