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

from tests.support import axe
from tests.support.addresses import take_address
from tests.support.chromium import Look, browsing, document, open_in_browser, picture
from tests.support.waiting import wait_for
from tests.unit.expose_scene import EPOCH, LEADS, LOST, NO_LEADER, Clock, actual, switch, view, well
from watcher.decide.errors import SourceError
from watcher.decide.model import Endpoint, Held, NodeReport, Role
from watcher.expose.page import HEADERS
from watcher.expose.server import Answer, Page, StatusServer
from watcher.expose.window import Shown, Window

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


def examined(state: str, *scripts: str) -> dict[str, Page]:
    """The page with these scripts in place of its own, which would fetch it anew and lose what they found."""
    page = str(window(state).pages()["/"]("", "").body, "utf-8")
    page, found = re.subn(r"<script>.*</script>", "", page, flags=re.DOTALL)
    assert found == 1
    page = page.replace("</body>", "".join(f"<script>{script}</script>" for script in scripts) + "</body>")
    return {"/": lambda *_: Answer(page.encode(), "text/html; charset=utf-8")}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize("state", ["well", "trouble"])
def test_axe_finds_nothing(state: str, look: Look) -> None:
    with served(examined(state, axe.SCRIPT.read_text(), f"axe.run().then({REPORT})")) as url:
        found = document(url, look, seconds=20)
    title = re.search(r"<title>(.*?)</title>", found, re.DOTALL)
    passes = re.search(r'id="done">(\d+)<', found)
    assert title is not None
    assert passes is not None
    assert int(passes[1]) > 10
    assert json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")) == []


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """Where the page of trouble is served, and what was asked for."""
    pages, asked = window("trouble").pages(), []

    def page(path: str, accept: str) -> Answer:
        asked.append(path)
        return pages["/"](path, accept)

    with served({"/": page}) as url:
        yield url, asked


def test_the_page_renews_itself(asked: tuple[str, list[str]]) -> None:
    found = document(asked[0], seconds=10)
    assert "1 of 2 PgBouncers" in found or "wait" in found
    assert "is its host up?" in found
    assert len(asked[1]) >= 2


TELL_WHEN_OLD = """setInterval(function () {
  var old = !document.getElementById("stale").hidden && /^not answering/.test(document.title);
  if (old) fetch("/old");
}, 200);"""


def test_a_watcher_that_hangs_is_not_green_for_ever(tmp_path: Path) -> None:
    """Frozen, or behind a network that drops packets: there is no answer, and no error either."""
    text = window("well").pages()["/"]("", "").body.decode()
    text = text.replace("</body>", f"<script>{TELL_WHEN_OLD}</script></body>")
    asked: list[str] = []
    hangs, told = threading.Event(), threading.Event()

    def page(*_: str) -> Answer:
        asked.append("/")
        if len(asked) > 1:
            hangs.wait(60)
        return Answer(text.encode(), "text/html; charset=utf-8")

    def old(*_: str) -> Answer:
        told.set()
        return Answer(b"")

    with served({"/": page, "/old": old}) as url, open_in_browser(url, Look(), tmp_path / "log"):
        try:
            assert told.wait(60)
            assert len(asked) <= 4, "one question at a time"
        finally:
            hangs.set()


def test_the_page_renews_itself_without_scripts(asked: tuple[str, list[str]], tmp_path: Path) -> None:
    with browsing(asked[0], Look(scripts=False), tmp_path / "log"):
        wait_for(lambda: len(asked[1]) >= 3, 20, "it asks again and again")


def test_the_page_looks_the_same_without_scripts(asked: tuple[str, list[str]], tmp_path: Path) -> None:
    """To the last pixel, but for what a browser that is short of processor has not drawn yet."""

    def seen(look: Look) -> bytes:
        picture(asked[0], tmp_path / "page.png", look)
        return (tmp_path / "page.png").read_bytes()

    wait_for(lambda: seen(Look()) == seen(Look(scripts=False)), 60, "both look the same")
    assert seen(Look()) != seen(Look(dark=True))


def test_the_page_runs_under_its_own_content_security_policy() -> None:
    """What is not in the policy would not run: without its script it would not ask again."""
    assert "script-src 'sha256-" in HEADERS["Content-Security-Policy"]
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_nothing_is_wider_than_a_phone() -> None:
    ask = "document.title = document.documentElement.scrollWidth + ' of ' + window.innerWidth;"
    with served(examined("trouble", ask)) as url:
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
