"""etcd through its JSON gateway, with the moment of each word: what a process of etcdctl is too slow for.

It is not the code of the watcher, so that nothing of the watcher measures itself.
"""

import base64
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tests.support.waiting import BedError, wait_for

LIMIT = 5.0


@dataclass(frozen=True)
class Event:
    """A key was put, or deleted (`value` is None then); heard at `at` (monotonic)."""

    key: str
    value: str | None
    revision: int
    at: float


@dataclass(frozen=True)
class Written:
    """A change that etcd acknowledged: the revision it made, when it was asked for and when answered."""

    revision: int
    sent: float
    answered: float


class Gateway:
    """Puts and deletes keys over one warm connection. Raises BedError where etcd refuses."""

    def __init__(self, endpoint: str) -> None:
        self._connection = http.client.HTTPConnection(endpoint, timeout=LIMIT)
        self._connection.connect()
        _undelayed(self._connection)

    def put(self, key: str, value: str) -> Written:
        """Write a key."""
        return self._ask("put", {"key": _b64(key), "value": _b64(value)})

    def delete(self, key: str) -> Written:
        """Delete a key; no error if there is none."""
        return self._ask("deleterange", {"key": _b64(key)})

    def _ask(self, verb: str, body: dict[str, str]) -> Written:
        text = json.dumps(body)
        sent = time.monotonic()
        self._connection.request("POST", f"/v3/kv/{verb}", text)
        answer = self._connection.getresponse()
        said = answer.read().decode()
        answered = time.monotonic()
        if answer.status != 200:
            raise BedError(f"etcd {verb}: {answer.status} {said}")
        return Written(int(json.loads(said)["header"]["revision"]), sent, answered)

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


class KeyWatch(AbstractContextManager["KeyWatch"]):
    """Hears of every change below `prefix`, in a thread of its own, from entering on."""

    def __init__(self, endpoint: str, prefix: str) -> None:
        self.events: list[Event] = []
        self._prefix = prefix
        self._connection = http.client.HTTPConnection(endpoint)
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._listen, name=f"watch {prefix}", daemon=True)

    def __enter__(self) -> Self:
        self._connection.connect()
        _undelayed(self._connection)
        self._thread.start()
        if not self._begun.wait(LIMIT):
            raise BedError(f"etcd did not begin the watch on {self._prefix}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection.sock is not None:
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(LIMIT)
        self._connection.close()

    def wait_for(self, key: str, *, after: int = 0, other_than: str = "", timeout: float = 60) -> Event:
        """The first put of `key` (relative to the prefix) to another value, `after` events passed over."""

        def heard() -> Event | None:
            puts = (event for event in self.events[after:] if event.key == key and event.value is not None)
            return next((event for event in puts if event.value != other_than), None)

        return wait_for(heard, timeout, f"etcd tells of a new {self._prefix}{key}", poll=0.001)

    def _listen(self) -> None:
        """Ends when the connection does, which is how it is stopped."""
        key, end = _b64(self._prefix), _b64(self._prefix[:-1] + chr(ord(self._prefix[-1]) + 1))
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, AttributeError):
            request = json.dumps({"create_request": {"key": key, "range_end": end}})
            self._connection.request("POST", "/v3/watch", request)
            answer = self._connection.getresponse()
            while line := answer.readline():
                self._hear(json.loads(line)["result"], time.monotonic())

    def _hear(self, result: dict[str, Any], at: float) -> None:
        self.events += list(_events(result, self._prefix, at))
        if result.get("created"):
            self._begun.set()


def _events(result: dict[str, Any], prefix: str, at: float) -> Iterator[Event]:
    for event in result.get("events", ()):
        key = _text(event["kv"]["key"]).removeprefix(prefix)
        value = None if event.get("type") == "DELETE" else _text(event["kv"].get("value", ""))
        yield Event(key, value, int(event["kv"]["mod_revision"]), at)


def _undelayed(connection: http.client.HTTPConnection) -> None:
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _text(coded: str) -> str:
    return base64.b64decode(coded).decode(errors="replace")
