"""Who may log in to its host next: a few at a time, and those first whose clients wait.

A hundred SSH handshakes at once share one processor, and all of them end when the last one does. A few at a
time end one after the other, the last of them little later; so what matters is who is the first.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_LIMIT = 3.0  # seconds; who takes longer waits for its host, which costs nothing, and no longer counts
_LOOK_AGAIN = 0.1  # seconds between two looks whether a turn has come, or is not wanted any more


@dataclass(eq=False, slots=True)
class Turn:
    """Of one target. The greatest `urgency` goes first; `unwanted` is whether it is to stop. Both may change
    while it waits, and must be quick to tell.
    """

    urgency: Callable[[], float]
    unwanted: Callable[[], bool]
    ticket: int = 0
    began: float = 0.0
    called: threading.Event = field(default_factory=threading.Event)

    def place(self) -> tuple[float, int]:
        """The lowest is next."""
        return -self.urgency(), self.ticket


class Pace:
    """Lets `at_once` of them go on at the same time, and none while a more urgent one does. Safe between
    threads; `at_once` may be changed.
    """

    def __init__(self, at_once: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.at_once = at_once
        self._clock = clock
        self._lock = threading.Lock()
        self._tickets = itertools.count()
        self._waiting: list[Turn] = []
        self._going: list[Turn] = []

    def begin(self, turn: Turn) -> bool:
        """Waits until it may go on, which it then may until `end`, or for three seconds; False, and it may
        not, once it is unwanted.
        """
        with self._lock:
            turn.ticket = next(self._tickets)
            turn.called.clear()
            self._waiting.append(turn)
            self._call()
        while not turn.called.wait(_LOOK_AGAIN):
            if turn.unwanted():
                self.end(turn)
                return False
            with self._lock:
                self._call()
        return True

    def end(self, turn: Turn) -> None:
        """Idempotent, also where it never began."""
        with self._lock:
            self._waiting = [one for one in self._waiting if one is not turn]
            self._going = [one for one in self._going if one is not turn]
            self._call()

    def _call(self) -> None:
        """The next ones, as many as there is room for."""
        now = self._clock()
        self._going = [turn for turn in self._going if now < turn.began + _LIMIT]
        while self._waiting and len(self._going) < self.at_once:
            one = min(self._waiting, key=Turn.place)
            if any(turn.urgency() > one.urgency() for turn in self._going):
                return
            self._waiting.remove(one)
            self._going.append(one)
            one.began = now
            one.called.set()
