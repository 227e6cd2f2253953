"""The status page in a real Chromium: with and without scripts, light and dark, large and small; and axe.

    python -m tests.e2e.test_browser

draws the pictures of docs/ anew.
"""

import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.addresses import take_address
from tests.support.chromium import Look, document, picture
from tests.support.waiting import wait_for
from tests.unit.expose_scene import EPOCH, LEADS, LOST, NO_LEADER, Clock, actual, switch, view, well
from watcher.decide.errors import SourceError
from watcher.decide.model import Endpoint, Held, NodeReport, Role
from watcher.expose.page import HEADERS
from watcher.expose.server import Answer, Page, StatusServer
from watcher.expose.window import Shown, Window

AXE = Path(__file__).parents[1] / "support/axe.min.js"
DOCS = Path(__file__).parents[2] / "docs"
LOOKS = {
    "light": Look(),
    "dark": Look(dark=True),
    "phone": Look(width=390, height=844),
}
PICTURES = {
    "status.png": ("well", Look(height=1150)),
    "status-trouble.png": ("trouble", Look(height=1500, dark=True)),
}

REPORT = """found => {
  document.title = JSON.stringify(found.violations.map(
    broken => broken.id + ": " + broken.nodes.map(node => node.html).join(" | ")));
  document.body.innerHTML = "<p id=done>" + found.passes.length + "</p>";
}"""


def window(state: str) -> Window:
    """`well`: two PgBouncers after a switchover; `trouble`: one lost, one held, etcd silent."""
    clock = Clock()
    nodes = tuple(
        NodeReport(name, f"http://10.0.0.{n}:8008", role, "running", 3)
        for n, (name, role) in enumerate((("pg1", Role.REPLICA), ("pg2", Role.PRIMARY)), 1)
    )
    failures = {} if state == "well" else {"http://10.0.0.3:8008": "no connection within 1 s"}
    shown = Shown(lambda: view(reports=nodes, failures=failures), lambda: "", lambda: {"etcd.tls.ca": EPOCH})
    made = Window("main", ["pgb1", "pgb2"], shown, clock.calendar())
    told = made.listener
    told.source_state("etcd", True, "10.0.0.9:2379", None)
    told.held("pgb1", NO_LEADER)
    for name in ("pgb1", "pgb2"):
        told.switched(switch(name))
        well(made.chronicle, name)
    told.released("pgb1", LEADS, 1.4)
    if state == "trouble":
        told.source_state(
            "etcd", False, "10.0.0.9:2379", SourceError("etcd 10.0.0.9:2379", "no answer", "is it up?")
        )
        told.looked("pgb1", NO_LEADER, actual(held=Held(("app",), 995.0, 1050.0)), None)
        told.looked("pgb2", LEADS, None, LOST)
        told.hold_ended("pgb2", "the hold has lasted its limit", 60.0)
    return made


@contextmanager
def served(pages: dict[str, Page]) -> Iterator[str]:
    server = StatusServer(Endpoint(take_address(), 9632), pages)
    threading.Thread(target=server.run, daemon=True).start()
    try:
        yield f"http://{wait_for(lambda: server.endpoint, 5, 'it listens')}/"
    finally:
        server.close()


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize("state", ["well", "trouble"])
def test_axe_finds_nothing(state: str, look: Look) -> None:
    page = str(window(state).pages()["/"]("", "").body, "utf-8")
    ask = f"axe.run().then({REPORT})"
    injected = page.replace("</body>", f"<script>{AXE.read_text()}</script><script>{ask}</script></body>")
    with served({"/": lambda *_: Answer(injected.encode(), "text/html; charset=utf-8")}) as url:
        found = document(url, look, seconds=20)
    title = re.search(r"<title>(.*?)</title>", found, re.DOTALL)
    passes = re.search(r'id="done">(\d+)<', found)
    assert title is not None
    assert passes is not None
    assert int(passes[1]) > 10
    assert json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")) == []


@pytest.mark.parametrize("scripts", [True, False])
def test_the_page_is_whole_and_renews_itself_with_and_without_scripts(scripts: bool) -> None:
    made, asked = window("trouble"), [0]

    def page(_: str, __: str) -> Answer:
        asked[0] += 1
        return made.pages()["/"]("", "")

    with served({"/": page}) as url:
        found = document(url, Look(scripts=scripts), seconds=10)
    assert "1 of 2 PgBouncers" in found or "wait" in found
    assert "is its host up?" in found
    assert asked[0] >= 2


def test_the_page_runs_under_its_own_content_security_policy() -> None:
    """What is not in the policy would not run: without its script it would not ask again."""
    assert "script-src 'sha256-" in HEADERS["Content-Security-Policy"]
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_nothing_is_wider_than_a_phone() -> None:
    page = str(window("trouble").pages()["/"]("", "").body, "utf-8")
    ask = "document.title = document.documentElement.scrollWidth + ' of ' + window.innerWidth;"
    injected = page.replace("</body>", f"<script>{ask}</script></body>")
    with served({"/": lambda *_: Answer(injected.encode(), "text/html; charset=utf-8")}) as url:
        found = re.search(r"<title>(\d+) of (\d+)", document(url, Look(width=500, height=900)))
    assert found is not None
    assert int(found[1]) <= int(found[2])


def draw() -> None:
    """The pictures of docs/."""
    for name, (state, look) in PICTURES.items():
        with served(dict(window(state).pages())) as url:
            picture(url, DOCS / name, look)
            sys.stdout.write(f"docs/{name}\n")


if __name__ == "__main__":
    draw()
