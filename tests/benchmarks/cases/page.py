"""What a scrape and the status page cost with 64 targets, each with its last switches.

The watcher's own server and pages over a loopback connection; what they tell of is made up, in the sizes that
it would have: no PgBouncer is asked for a page.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import urllib3

from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Figures, spread, spreads
from tests.support.addresses import take_address
from tests.support.waiting import wait_for
from tests.unit.expose_scene import LOST, NO_LEADER, Clock, actual, lost, switch, view, well
from watcher.decide.model import Endpoint
from watcher.expose.server import StatusServer
from watcher.expose.window import Shown, Window

TARGETS = 64
SWITCHES = 20  # of each target; more than are kept
ACCEPT = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
"""What Prometheus asks for; dearer to make than the older text."""

PATHS = {"metrics": "/metrics", "page": "/", "document": "/status"}
OWNED = ("page",)
PROMISED = (
    *spreads(f"page.{name}_ms" for name in PATHS),
    *(f"page.{name}_kib" for name in PATHS),
)


def measure(bench: Bench) -> tuple[Figures, Figures]:
    """Milliseconds from the request to the last byte, and KiB."""
    bench.say(f"a server with {TARGETS} made-up targets")
    server = StatusServer(Endpoint(take_address(), 9632), _window().pages())
    threading.Thread(target=server.run, daemon=True).start()
    try:
        where = wait_for(lambda: server.endpoint, 5, "it listens")
        found = {name: _ask(f"http://{where}{path}", bench.counts.requests) for name, path in PATHS.items()}
    finally:
        server.close()
    figures: Figures = {f"{name}_ms": spread(times) for name, (times, _) in found.items()}
    figures |= {f"{name}_kib": round(size / 1024, 1) for name, (_, size) in found.items()}
    return {"page": figures}, {"targets": TARGETS, "requests": bench.counts.requests}


def _ask(url: str, count: int) -> tuple[list[float], int]:
    """Milliseconds of each request, and bytes of the last answer."""
    times: list[float] = []
    size = 0
    for _ in range(count + 1):
        began = time.perf_counter()
        answer = urllib3.request("GET", url, retries=False, timeout=10, headers={"Accept": ACCEPT})
        size = len(answer.data)
        times.append((time.perf_counter() - began) * 1000)
    return times[1:], size


def _window() -> Window:
    """One in five targets lost, one held, and each with a history."""
    clock, names = Clock(), [f"pgbouncer-{number}.example.org" for number in range(TARGETS)]
    shown = Shown(view, lambda: "", dict)
    window = Window("main", names, shown, clock.calendar())
    for number, name in enumerate(names):
        states: list[Callable[[], None]] = [
            partial(well, window.chronicle, name),
            partial(lost, window.chronicle, name),
            partial(window.chronicle.looked, name, NO_LEADER, actual(), LOST),
        ]
        states[1 if number % 5 == 0 else 2 if number % 5 == 1 else 0]()
    for number in range(SWITCHES):
        for name in names:
            made = switch(name)
            stamp = replace(made.route.stamp, revision=number + 1)
            window.listener.switched(replace(made, route=replace(made.route, stamp=stamp)))
            window.listener.failed(name, LOST, 1)
            window.listener.held(name, NO_LEADER)
            window.listener.released(name, NO_LEADER, 1.5)
    return window
