"""A slot that holds the latest value: a newer wish replaces the one that is being retried."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Puts never wait; the one reader always gets the newest value. Safe between threads."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._changed = threading.Condition()
        self._fresh = False

    def put(self, value: T, wake: bool = True) -> None:
        """`wake` off: the reader gets it the next time it looks, and need not look for it."""
        with self._changed:
            self._value = value
            if wake:
                self._fresh = True
                self._changed.notify()

    def nudge(self) -> None:
        """Wakes the reader, with the newest value as it is."""
        with self._changed:
            self._fresh = True
            self._changed.notify()

    def peek(self) -> T:
        """The newest value, without waiting and without taking its freshness away."""
        return self._value

    def wait(self, timeout: float) -> bool:
        """Whether a value was put since the last take, or is within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._fresh, timeout)

    def take(self, timeout: float | None) -> T:
        """Waits until a value was put since the last take, at most `timeout` seconds; then the newest."""
        with self._changed:
            self._changed.wait_for(lambda: self._fresh, timeout)
            self._fresh = False
            return self._value
