"""Notices within a millisecond that the primary refuses connections, and within seconds that its host has
vanished, at next to no cost.

A connection is kept open to the primary's port, and nothing said on it: PostgreSQL keeps one process for it
and drops it after `authentication_timeout` (60 s by default); we make a new one before that. When the
server dies or begins to shut down, the connection ends, and a greeting tells whether it really refuses. A
host that vanishes ends it too, since the two kernels ask each other whether the other is there. What merely
does not answer (a lost packet, a hung server on a host that is there) is no alarm.
"""

import contextlib
import os
import select
import socket
import threading
import time
from typing import Optional

from watcher.apply.agent.greeting import AWAY, REFUSES, TAKES, Answer, greet_postgres

WIRE_SECONDS = 45.0
"""Less than PostgreSQL's `authentication_timeout`, which would end it."""

_KEEPALIVE = ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 1))
"""A probe a second that is not answered within one ends the wire. With the greeting a vanished host is known
in less than three: until then PgBouncer keeps its own connections there, and turns nobody away
(`tcp_user_timeout`, `server_connect_timeout`)."""

_OVERLAP = 1.0
"""For so long a wire outlives the making of the next."""

_CONNECT_LIMIT = 2.0
_GREETING_LIMIT = 0.75
_SHORTEST = 1.0  # a wire that ends sooner than that, while the server takes logins, is not renewed at once
ASK_AGAIN = 0.05  # while it refuses, and clients wait for it


class Guard:
    """Watches one server in a thread of its own; `alarm` writes a byte each time that `refuses` changes.

    One that refuses is asked again every `ask_again` seconds.
    """

    def __init__(self, host: str, port: int, user: str, alarm: int, ask_again: float = ASK_AGAIN) -> None:
        self.host = host
        self.port = port
        self.refuses = False
        self.problem = ""
        self._user = user
        self._alarm = alarm
        self._ask_again = ask_again
        wake, waker = os.pipe()  # each end is closed by the thread that uses it
        self._wake, self._waker = os.fdopen(wake, "rb", 0), os.fdopen(waker, "wb", 0)
        self._over = False
        self._thread = threading.Thread(target=self._watch)
        self._thread.daemon = True
        self._thread.start()

    def stop(self) -> None:
        """It says nothing any more; its thread ends soon."""
        self._over = True
        self._waker.close()  # which wakes the thread

    def _watch(self) -> None:
        with self._wake:
            while not self._over:
                began = time.monotonic()
                if self._ended_unasked() and not self._over:
                    self._find_out()
                if not self.refuses:
                    self._rest(_SHORTEST - (time.monotonic() - began))

    def _ended_unasked(self) -> bool:
        """Keep a wire, renewed in time; True once the server ended it, stops, or lets none be made.

        A PostgreSQL that stops waits for whoever it let connect after it had begun to, until a start-up
        packet or `authentication_timeout` has come (postmaster.c, PM_WAIT_DEAD_END). So we see to it that
        each wire was made before: by a greeting after the first, and by its elder, which would have ended.
        """
        wire = self._connect()
        try:
            if wire is None or self._greet().verdict in (REFUSES, AWAY):
                return True
            while not self._ends(wire, WIRE_SECONDS):
                if self._over:
                    return False
                elder, wire = wire, self._connect()
                with elder:
                    if wire is None or self._ends(elder, _OVERLAP):
                        return True
            return True
        finally:
            if wire is not None:
                wire.close()

    def _ends(self, wire: socket.socket, seconds: float) -> bool:
        """Within that time; looks no longer once we are over."""
        ready = select.select([wire.fileno(), self._wake.fileno()], [], [], seconds)[0]
        return wire.fileno() in ready

    def _greet(self) -> Answer:
        return greet_postgres(self.host, self.port, self._user, _GREETING_LIMIT)

    def _connect(self) -> Optional[socket.socket]:
        with contextlib.suppress(OSError):
            wire = socket.create_connection((self.host, self.port), _CONNECT_LIMIT)
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                wire.setsockopt(socket.IPPROTO_TCP, option, value)
            return wire
        return None

    def _find_out(self) -> None:
        """Say so if it refuses or is away, and once it takes logins again. One that hangs says neither."""
        while not self._over:
            answer = self._greet()
            if answer.verdict in (REFUSES, AWAY) and not self.refuses:
                self._say(True, answer)
            elif answer.verdict == TAKES and self.refuses:
                self._say(False, answer)
            if not self.refuses:
                return
            self._rest(self._ask_again)

    def _say(self, refuses: bool, answer: Answer) -> None:
        self.refuses, self.problem = refuses, answer.problem
        if not self._over:
            os.write(self._alarm, b"x")

    def _rest(self, seconds: float) -> None:
        if seconds > 0:
            select.select([self._wake], [], [], seconds)
