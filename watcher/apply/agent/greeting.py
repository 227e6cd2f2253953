"""Does a PostgreSQL take a login? Found out without credentials, by how it answers a start-up packet."""

import socket
import struct
import time

from watcher.apply.agent.console import error_fields

TAKES, REFUSES, AWAY, FULL, SILENT = "takes", "refuses", "away", "full", "silent"
"""It takes logins; it is not there, starts or stops; its host cannot be reached; it has no room; it lets us
connect and does not answer."""

_PROTOCOL_3 = 196608
_NOT_NOW = (
    "57P01",
    "57P02",
    "57P03",
)  # shutting down, crashed, cannot connect now (PostgreSQL, «Error Codes»)
_TOO_MANY = "53300"


class Answer:
    """What came of a greeting, and the words for it."""

    def __init__(self, verdict: str, problem: str = "") -> None:
        self.verdict = verdict
        self.problem = problem


def greet_postgres(host: str, port: int, user: str, limit: float) -> Answer:
    """Begin a login as `user`, and break it off. Takes at most about `limit` seconds.

    A server that asks for a password, or that refuses this user, has a process for us and has read
    pg_hba.conf: it takes logins. Nothing is logged where it asks for a password.
    """
    until = time.monotonic() + limit
    try:
        link = socket.create_connection((host, port), limit)
    except socket.timeout:
        return Answer(AWAY, "no connection within %g s" % limit)
    except ConnectionRefusedError:
        return Answer(REFUSES, "connection refused")
    except OSError as error:
        return Answer(AWAY, error.strerror or str(error))
    try:
        return _begin_login(link, user, until)
    except socket.timeout:
        return Answer(SILENT, "no answer within %g s" % limit)
    except OSError as error:
        return Answer(REFUSES, error.strerror or str(error))
    finally:
        link.close()


def _begin_login(link: socket.socket, user: str, until: float) -> Answer:
    words = b"user\0" + user.encode("utf-8") + b"\0database\0postgres\0\0"
    link.sendall(struct.pack("!II", len(words) + 8, _PROTOCOL_3) + words)
    said = _message_from(link, until)
    if not said:
        return Answer(REFUSES, "it hung up without a word")
    if said[:1] != b"E":
        return Answer(TAKES)
    fields = error_fields(said[5:])
    code, text = fields.get("C", ""), fields.get("M", "")
    if code in _NOT_NOW:
        return Answer(REFUSES, text)
    return Answer(FULL, text) if code == _TOO_MANY else Answer(TAKES)


def _message_from(link: socket.socket, until: float) -> bytes:
    said = b""
    while len(said) < 5 or len(said) < 1 + struct.unpack("!I", said[1:5])[0]:
        link.settimeout(max(0.001, until - time.monotonic()))
        chunk = link.recv(4096)
        if not chunk:
            return b""
        said += chunk
    return said
