"""What holds for every plan: it is finite, in order, and leaves nothing to do."""

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.support.fake_target import NODES, FakePgBouncer, FakeTarget
from watcher.decide.decision import plan
from watcher.decide.model import (
    Actual,
    Confirm,
    Desired,
    Endpoint,
    Hold,
    Reason,
    Release,
    Reload,
    Route,
    Stamp,
    Step,
    Watch,
    Write,
)

NOW = 1000.0
ENDS = st.sampled_from(sorted(NODES.values()))
NAMES = st.lists(st.sampled_from(["app", "two", "*"]), min_size=1, unique=True)
ROUTES = st.builds(
    lambda endpoint, timeline: Route(endpoint, Stamp(0xA, "730", 7, timeline, "leader")),
    ENDS,
    st.none() | st.integers(1, 3),
)
WISHES = st.builds(
    lambda route, held, until, guard: Desired(
        Reason.LEADER,
        "",
        route,
        held=held,
        hold_until=NOW + until if held else float("inf"),
        guard=guard,
        proven_at=NOW + 1,
    ),
    st.none() | ROUTES,
    st.booleans(),
    st.sampled_from([5.0, 20.0, 60.0]),
    st.none() | ENDS,
)


@st.composite
def targets(draw: st.DrawFn) -> FakeTarget:
    """One in any state: file and PgBouncer apart, somebody's pause, an own hold, no console."""
    names = draw(NAMES)
    pgbouncer = FakePgBouncer(block_of(names, draw(ENDS)))
    pgbouncer.text = block_of(names, draw(ENDS))
    if "*" in names:
        pgbouncer.in_use = draw(st.sets(st.sampled_from(["made", "also"])))
    pgbouncer.paused = draw(st.sets(st.sampled_from(["app", "two"])))
    target = FakeTarget(pgbouncer, console=draw(st.booleans()), holds=draw(st.booleans()), clock=lambda: NOW)
    actual = target.read()
    if actual.can_hold and draw(st.booleans()):
        target.take(Hold(NOW + draw(st.sampled_from([5.0, 60.0]))))
    return target


def block_of(names: Sequence[str], endpoint: Endpoint) -> str:
    lines = "".join(f"{name} = host={endpoint.host} port={endpoint.port}\n" for name in names)
    return f";; [config cluster: begin]\n{lines};; [config cluster: end]\n"


def carry_out(target: FakeTarget, wish: Desired) -> tuple[Actual, tuple[Step, ...]]:
    """What was seen before, and the steps that were taken."""
    actual = target.read()
    steps = plan(actual, wish)
    for step in steps:
        target.take(step)
    return actual, steps


@given(targets(), st.lists(WISHES, min_size=1, max_size=4))
def test_after_its_steps_a_plan_is_empty(target: FakeTarget, wishes: list[Desired]) -> None:
    for wish in wishes:
        carry_out(target, wish)
        assert target.last is not None
        assert plan(target.last, wish) == ()
        assert plan(target.read(), wish) == ()


@given(targets(), st.lists(WISHES, min_size=1, max_size=4))
def test_after_its_steps_a_target_is_as_was_wished_for(target: FakeTarget, wishes: list[Desired]) -> None:
    for wish in wishes:
        carry_out(target, wish)
        actual = target.read()
        held = actual.held is not None
        assert held is (wish.held and actual.can_hold)
        if wish.route is None:
            continue
        assert {db.endpoint for db in actual.databases} == {wish.route.endpoint}
        if not held and not (wish.held and not actual.can_hold):
            assert {row.host for row in actual.shown or ()} <= {wish.route.endpoint.host}


@given(targets(), st.lists(WISHES, min_size=1, max_size=4))
def test_who_is_wished_to_wait_does_wait_and_nobody_elses_pause_is_ended(
    target: FakeTarget, wishes: list[Desired]
) -> None:
    held = target.read().held
    ours = set() if held is None else set(held.databases)
    theirs = target.pgbouncer.paused - ours
    for wish in wishes:
        actual, _ = carry_out(target, wish)
        names = {db.name for db in actual.databases if db.name != "*"}
        if wish.held and actual.can_hold:
            assert names <= target.pgbouncer.paused
        assert theirs <= target.pgbouncer.paused


@given(targets(), WISHES)
def test_steps_come_in_their_order_and_each_once(target: FakeTarget, wish: Desired) -> None:
    actual, steps = carry_out(target, wish)
    kinds = [type(step) for step in steps]
    assert len(kinds) == len(set(kinds))
    assert Hold not in kinds[1:]
    assert Watch not in kinds[:-1]
    if Release in kinds:
        assert actual.held is not None
        assert not wish.held
        assert not {Hold, Reload, Confirm} & set(kinds)
    if wish.held:
        assert not {Release, Reload, Confirm} & set(kinds)
    if not actual.can_hold:
        assert not {Hold, Watch} & set(kinds)
    if Reload in kinds:
        assert kinds[kinds.index(Reload) + 1] is Confirm


@given(targets(), WISHES)
def test_clients_are_released_to_where_the_file_leads_by_then(target: FakeTarget, wish: Desired) -> None:
    actual, steps = carry_out(target, wish)
    misled = wish.route is not None and any(db.endpoint != wish.route.endpoint for db in actual.databases)
    for number, step in enumerate(steps):
        if isinstance(step, Release):
            assert step.endpoint == (wish.route.endpoint if wish.route is not None else None)
            assert any(isinstance(before, Write) for before in steps[:number]) is misled
            assert step.reload or not misled


@given(targets(), WISHES, WISHES)
def test_an_interrupted_plan_is_finished_by_the_next_one(
    target: FakeTarget, first: Desired, second: Desired
) -> None:
    """Whatever step it was broken off before."""
    steps = plan(target.read(), first)
    for step in steps[:1]:
        target.take(step)
    carry_out(target, second)
    assert plan(target.read(), second) == ()
    assert plan(target.read(), replace(second, detail="said in other words")) == ()
