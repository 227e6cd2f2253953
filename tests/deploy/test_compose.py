"""The system of compose/, brought up from nothing and hurt in every way that its page tells of."""

import re
import time
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network

import pytest
import yaml

from tests.deploy import told
from tests.deploy.compose_system import CLIENTS, SERVICES, ComposeSystem, Failure
from tests.deploy.images import REPOSITORY
from tests.support.waiting import wait_for

pytestmark = pytest.mark.timeout(1500)  # where everything is built first

LONGEST_PLANNED = 10.0
TTL_AND_PROMOTION = 40.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeSystem]:
    with ComposeSystem(tmp_path_factory.mktemp("compose")) as system:
        yield system


@pytest.fixture
def system(running: ComposeSystem) -> ComposeSystem:
    """All of it runs and is well: what the test before ended is started again."""
    running.heal()
    return running


def test_nobody_is_given_the_address_of_a_service() -> None:
    """By podman or Docker, which give the next free one to whoever has none of his own."""
    text = (REPOSITORY / "compose/compose.yaml").read_text()
    found = yaml.safe_load(re.sub(r"\$\{SUBNET:-([\d.]+)\}", r"\1", text))
    (range_of_others,) = found["networks"]["default"]["ipam"]["config"]
    networks = [service.get("networks") for service in found["services"].values()]
    own = [ip_address(network["default"]["ipv4_address"]) for network in networks if network is not None]
    assert len(own) == len(set(own)) == len(found["services"]) - 1  # the clients may be many
    assert not any(address in ip_network(range_of_others["ip_range"]) for address in own)


def test_every_service_is_healthy_by_its_own_check(system: ComposeSystem) -> None:
    for service in SERVICES:
        wait_for(lambda: system.is_healthy(service), 30, f"{service} is healthy", poll=0.5)  # noqa: B023


def test_check_config_finds_no_fault_and_has_no_advice_but_a_newer_pgbouncer(system: ComposeSystem) -> None:
    for number in "12":
        said = system.exec(f"watcher{number}", "watcher", "check-config")
        assert "FAULT" not in said
        (advice,) = (line for line in said.splitlines() if line.startswith("advice"))
        assert advice.split(": ", 1)[1].startswith("version is 1.18")


def test_a_switchover_fails_no_transaction(system: ComposeSystem) -> None:
    before = system.leader()
    with system.clients() as clients:
        system.demo("switchover")
        _wait_for_another_leader(system, before)
        clients.wait_until_served(CLIENTS)
    assert clients.seen.failures == []
    assert clients.seen.longest < LONGEST_PLANNED
    assert len(clients.seen.through) == 2


def test_an_orderly_stop_of_the_primary_s_container_fails_no_transaction(system: ComposeSystem) -> None:
    """Nothing announces it: this is the barrier's. Where no replica has all of the WAL yet, Patroni leaves
    its leader key to run out, and clients wait for that.
    """
    before = system.leader()
    with system.clients() as clients:
        system.demo("stop", before)
        _wait_for_another_leader(system, before)
        clients.wait_until_served(CLIENTS)
    assert clients.seen.failures == []
    assert clients.seen.longest < TTL_AND_PROMOTION


def test_in_a_crash_of_the_primary_only_what_was_in_flight_fails(system: ComposeSystem) -> None:
    before = system.leader()
    with system.clients() as clients:
        system.demo("crash")
        _wait_for_another_leader(system, before)
        clients.wait_until_served(CLIENTS)
    watchers = [service for service in SERVICES if service.startswith("watcher")]
    waited_from = told.waited_from(*(system.exec(one, "watcher", "history", "--json") for one in watchers))
    assert [one for one in clients.seen.failures if one.began > waited_from] == []
    assert clients.seen.longest < TTL_AND_PROMOTION


def test_losing_a_pgbouncer_costs_only_what_was_in_flight_on_it(system: ComposeSystem) -> None:
    lost, other = system.address("pgbouncer1"), system.address("pgbouncer2")
    with system.clients() as clients:
        system.demo("lose", "pgbouncer1")
        killed = time.time()
        clients.wait_until_served(CLIENTS, through=other)
    assert clients.seen.failures  # of the ten that stay connected, some were there
    _assert_in_flight(clients.seen.failures, killed)
    assert {one.through for one in clients.seen.failures if _stays(one.client)} <= {lost}
    with system.clients() as clients:
        pass
    assert set(clients.seen.through) == {other}
    assert clients.seen.failures == []
    with system.clients() as clients:
        before = system.containers()
        system.up()
        assert before < system.containers()  # those that ran are the same ones still
        clients.wait_until_served(CLIENTS, through=lost)
    assert clients.seen.failures == []


def test_a_pgbouncer_that_does_not_lead_to_the_primary_gets_no_new_client(system: ComposeSystem) -> None:
    """Its SSH server is gone, so its watcher cannot lead it after the switchover, and says so to HAProxy."""
    system.exec("pgbouncer1", "sh", "-c", "kill $(pidof sshd)")
    system.exec(system.leader(), "patronictl", "switchover", "demo", "--force")
    other = system.address("pgbouncer2")
    wait_for(lambda: not _is_in(system, "pgbouncer1"), 30, "HAProxy took pgbouncer1 out", poll=0.5)
    assert _is_in(system, "pgbouncer2")
    with system.clients() as clients:
        pass
    assert set(clients.seen.through) == {other}
    assert clients.seen.failures == []
    system.demo("stop", "pgbouncer1")


def test_prometheus_scrapes_every_part_and_knows_the_alerts(system: ComposeSystem) -> None:
    def up() -> bool:
        found = system.get("PROMETHEUS_PORT", "/api/v1/query", query="up == 1")["data"]["result"]
        jobs = sorted(one["metric"]["job"] for one in found)
        return jobs == ["haproxy", *["patroni"] * 3, *["pgbouncer-watcher"] * 2]

    wait_for(up, 30, "Prometheus scrapes every part", poll=0.5)
    groups = system.get("PROMETHEUS_PORT", "/api/v1/rules")["data"]["groups"]
    assert "WatcherDown" in {rule["name"] for group in groups for rule in group["rules"]}


def _wait_for_another_leader(system: ComposeSystem, before: str) -> None:
    wait_for(
        lambda: system.leader() not in ("", before),
        TTL_AND_PROMOTION,
        f"another leader than {before}",
        poll=0.2,
    )


def _stays(client: int) -> bool:
    """Whether the client keeps its connection; the others' `through` tells of their last one."""
    return client % 2 == 0


def _assert_in_flight(failures: Iterable[Failure], until: float) -> None:
    """Each began before that moment, and no client failed twice."""
    found = list(failures)
    assert [one for one in found if one.began > until] == []
    assert len({one.client for one in found}) == len(found)


def _is_in(system: ComposeSystem, server: str) -> bool:
    """Whether HAProxy sends new clients there, by its own metrics."""
    query = f'haproxy_server_status{{proxy="pgbouncers",server="{server}",state="UP"}}'
    (found,) = system.get("PROMETHEUS_PORT", "/api/v1/query", query=query)["data"]["result"]
    return bool(float(found["value"][1]))
