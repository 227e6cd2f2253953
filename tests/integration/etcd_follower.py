"""An EtcdWatch in a thread, with what it posted folded into a view, as the tests here need it."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

from tests.support.etcd import EtcdCluster
from tests.support.waiting import wait_for
from watcher.decide.model import Leadership, Sighting, View
from watcher.decide.view import fold, leadership
from watcher.observe.etcd import EtcdAccess, EtcdState, EtcdWatch, Reason

PREFIX = "/service/demo/"
LEADER = PREFIX + "leader"


class Follower(AbstractContextManager["Follower"]):
    """Follows the leader key of `PREFIX`. Leaving stops it and fails if it does not stop within a second."""

    def __init__(self, access: EtcdAccess, on_post: Callable[[Sighting], None] = lambda _: None) -> None:
        self.view = View(time.monotonic())
        self.sightings: list[Sighting] = []
        self.states: list[EtcdState] = []
        self._on_post = on_post
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.watch = EtcdWatch(access, PREFIX, self._post, self.states.append)
        self._thread = threading.Thread(target=self.watch.run, args=(self._stop,), name="follower")

    def _post(self, sighting: Sighting) -> None:
        with self._lock:
            self.view = fold(self.view, sighting)
            self.sightings.append(sighting)
        self._on_post(sighting)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive(), "run() returns soon after stop"

    @property
    def leader(self) -> str | None:
        reign = leadership(self.view)
        return reign.name if isinstance(reign, Leadership) else None

    @property
    def reasons(self) -> list[Reason]:
        return [state.reason for state in self.states]

    @property
    def problems(self) -> list[str]:
        return [str(state.problem) for state in self.states if state.problem is not None]

    def sees(self, name: str | None, within: float) -> float:
        """Waits until `name` leads; seconds that it took."""
        began = time.monotonic()
        wait_for(lambda: self.leader == name, within, f"{name} to lead; {self.states}", poll=0.002)
        return time.monotonic() - began

    def comes_to(self, reason: Reason, within: float, since: int = 0) -> float:
        """Waits until a state of this reason was told, the first `since` left out; seconds that it took."""
        began = time.monotonic()
        wait_for(
            lambda: reason in self.reasons[since:], within, f"{reason}; {self.states[since:]}", poll=0.005
        )
        return time.monotonic() - began

    def follows_the_next_change(self, etcd: EtcdCluster, within: float = 10.0) -> float:
        """Writes another leader and sees it; seconds from the acknowledged write to the view."""
        name = f"next-{time.monotonic_ns()}"
        etcd.put(LEADER, name)
        return self.sees(name, within)


def access_to(etcd: EtcdCluster, **more: Any) -> EtcdAccess:
    """All members of `etcd`, with whatever else is given."""
    return EtcdAccess(**{"endpoints": tuple(etcd.endpoints), **more})
