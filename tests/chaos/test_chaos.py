"""The list of cases is whole, chaos can fail, and one case goes through from end to end."""

import inspect
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.chaos.__main__ import rounds
from tests.chaos.faults import FAULTS
from tests.chaos.packets import Packets
from tests.chaos.registry import MODULES, Case, Undo, all_cases
from tests.support.addresses import take_address
from tests.support.network import own_network
from tests.support.processes import run
from tests.support.proxy import Proxy
from tests.support.repository import REPOSITORY

CASES = all_cases()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_case_says_what_is_broken_what_is_promised_and_how_it_is_undone(case: Case) -> None:
    assert case.fault.endswith(".")
    assert case.promise
    source = inspect.getsource(inspect.getmodule(case.strike) or case.strike)
    assert "undo" in inspect.signature(case.strike).parameters
    assert "undo.by(" in source


def test_every_module_has_cases() -> None:
    assert {case.group for case in CASES.values()} == set(MODULES)


def test_what_was_done_is_undone_backwards_and_wholly_even_if_a_step_fails() -> None:
    undo, seen = Undo(), list[str]()

    def fails() -> None:
        seen.append("second")
        raise OSError("no")

    undo.by(lambda: seen.append("first"))
    undo.by(fails)
    with pytest.raises(OSError, match="no"):
        undo.run()
    assert seen == ["second", "first"]


def test_a_seed_gives_the_same_order_again_and_a_round_has_each_case_once() -> None:
    cases = list(CASES.values())
    once, again = [list(rounds(cases, seed=7, seconds=0)) for _ in range(2)]
    assert once == again
    assert sorted(case.name for case in once) == sorted(CASES)
    assert once != list(rounds(cases, seed=8, seconds=0))


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_of_the_product_still_fits_it_and_names_a_case(name: str) -> None:
    fault = FAULTS[name]
    text = (REPOSITORY / "watcher" / fault.file).read_text()
    assert fault.apply_to(text) != text
    assert fault.seen_by in CASES


def _greeted(endpoint: str, timeout: float = 20) -> float:
    """How long it takes until the server behind this says something."""
    host, _, port = endpoint.rpartition(":")
    began = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=timeout) as link:
        assert link.recv(16) == b"hello"
    return time.monotonic() - began


@contextmanager
def _greeter() -> Iterator[str]:
    """A server that says hello to whoever comes; its endpoint."""
    with socket.create_server((take_address(), 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    link, _ = server.accept()
                    with link:
                        link.sendall(b"hello")

        threading.Thread(target=serve, daemon=True).start()
        yield "{}:{}".format(*server.getsockname())
        server.shutdown(socket.SHUT_RDWR)


def test_a_late_link_passes_nothing_on_sooner() -> None:
    with _greeter() as endpoint, Proxy(endpoint) as link:
        link.late(0.3)
        assert _greeted(link.endpoint) >= 0.3


def test_dropped_packets_vanish_until_they_pass_again() -> None:
    with own_network(), _greeter() as endpoint:
        packets = Packets(f"ip daddr {endpoint.rpartition(':')[0]}")
        packets.drop()
        with pytest.raises(TimeoutError):
            _greeted(endpoint, timeout=0.5)
        packets.pass_again()
        assert _greeted(endpoint)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_case_goes_through_from_end_to_end(installed: None) -> None:
    del installed
    done = run(
        [sys.executable, "-m", "tests.chaos", "--case", "etcd-member-gone", "--errors"],
        cwd=REPOSITORY,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kept   etcd-member-gone" in done.stdout
