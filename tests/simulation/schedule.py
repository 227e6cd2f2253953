"""One schedule: a world and its faults from a seed, then quiet, and what must be true by then."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial

from tests.simulation.cluster import TTL, Cluster
from tests.simulation.etcd import Etcd, Lag
from tests.simulation.hosts import END, Host, Way
from tests.simulation.leases import Leases
from tests.simulation.loop import Loop
from tests.simulation.watchers import CANARY_FIRST, LIMIT, POLICY, Parts, Watcher
from tests.simulation.witness import Broken, Witness
from tests.support.fake_target import read_block
from watcher.decide.model import PAUSE_KEY, STOP_KEYS, Endpoint, Paused, Stamp, StopRequest

LOOK_EVERY = 0.5
QUIET = 40.0
"""Virtual seconds after the last fault within which all must be right."""
PROMPT = 3.0
"""… after a promotion with nothing in its way."""
MOST_FAULTS = 7
SHORT_SILENCE = 2.0
"""Virtual seconds of a node's silence that excuse nothing: well below `cluster.unknown_limit`."""


@dataclass(frozen=True)
class Verdict:
    """What came of a schedule: `why` it broke, if it did, and how long until all was right for good."""

    seed: int
    why: str
    right_after: float
    story: tuple[str, ...] = field(repr=False)


LEASED = 1_000_000_000
"""From this seed on there are two or three watchers, and one of them is active by a lease."""


class Schedule:
    """Everything is drawn from `seed`, so the same seed is the same story. With `canary` there are more
    PgBouncers, of which the first is led to a new leader before the others.
    """

    def __init__(self, seed: int, canary: bool = False) -> None:
        self.seed = seed
        self.chance = random.Random(seed)  # noqa: S311 - no secret
        self.loop = Loop()
        self.witness = Witness(self.loop.clock, LIMIT, POLICY.silence_limit)
        self.etcd = Etcd(self.witness.reign)
        self.cluster = Cluster(self.loop, self.etcd, self.chance, self.witness.promoted)
        self.witness.was, self.witness.node_at = self.etcd.was, self.cluster.node_of
        self.etcd.back_up()
        start = self.cluster.nodes["node1"].endpoint
        self.hosts = [
            Host(f"pgb{n}", start, self.witness.written, self.witness.released)
            for n in range(self.chance.choice((2, 2, 3) if canary else (1, 1, 2)))
        ]
        resync = self.chance.choice((1.0, 5.0, 10.0))
        leases = Leases(self.loop, self.etcd) if seed >= LEASED else None
        self.parts = Parts(self.loop, self.etcd, self.cluster, self.hosts, self.witness, self.chance, resync)
        self.parts.leases = leases
        self.parts.policy = CANARY_FIRST if canary else POLICY
        count = self.chance.choice((1, 1, 2, 2, 3) if leases is None else (2, 2, 3))
        self.watchers = [Watcher(f"w{n}", self.parts) for n in range(count)]
        self.witness.say(
            f"{len(self.watchers)} watchers, {len(self.hosts)} PgBouncers, hold.limit {LIMIT:g} s"
        )
        self._mends: list[Callable[[], None]] = []
        self._right_since: float | None = None
        self.is_quiet = False
        self._look()

    # --- running ------------------------------------------------------------------------------------------

    def run(self) -> Verdict:
        why, quiet_from, right = "", self.loop.now, None
        try:
            self.loop.run_until(self.loop.now + 3)
            for _ in range(self.chance.randint(1, MOST_FAULTS)):
                self.strike()
                self.loop.run_until(self.loop.now + self.chance.choice((0.05, 0.3, 1, 3, 8, 15)))
            quiet_from = self._calm()
            self.loop.run_until(quiet_from + QUIET)
            self._must_be_right(f"{QUIET:g} s after the last fault")
            right = self._right_since
            self._one_more()
        except Broken as broken:
            why = str(broken)
        finally:
            for watcher in self.watchers:
                if not watcher.dead:
                    watcher.kill()
        right = right if right is not None else self.loop.now
        return Verdict(self.seed, why, max(0.0, right - quiet_from), tuple(self.witness.story))

    def strike(self) -> None:
        """One fault, now; what it breaks is mended after a while, or when all grows calm."""
        fault = self.chance.choice(FAULTS)
        self.witness.say(f"--- {fault.__name__.removeprefix('_').replace('_', ' ')}")
        fault(self)

    def for_a_while(self, mend: Callable[[], None], most: float = 25.0) -> None:
        """Mended once, at a moment left to chance or when all grows calm."""
        done: list[bool] = []

        def once() -> None:
            if not done:
                done.append(True)
                mend()

        self._mends.append(once)
        self.loop.after(self.chance.uniform(0.2, most), once)

    def _calm(self) -> float:
        """No fault from here on. When the cluster itself has settled."""
        self.witness.say("--- quiet from here on")
        self.is_quiet = True
        mends, self._mends = self._mends, []
        for mend in mends:
            mend()
        while self.cluster.busy or self.cluster.leader is None:
            self.loop.run_until(self.loop.now + 1)
        self.etcd.delete(
            "failover", PAUSE_KEY, *(key for key in self.etcd.entries if key.startswith(STOP_KEYS))
        )
        return self.loop.now

    # --- looking ------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._note_nodes()
        for watcher in self.watchers:
            if not watcher.dead:
                watcher.guards_look()
                for way in watcher.ways.values():
                    self.witness.waits(way, LOOK_EVERY)
        for host in self.hosts:
            self.witness.looks(host, len(self.watchers))
        if self.is_quiet:
            self._note_whether_right()
        self.loop.after(LOOK_EVERY, self._look)

    def _note_nodes(self) -> None:
        for node in self.cluster.nodes.values():
            if node.takes_writes:
                node.wrote_at = self.loop.now
            if not node.hidden_from and node.answers:
                node.hidden_since = None
            elif node.hidden_since is None:
                node.hidden_since = self.loop.now
            elif self.loop.now - node.hidden_since > SHORT_SILENCE:
                node.hidden_at = self.loop.now
        closed = {node.endpoint for node in self.cluster.nodes.values() if not node.takes_logins}
        for host in self.hosts:
            host.closed = closed

    def _note_whether_right(self) -> None:
        wrong = next(self._wrong(), None)
        if wrong is not None:
            self._right_since = None
        elif self._right_since is None:
            self._right_since = self.loop.now

    def _wrong(self) -> Iterator[str]:
        """Invariant 1, target by target."""
        leader = self.cluster.leader
        for host in self.hosts:
            led = _led_by(host.text)
            if leader is None or led != leader.endpoint:
                yield f"{host.name}: its file leads to {led}, {leader and leader.name} leads"
            elif set(host.shown.values()) != {leader.endpoint}:
                yield f"{host.name}: PgBouncer leads to {host.shown}, not to {leader.name}"
            elif host.waits("app"):
                yield f"{host.name}: clients wait"
            elif not self.etcd.has_written(_stamp_of(host.text)):
                yield f"{host.name}: its stamp is not etcd's: {_stamp_of(host.text)}"

    def _must_be_right(self, when: str) -> None:
        wrong = next(self._wrong(), None)
        if wrong is not None:
            raise Broken(f"{when}: {wrong}")

    # --- the last change of leader, with nothing in its way ------------------------------------------------

    def _one_more(self) -> None:
        """Clients wait before the old primary is gone, and are led to the new one as soon as it is there."""
        kind = self.chance.choice((self.cluster.switch_over, self.cluster.crash))
        self.witness.say(f"--- one more: {kind.__name__.replace('_', ' ')}, with nothing in its way")
        self.loop.run_until(self.loop.now + TTL)  # what was begun before is over
        kind()
        self._until(lambda: self.cluster.leader is None)
        for host in self.hosts:
            if not host.waits("app"):
                raise Broken(f"{host.name}: clients do not wait, and there is no leader")
        self._until(lambda: self.cluster.leader is not None and self.cluster.leader.takes_writes)
        self.loop.run_until(self.loop.now + PROMPT)
        self._must_be_right(f"{PROMPT:g} s after an undisturbed promotion")

    def _until(self, is_so: Callable[[], bool]) -> None:
        limit = self.loop.now + 4 * TTL
        while self.loop.now < limit:
            if is_so():
                return
            self.loop.run_until(self.loop.now + 0.01)
        raise AssertionError("the simulated cluster itself does not do what it was told")

    # --- what faults are made of ----------------------------------------------------------------------------

    def a_watcher(self) -> Watcher:
        watcher = self.chance.choice(self.watchers)
        self.witness.say(f"    {watcher.name} is struck")
        return watcher

    def a_host(self) -> Host:
        host = self.chance.choice(self.hosts)
        self.witness.say(f"    {host.name} is struck")
        return host

    def a_way(self) -> Way:
        return self.a_watcher().ways[self.a_host().name]


@lru_cache(maxsize=1000)
def _stamp_of(text: str) -> Stamp | None:
    return read_block(text, "demo", "file").stamp


@lru_cache(maxsize=1000)
def _led_by(text: str) -> Endpoint:
    """Where the block leads; it has one database."""
    return read_block(text, "demo", "file").databases[0].endpoint


# --- faults -----------------------------------------------------------------------------------------------


def _switchover(of: Schedule) -> None:
    of.cluster.switch_over()


def _announcement_that_nothing_follows(of: Schedule) -> None:
    of.cluster.withdraw()


def _crash(of: Schedule) -> None:
    of.cluster.crash()


def _crash_and_the_old_primary_comes_back(of: Schedule) -> None:
    of.cluster.crash(rogue=of.chance.uniform(1, 20))


def _fork_is_all_that_is_heard(of: Schedule) -> None:
    """As below, and both have the same timeline by number."""
    of.cluster.switch_over()
    _once_it_is_idle(of, 6, lambda: _old_primary_is_all_that_is_heard(of, forks=True))


def _old_primary_is_all_that_is_heard(of: Schedule, forks: bool = False) -> None:
    """It comes back, and says that it is the primary; neither etcd nor the new one can be heard."""
    old = of.cluster.leader
    if old is None or of.cluster.busy:
        return
    of.cluster.crash(rogue=40, forks=forks)

    def deafen() -> None:
        if of.is_quiet:
            return
        _nobody_hears_etcd(of)
        for watcher in of.watchers:
            for node in of.cluster.nodes.values():
                if node is not old:
                    node.hidden_from.add(watcher.name)
                    of.for_a_while(partial(node.hidden_from.discard, watcher.name), 40)

    of.loop.after(of.chance.uniform(9, 14), deafen)


def _nobody_wants_to_lead(of: Schedule) -> None:
    of.cluster.crash(leaderless=of.chance.uniform(10, 60))


def _comes_back_as_a_replica_and_nobody_leads(of: Schedule) -> None:
    """And etcd cannot be heard."""
    of.cluster.crash(returns=of.chance.uniform(1, 4), leaderless=of.chance.uniform(10, 30))

    def deafen() -> None:
        for watcher in () if of.is_quiet else of.watchers:
            watcher.link.cut()
            of.for_a_while(watcher.link.mend, 60)

    of.loop.after(of.chance.uniform(0, 9), deafen)


def _promotion_takes_its_time(of: Schedule) -> None:
    """And now and then an answer of REST is missing meanwhile."""
    of.cluster.crash(promotion=of.chance.uniform(5, 40))
    watcher = of.a_watcher()

    def blink() -> None:
        for node in of.cluster.nodes.values():
            node.hidden_from.add(watcher.name)
            of.loop.after(0.25, partial(node.hidden_from.discard, watcher.name))

    for seconds in (12, 15, 20):
        of.loop.after(seconds, blink)


def _passing_leader_is_heard_late(of: Schedule) -> None:
    """One watcher hears of it when the others, who hear no etcd, have seen who came after."""
    _nobody_hears_etcd(of, 60)
    of.cluster.crash_twice(within=4.0)
    link = of.a_watcher().link
    link.lag = Lag(0.5, 4.0)
    of.for_a_while(lambda: setattr(link, "lag", Lag()), 60)
    of.loop.after(of.chance.uniform(TTL - 2, TTL + 5), link.mend)


def _promoted_and_takes_no_logins(of: Schedule) -> None:
    of.cluster.crash(closed=of.chance.uniform(1, 15))
    if of.chance.random() < 0.5:
        _nobody_hears_etcd(of)


def _two_reigns_in_a_moment(of: Schedule) -> None:
    of.cluster.crash_twice()
    link = of.a_watcher().link
    link.lag = Lag(0.1, 4.0)
    of.for_a_while(lambda: setattr(link, "lag", Lag()))


def _two_primaries_and_both_are_news(of: Schedule) -> None:
    """Two are promoted one after the other while nobody hears etcd, and the first does not hear of it."""
    _nobody_hears_etcd(of, 60)
    of.cluster.crash(rogue=of.chance.choice((0.0, 30.0)))

    _once_it_is_idle(of, 8, lambda: of.cluster.crash(rogue=30.0, forks=of.chance.random() < 0.5))


def _nobody_hears_etcd(of: Schedule, most: float = 40) -> None:
    for watcher in of.watchers:
        watcher.link.cut()
        of.for_a_while(watcher.link.mend, most)


def _who_is_followed_in_silence_hides(of: Schedule) -> None:
    """Its REST does not answer any more, soon after it was promoted; PostgreSQL does."""
    _nobody_hears_etcd(of, 60)
    of.cluster.crash()

    def hide() -> None:
        node = of.cluster.leader
        for watcher in of.watchers:
            assert node is not None
            node.hidden_from.add(watcher.name)
            of.for_a_while(partial(node.hidden_from.discard, watcher.name), 40)

    _once_it_is_idle(of, of.chance.uniform(1, 12), hide)


def _restart_in_place(of: Schedule) -> None:
    of.cluster.restart()


def _leader_key_flaps(of: Schedule) -> None:
    of.cluster.flap()


def _stop_is_asked_for(of: Schedule) -> None:
    leader = of.cluster.leader
    if leader is not None:
        key = f"{STOP_KEYS}{leader.name}"
        of.etcd.put(**{key.replace("/", "__"): StopRequest("stop-1", leader.name)})
        of.for_a_while(lambda: of.etcd.delete(key), 3)


def _operator_pauses(of: Schedule) -> None:
    of.etcd.put(**{PAUSE_KEY.replace("/", "__"): Paused("dba")})
    of.for_a_while(lambda: of.etcd.delete(PAUSE_KEY))


def _etcd_is_not_heard(of: Schedule) -> None:
    """By one watcher, or by all."""
    if of.chance.random() < 0.5:
        _nobody_hears_etcd(of)
    else:
        link = of.a_watcher().link
        link.cut()
        of.for_a_while(link.mend, 40)


def _etcd_is_late(of: Schedule) -> None:
    link = of.a_watcher().link
    link.lag = Lag(0.1, of.chance.choice((0.5, 2.0, 4.0)))
    of.for_a_while(lambda: setattr(link, "lag", Lag()))


def _watch_breaks(of: Schedule) -> None:
    of.a_watcher().link.break_off()


def _news_come_twice(of: Schedule) -> None:
    link = of.a_watcher().link
    link.doubles = True
    of.for_a_while(lambda: setattr(link, "doubles", False))


def _history_is_compacted(of: Schedule) -> None:
    """Just before one watcher begins to watch from where it has read to."""
    link = of.a_watcher().link
    link.lag = Lag(0.5, 2.0)
    of.for_a_while(lambda: setattr(link, "lag", Lag()))
    link.break_off()

    def compact() -> None:
        of.cluster.tell()
        of.etcd.compacted = of.etcd.revision

    of.loop.after(of.chance.uniform(0.5, 3), compact)


def _etcd_is_backed_up(of: Schedule) -> None:
    of.etcd.back_up()


def _etcd_is_restored(of: Schedule) -> None:
    of.etcd.restore()
    of.cluster.restored()


def _etcd_is_restored_unheard(of: Schedule) -> None:
    """One watcher goes on in the history that was, and another hears of the new one."""
    link = of.a_watcher().link
    link.cut()
    of.for_a_while(link.mend, 40)
    _etcd_is_restored(of)


def _watcher_freezes(of: Schedule) -> None:
    watcher = of.a_watcher()
    if not watcher.frozen:
        watcher.freeze()
        of.for_a_while(watcher.thaw, 40)


def _watcher_is_killed(of: Schedule) -> None:
    number = of.watchers.index(of.a_watcher())
    if of.watchers[number].dead:
        return
    of.watchers[number].kill()
    name = of.watchers[number].name

    def start() -> None:
        of.watchers[number] = Watcher(name, of.parts)

    of.for_a_while(start, 10)


def _settings_are_read_anew(of: Schedule) -> None:
    """By one watcher; and now and then after the primary died while etcd could not be heard."""
    if of.chance.random() < 0.5:
        _nobody_hears_etcd(of)
        of.cluster.crash(promotion=of.chance.uniform(1, 20))
    number = of.watchers.index(of.a_watcher())

    def take_its_place() -> None:
        before = of.watchers[number]
        if not (before.dead or before.frozen or of.is_quiet):
            of.witness.say(f"    {before.name} reads its settings anew")
            of.watchers[number] = Watcher(before.name, of.parts, before)

    of.loop.after(of.chance.uniform(0, 20), take_its_place)


def _clock_jumps(of: Schedule) -> None:
    of.a_watcher().jump = of.chance.choice((-3600.0, 3600.0))


def _node_hides_its_rest(of: Schedule) -> None:
    node, watcher = of.chance.choice(list(of.cluster.nodes.values())), of.a_watcher()
    node.hidden_from.add(watcher.name)
    of.for_a_while(partial(node.hidden_from.discard, watcher.name))


def _way_is_cut(of: Schedule) -> None:
    way = of.a_way()
    way.cut()
    of.for_a_while(way.mend)


def _way_is_slow(of: Schedule) -> None:
    way = of.a_way()
    way.slowest = 3.0
    of.for_a_while(lambda: setattr(way, "slowest", 0.02))


def _disk_is_full(of: Schedule) -> None:
    way = of.a_way()
    way.refuse_writes()
    of.for_a_while(way.mend)


def _disk_is_full_while_leaders_change(of: Schedule) -> None:
    """Clients who wait cannot be led to the new leader, whose key then is gone for a moment."""
    for watcher in of.watchers:
        way = watcher.ways[of.hosts[0].name]
        way.refuse_writes()
        of.for_a_while(way.mend, 60)
    of.cluster.crash()
    _once_it_is_idle(of, 9, of.cluster.flap)


def _once_it_is_idle(of: Schedule, seconds: float, change: Callable[[], None]) -> None:
    """After so many seconds, as soon as the cluster does nothing else; not in the quiet at the end."""

    def begin() -> None:
        if of.cluster.busy:
            of.loop.after(0.5, begin)
        elif not of.is_quiet:
            change()

    of.loop.after(seconds, begin)


def _agent_dies(of: Schedule) -> None:
    of.a_way().lose_agent()


def _pgbouncer_is_away(of: Schedule) -> None:
    host = of.a_host()
    host.down = True
    for agent in tuple(host.agents):
        agent.end()
    host.paused.clear()

    def back() -> None:
        host.down = False
        host.restart()

    of.for_a_while(back)


def _reloads_are_lost(of: Schedule) -> None:
    host = of.a_host()
    host.deaf = True
    of.for_a_while(lambda: setattr(host, "deaf", False))


def _another_hand_edits_the_file(of: Schedule) -> None:
    node = of.chance.choice(list(of.cluster.nodes.values()))
    of.witness.by_hand = True
    of.a_host().edit(node.endpoint)
    of.witness.by_hand = False


def _file_is_half_written(of: Schedule) -> None:
    """By another hand, which finishes it later, as it was."""
    host = of.a_host()
    whole = host.text
    if END not in whole:
        return

    def write(text: str) -> None:
        of.witness.by_hand = True
        host.text = text
        of.witness.by_hand = False
        host.reload()

    write(whole[: whole.index(END) - 10])
    of.for_a_while(lambda: write(whole), 10)


FAULTS: tuple[Callable[[Schedule], None], ...] = (
    *(_switchover, _switchover, _crash, _crash, _crash_and_the_old_primary_comes_back),
    *(_old_primary_is_all_that_is_heard, _two_primaries_and_both_are_news, _etcd_is_restored_unheard),
    *(
        _nobody_wants_to_lead,
        _comes_back_as_a_replica_and_nobody_leads,
        _promotion_takes_its_time,
        _promoted_and_takes_no_logins,
        _who_is_followed_in_silence_hides,
    ),
    *(_two_reigns_in_a_moment, _passing_leader_is_heard_late),
    *(_announcement_that_nothing_follows, _restart_in_place, _leader_key_flaps, _stop_is_asked_for),
    *(_operator_pauses, _etcd_is_not_heard, _etcd_is_not_heard, _etcd_is_late, _watch_breaks),
    *(_news_come_twice, _etcd_is_backed_up, _etcd_is_restored, _watcher_freezes, _watcher_is_killed),
    *(_settings_are_read_anew, _settings_are_read_anew),
    *(_clock_jumps, _node_hides_its_rest, _way_is_cut, _way_is_slow, _disk_is_full, _agent_dies),
    *(_disk_is_full_while_leaders_change, _fork_is_all_that_is_heard),
    *(_pgbouncer_is_away, _reloads_are_lost, _another_hand_edits_the_file),
    *(_history_is_compacted, _file_is_half_written),
)
