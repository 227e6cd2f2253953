"""For any settings: advice is given on what differs for the worse, on nothing else, and nothing breaks it."""

from hypothesis import given
from hypothesis import strategies as st

from watcher.decide.advice import SETTINGS, WANTED_VERSION, advise, longest_wait, recommended
from watcher.decide.model import ConsoleDatabase

BEST = recommended((99,))
NEW = f"PgBouncer {WANTED_VERSION}"
VALUES = st.one_of(st.text(max_size=12), st.integers(-1, 4000).map(str), st.floats().map(str))
CONFIGS = st.dictionaries(st.one_of(st.sampled_from(sorted(BEST)), st.text(max_size=8)), VALUES)
SECONDS = st.floats(0.1, 86400)
DATABASES = st.lists(
    st.builds(
        ConsoleDatabase,
        name=st.text(min_size=1, max_size=8),
        host=st.none(),
        port=st.just(5432),
        pool_mode=st.one_of(st.none(), st.sampled_from(["session", "transaction", "statement"])),
        pool_size=st.one_of(st.none(), st.integers(0, 50)),
        min_pool_size=st.one_of(st.none(), st.integers(0, 50)),
    ),
    max_size=4,
    unique_by=lambda database: database.name,
)


@given(st.text(), CONFIGS, DATABASES, SECONDS, SECONDS)
def test_whatever_pgbouncer_shows_advice_names_only_what_it_showed(
    version: str, config: dict[str, str], databases: list[ConsoleDatabase], ttl: float, hold: float
) -> None:
    shown = set(config.values()) | {str(db.pool_size) for db in databases}
    shown |= {str(db.min_pool_size) for db in databases} | {str(db.pool_mode) for db in databases}
    for one in advise(version, config, databases, ttl, hold):
        assert one.name == "version" or one.value in shown
        assert one.database is None or one.database in {db.name for db in databases}
        assert "\n" not in one.why


@given(st.sets(st.sampled_from(SETTINGS)), VALUES, SECONDS, SECONDS)
def test_exactly_what_does_not_fit_is_advised_against(
    changed: set[object], value: str, ttl: float, hold: float
) -> None:
    wait = longest_wait(ttl, hold)
    config = {one.name: value if one in changed else one.recommended for one in SETTINGS}
    expected = [one.name for one in SETTINGS if not one.fits(config[one.name], wait)]
    assert [one.name for one in advise(NEW, config, (), ttl, hold)] == expected


@given(CONFIGS, DATABASES, SECONDS, SECONDS, SECONDS)
def test_a_longer_wait_never_takes_advice_back(
    config: dict[str, str], databases: list[ConsoleDatabase], ttl: float, hold: float, longer: float
) -> None:
    before = {(one.name, one.database) for one in advise(NEW, config, databases, ttl, hold)}
    after = {(one.name, one.database) for one in advise(NEW, config, databases, ttl + longer, hold + longer)}
    assert before <= after


@given(DATABASES, SECONDS, SECONDS)
def test_advice_that_is_followed_is_not_given_again(
    databases: list[ConsoleDatabase], ttl: float, hold: float
) -> None:
    config = {**BEST, "query_wait_timeout": "0", "client_login_timeout": "0"}
    assert all(one.database is not None for one in advise(NEW, config, databases, ttl, hold))
