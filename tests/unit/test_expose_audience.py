"""Who is told what happens is told all of it that it heeds, in turn."""

from watcher.decide.errors import WatcherError
from watcher.expose.audience import Listener, everyone


class _Ear(Listener):
    def __init__(self, name: str, heard: list[str]) -> None:
        self._name = name
        self._heard = heard

    def cut(self, target: str, count: int, how: str) -> None:
        self._heard.append(f"{self._name}: {target} {count} {how}")

    def source_state(
        self, source: str, connected: bool, place: str, problem: WatcherError | None, reason: str = ""
    ) -> None:
        self._heard.append(f"{self._name}: {source} {connected} {place} {problem} {reason}")


def test_everyone_is_told_in_turn_with_all_arguments() -> None:
    heard: list[str] = []
    all_ears = everyone(_Ear("a", heard), _Ear("b", heard))
    all_ears.cut("t", 2, how="by hand")
    all_ears.source_state("etcd", False, "here", None, reason="silent")
    assert heard == [
        "a: t 2 by hand",
        "b: t 2 by hand",
        *(f"{ear}: etcd False here None silent" for ear in "ab"),
    ]


def test_who_passes_on_to_others_is_told_for_them() -> None:
    heard: list[str] = []
    everyone(everyone(_Ear("a", heard)), _Ear("b", heard)).cut("t", 1, "x")
    assert heard == ["a: t 1 x", "b: t 1 x"]


def test_what_nobody_heeds_passes() -> None:
    everyone(_Ear("a", [])).left("t", ("app",))
    everyone().hold_ended("t", "why", 1.0)
