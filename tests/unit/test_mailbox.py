"""The slot between the view and a worker: the latest value wins."""

import threading
import time

from watcher.mailbox import Mailbox


def test_the_value_that_it_begins_with_is_there_but_not_news() -> None:
    mailbox = Mailbox(1)
    assert mailbox.peek() == 1
    begun = time.monotonic()
    assert mailbox.take(0.05) == 1
    assert time.monotonic() - begun >= 0.05


def test_a_value_that_was_put_is_taken_at_once_and_once() -> None:
    mailbox = Mailbox(1)
    mailbox.put(2)
    assert mailbox.take(None) == 2
    begun = time.monotonic()
    assert mailbox.take(0.05) == 2
    assert time.monotonic() - begun >= 0.05


def test_of_several_values_only_the_newest_is_seen() -> None:
    mailbox = Mailbox(0)
    for value in range(1, 100):
        mailbox.put(value)
    assert mailbox.take(None) == 99


def test_peeking_leaves_the_news() -> None:
    mailbox = Mailbox(0)
    mailbox.put(1)
    assert mailbox.peek() == 1
    assert mailbox.take(None) == 1


def test_a_nudge_wakes_with_the_value_that_is_there() -> None:
    mailbox = Mailbox("same")
    mailbox.nudge()
    assert mailbox.take(None) == "same"


def test_a_reader_that_waits_is_woken_by_a_put() -> None:
    mailbox = Mailbox(0)
    taken: list[int] = []
    reader = threading.Thread(target=lambda: taken.append(mailbox.take(10)))
    reader.start()
    mailbox.put(7)
    reader.join(2)
    assert taken == [7]


def test_the_last_of_many_concurrent_puts_is_never_lost() -> None:
    mailbox = Mailbox((0, 0))
    seen: list[tuple[int, int]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set() or not seen or seen[-1] != mailbox.peek():
            seen.append(mailbox.take(0.01))

    def write(number: int) -> None:
        for n in range(500):
            mailbox.put((number, n))

    reader = threading.Thread(target=read)
    reader.start()
    writers = [threading.Thread(target=write, args=(w,)) for w in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    done.set()
    reader.join(5)
    assert not reader.is_alive()
    assert seen[-1] == mailbox.peek()
    for w in range(4):
        numbers = [n for writer_, n in seen if writer_ == w]
        assert numbers == sorted(numbers)
