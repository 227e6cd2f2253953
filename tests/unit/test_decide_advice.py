"""Every recommended setting, the value that PgBouncer has instead, and the one line that comes of it."""

from dataclasses import replace

import pytest

from watcher.decide.advice import (
    HOLD_LIMIT,
    SETTINGS,
    SHORTCOMINGS,
    TTL,
    WANTED_VERSION,
    Advice,
    advise,
    longest_wait,
    of_block,
    parse_version,
    recommended,
)
from watcher.decide.model import Actual, ConsoleDatabase, Database, Endpoint

NEW = f"PgBouncer {WANTED_VERSION}"
BEST = recommended((99,))
APP = ConsoleDatabase("app", "10.0.0.1", 5432, pool_size=20, min_pool_size=0)
PLAIN = ConsoleDatabase("app", "10.0.0.1", 5432)


def of_setting(name: str, value: str, *databases: ConsoleDatabase) -> list[Advice]:
    return list(advise(NEW, {**BEST, name: value}, databases or (PLAIN,)))


DEFAULTS_OF_1_18 = {
    "pool_mode": "session",
    "server_login_retry": "15",
    "min_pool_size": "0",
    "default_pool_size": "20",
    "server_connect_timeout": "15",
    "tcp_keepalive": "1",
    "tcp_keepidle": "0",
    "tcp_keepintvl": "0",
    "tcp_keepcnt": "0",
    "tcp_user_timeout": "0",
    "query_wait_timeout": "120",
    "client_login_timeout": "60",
    "server_fast_close": "0",
}


def test_what_is_recommended_needs_no_advice() -> None:
    assert advise(NEW, BEST, (APP,)) == ()


def test_the_defaults_of_an_old_pgbouncer_need_much() -> None:
    found = advise("PgBouncer 1.18.0", DEFAULTS_OF_1_18, (APP,))
    assert [one.name for one in found] == [
        "pool_mode",
        "server_login_retry",
        "server_connect_timeout",
        "tcp_keepidle",
        "tcp_keepintvl",
        "tcp_keepcnt",
        "tcp_user_timeout",
        "client_login_timeout",
        "version",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pool_mode", "session"),
        ("server_login_retry", "15"),
        ("server_login_retry", "0.25"),
        ("server_login_retry", "0"),
        ("min_pool_size", "1"),
        ("default_pool_size", "0"),
        ("server_connect_timeout", "15"),
        ("server_connect_timeout", "0"),
        ("tcp_keepalive", "0"),
        ("tcp_keepidle", "0"),
        ("tcp_keepidle", "6"),
        ("tcp_keepintvl", "0"),
        ("tcp_keepintvl", "2"),
        ("tcp_keepcnt", "0"),
        ("tcp_keepcnt", "4"),
        ("tcp_user_timeout", "0"),
        ("tcp_user_timeout", "3001"),
        ("query_wait_timeout", "60"),
        ("client_login_timeout", "60"),
        ("server_fast_close", "1"),
        ("max_prepared_statements", "0"),
    ],
)
def test_a_value_that_hurts_in_a_failover_is_advised_against(name: str, value: str) -> None:
    (one,) = of_setting(name, value)
    assert (one.name, one.value, one.database) == (name, value, None)
    assert one.why


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pool_mode", "statement"),
        ("server_login_retry", "0.05"),
        ("default_pool_size", "200"),
        ("server_connect_timeout", "1.5"),
        ("tcp_keepidle", "1"),
        ("tcp_keepcnt", "1"),
        ("tcp_user_timeout", "500"),
        ("query_wait_timeout", "0"),
        ("query_wait_timeout", "61"),
        ("client_login_timeout", "0"),
        ("max_prepared_statements", "1"),
    ],
)
def test_a_value_that_is_as_good_or_better_is_left_alone(name: str, value: str) -> None:
    assert of_setting(name, value) == []


def test_every_setting_has_a_value_that_is_advised_against() -> None:
    """So that no rule of the list can be one that never speaks."""
    bad = dict.fromkeys(BEST, "none of them")
    assert [one.name for one in advise(NEW, bad, ())] == [setting.name for setting in SETTINGS]


def test_a_login_retry_of_zero_has_a_reason_of_its_own() -> None:
    (too_long,), (zero,) = of_setting("server_login_retry", "15"), of_setting("server_login_retry", "0")
    assert "everything is right again" in too_long.why
    assert "without a pause" in zero.why


@pytest.mark.parametrize("name", ["query_wait_timeout", "client_login_timeout"])
@pytest.mark.parametrize(
    ("value", "ttl", "hold_limit", "wanted"),
    [
        ("120", 110.0, 60.0, "more than 120"),
        ("120", 20.0, 300.0, "more than 300"),
        ("30", 20.0, 5.0, "more than 30"),
        ("31", 20.0, 5.0, None),
        ("121", 110.0, 60.0, None),
    ],
)
def test_clients_may_wait_as_long_as_the_cluster_needs_and_the_hold_lasts(
    name: str, value: str, ttl: float, hold_limit: float, wanted: str | None
) -> None:
    unlimited = {**BEST, "query_wait_timeout": "0", "client_login_timeout": "0"}
    found = advise(NEW, {**unlimited, name: value}, (APP,), ttl, hold_limit)
    assert [one.wanted for one in found] == ([wanted] if wanted else [])


def test_what_is_recommended_outlasts_what_is_the_default() -> None:
    wait = longest_wait(TTL, HOLD_LIMIT)
    assert all(float(BEST[name]) > wait for name in ("query_wait_timeout", "client_login_timeout"))


def test_a_database_of_its_own_mind_is_named() -> None:
    own = replace(APP, name="own", pool_mode="session", pool_size=0, min_pool_size=5)
    found = of_setting("server_fast_close", "0", APP, own)
    assert [(one.database, one.name, one.value) for one in found] == [
        ("own", "pool_mode", "session"),
        ("own", "min_pool_size", "5"),
        ("own", "pool_size", "0"),
    ]
    assert str(found[1]).startswith("database own: min_pool_size is 5, better 0: ")


def test_a_general_value_that_no_database_takes_over_needs_no_advice() -> None:
    own = replace(APP, pool_mode="transaction")
    assert of_setting("pool_mode", "session", own) == []
    assert len(of_setting("pool_mode", "session", own, replace(APP, name="other"))) == 1


def test_a_database_that_says_the_same_as_the_general_value_is_not_named_again() -> None:
    (one,) = of_setting("min_pool_size", "3", replace(APP, min_pool_size=3))
    assert one.database is None


def test_without_a_database_shown_the_general_value_counts() -> None:
    assert [one.name for one in advise(NEW, {**BEST, "pool_mode": "session"}, ())] == ["pool_mode"]


def test_a_setting_that_this_pgbouncer_does_not_know_is_not_missed() -> None:
    without = {name: value for name, value in BEST.items() if name != "max_prepared_statements"}
    assert advise(NEW, without, (APP,)) == ()
    assert "max_prepared_statements" not in recommended((1, 20, 1))
    assert "max_prepared_statements" in recommended((1, 21, 0))


@pytest.mark.parametrize("since", [since for since, _ in SHORTCOMINGS])
def test_a_version_is_told_of_what_it_lacks_and_no_more(since: tuple[int, ...]) -> None:
    dotted = ".".join(map(str, since))
    lacking = [what for later, what in SHORTCOMINGS if since < later]
    found = advise(f"PgBouncer {dotted}", BEST, ())
    assert [one.why for one in found] == (["; ".join(lacking)] if lacking else [])


def test_an_old_version_is_told_all_in_one_line() -> None:
    (one,) = advise("PgBouncer 1.18.0", recommended((1, 18)), (APP,))
    assert (one.name, one.value, one.wanted) == ("version", "1.18.0", f"{WANTED_VERSION} or newer")
    assert all(what in one.why for _, what in SHORTCOMINGS)


def test_the_wanted_version_is_the_first_that_lacks_nothing() -> None:
    assert parse_version(WANTED_VERSION) == max(since for since, _ in SHORTCOMINGS)


@pytest.mark.parametrize("version", ["PgBouncer 1.26.0", "PgBouncer 2.0", "of my own making", ""])
def test_a_later_or_unknown_version_is_told_nothing(version: str) -> None:
    assert advise(version, BEST, (APP,)) == ()


def _actual(*block: str, defined: tuple[str, ...] = (), shown: tuple[str, ...]) -> Actual:
    endpoint = Endpoint("10.0.0.1", 5432)
    return Actual(
        tuple(Database(name, endpoint) for name in block),
        None,
        0.0,
        frozenset(defined),
        shown=tuple(replace(APP, name=name) for name in shown),
    )


def test_only_the_databases_of_the_block_count() -> None:
    seen = _actual("app", defined=("app", "theirs"), shown=("app", "theirs", "pgbouncer"))
    assert [row.name for row in of_block(seen)] == ["app"]


def test_databases_made_from_the_star_of_the_block_count() -> None:
    seen = _actual("*", defined=("*", "theirs"), shown=("made", "theirs", "pgbouncer"))
    assert [row.name for row in of_block(seen)] == ["made"]


def test_without_a_console_no_database_counts() -> None:
    assert of_block(replace(_actual("app", shown=()), shown=None)) == ()


def test_advice_on_all_databases_names_none() -> None:
    assert str(Advice("tcp_keepalive", "0", "1", "clients hang")) == (
        "tcp_keepalive is 0, better 1: clients hang"
    )


def test_a_setting_is_recommended_from_its_first_version_on() -> None:
    assert "max_prepared_statements" in recommended((1, 21))
    assert "max_prepared_statements" not in recommended((1, 20, 9))


def test_a_version_in_other_digits_is_none() -> None:
    assert parse_version("PgBouncer ١.٢٥") is None
