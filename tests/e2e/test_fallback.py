"""Etcd is silent: the health check of the nodes decides, and only where there is no doubt."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import pytest

from tests.e2e.test_stage import (
    QUICK_ETCD,
    QUICK_PATRONI,
    at,
    committed_on,
    is_led,
    settled,
    stamp_in,
    stays,
    traces,
    wait_until_led,
)
from tests.support.addresses import take_address
from tests.support.bed import Bed, BouncerHost
from tests.support.proxy import Proxy
from tests.support.waiting import wait_for
from tests.support.watcher import Settings, WatcherProcess, settings_for

REST_PORT = 8008
NOWHERE = "127.0.0.1:1"


class StandIn(AbstractContextManager["StandIn"]):
    """A node's REST API alone, which says whatever the test wants it to say, or nothing (`says` None)."""

    def __init__(self, name: str, scope: str) -> None:
        self.name, self.scope = name, scope
        self.host = take_address()
        self.url = f"http://{self.host}:{REST_PORT}"
        self.endpoint = f"{self.host}:5432"
        self.says: dict[str, Any] | None = None
        self.replica()
        stand_in = self

        class Api(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stand_in._answer(self)

            def log_message(self, *_: Any) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer((self.host, REST_PORT), Api)
        self._server.daemon_threads = True

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        if self.says is None:
            request.close_connection = True
            return
        member = {"name": self.name, "host": self.host, "port": 5432, "role": "leader"}
        body = {"members": [member]} if request.path == "/cluster" else self.says
        request.send_response(200)
        request.end_headers()
        request.wfile.write(json.dumps(body).encode())

    def primary(self, timeline: int, **fields: Any) -> None:
        """From now on it says that it is the primary."""
        self._say(role="primary", timeline=timeline, **fields)

    def replica(self) -> None:
        """From now on it says that it is a replica."""
        self._say(role="replica", timeline=1)

    def _say(self, **fields: Any) -> None:
        patroni = {"version": "4.0.4", "scope": self.scope, "name": self.name}
        self.says = {"state": "running", "database_system_identifier": "7", "patroni": patroni, **fields}

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


# --- the real nodes -------------------------------------------------------------------------------


@pytest.fixture
def proxies(bed: Bed) -> Iterator[list[Proxy]]:
    """Between the watcher and etcd; Patroni has its etcd without them."""
    with ExitStack() as stack:
        yield [stack.enter_context(Proxy(endpoint)) for endpoint in bed.etcd.endpoints]


def _through(proxies: list[Proxy], bed: Bed, **sections: Any) -> Settings:
    etcd = {**QUICK_ETCD, "endpoints": [proxy.endpoint for proxy in proxies]}
    return settings_for(bed, etcd=etcd, **sections)


@pytest.mark.parametrize("fail", [Proxy.cut, Proxy.stall], ids=["cut", "stalled"])
def test_a_switchover_without_etcd_is_followed_and_etcd_takes_over_again(
    bed: Bed, proxies: list[Proxy], tmp_path: Path, fail: Callable[[Proxy], None]
) -> None:
    old = bed.leader()
    with WatcherProcess(tmp_path, _through(proxies, bed, patroni=QUICK_PATRONI)) as watcher:
        settled(watcher, bed, at(old))
        for proxy in proxies:
            fail(proxy)
        bed.patroni.switchover()
        new = bed.patroni.wait_for_leader(other_than=old)
        wait_until_led(bed.bouncers, at(new), watcher)
        assert [committed_on(host) for host in bed.bouncers] == [at(new)] * 2
        assert [line["source"] for line in watcher.lines("switch")] == ["health_check"] * 2
        reloads = [one.reloads for one in traces(bed)]
        for proxy in proxies:
            proxy.mend()
        watcher.wait_for_line("wish", reason="leader", after=len(watcher.lines("wish")))
        settled(watcher, bed, at(new))
        wait_for(lambda: all(map(_stamped_by_etcd, bed.bouncers)), 15, "etcd's stamp")
        before = traces(bed)
        stays(lambda: [one.reloads for one in traces(bed)] == reloads, 1.5, "nobody reloads")
        after = traces(bed)
        assert before == after
        assert len(watcher.lines("switch")) == 2
        third = _switched(bed)
        wait_until_led(bed.bouncers, third, watcher)
        assert [line["source"] for line in watcher.lines("switch")[2:]] == ["etcd"] * 2


def _stamped_by_etcd(host: BouncerHost) -> bool:
    """The health check's word stands until a read of etcd proves what may replace it; the timeline is noted
    when nobody is in a hurry.
    """
    text = host.pgbouncer.config_file.read_text()
    stamp = re.search(r"^;; watcher: cluster=(\w+) .* timeline=\d", text, re.MULTILINE)
    return stamp is not None and stamp[1] != "0"


def _switched(bed: Bed) -> str:
    bed.patroni.wait_for_replicas()
    old = bed.leader()
    bed.patroni.switchover()
    return at(bed.patroni.wait_for_leader(other_than=old))


def test_an_absent_etcd_costs_no_busy_loop(bed: Bed, proxies: list[Proxy], tmp_path: Path) -> None:
    with WatcherProcess(tmp_path, _through(proxies, bed)) as watcher:
        settled(watcher, bed, at(bed.leader()))
        process = psutil.Process(watcher.process.pid)
        for fail in (Proxy.cut, Proxy.stall):
            for proxy in proxies:
                fail(proxy)
            began = _cpu_seconds(process)
            stays(watcher.process.is_alive, 3, "the watcher lives")
            assert _cpu_seconds(process) - began < 0.3


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def test_started_without_etcd_it_follows_the_one_primary_and_none_of_two(bed: Bed, tmp_path: Path) -> None:
    for host in bed.bouncers:
        host.pgbouncer.point_at("127.0.0.77", 5432)
    before = traces(bed)
    etcd = {**QUICK_ETCD, "endpoints": [NOWHERE]}
    with StandIn("impostor", bed.patroni.scope) as impostor:
        impostor.primary(timeline=99)
        nodes = {**QUICK_PATRONI, "nodes": [*(node.api_url for node in bed.patroni.nodes), impostor.url]}
        with WatcherProcess(tmp_path, settings_for(bed, etcd=etcd, patroni=nodes)) as watcher:
            line = watcher.wait_for_line("wish", reason="blind")
            line = watcher.wait_for_line("wish", reason="blind", after=len(watcher.lines("wish")) - 1)
            assert {"impostor", bed.leader().name} <= set(line["message"].replace(",", "").split())
            stays(lambda: traces(bed)[0].file == before[0].file, 1.5, "the file is left as it is")
            impostor.replica()
            wait_until_led(bed.bouncers, at(bed.leader()), watcher)


# --- stand-ins alone ------------------------------------------------------------------------------


class Scene:
    """Two nodes without etcd, and a watcher that is led by what they say."""

    def __init__(self, bed: Bed, watcher: WatcherProcess, nodes: tuple[StandIn, StandIn]) -> None:
        self.bed, self.watcher, self.nodes = bed, watcher, nodes
        self.timeline = 10

    def settle(self) -> Self:
        """The first node alone is the primary, on a newer timeline than ever, and is followed."""
        self.timeline += 10
        self.nodes[1].replica()
        self.nodes[0].primary(self.timeline)
        for host in self.bed.bouncers:
            host.pgbouncer.point_at("127.0.0.77", 5432)
        for host in self.bed.bouncers:
            wait_for(partial(self._is_settled, host), 15, f"{host.name} settles", logs=[self.watcher.log])
        return self

    def _is_settled(self, host: BouncerHost) -> bool:
        """Written on this timeline's word; if it was on an older word, the block is made blank once more."""
        stamp = stamp_in(host)
        if stamp.get("timeline") == str(self.timeline):
            return is_led(host, self.nodes[0].endpoint)
        if stamp:
            host.pgbouncer.point_at("127.0.0.77", 5432)
        return False

    def assert_nothing_changes(self, said: int, *words: str) -> None:
        """The log says why, and neither file nor PgBouncer is touched."""
        before = traces(self.bed)
        self.watcher.wait_for_line("wish", after=said, saying=words, reason="blind")
        stays(lambda: traces(self.bed) == before, 1, "nobody acts")


@pytest.fixture(scope="module")
def shared_scene(session_bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    session_bed.heal()
    scope = "stand-ins"
    with StandIn("a", scope) as a, StandIn("b", scope) as b:
        settings = settings_for(
            session_bed,
            cluster={"scope": scope},
            etcd={**QUICK_ETCD, "endpoints": [NOWHERE]},
            patroni={**QUICK_PATRONI, "nodes": [a.url, b.url]},
            resync_interval=0.5,
            hold={"on_crash": False},  # no PostgreSQL stands behind these nodes, so it would seem to refuse
        )
        with WatcherProcess(tmp_path_factory.mktemp("scene"), settings) as watcher:
            yield Scene(session_bed, watcher, (a, b))


@pytest.fixture
def scene(shared_scene: Scene) -> Scene:
    """Without a healed bed: nothing here does the cluster any harm."""
    return shared_scene.settle()


def test_two_primaries_change_nothing(scene: Scene) -> None:
    said = len(scene.watcher.lines("wish"))
    scene.nodes[1].primary(scene.timeline + 1)
    scene.assert_nothing_changes(said, "2 nodes say that they are the primary: a, b")


def test_silence_of_all_nodes_changes_nothing(scene: Scene) -> None:
    said = len(scene.watcher.lines("wish"))
    for node in scene.nodes:
        node.says = None
    scene.assert_nothing_changes(said, "no node says that it is the primary")


def test_a_paused_cluster_keeps_its_route(scene: Scene) -> None:
    said = len(scene.watcher.lines("wish"))
    scene.nodes[0].replica()
    scene.nodes[1].primary(scene.timeline + 1, pause=True)
    scene.assert_nothing_changes(said, "Patroni is paused: the route is kept")


def test_a_primary_of_another_system_is_refused(scene: Scene) -> None:
    before = traces(scene.bed)
    scene.nodes[0].replica()
    scene.nodes[1].primary(scene.timeline + 1, database_system_identifier="8")
    line = scene.watcher.wait_for_line("failed", kind="Fenced", after=len(scene.watcher.lines("failed")))
    assert "system identifier" in line["message"]
    stays(lambda: traces(scene.bed) == before, 1, "nobody acts")


def test_a_primary_on_an_older_timeline_is_refused_and_one_on_a_newer_is_followed(scene: Scene) -> None:
    before = traces(scene.bed)
    scene.nodes[0].replica()
    scene.nodes[1].primary(scene.timeline - 1)
    line = scene.watcher.wait_for_line("failed", kind="Fenced", after=len(scene.watcher.lines("failed")))
    assert f"'b' is on timeline {scene.timeline - 1}, the block on {scene.timeline}" in line["message"]
    stays(lambda: traces(scene.bed) == before, 1, "nobody acts")
    scene.nodes[1].primary(scene.timeline + 1)
    wait_until_led(scene.bed.bouncers, scene.nodes[1].endpoint, scene.watcher)
    assert stamp_in(scene.bed.bouncers[0])["timeline"] == str(scene.timeline + 1)
