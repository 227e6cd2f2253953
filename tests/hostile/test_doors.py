"""Every door keeps its promise: for what once broke it, for its seeds, and for thousands of others.

`python -m tests.hostile` searches further.
"""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.hostile.door import HERE, Door
from tests.hostile.doors import ALL

INPUTS = 12_000
"""At all doors together."""


def _examples(door: Door) -> int:
    return INPUTS * door.share // sum(each.share for each in ALL.values()) + 1


def _spliced(seed: bytes, at: float, cut: int, piece: bytes) -> bytes:
    start = int(at * len(seed))
    return seed[:start] + piece + seed[start + cut :]


def inputs(door: Door) -> st.SearchStrategy[bytes]:
    """Pieces in a row, and good inputs with something hostile in one place."""
    piece = st.sampled_from(door.pieces) | st.binary(max_size=4)
    row = st.lists(piece, max_size=10).map(b"".join)
    place = st.floats(0, 1)
    return row | st.builds(_spliced, st.sampled_from(door.seeds()), place, st.integers(0, 12), piece)


@pytest.mark.parametrize("name", ALL)
def test_a_door_keeps_its_promise_for_whatever_comes(name: str) -> None:
    door = ALL[name]

    @settings(
        max_examples=_examples(door),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
    )
    @given(inputs(door))
    def keeps(data: bytes) -> None:
        door.check(data)

    keeps()


@pytest.mark.parametrize(
    ("name", "data"),
    [pytest.param(name, data, id=f"{name}-{kept}") for name in ALL for kept, data in ALL[name].kept()],
)
def test_what_a_door_once_met_and_its_seeds_are_taken(name: str, data: bytes) -> None:
    ALL[name].check(data)


def test_every_folder_of_inputs_is_a_door_s() -> None:
    assert {path.parent.name for path in HERE.glob("corpus/*/*")} == set(ALL)
    assert {path.parent.name for path in HERE.glob("met/*/*")} <= set(ALL)
