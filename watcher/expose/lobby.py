"""Every page of a watcher, by its path: those of its one cluster, or of several an overview of all of them;
and each one's own pages below `/clusters/SCOPE`, so that a place there stays when a second cluster comes. So
does `/targets/NAME`, for as long as no other cluster has a target of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from urllib.parse import quote

from watcher.expose import page
from watcher.expose.metrics import exposition
from watcher.expose.server import Answer, Page
from watcher.expose.status import Fleet, fleet_of
from watcher.expose.window import NO_SUCH_TARGET, Window, html, json_of, verdict


def pages_of(windows: Sequence[Window]) -> Mapping[str, Page]:
    top = windows[0].pages() if len(windows) == 1 else _overview(windows)
    return {**top, **dict(_of_each(windows))}


def _overview(windows: Sequence[Window]) -> Mapping[str, Page]:
    def first(problem_of: Callable[[Window], str]) -> str:
        found = ((window.scope, problem_of(window)) for window in windows)
        return next((f"{scope}: {problem}" for scope, problem in found if problem), "")

    def fleet() -> Fleet:
        return fleet_of([window.status for window in windows])

    def metrics(_: str, accept: str) -> Answer:
        return Answer(*exposition((window.metrics for window in windows), accept))

    def target(name: str, _: str) -> Answer:
        named = [window for window in windows if window.has_target(name)]
        if len(named) > 1:
            return _of_several(name, named)
        return named[0].of_target(name) if named else NO_SUCH_TARGET

    return {
        "/": lambda *_: html(page.overview_of(fleet())),
        "/status": lambda *_: json_of(fleet()),
        "/metrics": metrics,
        "/livez": lambda *_: verdict(first(Window.ailing)),
        "/readyz": lambda *_: verdict(first(Window.ailing) or first(Window.unready)),
        "/startupz": lambda *_: verdict(first(Window.unready)),
        "/targets/*": target,
    }


def _of_several(name: str, windows: Sequence[Window]) -> Answer:
    """Not what any of them says: whoever asks means one of them."""
    paths = "".join(f"{path_of_target(window.scope, name)}\n" for window in windows)
    words = f"{len(windows)} clusters have a target of that name; ask for the one that is meant:\n"
    return Answer(f"{words}{paths}".encode(), status=409)


def path_of_target(scope: str, name: str) -> str:
    """Where it answers whatever other clusters there are."""
    return f"{_below(scope)}/targets/{quote(name, safe='')}"


def _below(scope: str) -> str:
    return f"/clusters/{quote(scope, safe='')}"


def _of_each(windows: Sequence[Window]) -> Iterator[tuple[str, Page]]:
    for window in windows:
        for path, shown in window.pages().items():
            yield f"{_below(window.scope)}{path}", shown
