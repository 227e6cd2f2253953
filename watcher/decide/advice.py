"""What PgBouncer's settings mean for a failover, and which of them are better otherwise. Pure.

`SETTINGS` is the one list of what the project recommends: `check-config` compares a live PgBouncer with
it, `docs/pgbouncer.md` shows it, and the tests' own PgBouncers run by it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from watcher.decide.model import Actual, ConsoleDatabase

Version: TypeAlias = tuple[int, ...]
Fits: TypeAlias = Callable[[str, float], bool]
"""Whether a value as PgBouncer shows it is good where clients may have to wait so many seconds."""

HOLD_LIMIT = 60.0  # seconds that a hold may last, unless it is settled otherwise
PROMOTION = 10.0  # seconds granted to a replica, from the end of the old leader's key to its first write
TTL = 30.0  # Patroni's default, in seconds


@dataclass(frozen=True, slots=True)
class Advice:
    """One value that is better changed; `why` is a sentence on what happens in a failover if it is not."""

    name: str
    value: str
    wanted: str
    why: str
    database: str | None = None

    def __str__(self) -> str:
        """
        >>> str(Advice("pool_mode", "session", "transaction", "PAUSE waits", "app"))
        'database app: pool_mode is session, better transaction: PAUSE waits'
        """
        of = f"database {self.database}: " if self.database is not None else ""
        return f"{of}{self.name} is {self.value}, better {self.wanted}: {self.why}"


@dataclass(frozen=True, slots=True)
class Setting:
    """One recommended setting, and the sentence on what happens in a failover without it.

    `why_not_zero` is for a 0 that is worse than too much. `since` is the first version that knows it,
    `column` where `SHOW DATABASES` shows what it is for one database, whose line may say otherwise.
    """

    name: str
    recommended: str
    why: str
    fits: Fits
    why_not_zero: str = ""
    since: Version = ()
    column: Literal["", "pool_mode", "pool_size", "min_pool_size"] = ""

    def wanted(self, wait: float) -> str:
        return f"more than {wait:g}" if self.fits is _outlasts else self.recommended

    def why_not(self, value: str) -> str:
        return self.why_not_zero if self.why_not_zero and _number(value) == 0 else self.why


# --- the list -------------------------------------------------------------------------------------


def _one_of(*values: str) -> Fits:
    return lambda text, _: text in values


def _up_to(limit: float) -> Fits:
    """Above 0, for a 0 leaves it to the system, or switches it off."""
    return lambda text, _: 0 < _number(text) <= limit


def _at_least(least: float) -> Fits:
    return lambda text, _: _number(text) >= least


def _outlasts(text: str, wait: float) -> bool:
    """0 is no limit at all."""
    return _number(text) == 0 or _number(text) > wait


SETTINGS = (
    Setting(
        "pool_mode",
        "transaction",
        "in session pools a PAUSE is complete only when every client with a server has left, so it holds "
        "new sessions alone, and each open one fails once when its server goes",
        _one_of("transaction", "statement"),
        column="pool_mode",
    ),
    Setting(
        "server_login_retry",
        "0.2",
        "after one failed login to the old primary PgBouncer tries none for so many seconds, wherever it "
        "is led meanwhile, and clients fail or wait for that long after everything is right again",
        _up_to(0.2),
        why_not_zero="at 0 a pool whose server refuses logins tries again without a pause, tens of "
        "thousands of times a second, while the new primary is coming up",
    ),
    Setting(
        "min_pool_size",
        "0",
        "a pool with a minimum goes on logging in to the old primary while its clients are held, and one "
        "such failure makes them wait for another server_login_retry after the release",
        _one_of("0"),
        column="min_pool_size",
    ),
    Setting(
        "default_pool_size",
        "20",
        "without a bound every client that was held asks for a server connection of its own at once, and "
        "a new primary that runs out of them refuses logins",
        _at_least(1),
        column="pool_size",
    ),
    Setting(
        "server_connect_timeout",
        "3",
        "a pool logs in to one server at a time, so one attempt at a primary that drops packets keeps all "
        "its clients waiting for so many seconds (0: for as long as the system tries)",
        _up_to(3),
    ),
    Setting(
        "tcp_keepalive",
        "1",
        "a client that waits for an answer of a primary that vanished without a word waits for ever",
        _one_of("1"),
    ),
    Setting(
        "tcp_keepidle",
        "5",
        "a primary that vanished is probed for the first time after so many seconds (0: the system's "
        "setting, most often 2 hours), and until then the clients that wait for its answers hang",
        _up_to(5),
    ),
    Setting(
        "tcp_keepintvl",
        "1",
        "probes of a primary that vanished are so many seconds apart (0: the system's setting, most often "
        "75), and clients hang until enough of them went unanswered",
        _up_to(1),
    ),
    Setting(
        "tcp_keepcnt",
        "3",
        "a primary that vanished is given up after so many unanswered probes (0: the system's setting, "
        "most often 9), and clients hang until then",
        _up_to(3),
    ),
    Setting(
        "tcp_user_timeout",
        "3000",
        "a query sent to a primary that vanished is sent again and again for so many milliseconds (0: the "
        "system's setting, about 15 minutes), and its client hangs until then",
        _up_to(3000),
    ),
    Setting(
        "query_wait_timeout",
        "120",
        "clients that wait for the new primary are thrown out after so many seconds, before it can be "
        "expected and before the hold ends",
        _outlasts,
    ),
    Setting(
        "client_login_timeout",
        "120",
        "clients that connect while there is no primary are thrown out after so many seconds, before it "
        "can be expected and before the hold ends",
        _outlasts,
    ),
    Setting(
        "server_fast_close",
        "0",
        "in session pools every open session is cut as soon as the route changes, though its server may "
        "serve it still",
        _one_of("0"),
    ),
    Setting(
        "max_prepared_statements",
        "200",
        "in transaction pools a prepared statement is known to no other server connection than its own, "
        "and after a switch every connection is another, so clients that use it again fail",
        _at_least(1),
        since=(1, 21),
    ),
)

WANTED_VERSION = "1.25.2"
SHORTCOMINGS: tuple[tuple[Version, str], ...] = (
    ((1, 21), "in transaction pools prepared statements fail on the connections to the new primary"),
    (
        (1, 24),
        "no command frees a client stuck on a primary that vanished but one that cuts its whole database",
    ),
    ((1, 25), "RELOAD is answered as if it had worked where the new route was not taken"),
    ((1, 25, 2), "a packet of anybody's can crash it, unless its distribution mended that (CVE-2026-6664)"),
)
"""What a PgBouncer older than that lacks in a failover."""


def recommended(version: Version) -> dict[str, str]:
    """The lines of `[pgbouncer]` that are recommended for a PgBouncer of this version.

    >>> recommended((1, 18, 0))["server_login_retry"], "max_prepared_statements" in recommended((1, 18, 0))
    ('0.2', False)
    """
    return {setting.name: setting.recommended for setting in SETTINGS if setting.since <= version}


# --- the comparison -------------------------------------------------------------------------------


def advise(
    version: str,
    config: Mapping[str, str],
    databases: Sequence[ConsoleDatabase],
    ttl: float = TTL,
    hold_limit: float = HOLD_LIMIT,
) -> tuple[Advice, ...]:
    """Everything that is better otherwise, in the order of `SETTINGS`, the version last. Never raises.

    `version` and `config` are PgBouncer's own words (`SHOW VERSION`, `SHOW CONFIG`), `databases` those of
    the block; `ttl` is Patroni's and `hold_limit` ours, both in seconds. A setting that this PgBouncer
    does not show is not one that could be changed; a value that cannot be read counts as different.
    """
    wait = longest_wait(ttl, hold_limit)
    of_settings = (one for setting in SETTINGS for one in _of(setting, config, databases, wait))
    return (*of_settings, *_of_version(version))


def longest_wait(ttl: float, hold_limit: float) -> float:
    """How many seconds clients may have to wait for a new primary, by all that is settled.

    >>> longest_wait(30, 60), longest_wait(60, 10)
    (60, 70.0)
    """
    return max(ttl + PROMOTION, hold_limit)


def _of(
    setting: Setting, config: Mapping[str, str], databases: Sequence[ConsoleDatabase], wait: float
) -> Iterator[Advice]:
    """For the setting itself where it counts for any database, and for each that has a value of its own."""
    general = config.get(setting.name)
    if general is None:
        return
    values = {database.name: _own(database, setting) or general for database in databases}
    if general in (values.values() or [general]) and not setting.fits(general, wait):
        yield _advice(setting, setting.name, general, wait)
    for database, value in values.items():
        if value != general and not setting.fits(value, wait):
            yield _advice(setting, setting.column, value, wait, database)


def _advice(setting: Setting, name: str, value: str, wait: float, database: str | None = None) -> Advice:
    return Advice(name, value, setting.wanted(wait), setting.why_not(value), database)


def _own(database: ConsoleDatabase, setting: Setting) -> str | None:
    """What `SHOW DATABASES` says of this database; None where it has no word on that setting."""
    value = getattr(database, setting.column) if setting.column else None
    return None if value is None else str(value)


def _of_version(text: str) -> Iterator[Advice]:
    version = parse_version(text)
    lacks = [what for since, what in SHORTCOMINGS if version is not None and version < since]
    if version is not None and lacks:
        yield Advice("version", ".".join(map(str, version)), f"{WANTED_VERSION} or newer", "; ".join(lacks))


def parse_version(text: str) -> Version | None:
    """
    >>> parse_version("PgBouncer 1.18.0"), parse_version("PgBouncer 1.25"), parse_version("of my own")
    ((1, 18, 0), (1, 25, 0), None)
    """
    match = re.search(r"(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?", text, re.ASCII)
    return tuple(int(part or 0) for part in match.groups()) if match else None


def of_block(actual: Actual) -> tuple[ConsoleDatabase, ...]:
    """The databases that PgBouncer shows for the block, those made from its `*` with them."""
    names = {database.name for database in actual.databases}
    return tuple(row for row in actual.shown or () if row.name in names or _from_star(row, names, actual))


def _from_star(row: ConsoleDatabase, names: Iterable[str], actual: Actual) -> bool:
    return "*" in names and row.name not in actual.defined and row.name != "pgbouncer"


def _number(text: str) -> float:
    """Not a number where it is none, which is less, more and equal to nothing."""
    try:
        return float(text)
    except ValueError:
        return math.nan
