"""What our own pages tell of what outsiders wrote: they must not be broken by it, nor carry it on."""

from __future__ import annotations

import json
from functools import cache
from html.parser import HTMLParser

from watcher.decide.model import Actual, Database, Desired, Endpoint, Malformed, Reason, Stamp, View
from watcher.decide.precedence import Standing
from watcher.expose.calendar import Calendar
from watcher.expose.window import Shown, Window

EPOCH = 1_800_000_000.0


@cache
def _window() -> tuple[Window, list[View]]:
    """One that shows the last view of the list; made once, for it is slow to make."""
    views = [View(began_at=0.0)]
    shown = Shown(lambda: views[-1], str, dict, standing=lambda: Standing.STANDBY)
    return Window("demo", ("pgb1",), shown, Calendar(lambda: 2.0, lambda: EPOCH)), views


def check_told(view: View, stamp: Stamp | None = None) -> None:
    """Our pages tell of it: JSON that can be read, HTML without a tag of theirs, and metrics."""
    window, views = _window()
    views[:] = [view]
    actual = Actual((Database("app", Endpoint("10.0.0.9", 5432)),), stamp, 0.0)
    window.viewed(view)
    window.listener.looked("pgb1", Desired(Reason.LEADER, ""), actual, None)
    pages = window.pages()
    if stamp is not None or not any(isinstance(e.value, Malformed) for e in view.entries.values()):
        assert pages["/metrics"]("", "").body.decode()  # which takes ten times as long as the rest
    json.loads(pages["/status"]("", "").body)
    found = _Tags()
    found.feed(pages["/"]("", "").body.decode())
    assert "evil" not in found.tags


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags |= {tag, *(name for name, _ in attrs)}
