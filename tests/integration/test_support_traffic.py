"""The clients of the benchmark, its reference, its HAProxy and its networks keep their promises."""

import asyncio
import contextlib
import http.client
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.addresses import can_bind, take_address
from tests.support.attempts import FRESH, LONG
from tests.support.bed import Bed
from tests.support.folders import bed_folder
from tests.support.haproxy import HaProxy
from tests.support.network import Segment, own_network
from tests.support.pgbouncer import RECOMMENDED, PgBouncer
from tests.support.postgres import APP, APP_PASSWORD, Postgres, psql
from tests.support.processes import Process, run
from tests.support.reference import ReferenceWriter
from tests.support.traffic import MIX, Plan, Traffic
from tests.support.waiting import BedError, wait_for
from tests.support.wire import Wire, WireError

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with bed_folder() as path:
        yield path


@pytest.fixture(scope="module")
def postgres(folder: Path) -> Iterator[Postgres]:
    with Postgres(folder / "postgres") as server:
        yield server


@pytest.fixture(scope="module")
def bouncer(folder: Path, postgres: Postgres) -> Iterator[PgBouncer]:
    where = (postgres.address, postgres.port)
    with PgBouncer(folder / "bouncer", server=where, ini_extra=RECOMMENDED) as server:
        yield server


# --- the wire -------------------------------------------------------------------------------------------


def test_both_protocols_give_the_value_and_the_servers_own_words_of_an_error(postgres: Postgres) -> None:
    async def talk() -> None:
        wire = await Wire.connect(postgres.address, postgres.port, APP, APP)
        assert await wire.simple("SELECT 7; SELECT 8") == "8"
        assert await wire.extended("SELECT $1::int + 1", "41") == "42"
        assert await wire.simple("SELECT NULL") == ""
        with pytest.raises(WireError, match="42P01 relation"):
            await wire.extended("SELECT * FROM nowhere")
        assert await wire.simple("SELECT repeat('x', 100000)") == "x" * 100000
        with pytest.raises(WireError, match="57P01 terminating connection"):
            await wire.simple("SELECT pg_terminate_backend(pg_backend_pid())")
        with pytest.raises(WireError, match="57P01"):
            await wire.simple("SELECT 1")
        wire.close()

    asyncio.run(talk())


def test_a_login_that_is_refused_says_why(postgres: Postgres) -> None:
    with pytest.raises(WireError, match="3D000 database"):
        asyncio.run(Wire.connect(postgres.address, postgres.port, APP, "nowhere"))
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(Wire.connect(postgres.address, 1, APP, APP))


# --- the traffic ----------------------------------------------------------------------------------------


def test_every_kind_of_client_commits_and_fresh_ones_come_all_the_while(
    folder: Path, bouncer: PgBouncer
) -> None:
    began = time.monotonic()
    with Traffic(folder, Plan(bouncer.address, bouncer.port)) as traffic:
        wait_for(lambda: len(traffic.between(began, time.monotonic()).only(FRESH)) > 3, 20, "fresh clients")
        met = traffic.between(began, time.monotonic())
        assert met.failed == 0
        assert {one.kind for one in met.all} == {*MIX, FRESH}
        assert all(one.end - one.start >= 1.0 for one in met.only(LONG).all)
        assert len({one.client for one in met.only(FRESH).all}) == len(met.only(FRESH))
        assert traffic.noise(began, time.monotonic()) >= 0.0


def test_a_server_that_stops_is_told_in_its_own_words_and_everybody_comes_back(
    folder: Path, postgres: Postgres, bouncer: PgBouncer
) -> None:
    with Traffic(folder, Plan(bouncer.address, bouncer.port)) as traffic:
        began = time.monotonic()
        postgres.stop_fast()
        wait_for(lambda: traffic.between(began, time.monotonic()).failed, 20, "failures")
        postgres.start()
        traffic.wait_for_all(after=time.monotonic(), host=postgres.address, timeout=30)
        met = traffic.between(began, time.monotonic())
        assert any(text.startswith("WireError: 08P01") for text in met.errors)
        first = met.first_commit(postgres.address, began)
        assert first is not None
        assert first.server == f"{postgres.address}:{postgres.port}"


def test_traffic_that_died_is_noticed(folder: Path, bouncer: PgBouncer) -> None:
    with Traffic(folder, Plan(bouncer.address, bouncer.port)) as traffic:
        traffic.require_alive()
        traffic.process.kill()
        with pytest.raises(BedError, match="the traffic has ended"):
            traffic.require_alive()


# --- networks -------------------------------------------------------------------------------------------


def test_a_host_that_is_cut_off_is_silent_and_its_address_stays_its_own(folder: Path) -> None:
    address = take_address()
    server = Process(
        "web",
        [sys.executable, "-m", "http.server", "--bind", address, "8000"],
        log=folder / "web.log",
        cwd=folder,
        user="postgres",
    )
    with own_network(), Segment(folder, address) as segment, contextlib.ExitStack() as stack:
        segment.house(server)
        server.start()
        stack.callback(server.stop)
        wait_for(lambda: _status(address) == 200, 20, "the web server", logs=[server.log])
        assert server.members()[0].username() == "postgres"
        segment.drop()
        with pytest.raises(TimeoutError):
            _status(address)
        segment.mend()
        segment.mend()
        wait_for(lambda: _status(address) == 200, 20, "the web server again", logs=[server.log])


def test_nothing_of_a_network_of_ones_own_is_left(folder: Path) -> None:
    before, address = _links(), take_address()
    with own_network(), Segment(folder, address):
        assert _links() != before
    assert _links() == before
    assert can_bind(address, 8000)


def _links() -> str:
    return run(["ip", "-o", "link", "show"]).stdout


def _status(address: str) -> int:
    connection = http.client.HTTPConnection(address, 8000, timeout=1)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    finally:
        connection.close()


# --- with Patroni ---------------------------------------------------------------------------------------


def test_the_reference_and_haproxy_follow_the_primary() -> None:
    with (
        Bed(nodes=2, bouncers=0, etcd_size=1) as bed,
        HaProxy(bed.folder, bed.patroni.nodes) as haproxy,
        ReferenceWriter(bed.folder, bed.patroni) as reference,
    ):
        old, began = bed.leader(), time.monotonic()
        bed.patroni.switchover()
        new = bed.patroni.wait_for_leader(other_than=old)
        first = reference.wait_for_node(new.name, after=began, timeout=30)
        gap = reference.gap(began - 0.5, time.monotonic())
        assert gap.end == first
        assert gap.start > began
        wait_for(lambda: _where(haproxy) == [new.host] * 4, 60, "haproxy leads to the new one", poll=0.5)


def _where(haproxy: HaProxy) -> list[str]:
    question = "SELECT host(inet_server_addr()) AS h"
    door = (haproxy.address, haproxy.port)
    return [psql(*door, APP, APP, question, password=APP_PASSWORD)[0]["h"] for _ in range(4)]
