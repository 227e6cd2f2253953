"""Whatever stands in etcd: nothing of it breaks out, the log says what and where, and good values go on."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.test_stage import Keys, settings_by_keys, shown_route, stays, traces, wait_until_led
from tests.support.bed import Bed
from tests.support.waiting import wait_for
from tests.support.watcher import WatcherProcess


class Ground:
    """Keys, a watcher that has followed a good leader, and both PgBouncers."""

    def __init__(self, bed: Bed, keys: Keys, watcher: WatcherProcess) -> None:
        self.bed, self.keys, self.watcher = bed, keys, watcher

    def crown_good(self, name: str) -> None:
        """A good leader, and the proof that it is followed."""
        wait_until_led(self.bed.bouncers, self.keys.crown(name), self.watcher)

    def messages(self) -> list[str]:
        """All that the watcher has said, oldest first."""
        return [str(line["message"]) for line in self.watcher.lines()]


@pytest.fixture(scope="module")
def shared_ground(session_bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    session_bed.heal()
    keys = Keys(session_bed.etcd)
    with WatcherProcess(tmp_path_factory.mktemp("ground"), settings_by_keys(session_bed, keys)) as watcher:
        ground = Ground(session_bed, keys, watcher)
        ground.crown_good("good")
        yield ground


@pytest.fixture
def ground(shared_ground: Ground) -> Ground:
    """Without a healed bed: nothing here does it any harm."""
    keys = shared_ground.keys
    keys.etcd.delete(keys.prefix, prefix=True)
    return shared_ground


def _assert_refused(ground: Ground, bad: Callable[[], Any], *words: str) -> None:
    """The log names place and remedy, nothing is touched, and the next good leader is followed."""
    before, said = traces(ground.bed), len(ground.messages())

    def is_said() -> bool:
        return any(all(word in text for word in words) for text in ground.messages()[said:])

    bad()
    wait_for(is_said, 5, f"the log says {words}", logs=[ground.watcher.log])
    stays(lambda: traces(ground.bed) == before, 0.3, "nobody acts")
    assert ground.watcher.process.is_alive()
    ground.crown_good("next")


MEMBERS = {
    "no JSON": ("{", "is not JSON"),
    "a list": ("[1]", "is a JSON list, not an object"),
    "a number": ("5", "is a JSON int, not an object"),
    "empty": ("", "is not JSON"),
    "enormous": ('{"conn_url": "' + "x" * 1_000_000 + '"}', "too long"),
    "deep": ("[" * 100_000, "is not JSON"),
    "conn_url of another type": ('{"conn_url": 7}', "conn_url is not a text"),
    "no conn_url": ("{}", "has no conn_url"),
    "several hosts": ('{"conn_url": "postgres://10.0.0.1:1,10.0.0.2:2/postgres"}', "names several hosts"),
    "a blank in the host": ('{"conn_url": "postgres://10.0.0.1 user=x:5432/p"}', "neither a host name"),
    "a quote in the host": ('{"conn_url": "postgres://10.0.0.1\' password=\'x/p"}', "neither a host name"),
    "a line feed in the host": (
        '{"conn_url": "postgres://10.0.0.1\\nx = host=6.6.6.6/p"}',
        "holds a control character",
    ),
    "a port out of range": ('{"conn_url": "postgres://10.0.0.1:99999/p"}', "not between 1 and 65535"),
    "another scheme": ('{"conn_url": "http://10.0.0.1:5432/p"}', "is not a postgres:// URL"),
}


@pytest.mark.parametrize("case", MEMBERS)
def test_a_bad_member_key_of_the_leader_is_said_and_not_followed(ground: Ground, case: str) -> None:
    value, problem = MEMBERS[case]

    def bad() -> None:
        ground.keys.put("members/bad", value)
        ground.keys.lead("bad")

    _assert_refused(ground, bad, "bad", problem)


def test_a_leader_without_a_member_key_is_said_and_not_followed(ground: Ground) -> None:
    _assert_refused(ground, lambda: ground.keys.lead("nobody"), "'nobody' has no member key")


@pytest.mark.parametrize(
    "value", ["", "two\nlines", "x" * 1000, "\x07"], ids=["empty", "lines", "long", "bell"]
)
def test_a_leader_key_that_is_no_name_is_said_and_not_followed(ground: Ground, value: str) -> None:
    _assert_refused(
        ground, lambda: ground.keys.lead(value), f"{ground.keys.prefix}leader", "not a member's name"
    )


@pytest.mark.parametrize(
    ("url", "route"),
    [
        ("postgres://[fd00::7]:6543/postgres", "fd00::7:6543"),
        ("postgres://db-7.example.org:6543/postgres", "db-7.example.org:6543"),
        ("postgres://10.7.7.7/postgres", "10.7.7.7:5432"),
        ("postgresql://user:secret@10.7.7.8:6000/postgres?sslmode=require", "10.7.7.8:6000"),
    ],
)
def test_every_form_of_an_address_is_followed(ground: Ground, url: str, route: str) -> None:
    ground.keys.join("other", url)
    ground.keys.lead("other")
    wait_until_led(ground.bed.bouncers, route, ground.watcher)
    assert shown_route(ground.bed.bouncers[0]) == route
