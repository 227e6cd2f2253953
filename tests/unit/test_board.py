"""The shared view: who hears of what."""

from dataclasses import replace

from watcher.board import Board
from watcher.decide.model import (
    Change,
    Contact,
    Deletion,
    Entry,
    HealthRound,
    Leader,
    Listing,
    NodeReport,
    Role,
    Sighting,
    View,
)
from watcher.decide.patroni import read_entry
from watcher.mailbox import Mailbox

LEADER = Entry("leader", Leader("node1"), 5, 5)
MEMBER = b'{"conn_url": "postgres://10.0.0.1/p", "role": "%s", "state": "running", "xlog_location": %d}'


def member(location: int, mod_revision: int, role: bytes = b"primary") -> Entry:
    entry = read_entry("members/node1", MEMBER % (role, location), 3, mod_revision, "here")
    assert entry is not None
    return entry


def heard(board: Board) -> list[bool]:
    """What every listener hears from now on: whether each view says anything new."""
    news: list[bool] = []
    board.listen(lambda _, is_news: news.append(is_news))
    return news


def board() -> Board:
    made = Board(0.0)
    made.post(Listing(1, 10, (LEADER, member(7, 9)), asked_at=1.0, at=1.1))
    return made


def test_a_listener_hears_at_once_of_what_is_known() -> None:
    assert heard(board()) == [True]


def test_a_sign_of_life_is_no_news() -> None:
    known = board()
    news = heard(known)
    known.post(Contact(2.0))
    known.post(Listing(1, 12, (LEADER, member(7, 9)), asked_at=2.0, at=2.1))
    assert news == [True, False, False]
    assert known.view.contact_at == 2.1


def test_a_member_key_that_says_the_same_of_what_matters_is_no_news() -> None:
    known = board()
    news = heard(known)
    known.post(Change(1, (member(8, 11),), 3.0))
    assert news == [True, False]
    assert known.view.revision == 11


def test_all_that_may_change_a_decision_is_news() -> None:
    changes: list[Sighting] = [
        Change(1, (Deletion("leader", 11),), 3.0),
        Change(1, (Entry("leader", Leader("node1"), 12, 12),), 4.0),
        Change(1, (member(9, 13, b"replica"),), 5.0),
        Listing(2, 3, (LEADER,), asked_at=6.0, at=6.1),
    ]
    known = board()
    news = heard(known)
    for change in changes:
        known.post(change)
    assert news == [True] * 5


def test_a_request_to_stop_is_news_and_what_watchers_tell_the_barrier_is_none() -> None:
    stop = read_entry("pgbouncer-watcher/stop/node1", b'{"id": "a1", "member": "node1"}', 12, 12, "here")
    assert stop is not None
    known = board()
    news = heard(known)
    known.post(Change(1, (Deletion("pgbouncer-watcher/targets/pgb1/w1", 11),), 3.0))
    known.post(Change(1, (stop,), 4.0))
    known.post(Change(1, (Deletion("pgbouncer-watcher/stop/node1", 13),), 5.0))
    assert news == [True, False, True, True]


def test_what_the_nodes_say_again_is_news_only_once_etcd_is_silent() -> None:
    """Heard at 1.1 s, silent 10 s later; a round counts by when it ended, for then it was told."""
    said = NodeReport("node1", "http://10.0.0.1:8008", Role.PRIMARY, "running")
    known = Board(0.0, silence_limit=10.0)
    known.post(Listing(1, 10, (LEADER,), asked_at=1.0, at=1.1))
    news = heard(known)
    known.post(HealthRound((said,), {}, at=3.0, took=0.5))
    known.post(HealthRound((said,), {"http://10.0.0.2:8008": "timed out"}, at=5.0, took=0.5))
    known.post(HealthRound((replace(said, role=Role.REPLICA),), {}, at=7.0))
    known.post(HealthRound((replace(said, role=Role.REPLICA),), {}, at=10.0, took=1.0))
    assert news == [True, True, False, True, False]
    for at in (10.5, 11.5, 12.5):
        known.post(HealthRound((replace(said, role=Role.REPLICA),), {}, at=at, took=0.6))
    assert news[5:] == [True] * 3
    known.post(Contact(13.0))
    assert news[8:] == [True], "so that whoever went by the nodes looks again"


def test_a_view_without_news_reaches_a_reader_that_looks_and_wakes_none() -> None:
    known = board()
    mailbox: Mailbox[View] = Mailbox(known.view)
    known.listen(mailbox.put)
    mailbox.take(0)
    known.post(Contact(9.0))
    assert mailbox.take(0.01).contact_at == 9.0
