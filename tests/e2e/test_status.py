"""What a running watcher shows: pages, probes, metrics, the commands that ask it, and `pause`."""

import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.hold_stage import wait_until_held, wait_until_released
from tests.e2e.test_stage import (
    Keys,
    is_led,
    quiet,
    settings_by_keys,
    stays,
    traces,
    wait_until_led,
)
from tests.support.bed import Bed
from tests.support.processes import run
from tests.support.repository import REPOSITORY
from tests.support.waiting import wait_for
from tests.support.watcher import WatcherProcess, run_watcher
from watcher.expose.status import Status


class Scene:
    """A watcher that follows keys, and has led every PgBouncer to `a`."""

    def __init__(self, bed: Bed, keys: Keys, watcher: WatcherProcess, endpoint: str) -> None:
        self.bed = bed
        self.keys = keys
        self.watcher = watcher
        self.endpoint = endpoint
        self.settings = settings_by_keys(bed, keys, http={"listen": watcher.http})

    def status(self) -> Status:
        """`/status`, checked against its own schema."""
        return Status.model_validate_json(self.watcher.get("/status")[1])

    def wait_for_health(self, health: str) -> Status:
        """Until it says so of itself."""
        wait_for(lambda: self.status().health == health, 15, health, logs=[self.watcher.log])
        return self.status()

    def run(self, word: str, *arguments: str) -> tuple[int, str, str]:
        """`watcher WORD` with the same settings."""
        return run_watcher(self.bed.folder, word, self.settings, *arguments)


@pytest.fixture
def scene(bed: Bed, tmp_path: Path) -> Iterator[Scene]:
    keys = Keys(bed.etcd)
    endpoint = keys.crown("a")
    with WatcherProcess(tmp_path, settings_by_keys(bed, keys)) as watcher:
        wait_until_led(bed.bouncers, endpoint, watcher)
        found = Scene(bed, keys, watcher, endpoint)
        found.wait_for_health("ok")
        yield found


# --- pages --------------------------------------------------------------------------------------------


def test_the_page_and_the_document_tell_of_every_target_and_of_the_switch(scene: Scene) -> None:
    status = scene.status()
    assert status.words == "Clients reach the primary, a."
    assert [target.pgbouncer for target in status.targets] == [(scene.endpoint,)] * 2
    (switch,) = status.switches
    assert {part.target for part in switch.targets} == {host.name for host in scene.bed.bouncers}
    code, page = scene.watcher.get("/")
    assert code == 200
    for words in (status.words, scene.endpoint, switch.id, *(host.name for host in scene.bed.bouncers)):
        assert words in page


def test_a_switch_is_on_the_page_once_it_is_in_the_log(scene: Scene) -> None:
    endpoint = scene.keys.crown("b")
    wait_until_led(scene.bed.bouncers, endpoint, scene.watcher)
    line = scene.watcher.wait_for_line("switch", route=endpoint)
    newest = scene.status().switches[0]
    assert (newest.id, newest.leader, newest.endpoint) == (line["switch"], "b", endpoint)
    parts = {part.target: part for part in newest.targets}
    assert parts[line["target"]].duration_ms == pytest.approx(line["duration_ms"], abs=0.1)
    assert set(parts[line["target"]].stages_ms) == set(line["parts_ms"])


def test_probes_and_targets_answer_for_themselves(scene: Scene) -> None:
    host = scene.bed.bouncers[0]
    for path in ("/livez", "/readyz", "/startupz", f"/targets/{host.name}"):
        assert scene.watcher.get(path)[0] == 200, path
    assert scene.watcher.get("/targets/nobody")[0] == 404
    assert scene.watcher.get("/elsewhere")[0] == 404


def test_an_outage_of_etcd_takes_no_pgbouncer_out(bed: Bed, scene: Scene) -> None:
    bed.etcd.freeze()
    try:
        assert "when etcd was last heard" in scene.wait_for_health("failing").words
        assert "no primary that takes clients: etcd is silent" in scene.wait_for_health("wrong").words
        for path in ("/livez", "/readyz", f"/targets/{bed.bouncers[0].name}"):
            assert scene.watcher.get(path)[0] == 200, path
        etcd = scene.status().cluster.etcd
        assert etcd is not None
        assert not etcd.connected
        assert etcd.problem is not None
    finally:
        bed.etcd.thaw()
    scene.wait_for_health("ok")


def test_a_target_that_is_left_behind_answers_503_and_says_what_to_do(scene: Scene) -> None:
    lost, other = scene.bed.bouncers
    lost.sshd.kill()
    try:
        assert "as far as is known" in scene.wait_for_health("failing").words
        assert scene.watcher.get(f"/targets/{lost.name}")[0] == 200
        endpoint = scene.keys.crown("b")
        wait_until_led([other], endpoint, scene.watcher)
        status = scene.wait_for_health("wrong")
        assert status.words == "1 of 2 PgBouncers does not lead to the primary."
        assert scene.watcher.get(f"/targets/{lost.name}")[0] == 503
        assert scene.watcher.get(f"/targets/{other.name}")[0] == 200
        assert scene.watcher.get("/readyz")[0] == 200
        code, text, _ = scene.run("status")
        problem = next(target.problem for target in status.targets if target.name == lost.name)
        assert problem is not None
        assert code == 1
        assert f"What now: {problem.hint}" in " ".join(text.split())
    finally:
        lost.sshd.start()
    scene.wait_for_health("ok")


def test_a_frozen_target_costs_the_page_nothing(scene: Scene) -> None:
    scene.bed.bouncers[0].freeze()
    try:
        for path in ("/", "/status", "/metrics", "/livez"):
            assert scene.watcher.get(path)[0] == 200
    finally:
        scene.bed.bouncers[0].thaw()


def test_a_port_that_is_taken_keeps_nobody_from_being_led(bed: Bed, tmp_path: Path) -> None:
    keys = Keys(bed.etcd)
    watcher = WatcherProcess(tmp_path, settings_by_keys(bed, keys))
    host, port = watcher.http.split(":")
    with socket.create_server((host, int(port))), watcher:
        wait_until_led(bed.bouncers, keys.crown("a"), watcher)
        line = watcher.wait_for_line("http")
        assert "Address already in use" in line["message"]
        assert line["level"] == "ERROR"


# --- metrics ------------------------------------------------------------------------------------------


def test_promtool_finds_nothing_to_say_of_the_metrics(scene: Scene) -> None:
    run(["promtool", "check", "metrics"], stdin=scene.watcher.get("/metrics")[1])


# --- settings that are read anew ----------------------------------------------------------------------


def test_a_reread_keeps_page_counters_and_history_and_tells_of_its_own_failure(scene: Scene) -> None:
    good = scene.watcher.config.read_text()
    scene.watcher.rewrite("cluster: [")
    scene.watcher.process.send(signal.SIGHUP)
    wait_for(lambda: _value(scene, "watcher_settings_last_read_successful") == 0, 10, "refused")
    scene.watcher.rewrite(good)
    scene.watcher.process.send(signal.SIGHUP)
    wait_for(lambda: _value(scene, "watcher_settings_last_read_successful") == 1, 10, "read")
    assert len(scene.status().switches) == 1
    name = scene.bed.bouncers[0].name
    assert _value(scene, f'watcher_switches_total{{cluster="{scene.keys.scope}",target="{name}"}}') == 1
    endpoint = scene.keys.crown("b")
    wait_until_led(scene.bed.bouncers, endpoint, scene.watcher)
    wait_for(lambda: scene.status().switches[0].leader == "b", 10, "the new one's switch")


def _value(scene: Scene, series: str) -> float | None:
    for line in scene.watcher.get("/metrics")[1].splitlines():
        name, _, value = line.rpartition(" ")
        if name == series or name.partition("{")[0] == series:
            return float(value)
    return None


def test_a_reread_may_move_the_page(scene: Scene) -> None:
    moved = f"{scene.watcher.http.partition(':')[0]}:9633"
    scene.watcher.rewrite(settings_by_keys(scene.bed, scene.keys, http={"listen": moved}))
    scene.watcher.process.send(signal.SIGHUP)
    before, scene.watcher.http = scene.watcher.http, moved
    scene.watcher.wait_for_line("http", endpoint=moved)
    assert scene.watcher.get("/livez")[0] == 200
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(tuple(before.split(":")), 1)  # type: ignore[arg-type]


# --- in a terminal ------------------------------------------------------------------------------------


def test_status_and_history_say_it_in_a_terminal(scene: Scene) -> None:
    code, text, _ = scene.run("status")
    assert code == 0
    assert text.startswith("Clients reach the primary, a.\n")
    assert "\033[" not in text
    for host in scene.bed.bouncers:
        assert f"{host.name:18} ok: leads to {scene.endpoint}" in text
    code, text, _ = scene.run("history")
    assert code == 0
    assert f"to a at {scene.endpoint}, by etcd" in text
    code, text, _ = scene.run("status", "--json")
    assert Status.model_validate(json.loads(text)).health == "ok"


def test_status_has_colours_at_a_terminal_alone(scene: Scene) -> None:
    _, plain, _ = scene.run("status")
    shown = _at_a_terminal(scene)
    assert "\033[32mClients reach the primary, a.\033[0m" in shown
    assert "\033[" not in plain
    assert "\033[" not in _at_a_terminal(scene, "NO_COLOR=1")


def _at_a_terminal(scene: Scene, variable: str = "X=1") -> str:
    config = scene.bed.folder / "once.yaml"
    python = REPOSITORY / ".venv/bin/python"
    command = f"env {variable} {python} -m watcher status --config {config}"
    return run(["script", "-qec", command, "/dev/null"], cwd=REPOSITORY).stdout


def test_status_without_a_watcher_says_where_it_asked(bed: Bed, tmp_path: Path) -> None:
    keys = Keys(bed.etcd)
    settings = settings_by_keys(bed, keys, http={"listen": "127.0.0.1:9"})
    code, _, errors = run_watcher(tmp_path, "status", settings)
    assert code == 1
    assert "http://127.0.0.1:9/status" in errors
    code, _, errors = run_watcher(tmp_path, "status", {**settings, "http": {"listen": None}})
    assert code == 2
    assert "http.listen: is null" in errors


def test_healthcheck_tells_by_its_exit_code_whether_the_watcher_works(scene: Scene) -> None:
    assert scene.run("healthcheck") == (0, "ok\n", "")
    scene.watcher.process.stop()
    code, said, errors = scene.run("healthcheck")
    assert (code, said) == (1, "")
    assert f"http://{scene.watcher.http}/livez: no answer" in errors
    assert "HINT: " in errors


# --- maintenance --------------------------------------------------------------------------------------


def test_while_paused_nothing_is_touched_and_resume_puts_it_right(scene: Scene) -> None:
    code, text, _ = scene.run("pause", "--why", "moving by hand")
    assert (code, text) == (0, f"{scene.keys.scope} is paused: no watcher changes or holds anything\n")
    status = scene.wait_for_health("paused")
    assert status.cluster.paused is not None
    assert status.cluster.paused.why == "moving by hand"
    assert status.cluster.paused.by.startswith("root@")
    before = quiet(scene.bed)
    endpoint = scene.keys.crown("b")
    scene.bed.bouncers[0].pgbouncer.write_block("127.0.0.9", 5432)
    touched = traces(scene.bed)
    stays(lambda: traces(scene.bed) == touched, 2.0, "nobody acts")
    assert touched[1] == before[1]
    assert "and the watcher is paused by root@" in scene.wait_for_health("wrong").words
    assert scene.watcher.get(f"/targets/{scene.bed.bouncers[0].name}")[0] == 503
    again = scene.run("pause", "--why", "something else")
    assert (again[0], "was paused already by root@" in again[1], "moving by hand" in again[1]) == (
        0,
        True,
        True,
    )
    assert scene.run("once")[0] == 4
    asked_at = time.monotonic()
    assert scene.run("resume")[0] == 0
    wait_until_led(scene.bed.bouncers, endpoint, scene.watcher)
    led = scene.wait_for_health("ok").switches[0].targets
    since = (time.monotonic() - asked_at) * 1000
    assert all(target.duration_ms <= since for target in led), "the pause is no part of the switch"
    assert scene.run("resume")[1] == f"{scene.keys.scope} was not paused; nothing is changed\n"


def test_a_pause_outlives_a_restart_and_reaches_every_watcher(scene: Scene, tmp_path: Path) -> None:
    other = WatcherProcess(tmp_path, settings_by_keys(scene.bed, scene.keys), "other")
    scene.run("pause")
    scene.wait_for_health("paused")
    scene.watcher.process.terminate()
    scene.watcher.process.start()
    with other:
        for watcher in (scene.watcher, other):
            wait_for(lambda: _is_paused(watcher), 15, "paused", logs=[watcher.log])  # noqa: B023
        scene.keys.crown("b")
        stays(lambda: is_led(scene.bed.bouncers[0], scene.endpoint), 1.5, "nobody acts")
    scene.run("resume")
    scene.wait_for_health("ok")


def _is_paused(watcher: WatcherProcess) -> bool:
    try:
        return '"paused": {' in watcher.get("/status")[1]
    except Exception:
        return False


def test_a_pause_during_a_hold_lets_clients_go(bed: Bed, tmp_path: Path) -> None:
    keys = Keys(bed.etcd)
    primary = bed.leader()
    keys.join("direct", f"postgres://{primary.host}:{primary.port}/postgres")
    keys.lead("direct")
    hold = {"enabled": True, "limit": 60.0}
    with WatcherProcess(tmp_path, settings_by_keys(bed, keys, hold=hold)) as watcher:
        wait_until_led(bed.bouncers, f"{primary.host}:{primary.port}", watcher)
        for host in bed.bouncers:
            watcher.wait_for_line("in_sync", target=host.name)
        keys.end_reign()
        wait_until_held(watcher, bed.bouncers, "no_leader")
        assert run_watcher(tmp_path, "pause", settings_by_keys(bed, keys))[0] == 0
        wait_until_released(watcher, bed.bouncers, timeout=5)
        keys.lead("direct")
        assert run_watcher(tmp_path, "resume", settings_by_keys(bed, keys))[0] == 0


def test_without_etcd_there_is_no_pause_and_what_to_do_instead_is_told(bed: Bed, tmp_path: Path) -> None:
    keys = Keys(bed.etcd)
    settings = settings_by_keys(bed, keys, etcd={"endpoints": ["127.0.0.1:9"]})
    code, _, errors = run_watcher(tmp_path, "pause", settings)
    assert code == 1
    assert "etcd 127.0.0.1:9" in errors
    assert "systemctl stop pgbouncer-watcher" in errors
