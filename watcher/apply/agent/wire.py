"""How an agent speaks: one JSON object a line on its standard streams."""

import json
import os
import select
import time
from typing import Any, Dict

PROTOCOL = 2
LONGEST = 64 * 1024 * 1024
"""Bytes of a line that asks for something; the longest has a whole file in it."""
READ_WITHIN = 1.0
"""Seconds that a line may take to be read."""
ENDLESS = {"error": "request", "problem": "a line that does not end"}


class Refused(Exception):
    """A request that was not carried out: a code for the caller, and a sentence for people."""

    def __init__(self, code: str, problem: str) -> None:
        super().__init__(code, problem)
        self.code = code
        self.problem = problem


def say(reply: Dict[str, Any]) -> None:
    """One line, at once. After `never_wait`, OSError where it is not read within `READ_WITHIN`."""
    line = (json.dumps(reply) + "\n").encode("ascii")
    until = time.monotonic() + READ_WITHIN
    while line:
        try:
            line = line[os.write(1, line) :]
        except BlockingIOError:
            left = until - time.monotonic()
            if left <= 0 or not select.select([], [1], [], left)[1]:
                raise OSError("nobody reads what is said") from None


def never_wait() -> None:
    """From now on who does not read holds nobody up: whoever has to end holds must not hang in a word."""
    os.set_blocking(1, False)
