"""What a case is, and the list of all of them.

A case is a function that strikes: it notes how to undo what it is about to do, then does it. Its docstring
says what is broken; the decorator says what happens meanwhile, and what is promised all the same.
"""

import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from importlib import import_module

from tests.chaos.scene import Scene
from tests.support.waiting import BedError

LOOK_EVERY = 0.01
MODULES = ("etcd", "hosts", "pgbouncer", "primary", "silence", "watcher")


class Meanwhile(Enum):
    """What happens while the fault lasts."""

    NOTHING = "nothing"
    SWITCHOVER = "a planned switchover"
    CRASH = "the primary dies"


class Fails(Enum):
    """What may fail, as it would without the watcher too."""

    NOBODY = "nobody"
    VICTIMS = "clients of the PgBouncer that was struck"
    ANYBODY = "everybody, until it is over"
    IN_FLIGHT = "what is in flight when its server goes, once a client"


class Lags(Enum):
    """Which PgBouncers may follow only once the fault is over."""

    NONE = "none"
    VICTIM = "the one that was struck"
    ALL = "all"


class Undo:
    """What puts things right again, run backwards whatever happened."""

    def __init__(self) -> None:
        self._steps = ExitStack()
        self.count = 0

    def by(self, step: Callable[[], object]) -> None:
        """`step` undoes what is done next. It is to be noted before that is done."""
        self._steps.callback(step)
        self.count += 1

    def run(self) -> None:
        """Take all steps, the last one first, each of them even if another fails."""
        self._steps.close()


def once(undo: Undo, is_so: Callable[[], object], then: Callable[[], object]) -> None:
    """Beside all else, as soon as it comes to that. BedError at the undoing where it never did."""
    is_over = threading.Event()

    def wait() -> None:
        while not is_so():
            if is_over.wait(LOOK_EVERY):
                raise BedError("it did not come to what the case waits for, so it has not struck")
        then()

    pool = ThreadPoolExecutor(1)
    undo.by(pool.shutdown)
    done = pool.submit(wait)
    undo.by(done.result)
    undo.by(is_over.set)


Strike = Callable[[Scene, Undo], None]


@dataclass(frozen=True)
class Case:
    """One fault, and the promise that holds in spite of it."""

    name: str
    group: str
    promise: str
    strike: Strike
    meanwhile: Meanwhile
    fails: Fails
    lags: Lags

    @property
    def fault(self) -> str:
        """What is broken, in a sentence."""
        return inspect.getdoc(self.strike) or ""


_CASES: dict[str, Case] = {}


def case(
    promise: str,
    *,
    meanwhile: Meanwhile = Meanwhile.SWITCHOVER,
    fails: Fails = Fails.NOBODY,
    lags: Lags = Lags.NONE,
) -> Callable[[Strike], Strike]:
    """Makes a case of a function. ValueError where another module has that name."""

    def register(strike: Strike) -> Strike:
        name, group = strike.__name__.replace("_", "-"), strike.__module__.rpartition(".")[2]
        if name in _CASES and _CASES[name].group != group:
            raise ValueError(f"two cases are called {name}")
        _CASES[name] = Case(name, group, promise, strike, meanwhile, fails, lags)
        return strike

    return register


def all_cases() -> dict[str, Case]:
    """Every case by its name, in the order of the modules."""
    for module in MODULES:
        import_module(f"tests.chaos.cases.{module}")
    return dict(_CASES)
