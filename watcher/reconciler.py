"""One thread a target: wait → look → plan → take the steps → try again.

It reacts to levels. An event only wakes it; what it does follows from what is and what should be, so
whatever went wrong before, and wherever it was interrupted, the next turn goes on from there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from watcher.decide.backoff import Backoff
from watcher.decide.canary import after_canary, reign_of, within_limits
from watcher.decide.config_block import goal
from watcher.decide.decision import (
    Policy,
    but_for_pause,
    desired,
    leads_writes,
    let_be,
    plan,
    route_for,
    within_limit,
)
from watcher.decide.endpoint import each_of
from watcher.decide.errors import (
    BlockError,
    FileChanged,
    LoginRefused,
    NotWanted,
    PrimaryRefuses,
    TargetError,
    TargetRefused,
    WatcherError,
)
from watcher.decide.fence import learns, writer_of
from watcher.decide.model import (
    Actual,
    Desired,
    Endpoint,
    Held,
    Hold,
    Leadership,
    Reason,
    Release,
    Role,
    Route,
    Source,
    Step,
    Switch,
    View,
    Watch,
    WatchReaders,
    Write,
)
from watcher.decide.precedence import Share, Standing, leads, share
from watcher.decide.readers import in_use
from watcher.decide.view import led_since
from watcher.mailbox import Mailbox
from watcher.rush import LONGEST, Rush

_LOGIN_LIMIT = 30.0
_LINK_CHECK = 5.0  # seconds between two looks whether the connection still stands
_LOOK_AGAIN = 0.1  # seconds until a standby looks again whether the active watcher has done its work
_RELIEF_CHECK = 0.05  # seconds between two looks whether somebody else is in our place
_LOGIN_AGAIN = 0.05  # seconds until a primary that takes no login yet is asked again: clients wait for it


class Target(Protocol):
    """What the reconciler needs of a PgBouncer; `apply.pooler.Pooler` gives the promise."""

    name: str

    @property
    def last(self) -> Actual | None: ...
    @property
    def held(self) -> Held | None: ...
    @property
    def connected(self) -> bool: ...
    @property
    def is_watched(self) -> bool: ...
    def read(self) -> Actual: ...
    def take(self, step: Step) -> None: ...
    def let_go(self, endpoint: Endpoint | None, *, greets: bool = True) -> None: ...
    def close(self) -> None: ...


class Reporter(Protocol):
    """Who is told what happened. Must not wait and must not raise."""

    def wished(self, wish: Desired) -> None: ...
    def looked(
        self, target: str, wish: Desired, actual: Actual | None, failure: WatcherError | None
    ) -> None: ...
    def held(self, target: str, wish: Desired) -> None: ...
    def released(self, target: str, wish: Desired, seconds: float | None) -> None: ...
    def in_sync(self, target: str, actual: Actual) -> None: ...
    def reads_led(self, target: str, wish: Desired, to: tuple[Endpoint, ...]) -> None: ...
    def switched(self, switch: Switch) -> None: ...
    def failed(self, target: str, error: WatcherError, failures: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Relief:
    """Somebody else is at work at the target. `wish` is what he wishes for where clients need not wait.
    `is_last`: or was, or was to be, and nobody comes after him.
    """

    wish: Desired | None = None
    is_last: bool = False


@dataclass(slots=True)
class _Undertaking:
    """A switch under way, over as many tries as it takes."""

    route: Route
    before: tuple[Endpoint, ...]
    heard_at: float
    ready_at: float
    held_since: float | None = None
    corrects: str = ""
    steps: list[tuple[str, float]] = field(default_factory=list)

    @property
    def moved(self) -> bool:
        """Whether clients were led elsewhere by it: a new stamp or a reload to be sure moves nobody."""
        return bool(self.before) and any(name in ("confirm", "release") for name, _ in self.steps)


class Reconciler:
    """Keeps one target where the view says. `run` is a loop around `turn`, which does the work."""

    def __init__(
        self,
        target: Target,
        mailbox: Mailbox[View],
        policy: Policy,
        reporter: Reporter,
        *,
        resync_interval: float,
        backoff: Backoff,
        clock: Callable[[], float],
        random: Callable[[], float],
        wall: Callable[[], float] | None = None,
        acknowledge: Callable[[str | None], None] = lambda _: None,
        last_hold: float = 0.0,
        turned: Callable[[], None] = lambda: None,
        confirm: Callable[[Leadership], None] = lambda _: None,
        standing: Callable[[View], Standing] = lambda _: Standing.TOGETHER,
        patience: float = 0.0,
        rush: Rush | None = None,
    ) -> None:
        """`acknowledge` is told for which stop of the primary all clients wait by now, empty for none, None
        while they could not be made to; `confirm`, that PgBouncer itself leads to the leader of a reign;
        `turned`, that all is open that a turn needed. At the end a hold may go on for `last_hold` seconds, so
        that a switch under way is finished. By its `standing` this watcher leaves to another, for `patience`
        seconds, what leads clients elsewhere. What can wait is done once the `rush` of all is over.
        """
        self.beat_at = clock()
        self.name = target.name
        self._target = target
        self._mailbox = mailbox
        self._policy = policy
        self._reporter = reporter
        self._resync_interval = resync_interval
        self._backoff = backoff
        self._login_backoff = Backoff(backoff.first, max(backoff.limit, _LOGIN_LIMIT))
        self._clock = clock
        self._random = random
        self._failures = 0
        self._fails = False  # by what a new connection may mend
        self._retry_at = float("-inf")
        self._refused: dict[Step, WatcherError] = {}  # guards, and why
        self._refusals = 0  # in a row
        self._guards_again_at = float("-inf")
        self._read_at = float("-inf")
        self._wish: Desired | None = None
        self._undertaking: _Undertaking | None = None
        self._settled: Route | None = None
        self._settled_names: frozenset[str] = frozenset()
        self._was_paused = False  # since it settled: whoever led it elsewhere was asked to
        self._wall = wall
        self._acknowledge = acknowledge
        self._acknowledged: str | None = None
        self._last_hold = last_hold
        self._turned = turned
        self._confirm = confirm
        self.seen: Actual | None = None
        self._standing = standing
        self._patience = patience
        self._share = Share(())
        self._rush = rush
        self._waits_since: float | None = None
        self._held_since: float | None = None
        self._is_let_be = False  # whom somebody else let go in this trouble, before we were there
        self._ended_since: float | None = None
        self.relief: Callable[[], Relief | None] | None = None
        self.in_place: Relief | None = None
        self._is_leaving = False
        self._told_hold: Held | None = None
        self._before: Reconciler | None = None  # whom we follow, while a hold of his goes on
        self._were_let_go = False  # in this trouble, by somebody else
        self._is_unexplained = False  # a hold that another began, seen for the first time
        self._told_reads: tuple[Endpoint, ...] = ()
        self._asks_for_reads = True  # what is wished for tells where those lead
        self._looked: Actual | None = None
        self._done_for: tuple[object, ...] | None = None
        self._resumed_at = float("-inf")

    @property
    def may_mend_anew(self) -> bool:
        """Whether something fails at the target that may be mended by now, and that what we have open there
        does not notice: a line of authorized_keys and sshd's bounds count for new connections alone.
        """
        seen = self.seen
        problem = None if seen is None else seen.hold_problem or seen.console_problem
        return self._fails or bool(self._refused) or problem is not None

    def hold_ended(self, seconds: float) -> None:
        """A hold was ended beside PgBouncer, after so long: that counts, even if we were frozen meanwhile.

        From any thread; wake it by `mailbox.nudge()` afterwards.
        """
        self._ended_since = self._clock() - seconds
        if self._policy.canary is not None:  # another watcher's may have confirmed, and led clients on
            self._read_at = float("-inf")

    def look_again(self) -> None:
        """At the target something is otherwise than it was seen. From any thread; wake it by
        `mailbox.nudge()` afterwards.
        """
        self._read_at = float("-inf")

    @property
    def is_failing(self) -> bool:
        """Whether the last try failed, or a guard is refused."""
        return self._failures > 0 or bool(self._refused)

    def run(self, stop: threading.Event) -> None:
        """Until `stop`; a turn that has begun is finished, and so is a hold, within `last_hold` seconds; or,
        where `relief` was set before, clients wait until it tells of somebody else in our place.

        Wake it by `mailbox.nudge()` to stop at once.
        """
        timeout = 0.0
        while not stop.is_set():
            self._sleep(timeout)
            if not stop.is_set():
                timeout = self.turn(self._mailbox.take(0))
                self._turned()  # also where a step had to connect anew
        if self.relief is None:
            self._finish_hold(timeout)
        else:
            self._hand_over(self.relief)
        self._target.close()
        if self._wish is not None:
            self._tell_hold(self._wish)  # what is not finished by now has ended so

    def _finish_hold(self, timeout: float) -> None:
        """Nothing is looked at anew: who has changed the file meanwhile goes on with it, perhaps for another
        cluster.
        """
        self._is_leaving = True
        until = self._clock() + self._last_hold
        while self.is_holding and self._target.last is not None and self._clock() < until:
            self._mailbox.wait(max(0.0, min(timeout, until - self._clock())))
            timeout = self.turn(self._mailbox.take(0))

    def _hand_over(self, relief: Callable[[], Relief | None]) -> None:
        """Whoever takes our place holds the same clients once he is there, or knows where they go on. Until
        then they wait as they do, no longer than the agent lets them; we see no news any more. Nor does he
        yet where he believes that they may go on to a server that takes no login; that is not asked where we
        may not, for the line of authorized_keys that we came in by is an older one. Where he has left
        himself, and nobody comes after him, our hold ends as any does at the end, within `last_hold`.
        """
        until = float("inf")
        while self.is_holding and self._clock() < until:
            taken = relief()
            if taken is not None and taken.is_last:
                until = min(until, self._clock() + self._last_hold)
            elif taken is not None and taken.wish is None:
                self._told_hold = None  # he tells when it is over
                return
            if taken is not None and taken.wish is not None:
                self._let_go(taken.wish, is_vouched_for=True)
                if not self.is_holding:
                    self._tell_hold(taken.wish)
                    return
            self._mailbox.take(_RELIEF_CHECK)

    @property
    def _has_told_hold(self) -> bool:
        """That it has begun, it or whom it follows, and not that it is over."""
        followed = self._before is not None and self._before._has_told_hold
        return self._told_hold is not None or followed

    def follow(self, before: Reconciler) -> None:
        """Before `run`: in the place of another, for whom a hold of the same trouble counts, and that clients
        were let go in it by somebody else.
        """
        self._held_since, self._is_let_be = before._held_since, before._is_let_be or before._were_let_go
        self._before = before if before._has_told_hold else None

    @property
    def is_holding(self) -> bool:
        """Whether a hold of ours is in force."""
        return self._target.held is not None

    def _sleep(self, timeout: float) -> None:
        """Until there is something to do. A connection that broke is: it is opened before it is needed."""
        until = self._clock() + timeout
        while not self._mailbox.wait(max(0.0, min(until - self._clock(), _LINK_CHECK))):
            if self._target.last is not None and not self._target.connected:
                self._read_at = float("-inf")
                return
            if self._clock() >= until:
                return

    def turn(self, view: View) -> float:
        """One look and what follows from it; the seconds until the next turn is due by time alone."""
        self.beat_at = self._clock()
        wish = self._wished(view)
        is_news = self._tell(wish)
        if not is_news and self.beat_at < self._retry_at:  # woken by something that changes nothing here
            return self._retry_at - self.beat_at
        if self._is_done(wish):  # woken by the moment at which etcd, unheard since, would have been silent
            return self._until_next(wish)
        self._done_for = None
        try:
            actual = self.seen = self._look_in_turn()
            view, wish = self._as_of_now(view, wish, actual)
            self._reconcile(view, wish, actual)
        except NotWanted:
            return 0.0
        except WatcherError as error:
            return self._after_failure(wish, error)
        except Exception as error:  # a bug of ours must not leave a target without its worker
            return self._after_failure(wish, _unexpected(self._target.name, error))
        self._failures, self._fails, self._retry_at = 0, False, float("-inf")
        self.in_place = Relief(None if wish.held else wish)
        self.seen = self._target.last
        self._reporter.looked(self._target.name, wish, self._target.last, self._refusal)
        return self._until_next(wish)

    def _is_done(self, wish: Desired) -> bool:
        """Whether the last turn left nothing to do for such a wish, no look is due, and what is there is what
        it saw.
        """
        last, is_due = self._target.last, self._clock() - self._read_at >= self._resync_interval
        is_as_seen = last is not None and last is self.seen and self._target.connected
        return is_as_seen and not is_due and self._done_for == _all_of(wish)

    def _wished(self, view: View) -> Desired:
        """What is wished for here; its hold no longer than the policy lets it be, from its first moment."""
        wall = self._wall() if self._wall is not None else None
        last = self._target.last
        if last is not None:  # else as before: that nothing is known for a while is no other wish
            self._asks_for_reads = bool(last.reads)
        at_once = desired(
            view, self._policy, self.beat_at, self._target.name, wall, reads=self._asks_for_reads
        )
        wish = after_canary(at_once, last, view, self._policy, self.beat_at, self._target.name)
        ended_since, self._ended_since = self._ended_since, None
        if not wish.held:
            paused = wish.reason is Reason.PAUSED
            if not (paused and self._would_hold(view, wall)):
                self._held_since = None  # while the same trouble lasts it is spent, also over a pause
                self._is_let_be = self._were_let_go = False
            return wish
        held = None if last is None else last.held
        since = (self.beat_at, self._held_since, ended_since, None if held is None else held.since)
        self._held_since = min(moment for moment in since if moment is not None)
        if self._is_let_be:
            return let_be(wish)
        return within_limits(at_once, wish, self._policy, self._held_since, self.beat_at)

    def _would_hold(self, view: View, wall: float | None) -> bool:
        """If `watcher pause` had not been said."""
        return but_for_pause(view, self._policy, self.beat_at, self._target.name, wall, reads=False).held

    def _as_of_now(self, view: View, wish: Desired, actual: Actual) -> tuple[View, Desired]:
        """What is known and wished for after the look, which may last as long as connecting does. Whether a
        canary goes first depends on what was seen by it, and so does whether anything is for reads.
        """
        latest, is_asked = self._mailbox.peek(), self._asks_for_reads or not actual.reads
        if latest is view and is_asked and self._policy.canary is None:
            return view, wish
        self.beat_at = self._clock()
        wish = self._wished(latest)
        self._tell(wish)
        return latest, wish

    def _reconcile(self, view: View, wish: Desired, actual: Actual) -> None:
        wish = self._no_longer_than_it_is(wish, actual)
        self._note_reads_led_elsewhere(wish, actual)
        due = self._but_for_refused(self._steps_of_ours(view, plan(actual, wish)))
        urgent = tuple(step for step in due if not _can_wait(step, actual))
        steps = self._for_now(due, urgent)
        if wish.route is not None and any(map(leads, steps)):
            self._begin(view, wish, wish.route, actual)
        failure = self._take(steps) or actual.hold_problem
        if urgent and self._rush is not None:
            self._rush.hurried()
        self._tell_hold(wish)
        self._acknowledge_hold(wish)
        if not due and actual.console_problem is not None:
            failure = actual.console_problem
        if self._share.waits_until is None:
            self._finish(wish, failure is None)
        if failure is not None:
            self._read_at = float("-inf")  # look again at the next try, it may be back
            raise failure
        self._done_for = None if due or self._refused else _all_of(wish)

    @property
    def _refusal(self) -> WatcherError | None:
        """Why a guard is not there that should be."""
        return next(iter(self._refused.values()), None)

    def _but_for_refused(self, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        """Guards that were refused are asked for again once it is time; nothing else waits for them."""
        self._refused = {step: why for step, why in self._refused.items() if step in steps}
        if not self._refused:
            self._refusals = 0
        is_time = self._clock() >= self._guards_again_at
        return tuple(step for step in steps if is_time or step not in self._refused)

    def _note_refused(self, guard: Step, why: WatcherError) -> None:
        """It is asked for again less and less often, as a login is."""
        self._refused[guard] = why
        self._guards_again_at = self._clock() + self._login_backoff.delay(self._refusals, self._random)
        self._refusals += 1
        self._reporter.failed(self._target.name, why, self._refusals)

    def _steps_of_ours(self, view: View, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        """What is left to the active watcher is looked for at the next turn, in the target itself."""
        standing = self._standing(view)
        self._share = share(steps, standing, self._share.since, self._clock(), self._patience)
        if self._share.waits_until is not None:
            self._read_at = float("-inf")
        return self._share.steps

    def _for_now(self, steps: tuple[Step, ...], urgent: tuple[Step, ...]) -> tuple[Step, ...]:
        """All of them once nobody is in a hurry, and in the end also where something is urgent each time."""
        now, since, self._waits_since = self._clock(), self._waits_since, None
        if self._rush is None or len(urgent) == len(steps):
            return steps
        since = now if since is None else since
        if now >= (since + LONGEST if urgent else self._rush.over_at(since)):
            return steps
        self._waits_since = since
        return urgent

    def _no_longer_than_it_is(self, wish: Desired, actual: Actual) -> Desired:
        """A hold of which we did not know before this look, a failed step having made us forget it, is as
        old as it is: clients were never let go.
        """
        if not wish.held or actual.held is None or self._held_since is None:
            return wish
        self._held_since = min(self._held_since, actual.held.since)
        return within_limit(wish, self._policy, self._held_since, self.beat_at)

    def _take(self, steps: tuple[Step, ...]) -> WatcherError | None:
        """One after the other. Who cannot be held is led all the same; why not is returned. A guard that is
        refused is noted: what is known stands, so all else is as it should be.
        """
        failure: WatcherError | None = None
        for step in steps:
            self._note_when_ready(step)
            try:
                self._target.take(step)
            except TargetError as error:
                if not isinstance(step, Hold | Watch | WatchReaders):
                    raise
                if isinstance(step, Hold) or self._target.last is None:
                    failure = error
                else:
                    self._note_refused(step, error)
                continue
            if isinstance(step, Hold):
                self._hold_no_longer_than_another(step)
            if self._undertaking is not None and not isinstance(step, Watch | WatchReaders):
                self._undertaking.steps.append((type(step).__name__.lower(), self._clock()))
                if self._target.last is not None and self._target.last.went_on:
                    self._undertaking.held_since = None
        return failure

    def _hold_no_longer_than_another(self, hold: Hold) -> None:
        """Another watcher may have made the same clients wait before; the agent has found that by now."""
        held, limits = self._target.held, self._policy.hold
        if held is None or limits is None or self._held_since is None or held.since >= self._held_since:
            return
        self._held_since = held.since
        until = min(hold.until, held.since + limits.limit)
        if until < hold.until:
            self._target.take(Hold(until))

    def _note_when_ready(self, step: Step) -> None:
        """How long clients had to wait for the leader alone is a part of a switch of its own."""
        if isinstance(step, Release) and self._undertaking is not None and self._undertaking.steps:
            done_at = self._undertaking.steps[-1][1]
            self._undertaking.steps.append(("ready", max(done_at, self.beat_at)))

    def _tell_hold(self, wish: Desired) -> None:
        """Says when a hold has begun, and when it is over, whoever began or ended it; how long it was only
        where that was seen. It is over too once somebody else has let all go who waited.
        """
        last, held = self._target.last, self._target.held
        if held is not None and self._told_hold is None and not wish.held and not self._is_unexplained:
            self._is_unexplained = True  # the agent began it; its word of why is about to wake us
            return
        self._is_unexplained = False
        felt = held if held is not None and held.is_felt else None
        told, self._told_hold = self._told_hold, felt
        if told is not None and felt is not None and felt.since == told.since:
            return
        if told is not None:
            were_let_go = held is not None and felt is None
            self._were_let_go |= were_let_go
            went_on = were_let_go or (last is not None and last.went_on)
            self._reporter.released(self._target.name, wish, None if went_on else self._clock() - told.since)
        if felt is not None:
            before, self._before = self._before, None
            if before is None or not before._has_told_hold:
                self._reporter.held(self._target.name, wish)

    def _acknowledge_hold(self, wish: Desired) -> None:
        """Told at each change; the agent wakes us when a hold is complete. Who is paused holds nobody."""
        last = self._target.last
        complete = last is not None and last.held is not None and last.held.complete
        could = last is not None and last.can_hold and wish.reason is not Reason.PAUSED
        told = (wish.stop_id if complete else "") if could else None
        if told != self._acknowledged:
            self._acknowledged = told
            self._acknowledge(told)

    def _look_in_turn(self) -> Actual:
        try:
            return self._look()
        finally:
            self._turned()

    def _look(self) -> Actual:
        """The last look while it is fresh and we are connected: what is written is compared there anyway. It
        is as good while an agent there watches, unless there is a reason to look.
        """
        now, last = self._clock(), self._target.last
        self._looked = last
        if self._is_leaving:
            if last is None:
                raise NotWanted(self._target.name, "it is looked after by nobody any more", "")
            return last
        if last is not None and self._target.connected and now - self._read_at < self._resync_interval:
            return last
        was_told, self._read_at = self._read_at == float("-inf"), now  # what is told from now on may be later
        if last is not None and self._target.is_watched and not was_told:
            return last
        self._looked = None
        self._looked = actual = self._target.read()
        return actual

    def _begin(self, view: View, wish: Desired, route: Route, actual: Actual) -> None:
        """Where the target was led there before, somebody changed it: then the time begins now."""
        if self._undertaking is None or self._undertaking.route.endpoint != route.endpoint:
            drifted = self._settled is not None and self._settled.endpoint == route.endpoint
            heard_at = self.beat_at if drifted else _heard_at(view, wish, route, self.beat_at)
            heard_at = max(heard_at, self._resumed_at)
            held_since = None if actual.held is None else actual.held.since
            led, corrects = _led_elsewhere(actual, route), self._what_it_corrects(route, actual)
            self._undertaking = _Undertaking(route, led, heard_at, self.beat_at, held_since, corrects)

    def _what_it_corrects(self, route: Route, actual: Actual) -> str:
        """Who led the target elsewhere though it is the same reign still, and nobody had paused us; else
        empty. What was written for a reign that we have not heard of is no business of this one, nor where
        databases lead that were not there then.
        """
        settled = self._settled
        if settled is None or settled.endpoint != route.endpoint or self._was_paused:
            return ""
        if self._settled_names.isdisjoint(_astray(actual, route)):
            return ""
        return _writer(actual, route) if learns(settled.stamp, route.stamp) else ""

    def _finish(self, wish: Desired, is_whole: bool) -> None:
        """All steps were taken, and all is well if `is_whole`, but for a guard that is refused. While clients
        wait, or without a route to wish for, a switch that was under way stays so.
        """
        if wish.route is None or wish.held:
            return
        under_way, self._undertaking = self._undertaking, None
        self._settled, self._was_paused = wish.route, False
        if self._target.last is not None:
            self._settled_names = frozenset(db.name for db in self._target.last.databases)
        if under_way is not None and under_way.moved:
            self._reporter.switched(
                Switch(
                    target=self._target.name,
                    route=under_way.route,
                    before=under_way.before,
                    heard_at=under_way.heard_at,
                    ready_at=under_way.ready_at,
                    steps=tuple(under_way.steps),
                    held_since=under_way.held_since,
                    corrects=under_way.corrects,
                )
            )
        last = self._target.last
        if is_whole and last is not None:
            self._tell_reads(wish, last)
            if not self._refused:
                self._reporter.in_sync(self._target.name, last)
        if last is not None and leads_writes(last, wish):  # also where nobody can be held
            self._tell_confirmed(wish.route, wish.reason, last)

    def _tell_confirmed(self, route: Route, reason: Reason, actual: Actual) -> None:
        """By PgBouncer's own word alone, until it is known."""
        reign, known = reign_of(route), self._mailbox.peek().confirmed.get(self._target.name)
        if reason is Reason.LEADER and actual.shown is not None and reign != known:
            self._confirm(reign)

    def _note_reads_led_elsewhere(self, wish: Desired, actual: Actual) -> None:
        """By somebody else, since they were led where they should be: that they are led back is told."""
        route = route_for(actual, wish)
        wished = () if route is None or route.readers is None else each_of(route.readers)
        if wished and self._told_reads == tuple(sorted(wished)):
            self._told_reads = tuple(sorted(in_use(actual)))

    def _tell_reads(self, wish: Desired, actual: Actual) -> None:
        """Whom databases for reads lead to, where that is new."""
        to = tuple(sorted(in_use(actual)))
        told, self._told_reads = self._told_reads, to
        if to != told:
            self._reporter.reads_led(self._target.name, wish, to)

    def _tell(self, wish: Desired) -> bool:
        """Says what is wished for where that is new; True if it asks for something else than before."""
        known, self._wish = self._wish, wish
        if known is not None and known.reason is Reason.PAUSED and wish.reason is not Reason.PAUSED:
            self._resumed_at, self._was_paused = self.beat_at, True
            self._read_at = float("-inf")  # somebody may have worked there
        if known is None or (known.reason, known.detail) != (wish.reason, wish.detail):
            self._reporter.wished(wish)
        return known is None or _asks(known) != _asks(wish)

    def _after_failure(self, wish: Desired, error: WatcherError) -> float:
        failures, self._failures = self._failures, self._failures + 1
        self._fails = not isinstance(error, PrimaryRefuses | BlockError)
        self._reporter.failed(self._target.name, error, self._failures)
        self._tell_hold(wish)
        if isinstance(error, BlockError):
            self.in_place = None if wish.held else Relief(wish)  # nobody could be held by us
            self._let_go_unread()
        if self._undertaking is not None and not self.is_holding:
            self._undertaking.held_since = None  # who goes on amid a switch is not kept waiting by it
        known = self._target.last or self._looked or self._as_held()
        self._reporter.looked(self._target.name, wish, known, error)
        self._acknowledge_hold(wish)
        delay = self._delay(error, failures)
        self._retry_at = self._clock() + delay
        return delay

    def _as_held(self) -> Actual | None:
        """What was seen last, where no more is known than that clients wait."""
        held = self._target.held
        return None if held is None or self.seen is None else replace(self.seen, held=held)

    def _let_go_unread(self) -> None:
        """A block that cannot be used leads nowhere; but whom the agent made wait need not wait until it is
        mended, where PgBouncer leads right.
        """
        wish = self._wished(self._mailbox.peek())
        if not wish.held:
            self._let_go(wish)

    def _let_go(self, wish: Desired, *, is_vouched_for: bool = False) -> None:
        """To where that leads, if PgBouncer does; where it may not be, clients wait on. One that leads to
        nobody may hold none for want of its guard's word alone, so whom it guards is greeted.
        """
        led = None if wish.route is None else wish.route.endpoint
        guarded = None if wish.gave_up else wish.guard
        with suppress(TargetError):
            try:
                self._target.let_go(led or guarded)
            except TargetRefused:
                if is_vouched_for:
                    self._target.let_go(led or guarded, greets=False)

    def _delay(self, error: WatcherError, failures: int) -> float:
        """Somebody else's write is looked at again at once. Who does not let us in is asked less and less
        often, lest a guard against guessed passwords locks us out.
        """
        if isinstance(error, FileChanged) and failures < 3:
            return 0.0
        if isinstance(error, PrimaryRefuses):
            return _LOGIN_AGAIN
        patience = self._login_backoff if isinstance(error, LoginRefused) else self._backoff
        return patience.delay(failures, self._random)

    def _until_next(self, wish: Desired) -> float:
        now = self._clock()
        if self._share.waits_until is not None:
            return max(0.0, min(_LOOK_AGAIN, self._share.waits_until - now))
        due = self._read_at + self._resync_interval
        if wish.recheck_at is not None:
            due = min(due, wish.recheck_at)
        if self._rush is not None and self._waits_since is not None:
            due = min(due, self._rush.look_again_at(self._waits_since))
        elif self._refused:
            due = min(due, self._guards_again_at)
        return max(0.0, due - now)


def _all_of(wish: Desired) -> tuple[object, ...]:
    """All that steps follow from, but for a proof: what waits for that waits for a look too."""
    return wish.reason, wish.gave_up, *_asks(wish), wish.belongs, wish.read_guards, wish.candidates


def _asks(wish: Desired) -> tuple[object, ...]:
    return wish.route, wish.held, wish.hold_until, wish.guard, wish.stop_id, wish.readers


def _can_wait(step: Step, actual: Actual) -> bool:
    """Nobody waits for the guards against the next crash, nor for what a stamp has merely learned. Whatever
    else is written others steps follow up, so it is not parted from them.
    """
    if not isinstance(step, Write):
        return isinstance(step, Watch | WatchReaders)
    return _is_right(actual, step.route) and learns(actual.stamp, step.route.stamp)


def _is_right(actual: Actual, route: Route) -> bool:
    """Whether the file leads there."""
    return all(goal(database, route) in (None, database.endpoint) for database in actual.databases)


def _astray(actual: Actual, route: Route) -> frozenset[str]:
    """The databases of the primary that lead elsewhere, by the file or by PgBouncer's own word."""
    shown = {row.name: Endpoint(row.host or "", row.port) for row in actual.shown or ()}
    ours = (database for database in actual.databases if database.role is not Role.REPLICA)
    ends = {database.name: {database.endpoint, shown.get(database.name, route.endpoint)} for database in ours}
    return frozenset(name for name, led in ends.items() if led != {route.endpoint})


def _led_elsewhere(actual: Actual, route: Route) -> tuple[Endpoint, ...]:
    """Where else clients were led, by PgBouncer's own word; or would have been by the file, once reloaded."""
    ours = [database for database in actual.databases if database.role is not Role.REPLICA]
    names = {database.name for database in ours}
    shown = [Endpoint(row.host or "", row.port) for row in actual.shown or () if row.name in names]
    file = [database.endpoint for database in ours]
    wrong, due = ({end: None for end in ends if end != route.endpoint} for ends in (shown, file))
    return tuple(wrong or due)


def _writer(actual: Actual, route: Route) -> str:
    """Who led the target elsewhere. Where its file is right its stamp tells nothing of that."""
    if _is_right(actual, route):
        return "its file is right, so whoever wrote it had put it back, or told PgBouncer alone"
    return writer_of(actual.stamp, route.stamp)


def _unexpected(place: str, error: Exception) -> WatcherError:
    unexpected = WatcherError(
        place, f"unexpected {error!r}", "this is a bug of the watcher; please report it"
    )
    unexpected.__cause__ = error
    return unexpected


def _heard_at(view: View, wish: Desired, route: Route, now: float) -> float:
    """When it was first seen who leads; for the health check, when its round was."""
    there = view.other if wish.at_other_site and view.other is not None else view
    source = there.health.at if there.health is not None else now
    by_health_check = route.source is Source.HEALTH_CHECK
    heard = source if by_health_check else led_since(view, wish.at_other_site)
    return min(now if heard is None else heard, now)
