"""The barrier on a real etcd: for whom it waits, what ends the wait, and that nothing makes it longer."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import yaml

from tests.support.etcd import EtcdCluster, User
from tests.support.folders import bed_folder
from tests.support.proxy import Proxy
from tests.support.tls import Authority, Tls
from tests.support.waiting import wait_for
from watcher import barrier
from watcher.barrier import Access, Barrier, Etcd, Settings
from watcher.expose.herald import Herald
from watcher.observe.etcd_access import EtcdAccess
from watcher.observe.etcd_client import EtcdClient

P = "/service/demo/"
TARGETS = P + "pgbouncer-watcher/targets/"
STOP = P + "pgbouncer-watcher/stop/pg1"
LONG = 60.0  # a limit that no test reaches
MARGIN = 10.0  # seconds for a busy machine


@pytest.fixture
def folder() -> Iterator[Path]:
    with bed_folder() as path:
        yield path


@pytest.fixture(scope="module")
def shared() -> Iterator[EtcdCluster]:
    with bed_folder() as path, EtcdCluster(path, size=1) as cluster:
        yield cluster


@pytest.fixture
def etcd(shared: EtcdCluster) -> EtcdCluster:
    """One member, empty but for a leader: pg1."""
    shared.delete(P, prefix=True)
    shared.put(P + "leader", "pg1")
    return shared


def announce(etcd: EtcdCluster, target: str, watcher: str = "w1", held_for: str = "") -> None:
    etcd.put(f"{TARGETS}{target}/{watcher}", json.dumps({"watcher": watcher, "held_for": held_for}))


def access_of(endpoints: list[str], **more: Any) -> Access:
    return Access(
        [(host, int(port)) for host, _, port in (text.rpartition(":") for text in endpoints)], **more
    )


class Waiting(AbstractContextManager["Waiting"]):
    """A barrier of pg1 in a thread of its own."""

    def __init__(self, access: Access, limit: float = LONG) -> None:
        self.said: list[str] = []
        self.failures: list[Exception] = []
        settings = Settings("pg1", P, access, limit)
        self._etcd = Etcd(access)
        self._barrier = Barrier(settings, self._etcd, self.said.append)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self._barrier.run()
        except barrier.Unheard as error:
            self.failures.append(error)
        finally:
            self._etcd.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.join(MARGIN)

    def waits(self) -> bool:
        return self._thread.is_alive()

    def end(self, within: float = MARGIN) -> str:
        """What it says at its end."""
        self._thread.join(within)
        assert not self._thread.is_alive()
        return (self.said or [str(error) for error in self.failures])[0]


def request(etcd: EtcdCluster) -> str:
    """The id of the stop that the barrier asks holds for."""
    value = wait_for(lambda: etcd.get(STOP), MARGIN, "the barrier asks")
    return str(json.loads(value)["id"])


# --- for whom it waits ---------------------------------------------------------------------------------


def test_it_waits_for_every_target_and_one_watcher_of_each_is_enough(etcd: EtcdCluster) -> None:
    announce(etcd, "a", "w1")
    announce(etcd, "a", "w2")
    announce(etcd, "b", "w1")
    with Waiting(access_of(etcd.endpoints)) as waiting:
        stop_id = request(etcd)
        announce(etcd, "a", "w2", stop_id)
        announce(etcd, "b", "w1", "another stop")
        time.sleep(0.3)
        assert waiting.waits()
        announce(etcd, "b", "w1", stop_id)
        assert waiting.end().endswith(" ms: a, b")


def test_a_target_that_nobody_serves_any_more_is_not_waited_for(etcd: EtcdCluster) -> None:
    announce(etcd, "a")
    announce(etcd, "b")
    with Waiting(access_of(etcd.endpoints)) as waiting:
        announce(etcd, "a", held_for=request(etcd))
        etcd.delete(f"{TARGETS}b/w1")
        assert waiting.end().endswith(" ms: a (and without b, which no watcher can hold)")


def test_a_target_that_appears_meanwhile_is_waited_for_too(etcd: EtcdCluster) -> None:
    announce(etcd, "a")
    with Waiting(access_of(etcd.endpoints)) as waiting:
        stop_id = request(etcd)
        announce(etcd, "late")
        announce(etcd, "a", held_for=stop_id)
        time.sleep(0.3)
        assert waiting.waits()
        announce(etcd, "late", held_for=stop_id)
        assert waiting.end().endswith(" ms: a, late")


@pytest.mark.parametrize("value", ["", "[]", "{}", "null", "\x7f", '{"held_for": 7}'])
def test_a_key_that_no_watcher_writes_is_a_target_that_is_not_held(etcd: EtcdCluster, value: str) -> None:
    etcd.put(f"{TARGETS}a/w1", value)
    with Waiting(access_of(etcd.endpoints), limit=0.5) as waiting:
        assert waiting.end() == "the stop goes on without a: not held within 0.5 s"


@pytest.mark.parametrize("leader", ["pg2", None])
def test_a_member_that_does_not_lead_asks_nobody(etcd: EtcdCluster, leader: str | None) -> None:
    announce(etcd, "a")
    etcd.put(P + "leader", leader) if leader else etcd.delete(P + "leader")
    with Waiting(access_of(etcd.endpoints)) as waiting:
        assert waiting.end() == "nothing to hold: pg1 does not lead"
    assert etcd.get(STOP) is None


def test_without_targets_nobody_is_asked(etcd: EtcdCluster) -> None:
    with Waiting(access_of(etcd.endpoints)) as waiting:
        assert waiting.end() == "nobody to ask: no watcher announces a target"
    assert etcd.get(STOP) is None


# --- what ends the wait --------------------------------------------------------------------------------


def test_who_no_longer_leads_no_longer_waits(etcd: EtcdCluster) -> None:
    announce(etcd, "a")
    with Waiting(access_of(etcd.endpoints)) as waiting:
        request(etcd)
        etcd.put(P + "leader", "pg2")
        assert waiting.end() == "the stop goes on without a: pg1 no longer leads"


def test_a_leader_key_that_is_about_to_run_out_is_not_waited_for(etcd: EtcdCluster) -> None:
    """PostgreSQL writes while we wait: it must be down before another member may be promoted."""
    announce(etcd, "a")
    etcd.put(P + "leader", "pg1", lease=etcd.grant_lease(4))
    with Waiting(access_of(etcd.endpoints)) as waiting:
        assert waiting.end() == "the stop goes on without a: the leader key is about to run out"
    assert etcd.get(P + "leader") == "pg1"


def test_a_leader_key_that_is_refreshed_is_waited_under_beyond_its_time_to_live(etcd: EtcdCluster) -> None:
    announce(etcd, "a")
    lease = etcd.grant_lease(4)
    etcd.put(P + "leader", "pg1", lease=lease)
    with Waiting(access_of(etcd.endpoints), limit=6) as waiting:
        while waiting.waits():
            etcd.etcdctl("lease", "keep-alive", "--once", lease)
            time.sleep(0.2)
        assert waiting.end() == "the stop goes on without a: not held within 6 s"


def test_the_request_stays_while_it_waits_and_goes_soon_after(etcd: EtcdCluster) -> None:
    announce(etcd, "a")
    with Waiting(access_of(etcd.endpoints), limit=5) as waiting:
        stop_id = request(etcd)
        while waiting.waits():
            assert request(etcd) == stop_id
        assert request(etcd) == stop_id
    wait_for(lambda: etcd.get(STOP) is None, MARGIN, "the request goes")


# --- an etcd in trouble --------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["cut", "stall"])
@pytest.mark.parametrize("when", ["before", "while it waits"])
def test_another_member_of_etcd_is_asked_when_one_falls_silent(
    etcd: EtcdCluster, trouble: str, when: str
) -> None:
    announce(etcd, "a")
    with Proxy(etcd.endpoints[0]) as first:
        fail: Callable[[], None] = getattr(first, trouble)
        if when == "before":
            fail()
        with Waiting(access_of([first.endpoint, *etcd.endpoints])) as waiting:
            stop_id = request(etcd)
            if when == "while it waits":
                fail()
            time.sleep(0.3)
            announce(etcd, "a", held_for=stop_id)
            assert waiting.end().startswith("held after")


@pytest.mark.parametrize("trouble", ["cut", "stall"])
@pytest.mark.parametrize("when", ["before", "while it waits"])
def test_an_etcd_that_falls_silent_is_not_waited_for(etcd: EtcdCluster, trouble: str, when: str) -> None:
    announce(etcd, "a")
    with Proxy(etcd.endpoints[0]) as proxy:
        fail: Callable[[], None] = getattr(proxy, trouble)
        if when == "before":
            fail()
        with Waiting(access_of([proxy.endpoint])) as waiting:
            if when == "while it waits":
                request(etcd)
                fail()
            assert waiting.end().startswith("etcd does not answer: ")


def test_a_short_silence_of_etcd_is_bridged(etcd: EtcdCluster) -> None:
    announce(etcd, "a")
    with Proxy(etcd.endpoints[0]) as proxy, Waiting(access_of([proxy.endpoint])) as waiting:
        stop_id = request(etcd)
        proxy.cut()
        time.sleep(0.2)
        proxy.mend()
        announce(etcd, "a", held_for=stop_id)
        assert waiting.end().startswith("held after")


# --- who may ask ---------------------------------------------------------------------------------------


def test_tls_with_a_client_certificate(folder: Path) -> None:
    authority = Authority(folder / "ca")
    pair = authority.client("patroni")
    with EtcdCluster(folder / "etcd", size=1, tls=Tls(authority, client_certificates=True)) as etcd:
        etcd.put(P + "leader", "pg1")
        announce(etcd, "a")
        files = {"ca": str(authority.ca_file), "certificate": str(pair.certificate), "key": str(pair.key)}
        with Waiting(access_of(etcd.endpoints, tls=True, **files)) as waiting:
            announce(etcd, "a", held_for=request(etcd))
            assert waiting.end().startswith("held after")
        stranger = str(Authority(folder / "stranger").ca_file)
        with Waiting(access_of(etcd.endpoints, tls=True, ca=stranger)) as waiting:
            assert "CERTIFICATE_VERIFY_FAILED" in waiting.end()
        with Waiting(access_of(etcd.endpoints)) as waiting:
            assert waiting.end().startswith("etcd does not answer: ")


def test_tls_and_a_user(folder: Path) -> None:
    """Client certificate and user together are refused by etcd's gateway (etcd 3.4), to Patroni as to us."""
    authority = Authority(folder / "ca")
    with EtcdCluster(folder / "etcd", size=1, tls=Tls(authority)) as etcd:
        etcd.put(P + "leader", "pg1")
        announce(etcd, "a")
        etcd.enable_auth("root-password", {"patroni": User("secret", [P])})
        access = access_of(
            etcd.endpoints, tls=True, ca=str(authority.ca_file), username="patroni", password="secret"
        )
        with Waiting(access) as waiting:
            announce(etcd, "a", held_for=request(etcd))
            assert waiting.end().startswith("held after")


def test_a_refusal_is_told_at_once(folder: Path) -> None:
    with EtcdCluster(folder, size=1) as etcd:
        etcd.put(P + "leader", "pg1")
        announce(etcd, "a")
        users = {"patroni": User("secret", [P]), "reader": User("secret", [P], read_only=True)}
        etcd.enable_auth("root-password", users)
        for login, said in (
            ({"username": "patroni", "password": "wrong"}, "authentication failed"),
            ({"username": "reader", "password": "secret"}, "permission denied"),
            ({}, "user name is empty"),
        ):
            with Waiting(access_of(etcd.endpoints, **login)) as waiting:
                assert said in waiting.end()


def test_a_user_is_no_obstacle_where_etcd_asks_for_none(etcd: EtcdCluster) -> None:
    with Waiting(access_of(etcd.endpoints, username="patroni", password="secret")) as waiting:
        assert waiting.end().startswith("nobody to ask")


# --- with the watcher's own side -----------------------------------------------------------------------


def test_a_herald_answers_the_barrier(etcd: EtcdCluster) -> None:
    access = EtcdAccess(tuple(etcd.endpoints))
    herald = Herald(P, lambda wanted: EtcdClient(access, access.parsed()[0], wanted))
    stop = threading.Event()
    thread = threading.Thread(target=herald.run, args=(stop,), daemon=True)
    thread.start()
    herald.tell("a")
    wait_for(lambda: etcd.get(f"{TARGETS}a/{herald.watcher}"), MARGIN, "the target is announced")
    with Waiting(access_of(etcd.endpoints)) as waiting:
        herald.tell("a", request(etcd))
        assert waiting.end().startswith("held after")
    stop.set()
    herald.nudge()
    thread.join(MARGIN)
    assert etcd.get_prefix(TARGETS) == {}


# --- the command, as one file --------------------------------------------------------------------------


def command(config: Path, *flags: str) -> tuple[int, str]:
    """The file alone, by a Python that knows nothing of the watcher: exit code, and what it says."""
    argv = [sys.executable, "-I", barrier.__file__, "--patroni-config", str(config), *flags]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr


def patroni_file(folder: Path, etcd: EtcdCluster, **changes: Any) -> Path:
    config = {"scope": "demo", "name": "pg1", "etcd3": {"hosts": etcd.endpoints}, **changes}
    path = folder / "patroni.yml"
    path.write_text(yaml.safe_dump({key: value for key, value in config.items() if value is not None}))
    return path


def test_the_command_waits_no_longer_than_its_limit(etcd: EtcdCluster, folder: Path) -> None:
    announce(etcd, "a")
    code, said = command(patroni_file(folder, etcd), "--limit", "0.5")
    assert (code, said) == (
        0,
        "pgbouncer-watcher barrier: the stop goes on without a: not held within 0.5 s\n",
    )
    assert json.loads(etcd.get(STOP) or "")["limit"] == 0.5


def test_whatever_is_wrong_with_the_settings_the_stop_goes_on(etcd: EtcdCluster, folder: Path) -> None:
    file = patroni_file(folder, etcd, name=None)
    for flags, problem in (((), "`name` is not in"), (("--name", "pg1"), "nobody to ask")):
        code, said = command(file, *flags)
        assert (code, problem in said) == (0, True)
    code, said = command(folder / "absent.yml")
    assert (code, "absent.yml cannot be read" in said) == (0, True)


def test_a_check_says_what_a_stop_would_find_and_writes_nothing(etcd: EtcdCluster, folder: Path) -> None:
    announce(etcd, "a")
    before = etcd.revision()
    code, said = command(patroni_file(folder, etcd), "--check")
    assert (code, said) == (
        0,
        f"pgbouncer-watcher barrier: pg1 of {P}; pg1 leads; would ask a\n",
    )
    assert etcd.revision() == before
    assert command(folder / "absent.yml", "--check")[0] == 2
    assert command(patroni_file(folder, etcd, etcd3={"host": "127.0.0.1:9"}), "--check")[0] == 1
