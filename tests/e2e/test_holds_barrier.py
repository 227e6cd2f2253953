"""With the barrier no client fails in a stop that is planned, however long its transactions; to its limit."""

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.hold_stage import assert_all_on, clients_on, reasons, wait_until_released, watching
from tests.e2e.test_least_privilege import is_well, locked, target
from tests.e2e.test_stage import at, wait_until_led
from tests.support.bed import Bed, BouncerHost
from tests.support.crowd import WITH_LONG
from tests.support.install import PATRONI_VENV
from tests.support.patroni import Node
from tests.support.pgbouncer import PgBouncer
from tests.support.waiting import BedError, wait_for
from tests.support.watcher import WatcherProcess, settings_for, ssh_target
from watcher import barrier

LIMIT = 3
LONGER = "SELECT pg_sleep(12)"
SAID = "pgbouncer-watcher barrier: "
BARRIER: dict[str, Any] = {"barrier": {"enabled": True}}


@pytest.fixture(scope="module")
def barred(session_bed: Bed) -> Iterator[Bed]:
    """The shared bed with the barrier before each stop, for the tests of this file."""
    session_bed.heal()
    program = Path(shutil.copy(barrier.__file__, session_bed.folder))
    program.chmod(0o644)

    def with_barrier(node: Node) -> dict[str, dict[str, str]]:
        command = f"{PATRONI_VENV}/bin/python {program} --patroni-config {node.config_file}"
        return {"postgresql": {"before_stop": f"{command} --limit {LIMIT}"}}

    with session_bed.patroni.configured(with_barrier):
        yield session_bed


@pytest.fixture
def bed(barred: Bed) -> Bed:
    barred.heal()
    return barred


def _barrier_said(node: Node, skip: int = 0) -> list[str]:
    text = node.log.read_text(errors="replace")
    return [line.partition(SAID)[2] for line in text.splitlines() if SAID in line][skip:]


def test_transactions_of_a_second_survive_a_switchover(bed: Bed, tmp_path: Path) -> None:
    old = bed.leader()
    with watching(bed, tmp_path, **BARRIER) as watcher, clients_on(bed, WITH_LONG) as clients:
        told = len(_barrier_said(old))
        bed.patroni.switchover()
        new = bed.patroni.wait_for_leader(other_than=old)
        assert_all_on(clients, new, after=time.monotonic())
        assert _barrier_said(old, told)[0].endswith(": bouncer1, bouncer2")
        assert {reasons(watcher, host)[0] for host in bed.bouncers} == {"stopping"}
        wait_until_released(watcher, bed.bouncers)


@pytest.mark.long
def test_they_do_though_a_line_forbids_the_guard_of_the_present_leader(bed: Bed, tmp_path: Path) -> None:
    """Clients can be held there all the same, so the barrier is told."""
    old, members = bed.leader(), bed.patroni.nodes
    bed.patroni.wait_for_replicas()
    with (
        locked(bed, bed.patroni.scope, [node.host for node in members if node is not old]),
        watching(bed, tmp_path, targets=[target(host) for host in bed.bouncers], **BARRIER) as watcher,
        clients_on(bed, WITH_LONG) as clients,
    ):
        for host in bed.bouncers:
            watcher.wait_for_line("failed", target=host.name, saying=["[bounds]"])
        told = len(_barrier_said(old))
        bed.patroni.switchover()
        new = bed.patroni.wait_for_leader(other_than=old)
        assert_all_on(clients, new, after=time.monotonic())
        assert _barrier_said(old, told)[0].endswith(": bouncer1, bouncer2")
        wait_until_released(watcher, bed.bouncers)
        for host in bed.bouncers:
            wait_for(partial(is_well, watcher, host), 30, f"{host.name} is well", logs=[watcher.log])


def test_transactions_of_a_second_survive_a_restart_in_place(bed: Bed, tmp_path: Path) -> None:
    leader = bed.leader()
    with watching(bed, tmp_path, **BARRIER) as watcher, clients_on(bed, WITH_LONG) as clients:
        began = leader.postmaster_pid()
        bed.patroni.patronictl("restart", bed.patroni.scope, leader.name, "--force")
        assert_all_on(clients, leader, after=time.monotonic())
        assert leader.postmaster_pid() != began
        wait_until_released(watcher, bed.bouncers)


def test_beyond_the_limit_the_stop_goes_on_and_only_longer_transactions_fail(
    bed: Bed, tmp_path: Path
) -> None:
    old = bed.leader()
    with (
        watching(bed, tmp_path, **BARRIER),
        clients_on(bed) as clients,
        ThreadPoolExecutor() as pool,
    ):
        told = len(_barrier_said(old))
        longer = [pool.submit(host.pgbouncer.sql, LONGER) for host in bed.bouncers]
        bed.patroni.switchover()
        new = bed.patroni.wait_for_leader(other_than=old)
        assert_all_on(clients, new, after=time.monotonic())
        (line,) = _barrier_said(old, told)
        assert line == f"the stop goes on without bouncer1, bouncer2: not held within {LIMIT} s"
        for one in longer:
            with pytest.raises(BedError, match=r"server closed|terminating connection|conn crashed"):
                one.result()


# --- targets that nobody can hold -------------------------------------------------------------------


@contextmanager
def _another(bed: Bed, name: str) -> Iterator[BouncerHost]:
    """One more PgBouncer beside the first of the bed."""
    beside, leader = bed.bouncers[0], bed.leader()
    server = (leader.host, leader.port)
    with PgBouncer(bed.folder / name, account=beside.account, server=server) as pgbouncer:
        yield BouncerHost(name, pgbouncer, beside.sshd)


def _announced(bed: Bed) -> set[str]:
    """The targets that a barrier would wait for."""
    prefix = f"{bed.patroni.prefix}pgbouncer-watcher/targets/"
    return {key.removeprefix(prefix).partition("/")[0] for key in bed.etcd.get_prefix(prefix)}


@pytest.mark.long
def test_targets_that_cannot_be_held_are_led_as_before_and_no_barrier_waits_for_them(
    bed: Bed, tmp_path: Path
) -> None:
    """One has no console, one reloads by a command, one lets no agent in that holds."""
    old, (held, closed) = bed.leader(), bed.bouncers
    with ExitStack() as stack:
        stack.callback(closed.sshd.authorize)
        closed.sshd.refuse_holds()
        silent, commanded = (stack.enter_context(_another(bed, name)) for name in ("silent", "commanded"))
        every = [held, closed, silent, commanded]
        targets = [ssh_target(host) for host in every]
        for target, host in zip(targets[2:], every[2:], strict=True):
            target["reload_command"] = f"kill -HUP {host.pgbouncer.pid}"
        del targets[2]["console"]
        settings = settings_for(bed, targets=targets, **BARRIER)
        watcher = stack.enter_context(WatcherProcess(tmp_path, settings))
        wait_until_led(every, at(old), watcher)
        failed = watcher.wait_for_line("failed", target=closed.name)
        assert "no holds here" in failed["message"]
        what = "the one is announced, and the keys of killed watchers have gone"
        wait_for(lambda: _announced(bed) == {held.name}, 30, what, logs=[watcher.log])
        told = len(_barrier_said(old))
        bed.patroni.switchover()
        new = bed.patroni.wait_for_leader(other_than=old)
        wait_until_led(every, at(new), watcher)
        assert _barrier_said(old, told)[0].endswith(f": {held.name}")
        assert {line["target"] for line in watcher.lines("hold")} == {held.name}
