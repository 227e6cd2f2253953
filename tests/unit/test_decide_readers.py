"""Who serves reads, by what Patroni wrote into etcd, and where the marked lines lead by that."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from watcher.decide.decision import ConnectVia, Policy, desired, plan, replicas
from watcher.decide.model import (
    Actual,
    Alarm,
    Candidate,
    Change,
    Choose,
    Config,
    ConsoleDatabase,
    Database,
    Deletion,
    Desired,
    Endpoint,
    Entry,
    Fitness,
    Leader,
    Listing,
    Malformed,
    Member,
    Readers,
    Readiness,
    Role,
    Sighting,
    Status,
    Unfit,
    Value,
    Verdict,
    View,
    WatchReaders,
    Write,
)
from watcher.decide.model import Leadership as Reign
from watcher.decide.readers import ReadPolicy, place_for, unfit
from watcher.decide.view import fold, says_the_same

N1, N2, N3 = (Endpoint(f"10.0.0.{n}", 5432) for n in (1, 2, 3))
BOTH = Endpoint("10.0.0.2,10.0.0.3", 5432)
BEGAN = 100.0
OLD = BEGAN + 60  # the reign is older than Patroni's ttl, and all have settled
SETTLE, MAX_LAG, LOOP = 10.0, 1000, 10.0
READS = ReadPolicy(settle=SETTLE)


def entry(key: str, value: Value, revision: int) -> Entry:
    return Entry(key, value, 1, revision)


def member(name: str, revision: int = 1, **fields: Any) -> Entry:
    plain: dict[str, Any] = {"role": Role.REPLICA, "state": "running", "timeline": 3, "position": 5000}
    value = Member(
        name=name,
        conn=Endpoint(f"10.0.0.{name[-1]}", 5432),
        proxy=None,
        api_url=None,
        **{**plain, "replication": "streaming", **fields},
    )
    return entry(f"members/{name}", value, revision)


LEADS = member("n1", role=Role.PRIMARY)


def status(position: int, revision: int = 1) -> Entry:
    return entry("status", Status(position), revision)


def listing(*entries: Entry, at: float = BEGAN, revision: int = 50) -> Listing:
    leads = Entry("leader", Leader("n1"), 1, 1)
    return Listing(0xA, revision, (leads, LEADS, *entries), at, at)


def seen(*sightings: Sighting) -> View:
    view = View(began_at=BEGAN, max_lag=MAX_LAG)
    ready = Readiness(Reign("n1", 1), Verdict.READY, Role.PRIMARY, 3, BEGAN)
    for sighting in (*sightings[:1], ready, *sightings[1:]):
        view = fold(view, sighting)
    return view


def change(*events: Entry | Deletion, at: float) -> Change:
    return Change(0xA, events, at)


BASE = listing(member("n2"), member("n3"), status(5000))


def wished(view: View, now: float = OLD, reads: ReadPolicy = READS, target: str = "t") -> Desired:
    return desired(replace(view, contact_at=now), Policy(reads=reads), now, target)


def place(view: View, now: float = OLD, used: Endpoint = N1, reads: ReadPolicy = READS) -> Endpoint | None:
    readers = wished(view, now, reads).readers
    assert readers is not None
    return place_for(readers, led(used))


def led(reads: Endpoint, writes: Endpoint = N1) -> Actual:
    """A target with a line for writes and one for reads, in force."""
    databases = (Database("app", writes), Database("app_ro", reads, Role.REPLICA))
    shown = tuple(ConsoleDatabase(db.name, db.endpoint.host, db.endpoint.port) for db in databases)
    return Actual(databases, None, BEGAN, frozenset({"app", "app_ro"}), shown=shown)


def known(view: View, now: float = OLD, target: str = "t") -> Mapping[str, Candidate]:
    return {one.name: one for one in replicas(view, Policy(reads=READS), now, target)}


def problem_of(view: View, name: str, now: float = OLD, target: str = "t") -> Unfit | None:
    return known(view, now, target)[name].problem


# --- who is fit --------------------------------------------------------------------------------------


def test_reads_go_to_every_healthy_replica_and_not_to_the_leader() -> None:
    assert place(seen(BASE)) == BOTH


def test_who_was_healthy_when_we_began_counts_at_once() -> None:
    assert place(seen(BASE), now=BEGAN) == BOTH


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"role": Role.OTHER}, Unfit.NOT_A_REPLICA),
        ({"role": Role.PRIMARY}, Unfit.NOT_A_REPLICA),
        ({"state": "starting"}, Unfit.NOT_RUNNING),
        ({"noloadbalance": True}, Unfit.TAGGED),
        ({"replication": "in archive recovery"}, Unfit.NOT_STREAMING),
        ({"replication": ""}, None),
        ({"timeline": 2}, Unfit.OTHER_TIMELINE),
        ({"timeline": None}, None),
        ({"position": 3999}, Unfit.LAGS),
        ({"position": 4000}, None),
        ({"position": None}, Unfit.LAGS),
        ({"position": 5000, "replayed": 3999}, Unfit.LAGS),
        ({"conn": None}, Unfit.NO_ADDRESS),
    ],
)
def test_a_replica_is_fit_as_patroni_defines_it(fields: dict[str, Any], wanted: Unfit | None) -> None:
    odd = member("n3")
    assert isinstance(odd.value, Member)
    odd = replace(odd, value=replace(odd.value, **fields))
    view = seen(listing(member("n2"), odd, status(5000)))
    assert problem_of(view, "n3") is wanted
    assert place(view) == (BOTH if wanted is None else N2)


def test_the_leader_is_no_replica_whatever_its_key_still_says() -> None:
    view = seen(BASE, change(Entry("leader", Leader("n2"), 60, 60), at=OLD))
    assert problem_of(view, "n2") is Unfit.LEADER


def test_a_key_that_cannot_be_read_changes_nothing() -> None:
    odd = entry("members/n3", Malformed("here", "is odd", "look"), 60)
    assert place(seen(BASE, change(odd, at=OLD))) == BOTH


def test_a_key_that_never_could_be_read_is_nobodys() -> None:
    odd = entry("members/n3", Malformed("here", "is odd", "look"), 1)
    assert place(seen(listing(member("n2"), odd))) == N2


@pytest.mark.parametrize(
    ("sightings", "since"),
    [
        ([listing(member("n2"), entry("members/n3", Malformed("here", "is odd", "look"), 1))], BEGAN),
        ([BASE, change(Deletion("members/n3", 60), at=OLD)], OLD),
    ],
)
def test_whose_key_is_not_there_is_unfit_from_then_on(sightings: list[Sighting], since: float) -> None:
    view = seen(*sightings)
    later = fold(view, change(member("n2", 70), at=OLD + 5))
    assert view.fitness["n3"] == later.fitness["n3"] == Fitness(Unfit.NO_KEY, since)
    assert says_the_same(view, later)


def test_whoever_is_not_remembered_is_no_candidate_any_more() -> None:
    """Names that change with each pod: 64 that are gone are remembered, of a hundred."""
    pods = [listing(member("n2"), member(f"pod{n}"), at=BEGAN + n, revision=51 + n) for n in range(100)]
    view = seen(*pods, listing(member("n2"), at=BEGAN + 100, revision=200))
    assert view.fitness.keys() == view.members.keys() == {"n1", "n2", *(f"pod{n}" for n in range(36, 100))}


def test_an_address_of_the_configuration_makes_nobody_fit_who_has_no_key() -> None:
    odd = entry("members/n4", Malformed("here", "is odd", "look"), 1)
    settled = {f"n{n}": Endpoint(f"pg{n}.example", 6000 + n) for n in (1, 2, 3, 4)}
    policy = Policy(reads=LEAST, connect_via=ConnectVia.ADDRESSES, addresses=settled)
    found = replicas(seen(listing(member("n2"), member("n3"), odd, status(5000))), policy, OLD, "t")
    assert {one.name: (one.endpoint, one.problem) for one in found} == {
        "n1": (settled["n1"], Unfit.LEADER),
        "n2": (settled["n2"], None),
        "n3": (settled["n3"], None),
        "n4": (settled["n4"], Unfit.NO_KEY),
    }


def test_who_counts_stays_where_it_serves_reads_too() -> None:
    assert known(seen(BASE))["n2"] == Candidate("n2", N2, None, stays=True)
    assert wished(seen(BASE)).readers == Readers((N2, N3), (N2, N3), otherwise=N1)


def test_without_the_leaders_word_nobody_lags() -> None:
    assert place(seen(listing(member("n2", position=0), member("n3")))) == BOTH


def test_a_replica_that_refuses_is_out_at_once_for_that_target_alone() -> None:
    view = seen(BASE, Alarm("t", N3, refuses=True, at=OLD, of_reader=True))
    assert problem_of(view, "n3") is Unfit.REFUSES
    assert place(view, used=BOTH) == N2
    assert problem_of(view, "n3", target="other") is None


def test_an_alarm_about_a_reader_is_none_about_the_primary() -> None:
    view = seen(BASE, Alarm("t", N3, refuses=True, at=OLD, of_reader=True))
    assert view.alarms == {}
    assert not wished(view).held


# --- who comes back ----------------------------------------------------------------------------------


def back_again(at: float) -> View:
    return seen(BASE, change(member("n3", 60, state="stopped"), at=OLD), change(member("n3", 61), at=at))


def test_one_that_was_unfit_counts_again_once_it_has_been_fit_for_a_while() -> None:
    view = back_again(at=OLD + 5)
    assert problem_of(view, "n3", OLD + 5 + SETTLE - 0.1) is Unfit.SETTLING
    assert place(view, OLD + 5 + SETTLE - 0.1) == N2
    assert place(view, OLD + 5 + SETTLE) == BOTH


def test_we_look_again_when_it_has_settled() -> None:
    assert wished(back_again(at=OLD + 5), OLD + 6).recheck_at == OLD + 5 + SETTLE


def test_it_stays_where_it_serves_reads_already() -> None:
    assert place(back_again(at=OLD + 5), OLD + 6, used=BOTH) == BOTH


def test_one_that_takes_connections_again_settles_too() -> None:
    view = seen(
        BASE,
        Alarm("t", N3, refuses=True, at=OLD, of_reader=True),
        Alarm("t", N3, refuses=False, at=OLD + 5, of_reader=True),
    )
    assert place(view, OLD + 5 + SETTLE - 0.1, used=N2) == N2
    assert place(view, OLD + 5 + SETTLE, used=N2) == BOTH


def test_a_new_replica_settles_first() -> None:
    view = seen(BASE, change(member("n4", 60), at=OLD))
    assert problem_of(view, "n4", OLD + 1) is Unfit.SETTLING
    assert problem_of(view, "n4", OLD + SETTLE) is None


def test_one_problem_that_follows_another_does_not_begin_anew() -> None:
    view = seen(
        BASE,
        change(member("n3", 60, state="stopped"), at=OLD),
        change(member("n3", 61, noloadbalance=True), at=OLD + 3),
    )
    assert view.fitness["n3"].since == OLD


# --- a change of leader ------------------------------------------------------------------------------


def led_by_n2(at: float, *events: Entry | Deletion) -> View:
    """n2 has taken over, on timeline 4."""
    view = seen(BASE, change(Entry("leader", Leader("n2"), 60, 60), *events, at=at))
    return fold(view, Readiness(Reign("n2", 60), Verdict.READY, Role.PRIMARY, 4, at))


def test_a_change_of_leader_takes_nobody_out_who_serves_reads() -> None:
    for event in (Deletion("members/n3", 61), member("n3", 61, replication="in archive recovery")):
        view = led_by_n2(OLD, event)
        assert place(view, OLD + 29, used=BOTH) == N3
        assert place(view, OLD + 29, used=N1) == N2  # the primary by now
        assert wished(view, OLD + 25).recheck_at == OLD + 30


def test_after_a_while_it_does() -> None:
    for event in (Deletion("members/n3", 61), member("n3", 61, replication="in archive recovery")):
        assert place(led_by_n2(OLD, event), OLD + 30, used=BOTH) == N2


def test_a_replica_that_stays_on_the_old_timeline_is_out_after_a_while() -> None:
    assert place(led_by_n2(OLD), OLD + 29, used=N3) == N3
    assert problem_of(led_by_n2(OLD), "n3", OLD + 30) is Unfit.OTHER_TIMELINE


def test_one_that_refuses_is_out_whatever_else_there_is() -> None:
    alarm = Alarm("t", N3, refuses=True, at=OLD, of_reader=True)
    assert place(fold(led_by_n2(OLD), alarm), OLD + 1, used=N3) == N2


def test_the_old_leader_settles_before_it_serves_reads() -> None:
    view = fold(
        led_by_n2(OLD), change(member("n1", 70, timeline=4), member("n3", 71, timeline=4), at=OLD + 3)
    )
    assert place(view, OLD + 4, used=BOTH) == N3
    assert place(view, OLD + 3 + SETTLE, used=N3) == Endpoint("10.0.0.1,10.0.0.3", 5432)


@pytest.mark.parametrize(
    "view",
    [
        seen(BASE, change(Deletion("leader", 60), at=OLD)),
        seen(BASE, change(Entry("leader", Malformed("here", "odd", "look"), 60, 60), at=OLD)),
    ],
)
def test_while_no_leader_is_known_reads_stay_where_they_are(view: View) -> None:
    assert wished(view).readers is None


def test_while_etcd_is_silent_reads_stay_where_they_are() -> None:
    assert desired(seen(BASE), Policy(reads=READS), BEGAN + 50).readers is None


# --- lag ---------------------------------------------------------------------------------------------


def test_a_replica_lags_by_its_own_key_against_the_newest_word_of_the_leader() -> None:
    view = seen(BASE, change(status(9000, 60), at=OLD), change(member("n3", 61, position=7999), at=OLD + 1))
    assert problem_of(view, "n3") is Unfit.LAGS
    assert view.fitness["n3"].lag == 1001


def test_who_is_ahead_of_the_newest_word_of_the_leader_does_not_lag() -> None:
    assert seen(listing(member("n3", position=5200), status(5000))).fitness["n3"].lag == 0


def test_the_leaders_word_alone_makes_nobody_lag() -> None:
    """A burst: the replica has had no turn yet to say how far it is."""
    view = seen(BASE, change(status(9000, 60), at=OLD))
    assert problem_of(view, "n3") is None


def test_a_replica_whose_key_stands_still_lags_a_turn_later() -> None:
    """Patroni writes a key only where something in it has changed."""
    first, second = change(status(9000, 60), at=OLD), change(status(9100, 61), at=OLD + LOOP)
    assert problem_of(seen(BASE, first, change(status(9100, 61), at=OLD + 1)), "n3") is None
    view = seen(BASE, first, second)
    assert problem_of(view, "n3", OLD + LOOP) is Unfit.LAGS
    assert view.fitness["n3"].lag == 4000


def test_a_turn_is_counted_from_the_first_word_of_it_and_may_be_a_little_short() -> None:
    words = [change(status(9000 + n, 60 + n), at=OLD + n) for n in range(9)]
    almost = seen(BASE, *words, change(status(9100, 70), at=OLD + 0.9 * LOOP - 0.1))
    assert problem_of(almost, "n3") is None
    view = seen(BASE, *words, change(status(9100, 70), at=OLD + 0.9 * LOOP))
    assert view.fitness["n3"].lag == 4000


@pytest.mark.parametrize(("word", "lag"), [(4900, 0), (5000, 0), (9000, 4000)])
def test_one_whose_key_is_older_than_any_word_of_the_leader_lags_a_turn_later(word: int, lag: int) -> None:
    begun = seen(listing(member("n2"), member("n3")), change(status(word, 60), at=OLD))
    assert begun.fitness["n3"].lag is None
    assert fold(begun, change(status(9100, 61), at=OLD + LOOP)).fitness["n3"].lag == lag


def test_one_that_wrote_at_the_moment_of_a_word_does_not_lag_by_that_word() -> None:
    view = seen(
        BASE,
        change(member("n3", 60), at=OLD),
        change(status(9000, 61), at=OLD),
        change(status(9100, 62), at=OLD + LOOP),
    )
    assert problem_of(view, "n3", OLD + LOOP) is None


def test_the_turns_of_the_loop_are_as_long_as_the_cluster_says() -> None:
    quick = entry("config", Config(loop_wait=2.0), 55)
    events = (
        change(quick, at=OLD),
        change(status(9000, 60), at=OLD + 1),
        change(status(9100, 61), at=OLD + 3),
    )
    assert problem_of(seen(BASE, *events), "n3", OLD + 3) is Unfit.LAGS


def test_one_that_has_written_meanwhile_does_not_lag_by_an_old_word() -> None:
    view = seen(
        BASE,
        change(status(9000, 60), at=OLD),
        change(member("n3", 61, position=8500), at=OLD + 1),
        change(status(9100, 62), at=OLD + LOOP),
    )
    assert problem_of(view, "n3", OLD + LOOP) is None


def test_lag_is_news_only_where_it_changes_who_is_fit() -> None:
    before = seen(BASE)
    little = fold(before, change(member("n3", 60, position=4900), at=OLD))
    much = fold(little, change(member("n3", 61, position=100), at=OLD))
    assert says_the_same(before, little)
    assert not says_the_same(little, much)


# --- where reads go ----------------------------------------------------------------------------------


NOBODY = listing(status(5000))


def test_for_want_of_a_replica_reads_go_to_the_primary_or_stay() -> None:
    assert place(seen(NOBODY), used=N3) == N1
    assert place(seen(NOBODY), used=N3, reads=replace(READS, to_primary=False)) is None


def test_where_reads_shall_not_go_to_the_primary_one_that_settles_is_better_than_none() -> None:
    view = seen(NOBODY, change(member("n2", 60), at=OLD))
    assert place(view, OLD + 1, used=N3) == N1
    assert place(view, OLD + 1, used=N3, reads=replace(READS, to_primary=False)) == N2


LEAST = ReadPolicy(choose=Choose.LEAST_LAG, settle=SETTLE)


def test_least_lag_is_one_and_stays_while_it_is_fit() -> None:
    view = seen(listing(member("n2", position=4500), member("n3", position=4900), status(5000)))
    assert place(view, reads=LEAST) == N3
    assert place(view, used=N2, reads=LEAST) == N2
    gone = fold(view, change(member("n2", 60, noloadbalance=True), at=OLD))
    assert place(gone, used=N2, reads=LEAST) == N3


def test_who_tells_no_position_is_the_last_choice() -> None:
    view = seen(listing(member("n2", position=None), member("n3"), status(5000)))
    assert place(view, reads=LEAST) == N3


def test_whose_lag_is_not_known_comes_after_who_is_known_to_lag() -> None:
    later = change(status(5000, 60), member("n3", 61, position=4500), at=OLD)
    assert place(seen(listing(member("n2"), member("n3")), later), OLD, reads=LEAST) == N3


def test_by_name_or_where_that_matters_by_lag_is_told_who_serves_reads() -> None:
    view = seen(listing(member("n2", position=4500), member("n3"), status(5000)))
    assert [one.name for one in replicas(view, Policy(reads=READS), OLD, "t")] == ["n1", "n2", "n3"]
    assert [one.name for one in replicas(view, Policy(reads=LEAST), OLD, "t")] == ["n1", "n3", "n2"]


def test_a_list_has_one_port_that_of_most() -> None:
    view = seen(listing(member("n2"), member("n3"), on_6000("n4"), status(5000)))
    assert place(view) == BOTH
    assert known(view)["n4"] == Candidate("n4", Endpoint("10.0.0.4", 6000), Unfit.OTHER_PORT)


def test_of_the_ports_those_count_alone_that_may_serve_reads() -> None:
    tagged = member("n3", noloadbalance=True)
    view = seen(listing(member("n2"), tagged, on_6000("n4"), on_6000("n5"), status(5000)))
    assert place(view) == Endpoint("10.0.0.4,10.0.0.5", 6000)
    assert problem_of(view, "n2") is Unfit.OTHER_PORT
    assert problem_of(view, "n3") is Unfit.TAGGED


def test_one_that_settles_on_another_port_than_most_does_not_stay() -> None:
    view = seen(BASE, change(on_6000("n4", 60), at=OLD))
    assert known(view, OLD + 1)["n4"] == Candidate("n4", Endpoint("10.0.0.4", 6000), Unfit.OTHER_PORT)


def test_those_that_settle_send_nobody_away_however_many_they_are() -> None:
    view = seen(listing(member("n2"), status(5000)), change(on_6000("n4", 60), on_6000("n5", 61), at=OLD))
    assert place(view, OLD + 1, used=N2) == N2
    assert place(view, OLD + SETTLE, used=N2) == Endpoint("10.0.0.4,10.0.0.5", 6000)


def test_while_all_settle_their_list_has_one_port_too() -> None:
    news = change(member("n2", 60), on_6000("n3", 61), on_6000("n4", 62), at=OLD)
    assert place(seen(NOBODY, news), OLD + 1, reads=replace(READS, to_primary=False)) == Endpoint(
        "10.0.0.3,10.0.0.4", 6000
    )


def test_one_alone_may_be_on_any_port() -> None:
    behind = member("n2", position=4500), member("n3", position=4400)
    view = seen(listing(*behind, on_6000("n4"), status(5000)))
    assert place(view, reads=LEAST) == Endpoint("10.0.0.4", 6000)


def on_6000(name: str, revision: int = 1) -> Entry:
    plain = member(name, revision)
    assert isinstance(plain.value, Member)
    return replace(plain, value=replace(plain.value, conn=Endpoint(f"10.0.0.{name[-1]}", 6000)))


# --- the plan ----------------------------------------------------------------------------------------


def test_reads_are_led_elsewhere_with_the_stamp_that_is_there_already() -> None:
    wish = wished(seen(BASE))
    assert wish.route is not None
    actual = replace(led(N2), stamp=wish.route.stamp)
    write, *rest = plan(actual, wish)
    assert write == Write(replace(wish.route, readers=BOTH))
    assert [type(step).__name__ for step in rest] == ["Reload", "Confirm"]
    assert plan(replace(led(BOTH), stamp=wish.route.stamp), wish) == ()


def test_where_nothing_is_marked_replicas_do_not_matter() -> None:
    wish = wished(seen(BASE))
    assert wish.route is not None
    actual = replace(led(N2), databases=(Database("app", N1),), stamp=wish.route.stamp, can_watch=True)
    assert plan(actual, wish) == ()


def test_a_block_for_reads_alone_follows_too() -> None:
    wish = wished(seen(BASE))
    assert wish.route is not None
    actual = replace(led(N2), databases=led(N2).databases[1:], stamp=wish.route.stamp)
    assert plan(actual, wish)[0] == Write(replace(wish.route, readers=BOTH))


def test_servers_for_reads_are_watched_also_while_they_refuse() -> None:
    wish = wished(seen(BASE, Alarm("t", N3, refuses=True, at=OLD, of_reader=True)))
    assert wish.route is not None
    actual = replace(led(N2), stamp=wish.route.stamp, can_watch=True)
    assert plan(actual, wish) == (WatchReaders((N2, N3)),)
    assert plan(replace(actual, read_guards=(N2, N3)), wish) == ()


def test_reads_that_pgbouncer_leads_elsewhere_than_its_file_get_a_reload() -> None:
    wish = wished(seen(BASE))
    assert wish.route is not None
    actual = replace(led(BOTH), stamp=wish.route.stamp, shown=led(N2).shown)
    assert [type(step).__name__ for step in plan(actual, wish)] == ["Reload", "Confirm"]


def test_while_nobody_reigns_nobody_is_known_to_serve_reads() -> None:
    assert known(seen(BASE))
    assert known(seen(BASE, change(Deletion("leader", 99), at=OLD))) == {}


def test_who_serves_reads_although_he_would_not_be_chosen_is_not_said_to_serve_none() -> None:
    stays = Candidate("n2", N2, Unfit.OTHER_TIMELINE, stays=True)
    lags, fit = Candidate("n3", N3, Unfit.LAGS), Candidate("n1", N1, None, stays=True)
    assert unfit((stays, lags, fit), [N2, N1]) == {"n3": "lags"}
    assert unfit((stays, lags, fit), [N1]) == {"n2": "other_timeline", "n3": "lags"}
    assert unfit((lags,), [N3]) == {"n3": "lags"}
