"""TLS, passwords and permissions of a real etcd: a refusal says why, and heals by itself once granted."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.etcd_follower import LEADER, PREFIX, Follower, access_to
from tests.support.etcd import EtcdCluster, User
from tests.support.folders import bed_folder
from tests.support.tls import Authority, KeyPair, Tls
from tests.support.waiting import wait_for
from watcher.decide.errors import AccessDenied, SourceError
from watcher.observe.etcd import EtcdAccess, EtcdWatch, Reason
from watcher.observe.etcd_client import EtcdClient

WATCHER = {"watcher": User("secret", [PREFIX], read_only=True)}
LOGIN = {"username": "watcher", "password": "secret"}


@pytest.fixture
def folder() -> Iterator[Path]:
    with bed_folder() as path:
        yield path


@pytest.fixture
def guarded(folder: Path) -> Iterator[EtcdCluster]:
    with EtcdCluster(folder, size=1, auth_token_ttl=2) as etcd:
        etcd.put(LEADER, "node1")
        etcd.enable_auth("root-password", WATCHER)
        yield etcd


def read(access: EtcdAccess) -> str:
    listing = EtcdWatch(access, PREFIX, lambda _: None).read_once()
    return str(listing.entries[0].value)


# --- users ----------------------------------------------------------------------------------------


def test_a_user_with_a_password_is_let_in_over_plaintext(guarded: EtcdCluster) -> None:
    with Follower(access_to(guarded, **LOGIN)) as follower:
        follower.comes_to(Reason.STARTED, 5)
        follower.follows_the_next_change(guarded)


def test_a_token_that_ran_out_is_replaced_unnoticed(guarded: EtcdCluster) -> None:
    """etcd lengthens a token's life at each use, so it runs out only where reads are rarer than its ttl."""
    with Follower(access_to(guarded, reread_interval=6.0, **LOGIN)) as follower:
        follower.comes_to(Reason.STARTED, 5)
        follower.comes_to(Reason.DENIED, 12)
        again = follower.comes_to(Reason.STARTED, 5, since=2)
        print(f"token ran out: watching again {again:.3f} s later; {follower.problems}")
        follower.follows_the_next_change(guarded)


def test_a_permission_withdrawn_is_told_and_given_again_is_used(guarded: EtcdCluster) -> None:
    with Follower(access_to(guarded, **LOGIN)) as follower:
        follower.comes_to(Reason.STARTED, 5)
        guarded.revoke("watcher", PREFIX)
        noticed = follower.comes_to(Reason.DENIED, 6)
        time.sleep(3)
        told = len(follower.states)
        assert follower.reasons.count(Reason.DENIED) == 1
        assert "permission" in follower.problems[-1]
        assert "HINT: grant" in follower.problems[-1]
        guarded.grant("watcher", PREFIX)
        again = follower.comes_to(Reason.STARTED, 6, since=told)
        print(f"permission: missed after {noticed:.3f} s, used again after {again:.3f} s")
        follower.follows_the_next_change(guarded)


def test_a_password_that_is_wrong_names_the_setting(guarded: EtcdCluster) -> None:
    with pytest.raises(AccessDenied, match=r"authentication failed.*\n  HINT: correct `etcd.username`"):
        read(access_to(guarded, username="watcher", password="wrong"))


def test_an_etcd_that_demands_a_user_says_so(guarded: EtcdCluster) -> None:
    with pytest.raises(AccessDenied, match="HINT: etcd demands a user"):
        read(access_to(guarded))


def test_a_user_without_the_prefix_is_denied(guarded: EtcdCluster) -> None:
    guarded.add_user("other", User("secret", ["/elsewhere/"], read_only=True))
    with pytest.raises(AccessDenied, match="HINT: grant"):
        read(access_to(guarded, username="other", password="secret"))


def test_authentication_may_be_switched_on_and_off_under_a_watcher(folder: Path) -> None:
    with EtcdCluster(folder, size=1) as etcd, Follower(access_to(etcd, **LOGIN)) as follower:
        follower.comes_to(Reason.STARTED, 5)
        etcd.enable_auth("root-password", WATCHER)
        follower.comes_to(Reason.DENIED, 6)
        follower.comes_to(Reason.STARTED, 6, since=2)
        follower.follows_the_next_change(etcd)
        etcd.disable_auth()
        time.sleep(5)
        follower.follows_the_next_change(etcd)


def test_a_changed_password_ends_the_access(guarded: EtcdCluster) -> None:
    with Follower(access_to(guarded, **LOGIN)) as follower:
        follower.comes_to(Reason.STARTED, 5)
        guarded.change_password("watcher", "another")
        follower.comes_to(Reason.DENIED, 6)


def ask_to_write(etcd: EtcdCluster, *keys: str) -> None:
    access = access_to(etcd, **LOGIN)
    client = EtcdClient(access, access.parsed()[0], lambda: True)
    try:
        client.authenticate()
        client.check_may_write(keys)
    finally:
        client.close()


def test_the_right_to_write_is_asked_for_by_key_and_nothing_is_written(guarded: EtcdCluster) -> None:
    ours, there = PREFIX + "pgbouncer-watcher/", PREFIX + "pgbouncer-watcher/there"
    guarded.put(there, "by another")
    before = guarded.get_prefix(PREFIX), guarded.revision()
    with pytest.raises(AccessDenied, match=r"permission denied\n  HINT: grant the user's role readwrite"):
        ask_to_write(guarded, ours + "new")
    guarded.grant("watcher", ours)
    ask_to_write(guarded, ours + "new", there)
    with pytest.raises(AccessDenied):
        ask_to_write(guarded, ours + "new", LEADER)
    assert (guarded.get_prefix(PREFIX), guarded.revision()) == before


# --- TLS ------------------------------------------------------------------------------------------


@pytest.fixture
def authority(folder: Path) -> Authority:
    return Authority(folder / "ca")


@pytest.fixture
def encrypted(folder: Path, authority: Authority) -> Iterator[EtcdCluster]:
    with EtcdCluster(folder / "etcd", size=1, tls=Tls(authority, client_certificates=True)) as etcd:
        etcd.put(LEADER, "node1")
        yield etcd


def test_tls_with_a_client_certificate_is_followed(encrypted: EtcdCluster, authority: Authority) -> None:
    pair = authority.client("watcher")
    access = access_to(encrypted, ca=authority.ca_file, certificate=pair.certificate, key=pair.key)
    with Follower(access) as follower:
        follower.comes_to(Reason.STARTED, 5)
        follower.follows_the_next_change(encrypted)


def test_a_user_and_tls_work_together(folder: Path, authority: Authority) -> None:
    with EtcdCluster(folder / "etcd", size=1, tls=Tls(authority)) as etcd:
        etcd.enable_auth("root-password", WATCHER)
        access = access_to(etcd, endpoints=tuple(etcd.urls), ca=authority.ca_file, **LOGIN)
        with Follower(access) as follower:
            follower.comes_to(Reason.STARTED, 5)
            follower.follows_the_next_change(etcd)


def test_a_certificate_of_another_authority_is_not_trusted(encrypted: EtcdCluster, folder: Path) -> None:
    stranger = Authority(folder / "stranger")
    with pytest.raises(SourceError, match=r"compare `etcd\.tls`") as caught:
        read(access_to(encrypted, ca=stranger.ca_file))
    print(caught.value)


def test_a_missing_client_certificate_is_told(encrypted: EtcdCluster, authority: Authority) -> None:
    with pytest.raises(SourceError, match=r"compare `etcd\.tls`") as caught:
        read(access_to(encrypted, ca=authority.ca_file))
    print(caught.value)


def test_plaintext_towards_tls_is_told(encrypted: EtcdCluster) -> None:
    with pytest.raises(SourceError, match=r"compare `etcd\.tls`") as caught:
        read(access_to(encrypted))
    print(caught.value)


def test_tls_towards_plaintext_is_told(folder: Path, authority: Authority) -> None:
    with (
        EtcdCluster(folder / "etcd", size=1) as etcd,
        pytest.raises(SourceError, match=r"compare `etcd\.tls`") as caught,
    ):
        read(access_to(etcd, ca=authority.ca_file))
    print(caught.value)


def test_a_file_that_is_missing_is_named(encrypted: EtcdCluster, folder: Path) -> None:
    with pytest.raises(SourceError, match=r"absent\.pem.*\n  HINT: correct the path"):
        read(access_to(encrypted, ca=folder / "absent.pem"))


def test_a_file_that_is_no_certificate_is_told(encrypted: EtcdCluster, folder: Path) -> None:
    nonsense = folder / "nonsense.pem"
    nonsense.write_text("not a certificate")
    with pytest.raises(SourceError, match=r"HINT: correct `etcd\.tls`: each file must be PEM") as caught:
        read(access_to(encrypted, ca=nonsense))
    print(caught.value)


def replace(old: KeyPair, new: KeyPair) -> None:
    """A certificate renewed in its place. etcd and we read it for each new connection."""
    for there, here in ((old.certificate, new.certificate), (old.key, new.key)):
        there.write_bytes(here.read_bytes())


def bad_server(flaw: str, folder: Path, authority: Authority, address: str) -> KeyPair:
    stranger = Authority(folder / "stranger")
    return {
        "expired": lambda: authority.expired_server("expired", [address]),
        "not yet valid": lambda: authority.early_server("early", [address]),
        "another name": lambda: authority.server("elsewhere", ["elsewhere.example.org"]),
        "another authority": lambda: stranger.server("stranger", [address]),
    }[flaw]()


@pytest.mark.parametrize("flaw", ["expired", "not yet valid", "another name", "another authority"])
def test_a_server_certificate_that_cannot_be_trusted_is_told_and_its_replacement_taken(
    encrypted: EtcdCluster, authority: Authority, folder: Path, flaw: str
) -> None:
    pair, [member] = authority.client("watcher"), encrypted.members
    assert member.key_pair is not None
    good = authority.server("good", [member.address, "localhost"])
    replace(member.key_pair, bad_server(flaw, folder, authority, member.address))
    access = access_to(encrypted, ca=authority.ca_file, certificate=pair.certificate, key=pair.key)
    with Follower(access) as follower:
        wait_for(lambda: follower.problems, 15, "the fault is told")
        assert f"etcd {encrypted.endpoints[0]}" in follower.problems[0]
        assert "compare `etcd.tls`" in follower.problems[0]
        assert follower.leader is None
        print(follower.problems[0])
        replace(member.key_pair, good)
        follower.comes_to(Reason.STARTED, 15)
        follower.follows_the_next_change(encrypted)


@pytest.mark.parametrize("flaw", ["expired", "another authority", "another's key"])
def test_a_client_certificate_that_is_refused_is_told_and_its_replacement_taken_without_a_restart(
    encrypted: EtcdCluster, authority: Authority, folder: Path, flaw: str
) -> None:
    good, shown = authority.client("good"), authority.client("shown")
    if flaw == "another's key":
        shown.key.write_bytes(good.key.read_bytes())
    elif flaw == "expired":
        replace(shown, authority.expired_client("old"))
    else:
        replace(shown, Authority(folder / "stranger").client("stranger"))
    access = access_to(encrypted, ca=authority.ca_file, certificate=shown.certificate, key=shown.key)
    with Follower(access) as follower:
        wait_for(lambda: follower.problems, 15, "the fault is told")
        ours = flaw == "another's key"
        assert ("the key must belong" if ours else "compare `etcd.tls`") in follower.problems[0]
        print(follower.problems[0])
        replace(shown, good)
        follower.comes_to(Reason.STARTED, 15)
        follower.follows_the_next_change(encrypted)
