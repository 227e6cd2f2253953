"""Whatever a watcher stands as, and however often it is asked: what it takes, and when."""

from hypothesis import given
from hypothesis import strategies as st

from tests.support.fake_target import NODES
from watcher.decide.model import Confirm, Hold, Release, Reload, Route, Stamp, Watch, Write
from watcher.decide.precedence import Standing, leads, share

ENDS = st.sampled_from(list(NODES.values()))
STEPS = st.one_of(
    st.builds(Hold, st.floats(0, 100)),
    st.builds(Watch, ENDS),
    st.builds(Write, st.builds(Route, ENDS, st.just(Stamp(1, "", 5, None, "node1")))),
    st.just(Reload()),
    st.builds(Confirm, ENDS),
    st.builds(Release, st.none() | ENDS, st.booleans()),
)
PLANS = st.lists(STEPS, max_size=6).map(tuple)
STANDINGS = st.sampled_from(Standing)
PATIENCE = 2.0


@given(PLANS, STANDINGS, st.none() | st.floats(0, 10), st.floats(0, 20))
def test_nothing_is_added_reordered_or_left_out_but_what_leads(
    steps: tuple[object, ...], stands: Standing, since: float | None, now: float
) -> None:
    ours = share(steps, stands, since, now, PATIENCE)  # type: ignore[arg-type] # of STEPS
    left_out = [step for step in steps if step not in ours.steps]
    assert list(ours.steps) == [step for step in steps if step not in left_out]
    assert all(map(leads, left_out))  # type: ignore[arg-type]
    assert bool(left_out) == (ours.waits_until is not None)
    assert not left_out or stands is Standing.STANDBY


@given(st.lists(st.tuples(PLANS, STANDINGS, st.floats(0, 0.5)), max_size=30))
def test_nobody_leaves_work_to_another_for_longer_than_its_patience(
    turns: list[tuple[tuple[object, ...], Standing, float]],
) -> None:
    """Over any row of turns: from the first at which there was such work, and is still."""
    now, since, began = 0.0, None, None
    for steps, stands, pause in turns:
        now += pause
        has_work = any(map(leads, steps))  # type: ignore[arg-type]
        began = (now if began is None else began) if has_work and stands is Standing.STANDBY else None
        ours = share(steps, stands, since, now, PATIENCE)  # type: ignore[arg-type]
        since = ours.since
        if has_work and (began is None or now - began >= PATIENCE):
            assert ours.steps == steps
