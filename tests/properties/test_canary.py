"""What holds whoever the canary is, wherever the target leads, and whatever the time."""

from dataclasses import replace
from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_decide_canary import NEW, OLD, POLICY, READY_AT, REIGN, UNHELD, VIEW, led_to
from watcher.decide.canary import after_canary, within_limits
from watcher.decide.decision import CanaryPolicy, Policy, desired, plan
from watcher.decide.model import Actual, Hold, Leadership, Reason, Release, View

ENDS = st.sampled_from([OLD, NEW])
ACTUALS = st.builds(led_to, ENDS, st.sampled_from([50, 60]), ENDS)
LIMITS = st.sampled_from([1.0, 5.0, 19.0])
CANARIES = st.builds(
    CanaryPolicy, st.sampled_from([frozenset({"a"}), frozenset({"a", "b"})]), LIMITS, st.booleans()
)
POLICIES = st.builds(
    lambda base, canary: replace(base, canary=canary), st.sampled_from([POLICY, UNHELD]), CANARIES
)
REIGNS = st.sampled_from([REIGN, Leadership("node1", 50)])
CONFIRMED = st.dictionaries(st.sampled_from(["a", "b", "c"]), REIGNS)
AGES = st.floats(0.0, 40.0)
TARGETS = st.sampled_from(["a", "b", "c"])


def seen(confirmed: dict[str, Leadership], now: float) -> View:
    return replace(VIEW, confirmed=MappingProxyType(confirmed), contact_at=now)


@given(ACTUALS, POLICIES, CONFIRMED, AGES, TARGETS)
def test_whoever_waits_is_written_and_reloaded_by_nobody_and_held_no_longer_than_the_limit(
    actual: Actual, policy: Policy, confirmed: dict[str, Leadership], age: float, target: str
) -> None:
    now = READY_AT + age
    view = seen(confirmed, now)
    leads = desired(view, policy, now, target)
    wish = after_canary(leads, actual, view, policy, now, target)
    assert policy.canary is not None
    if wish.reason is not Reason.CANARY:
        assert wish == leads
        return
    assert target not in policy.canary.targets
    assert REIGN not in [confirmed.get(name) for name in policy.canary.targets]
    assert not wish.held or age < policy.canary.limit
    assert all(isinstance(step, Hold | Release) for step in plan(actual, replace(wish, hold_until=now + 1)))
    assert age < policy.canary.limit or not policy.canary.goes_on


@given(ACTUALS, POLICIES, CONFIRMED, AGES, AGES, TARGETS)
def test_no_wait_for_a_canary_makes_a_hold_longer_than_its_own_limit(
    actual: Actual,
    policy: Policy,
    confirmed: dict[str, Leadership],
    age: float,
    held_for: float,
    target: str,
) -> None:
    now = READY_AT + age
    view = seen(confirmed, now)
    leads = desired(view, policy, now, target)
    waits = after_canary(leads, actual, view, policy, now, target)
    wish = within_limits(leads, waits, policy, now - held_for, now)
    assert policy.canary is not None
    if wish.held:
        assert policy.hold is not None
        assert held_for < policy.hold.limit
        assert wish.hold_until <= now - held_for + policy.hold.limit
    elif waits.held and policy.canary.goes_on:
        assert wish == leads
