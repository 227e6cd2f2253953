"""How an agent speaks: one JSON object a line on its standard streams."""

import json
import sys
from typing import Any, Dict

PROTOCOL = 2
LONGEST = 64 * 1024 * 1024
"""Bytes of a line that asks for something; the longest has a whole file in it."""
ENDLESS = {"error": "request", "problem": "a line that does not end"}


class Refused(Exception):
    """A request that was not carried out: a code for the caller, and a sentence for people."""

    def __init__(self, code: str, problem: str) -> None:
        super().__init__(code, problem)
        self.code = code
        self.problem = problem


def say(reply: Dict[str, Any]) -> None:
    """One line, at once."""
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()
