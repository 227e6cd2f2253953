"""A place that says each time when a connection to it was tried for."""

from __future__ import annotations

from collections.abc import Callable

from watcher.apply.agent_link import Place, Stream
from watcher.decide.errors import TargetError


class ReportingPlace:
    """`place`, and `report` is told why a connection failed, or None when one was made."""

    def __init__(self, place: Place, report: Callable[[TargetError | None], None]) -> None:
        self.name = place.name
        self._place = place
        self._report = report

    def open(self, word: str) -> Stream:
        """As the place itself; what goes over a connection that stands is not told."""
        stood = self._place.connected
        try:
            stream = self._place.open(word)
        except TargetError as error:
            self._report(error)
            raise
        if not stood:
            self._report(None)
        return stream

    def close(self) -> None:
        """As the place itself."""
        self._place.close()

    @property
    def connected(self) -> bool:
        """As the place itself."""
        return self._place.connected
