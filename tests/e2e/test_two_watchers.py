"""Two watchers on the same PgBouncers, one of them frozen while the leader changes."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.e2e.test_stage import (
    QUICK_ETCD,
    Keys,
    at,
    committed_on,
    is_led,
    quiet,
    route_in,
    settings_by_keys,
    settled,
    stays,
    traces,
    wait_until_led,
)
from tests.support.bed import Bed, BouncerHost
from tests.support.proxy import Proxy
from tests.support.waiting import wait_for
from tests.support.watcher import WatcherProcess, settings_for

ROUNDS = 3


class Witness(AbstractContextManager["Witness"]):
    """Reads a file over and over, and remembers each change of where it leads."""

    def __init__(self, host: BouncerHost) -> None:
        self._file = host.pgbouncer.config_file
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.routes = [route_in(self._file.read_text())]

    def _watch(self) -> None:
        while not self._stop.wait(0.001):
            route = route_in(self._file.read_text())
            if route != self.routes[-1]:
                self.routes.append(route)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def keys(bed: Bed) -> Keys:
    return Keys(bed.etcd)


@pytest.fixture
def pair(bed: Bed, keys: Keys, tmp_path: Path) -> Iterator[tuple[WatcherProcess, WatcherProcess]]:
    """Two watchers with the same settings, settled."""
    settings = settings_by_keys(bed, keys, resync_interval=1.0)
    first = keys.crown("first")
    with WatcherProcess(tmp_path, settings, "one") as one, WatcherProcess(tmp_path, settings, "two") as two:
        wait_until_led(bed.bouncers, first, one)
        for process in (one, two):
            process.wait_for_line("wish", reason="leader")
        yield one, two


def test_a_witness_sees_every_change_of_the_route(bed: Bed) -> None:
    host = bed.bouncers[0]
    with Witness(host) as witness:
        for number in range(5):
            host.pgbouncer.config_file.with_suffix(".new").write_text(
                host.pgbouncer.block(f"10.0.0.{number}", 1)
            )
            host.pgbouncer.config_file.with_suffix(".new").rename(host.pgbouncer.config_file)
            wait_for(lambda: witness.routes[-1] == f"10.0.0.{number}:1", 2, "it is seen")  # noqa: B023
    assert witness.routes[1:] == [f"10.0.0.{number}:1" for number in range(5)]


def test_a_thawed_watcher_never_takes_a_route_back(
    bed: Bed, keys: Keys, pair: tuple[WatcherProcess, WatcherProcess]
) -> None:
    led = [first := keys.crown("before")]
    wait_until_led(bed.bouncers, first, pair[0])
    with Witness(bed.bouncers[0]) as one, Witness(bed.bouncers[1]) as two:
        for number in range(ROUNDS):
            frozen, awake = pair if number % 2 else reversed(pair)
            frozen.process.freeze()
            led.append(keys.crown(f"leader{number}"))
            wait_until_led(bed.bouncers, led[-1], awake)
            frozen.process.thaw()
            _wait_until_heard(frozen, f"leader{number}")
            stays(lambda: all(is_led(host, led[-1]) for host in bed.bouncers), 0.8, "the new route")
    assert one.routes == two.routes == led
    _assert_no_ping_pong(bed)
    assert all(_kinds_of_errors(process) <= {"Fenced"} for process in pair)
    assert not any(process.lines("corrected") for process in pair)


def _wait_until_heard(process: WatcherProcess, leader: str) -> None:
    def is_heard() -> bool:
        return any(line["message"].startswith(f"{leader} leads") for line in process.lines("wish"))

    wait_for(is_heard, 10, f"it hears of {leader}", logs=[process.log])


def _kinds_of_errors(process: WatcherProcess) -> set[str]:
    return {line["kind"] for line in process.lines("failed") if line["level"] == "ERROR"}


def _assert_no_ping_pong(bed: Bed) -> None:
    before = traces(bed)
    stays(lambda: traces(bed) == before, 5, "nobody writes, reloads or logs in")


def test_a_watcher_that_hears_no_news_never_takes_a_route_back(bed: Bed, keys: Keys, tmp_path: Path) -> None:
    first = keys.crown("first")
    settings = settings_by_keys(bed, keys, resync_interval=0.5)
    with ExitStack() as stack:
        proxies = [stack.enter_context(Proxy(endpoint)) for endpoint in bed.etcd.endpoints]
        believes = {"endpoints": [proxy.endpoint for proxy in proxies], "silence_limit": 60.0}
        late_settings = settings_by_keys(bed, keys, resync_interval=0.5, etcd=believes)
        late = stack.enter_context(WatcherProcess(tmp_path, late_settings, "late"))
        awake = stack.enter_context(WatcherProcess(tmp_path, settings, "awake"))
        settled(late, bed, first)
        for process in (late, awake):
            process.wait_for_line("wish", reason="leader")
        witness = stack.enter_context(Witness(bed.bouncers[0]))
        for proxy in proxies:
            proxy.stall()
        second = keys.crown("second")
        wait_until_led(bed.bouncers, second, awake)
        line = late.wait_for_line("failed", kind="Fenced")
        assert "the block was written for 'second'" in line["message"]
        stays(lambda: is_led(bed.bouncers[0], second), 1.5, "the new route")
        for proxy in proxies:
            proxy.mend()
        late.wait_for_line("in_sync")
        assert witness.routes == [first, second]


def test_both_watchers_awake_agree_and_one_of_them_writes(
    bed: Bed, keys: Keys, pair: tuple[WatcherProcess, WatcherProcess]
) -> None:
    for number in range(ROUNDS):
        wait_until_led(bed.bouncers, keys.crown(f"leader{number}"), pair[0])
    before = quiet(bed)  # who lost the race may reload once more
    stays(lambda: traces(bed) == before, 1, "nobody acts after the last change")
    assert not any(_kinds_of_errors(process) for process in pair)
    assert not any(process.lines("corrected") for process in pair)


def test_a_watcher_frozen_over_a_real_switchover_agrees_afterwards(bed: Bed, tmp_path: Path) -> None:
    settings = settings_for(bed, etcd=QUICK_ETCD, resync_interval=1.0)
    with WatcherProcess(tmp_path, settings, "one") as one, WatcherProcess(tmp_path, settings, "two") as two:
        old = bed.leader()
        for process in (one, two):
            process.wait_for_line("wish", reason="leader")
        with Witness(bed.bouncers[0]) as witness:
            two.process.freeze()
            bed.patroni.switchover()
            new = bed.patroni.wait_for_leader(other_than=old)
            wait_until_led(bed.bouncers, at(new), one)
            stays(one.process.is_alive, 1.5, "the other is due for a look when it is thawed")
            two.process.thaw()
            stays(lambda: is_led(bed.bouncers[0], at(new)), 2, "the new route")
        assert witness.routes == [at(old), at(new)]
        assert [committed_on(host) for host in bed.bouncers] == [at(new)] * 2
