"""Where this watcher stands among those of one cluster: asked by its workers, told to whoever listens."""

from __future__ import annotations

from collections.abc import Callable

from watcher.decide.model import View
from watcher.decide.precedence import Standing, active, standing
from watcher.expose.audience import Listener
from watcher.expose.candidate import Candidate


class Rank:
    """Safe between threads. Until it has a candidate, as with `controller.mode: together`, all act."""

    def __init__(
        self, prefix: str, silence_limit: float, listener: Listener, clock: Callable[[], float]
    ) -> None:
        self._prefix = prefix
        self._silence_limit = silence_limit
        self._listener = listener
        self._clock = clock
        self._candidate: Candidate | None = None
        self._told: tuple[Standing, str] | None = None

    def stand(self, candidate: Candidate | None, view: View) -> None:
        """By this candidate from now on."""
        self._candidate = candidate
        self.viewed(view, True)

    def viewed(self, view: View, is_news: bool) -> None:
        """Told of every view, in order."""
        candidate = self._candidate
        if candidate is None or view.contact_at is None:
            return
        first = active(view)
        candidate.hear(self._prefix, "" if first is None else first.id)
        if is_news:
            self._tell(self.standing(view), "" if first is None else first.name)

    def standing(self, view: View) -> Standing:
        candidate = self._candidate
        if candidate is None:
            return Standing.TOGETHER
        return standing(view, candidate.lease, self._clock(), self._silence_limit)

    def _tell(self, stands: Standing, first: str) -> None:
        if (stands, first) != self._told:
            self._told = stands, first
            self._listener.stands(stands, first)
