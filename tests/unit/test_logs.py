"""The log never keeps anybody waiting."""

import io
import os
import time

from loguru import logger

from watcher.expose import logs


def test_a_reader_that_hangs_costs_lines_and_no_time() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        logs.set_up("INFO", "json", stream)
        began = time.monotonic()
        for number in range(20_000):
            logger.bind(event="test").info("line {} {}", number, "x" * 200)
        logs.flush(0.1)
        taken = time.monotonic() - began
        os.close(reader)
        logs.set_up("INFO", "json", io.StringIO())
    assert taken < 30  # it would be for ever


def test_every_line_is_written_where_there_is_a_reader() -> None:
    stream = io.StringIO()
    logs.set_up("INFO", "json", stream)
    for number in range(100):
        logger.bind(event="test").info("line {}", number)
    logs.flush(5)
    assert stream.getvalue().count("\n") == 100


def test_an_event_is_one_line_of_text_whatever_caused_it() -> None:
    stream = io.StringIO()
    logs.set_up("INFO", "text", stream)
    cause = OSError("no way\nthere")
    cause.__cause__ = EOFError()
    logger.opt(exception=cause).bind(event="test").error("it broke")
    logs.flush(5)
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("it broke <- OSError: no way there <- EOFError")


class Short(io.StringIO):
    """Has no memory for the first line."""

    def write(self, text: str) -> int:
        if "first" in text:
            raise MemoryError
        return super().write(text)


def test_a_line_that_there_is_no_memory_for_is_the_only_one_that_is_lost() -> None:
    stream = Short()
    logs.set_up("INFO", "text", stream)
    for words in ("the first", "the second"):
        logger.bind(event="test").info(words)
    logs.flush(5)
    assert stream.getvalue().endswith("the second\n")
