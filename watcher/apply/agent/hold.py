"""Lets PgBouncer's clients wait, on a lease: `PAUSE` now, `RESUME` when told to, or at the latest when the
limit is over or our standard input ends, whatever became of the watcher.

Two consoles: one that pauses (an answer to PAUSE comes only when every transaction is done, perhaps never),
one for all else. The watcher logs in through us (`dial`, `pass`), then asks (`begin`, `look`, `hold`,
`release`, `guard`; `move` and `readers` for databases that are for reads). Lines with `event` come unasked:
`alarm`, `reader`, `complete`, `ended`, `cut`, `left`, `differs`.
"""

import argparse
import base64
import contextlib
import json
import os
import re
import select
import signal
import socket
import sys
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from watcher.apply.agent.bounds import Bounds, Gate
from watcher.apply.agent.console import MOST_AT_ONCE, Console, Reply, dial
from watcher.apply.agent.file import digest, read
from watcher.apply.agent.greeting import TAKES, greet_postgres
from watcher.apply.agent.guard import Guard
from watcher.apply.agent.record import OVERDUE, Records, identity
from watcher.apply.agent.wire import ENDLESS, PROTOCOL, Refused, never_wait, say

QUIET_LIMIT = 0.03
"""Seconds in which a server's login that is under way may end before its pool is paused: a login that PAUSE
breaks off marks the pool as failed, and a failed pool turns clients away (PgBouncer objects.c,
disconnect_server)."""

MOVE_QUIET_LIMIT = 0.5
"""The same where only reads are led elsewhere: no server is about to go, so it need not be quick."""

PAUSED_LIMIT = 0.5
LOGIN_RETRY = "0.01"
"""`server_login_retry` around RESUME, so that a pool marked as failed tries at once. Never 0, which spins."""

LOGIN_LIMIT = 2.0
GREETING_LIMIT = 2.0
"""Seconds for the new primary's word that it takes logins: a whole fleet asks it at once."""

VOUCHED_LIMIT = 0.5
"""Seconds on its way within which a request may say that another agent has just greeted the new primary."""

LOGINS_AFTER = 1.0
"""Seconds after a release until it is looked at whether each pool has its server: not while clients of other
PgBouncers on this host still wait for theirs."""

NOT_FILLED = {"min_pool_size": "0"}
"""Or a paused pool goes on logging in, and each login is broken off."""

NO_NEW_LOGINS = dict(NOT_FILLED, max_db_connections="1")

OURS = (
    "default_pool_size",
    "max_db_connections",
    "min_pool_size",
    "query_timeout",
    "server_fast_close",
    "server_login_retry",
)
"""Settings that a hold changes for a while."""

FAST_CLOSE_SECONDS = 1.0  # PgBouncer looks at its servers every third of a second
LONGEST_HOLD = 600.0
"""No hold is longer, whatever is asked for."""

LONGEST_WISH = 4 * 1024 * 1024
"""Bytes of a line; a hold names databases."""

WATCH_AT_MOST_EVERY, WATCH_AT_LEAST_EVERY = 0.1, 3600.0
"""Seconds between two looks of our own at what is there, however often is asked for."""

COMPARE_EVERY = 2.0
"""Seconds between two looks whether an operator has resumed what we hold."""

MOST_READERS = 64
READER_AGAIN = 1.0  # seconds between two questions to a server for reads that refuses: nobody waits for it

LONGEST_AFTERMATH = 60.0
"""Seconds in which every setting is put back after a release, by far."""

LONGEST_MOMENT = 1.0
"""Seconds for which clients wait for a word of the watcher's where a server for reads refuses."""

LONGEST_DRAIN = 50.0
"""Seconds for which a pool may be larger than it is, since old connections take room in it."""

Rows = List[Dict[str, Optional[str]]]


def keep(options: argparse.Namespace) -> None:
    """Answers requests and keeps holds until standard input ends; then nothing is held by us any more."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(0))
    holder = Holder(options.file, options.console, options.limit, options.bounds)
    never_wait()
    say({"agent": PROTOCOL})
    try:
        holder.serve()
    except (OSError, Refused) as error:
        sys.stderr.write("%s\n" % error)
    finally:
        holder.let_go("the watcher has gone")


def _limit_of(asked: Dict[str, Any]) -> float:
    """Seconds. JSON's NaN is refused: a hold until then would never end."""
    limit = float(asked["limit"])
    if limit != limit:
        raise Refused("request", "the limit is no number")
    return limit


def _named(row: Dict[str, Optional[str]], column: str) -> str:
    return row.get(column) or ""


def _count(row: Dict[str, Optional[str]], *columns: str) -> int:
    return sum(int(row.get(column) or 0) for column in columns)


def _paused_in(rows: Rows) -> Set[str]:
    return {_named(row, "name") for row in rows if _count(row, "paused")}


def _running_in(rows: Rows) -> Set[str]:
    """Those that are not paused, for sure. What is not shown may be: one made from `*` that has neither a
    client nor a server is not shown until its next client comes, and keeps its pause for that one (PgBouncer
    janitor.c, cleanup_inactive_autodatabases).
    """
    return {_named(row, "name") for row in rows if not _count(row, "paused")}


def _sums(pools: Rows, databases: List[str], *columns: str) -> int:
    return sum(_count(row, *columns) for row in pools if _named(row, "database") in databases)


def _see_that_none_is_refused(statements: Sequence[str], replies: Sequence[Reply]) -> None:
    for statement, reply in zip(statements, replies):
        if reply.error:
            raise Refused("console", "%s: %s" % (statement, reply.error))


def _settings_in(shown: Reply) -> Dict[str, str]:
    return shown.pairs("key", "value", OURS)


def _words_to_set(settings: Dict[str, str]) -> List[str]:
    return ["SET %s='%s'" % (name, value.replace("'", "''")) for name, value in settings.items()]


def _quoted(name: str) -> str:
    return '"%s"' % name.replace('"', '""')


class Holder:
    """The holds on one PgBouncer. All in one thread, but for the guard's."""

    def __init__(self, file: str, address: str, limit: float, bounds: Bounds) -> None:
        self._file = file
        self._address = address
        self._limit = limit
        self._bounds = bounds
        self._gates: Dict[str, Optional[Gate]] = {}
        self._consoles: Dict[str, socket.socket] = {}
        self._control: Optional[Console] = None
        self._pauser: Optional[Console] = None
        self._records: Optional[Records] = None
        self._version = (0, 0)
        self._asked: Dict[str, Any] = {"databases": []}  # whom to hold, as the watcher said it
        self._held: List[str] = []  # what we paused of that, and nobody has resumed since
        self._resumed: Set[str] = set()  # what somebody else resumed: it is not paused again in this hold
        self._moving: List[str] = []  # what is paused for the moment in which it is led elsewhere
        self._is_held = False
        self._is_complete = False
        self._began = 0.0
        self._until = float("inf")
        self._look_at = float("inf")
        self._compare_at = float("inf")
        self._overdue_at = float("inf")  # when another agent's hold is left behind, unless it ends it
        self._watch_at = float("inf")  # when we look whether what is there is what the watcher knows
        self._watched = ("", [], 0.0)  # type: Tuple[str, List[str], float]
        self._is_broken = False
        self._changed: Dict[str, str] = {}  # settings as they were before we changed them
        self._set_to: Dict[str, str] = {}  # and what we changed them to
        self._config_now: Dict[str, str] = {}
        self._later: List[Tuple[float, Callable[[], None]]] = []
        self._guard: Optional[Guard] = None
        self._on_refusal: Optional[Dict[str, Any]] = None
        self._bell, self._ring = os.pipe()
        self._for_reads: List[str] = []  # databases that lead to servers for reads
        self._readers: Dict[Tuple[str, int], Guard] = {}
        self._told: Dict[Tuple[str, int], bool] = {}  # whether we have said of it that it refuses
        self._readers_bell, self._readers_ring = os.pipe()

    # --- the loop -------------------------------------------------------------------------------------

    def serve(self) -> None:
        pending: Optional[bytes] = b""
        while pending is not None:
            sources = [0, self._bell, self._readers_bell]
            sources += [self._pauser.fileno()] if self._pauser else []
            ready = select.select(sources, [], [], self._next_due())[0]
            if self._bell in ready:
                os.read(self._bell, 4096)
                self._heed_guard()
            if self._readers_bell in ready:
                os.read(self._readers_bell, 4096)
                self._heed_readers()
            if 0 in ready:
                pending = self._hear(pending, os.read(0, 65536))
            elif self._pauser is not None and self._pauser.fileno() in ready:
                self._pauser.arrived()  # when all transactions are done; OSError if PgBouncer has gone
                self._look_at = 0.0
            self._do_what_is_due()
            if self._is_broken:
                raise OSError("a console broke")

    def _hear(self, pending: bytes, chunk: bytes) -> Optional[bytes]:
        """Answers what is whole; what is not, to be gone on with, or None at the end."""
        *lines, rest = (pending + chunk).split(b"\n")
        for line in lines:
            self._watch_at = float("inf")  # what the watcher does himself is no news to him
            say(self._answer(line))
        if len(rest) > LONGEST_WISH:
            say(ENDLESS)
            return None
        return rest if chunk else None

    def _next_due(self) -> Optional[float]:
        moments = [self._until, self._look_at, self._compare_at, self._overdue_at, self._watch_at]
        due = min(moments + [at for at, _ in self._later])
        return None if due == float("inf") else max(0.0, due - time.monotonic())

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        if self._is_held and now >= self._until:
            self._end_at_limit()
        if now >= self._compare_at:
            self._see_who_was_resumed()
        if now >= self._overdue_at:
            self._end_overdue()
        if now >= self._look_at:
            self._see_whether_complete()
        if now >= self._watch_at:
            self._see_whether_it_differs()
        due, self._later = (
            [one for one in self._later if one[0] <= now],
            [one for one in self._later if one[0] > now],
        )
        for _, action in due:
            action()

    def _answer(self, line: bytes) -> Dict[str, Any]:
        try:
            request = json.loads(line.decode("ascii"))
            return self._carry_out(request["verb"], request)
        except Refused as error:
            return {"error": error.code, "problem": error.problem}
        except OSError as error:
            self._is_broken = self._control is not None  # a console that owes an answer answers wrongly
            return {"error": "console", "problem": error.strerror or str(error)}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            return {"error": "request", "problem": repr(error)}

    def _carry_out(self, verb: str, request: Dict[str, Any]) -> Dict[str, Any]:
        if verb == "dial":
            self._consoles[request["console"]] = dial(self._address)
            self._gates[request["console"]] = self._bounds.gate(login_only=True)
            return {}
        if verb == "pass":
            return self._pass(request["console"], base64.b64decode(request["bytes"]))
        if verb == "begin":
            return self._begin()
        if self._control is None:
            raise Refused("request", "no console is logged in")
        if verb == "hold":
            return self._hold(request, _limit_of(request), bool(request.get("at_once")))
        ways = {
            "look": self._tell_what_is_there,
            "release": self._release,
            "move": self._move,
            "guard": self._watch,
            "readers": self._watch_readers,
        }
        if verb not in ways:
            raise Refused("request", "unknown verb %r" % verb)
        return ways[verb](request)

    # --- logging in -----------------------------------------------------------------------------------

    def _pass(self, console: str, sent: bytes) -> Dict[str, Any]:
        """The watcher's bytes to PgBouncer, and what it answers."""
        pooler, gate = self._consoles[console], self._gates[console]
        sent = gate.admit(sent) if gate else sent
        pooler.settimeout(self._limit)
        pooler.sendall(sent)
        said = pooler.recv(65536)
        if not said:
            raise OSError("PgBouncer hung up during the login")
        return {"bytes": base64.b64encode(said).decode("ascii")}

    def _begin(self) -> Dict[str, Any]:
        """Both consoles are logged in. Ends what an agent before us left behind."""
        self._control, self._pauser = Console(self._consoles["control"]), Console(self._consoles["pause"])
        self._records = Records(self._file, identity(self._consoles["control"]))
        (version,) = self._control.ask(self._limit, "SHOW VERSION")
        found = re.search(r"(\d+)\.(\d+)", " ".join(_named(row, "version") for row in version.rows))
        self._version = (int(found.group(1)), int(found.group(2))) if found else (0, 0)
        left = self._end_left()
        self._see_to_others()
        return {"left": left}

    def _see_to_others(self) -> None:
        """A frozen one does not end its hold at its deadline; then that is left behind, and ours to end."""
        dues = [other["left"] for other in self._known_records().others()]
        self._overdue_at = time.monotonic() + min(dues) + 2 * OVERDUE if dues else float("inf")

    def _end_overdue(self) -> None:
        """What dead agents have left, and frozen ones past their deadline."""
        self._overdue_at = float("inf")
        with contextlib.suppress(Refused):
            ended = self._end_left()
            if ended:
                say({"event": "left", "databases": ended})
            self._see_to_others()

    def _end_left(self) -> List[str]:
        """Resume what a dead agent paused, and put back what it set, but for what we and others hold as well;
        the databases that were paused still.
        """
        records = self._known_records()
        with records.turn():
            return self._undo_left(records.left())

    def _undo_left(self, left: List[Dict[str, Any]]) -> List[str]:
        if not left:
            return []
        names = {name for record in left for name in record["databases"]}
        for record in left:
            theirs = {name: value for name, value in record["settings"].items() if name not in self._changed}
            self._put_back(theirs, record["set_to"])
        ended = self._resume(sorted(names - self._of_others() - set(self._held + self._moving)))
        self._known_records().remove(left)
        return ended

    def _adopt_left(self) -> Set[str]:
        """What dead agents paused and we are to hold stays so, and is on our record from now on; the rest of
        what they left is undone.
        """
        left = self._known_records().left()
        if left:
            rows = self._rows("SHOW DATABASES")
            names, paused = {name for record in left for name in record["databases"]}, _paused_in(rows)
            self._held = [name for name in self._wanted(rows) if name in names & paused]
            if self._held:
                self._began -= max(record["age"] for record in left)
            self._note()
            self._undo_left(left)
        return set(self._held)

    def _known_records(self) -> Records:
        if self._records is None:
            raise Refused("request", "no console is logged in")
        return self._records

    # --- PgBouncer ------------------------------------------------------------------------------------

    def _ask(self, *statements: str) -> List[Reply]:
        if self._control is None:
            raise Refused("request", "no console is logged in")
        return self._control.ask(self._limit, *statements)

    def _rows(self, statement: str) -> Rows:
        return self._answer_to(statement).rows

    def _answer_to(self, statement: str) -> Reply:
        (reply,) = self._answers(statement)
        return reply

    def _answers(self, *statements: str, behind: Sequence[str] = ()) -> List[Reply]:
        """In one piece with the words that are said before, as each exchange costs both sides a turn."""
        replies = self._ask(*behind, *statements)[len(behind) :]
        _see_that_none_is_refused(statements, replies)
        return replies

    def _paused(self) -> Set[str]:
        return _paused_in(self._rows("SHOW DATABASES"))

    def _resume(self, databases: List[str]) -> List[str]:
        """Those that were paused still. One that is not any more is as good as resumed: it is an error to
        PgBouncer, and nothing else.
        """
        replies = self._ask(*["RESUME %s" % _quoted(name) for name in databases])
        return [name for name, reply in zip(databases, replies) if not reply.error]

    def _set(self, settings: Dict[str, str]) -> None:
        if settings:
            self._ask(*_words_to_set(settings))

    def _config(self) -> Dict[str, str]:
        return _settings_in(self._answer_to("SHOW CONFIG"))

    def _change(self, config: Dict[str, str], **settings: str) -> None:
        """Set them for a while."""
        self._record_and_ask(self._words_to_change(config, **settings))

    def _words_to_change(self, config: Dict[str, str], **settings: str) -> List[str]:
        """To be said once it is on record what they were, as whoever changed them before us knew it."""
        others = self._known_records().others()
        theirs = {name for other in others for name in other["settings"]}  # ours too from now on
        settings = {n: v for n, v in settings.items() if config.get(n, v) != v or n in theirs}
        if settings:
            for other in others:
                config = dict(config, **other["settings"])
            for name in settings:
                self._changed.setdefault(name, config[name])
            self._set_to.update(settings)
        return _words_to_set(settings)

    def _record_and_ask(self, changes: List[str], *more: str) -> None:
        """Words that change settings, which go on record first, and others in one piece with them."""
        if changes:
            self._note()
        if changes or more:
            self._ask(*changes, *more)

    def _change_back(self, *names: str) -> None:
        with self._known_records().turn():
            known = {name: self._changed[name] for name in names if name in self._changed}
            self._put_back(known, self._set_to)
            for name in known:
                del self._changed[name]
            self._note()

    def _put_back(self, settings: Dict[str, str], set_to: Dict[str, str]) -> None:
        """What we had set; not what somebody has set anew since, nor what another agent has changed too, who
        puts it back at the end of a hold of its own.
        """
        if settings:
            live, theirs = self._config(), self._changed_by_others()
            ours = {name for name in settings if _same(live.get(name), set_to.get(name))} - theirs
            self._set({name: settings[name] for name in settings if name in ours})

    def _changed_by_others(self) -> Set[str]:
        return {name for other in self._known_records().others() for name in other["settings"]}

    def _note(self) -> None:
        records = self._known_records()
        paused = self._held + self._moving
        if paused or self._changed:
            now = time.monotonic()
            left = LONGEST_AFTERMATH if self._until == float("inf") else self._until - now
            records.note(paused, self._changed, self._set_to, now - self._began, left)
        else:
            records.forget()

    # --- looking --------------------------------------------------------------------------------------

    def _tell_what_is_there(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Which text the file is, and these columns of SHOW DATABASES, under a token; the token alone where
        it is `known`. From now on we look ourselves, `every` so many seconds where that is asked for, until
        the watcher asks for something else.
        """
        columns = [str(name) for name in request["columns"]]
        text, shown, token = self._what_is_there(columns)
        told = {"token": token}  # type: Dict[str, Any]
        if request.get("every") is not None:
            every = min(max(WATCH_AT_MOST_EVERY, float(request["every"])), WATCH_AT_LEAST_EVERY)
            self._watched, self._watch_at = (token, columns, every), time.monotonic() + every
            told["watches"] = True
        return told if token == request.get("known") else dict(told, file=text, shown=shown)

    def _what_is_there(self, columns: List[str]) -> Tuple[str, Rows, str]:
        """The digest of the file, these columns of SHOW DATABASES, and a token of both."""
        try:
            text = digest(read(self._file))
        except OSError as error:  # which is not the console's
            raise Refused("look", error.strerror or str(error)) from error
        if self._known_records().are_more():
            self._end_overdue()
        shown = [{name: row[name] for name in columns if name in row} for row in self._rows("SHOW DATABASES")]
        return text, shown, digest(json.dumps([text, shown]).encode("ascii"))

    def _see_whether_it_differs(self) -> None:
        """Said once: the watcher looks then, and may ask us to go on."""
        known, columns, every = self._watched
        self._watch_at = float("inf")
        try:
            differs = self._what_is_there(columns)[2] != known
        except Refused:
            differs = True
        if differs:
            say({"event": "differs"})
        else:
            self._watch_at = time.monotonic() + every

    # --- holding --------------------------------------------------------------------------------------

    def _hold(self, asked: Dict[str, Any], limit: float, at_once: bool) -> Dict[str, Any]:
        """Pause those that are not, for `limit` seconds from now on. Said again, it sets the limit anew.

        `at_once`: the server is gone, so no login can succeed that would be worth a wait, and until the pause
        is in force each client that comes is turned away.
        """
        now = time.monotonic()
        if not self._is_held:
            self._asked, self._resumed, self._began = asked, set(), now
            self._until = now + min(limit, LONGEST_HOLD)
            try:
                with self._known_records().turn():
                    self._pause(at_once)
            except (OSError, Refused):
                if not self._is_held:
                    self._until = float("inf")
                raise
        else:
            self._asked, self._until = asked, min(now + limit, self._began + LONGEST_HOLD)
            with self._known_records().turn():
                self._pause_more()
        return self._status()

    def _pause_more(self) -> None:
        """What is to be held as well by now, or was overlooked; and the new deadline on record."""
        self._held = self._still_ours(self._held)
        rows = self._rows("SHOW DATABASES")
        spared = {_named(row, "name") for row in rows if _count(row, "paused")} | self._resumed
        fresh = [name for name in self._wanted(rows) if name not in spared and name not in self._held]
        self._held += fresh
        self._note()
        if fresh:
            self._send_pauses(fresh)
            self._is_complete, self._look_at = False, 0.0

    def _wanted(self, rows: Rows) -> List[str]:
        """The databases to hold that PgBouncer knows; with `all_but` those too that it made from `*`."""
        known, but = [_named(row, "name") for row in rows], self._asked.get("all_but")
        made = [] if but is None else [name for name in known if name not in but and name != "pgbouncer"]
        return [name for name in known if name in self._asked["databases"] or name in made]

    def _pause(self, at_once: bool) -> None:
        """It is a hold once they are paused, and noted whether it is complete: our answer says so."""
        adopted = self._adopt_left()
        asked = ["SHOW DATABASES"] if at_once else ["SHOW CONFIG", "SHOW DATABASES"]
        replies = self._answers(*asked)
        rows, others = replies[-1].rows, self._known_records().others()
        shared = adopted | {name for other in others for name in other["databases"]}
        paused = _paused_in(rows)
        wanted = self._wanted(rows)
        self._held = [name for name in wanted if name not in paused or name in shared]
        same = [other["age"] for other in others if set(other["databases"]) & set(wanted) & paused]
        self._began = min([self._began, *(time.monotonic() - age for age in same)])  # who waits already
        fresh = [name for name in self._held if name not in paused]
        changes = [] if at_once else self._words_to_change(_settings_in(replies[0]), **NO_NEW_LOGINS)
        self._note()
        try:
            if at_once:
                rows = self._send_pauses(fresh)
                self._change(self._config(), **NOT_FILLED)
            else:
                self._let_logins_end(fresh, changes, QUIET_LIMIT)
                rows = self._send_pauses(fresh)
        except (OSError, Refused):
            self._undo()
            raise
        self._is_held, self._is_complete = True, False
        self._compare_at = time.monotonic() + COMPARE_EVERY
        self._note_whether_complete(rows, behind=self._words_to_let_logins_begin())
        if not at_once:
            self._note()

    def _let_logins_end(self, databases: List[str], changes: List[str], limit: float) -> None:
        """No login begins once these changes are made, and the one that may be under way in each pool gets a
        moment.
        """
        until = time.monotonic() + limit
        (pools,) = self._answers("SHOW POOLS", behind=changes)
        while _sums(pools.rows, databases, "sv_login") and time.monotonic() < until:
            time.sleep(0.001)
            (pools,) = self._answers("SHOW POOLS")

    def _words_to_let_logins_begin(self) -> List[str]:
        """Of other databases, in the very turn in which they were kept from it: nobody has set it anew since.
        Also where another agent keeps them from it, as after a turn that lasted too long: it may have said so
        already, and would not say it again; a moment less without logins is the least harm.
        """
        ours = self._changed.pop("max_db_connections", None)
        return [] if ours is None else _words_to_set({"max_db_connections": ours})

    def _send_pauses(self, databases: List[str]) -> Rows:
        """What SHOW DATABASES shows once they are in force."""
        if self._pauser is None:
            raise Refused("request", "no console is logged in")
        self._pauser.arrived()
        words = ["PAUSE %s" % _quoted(name) for name in databases]
        for begin in range(0, len(words), MOST_AT_ONCE):
            if begin:
                self._ask("SHOW VERSION")  # by when those before are carried out, and perhaps answered
                self._pauser.arrived()
            self._pauser.post(*words[begin : begin + MOST_AT_ONCE])
        until = time.monotonic() + PAUSED_LIMIT
        while True:
            rows = self._rows("SHOW DATABASES")
            if _running_in(rows).isdisjoint(databases):
                return rows
            errors = [reply.error for reply in self._pauser.arrived() if reply.error]
            if errors or time.monotonic() > until:
                raise Refused("pause", errors[0] if errors else "PAUSE was not carried out")
            time.sleep(0.001)

    def _undo(self) -> None:
        with contextlib.suppress(OSError, Refused):
            self._resume(self._not_shared())
            self._held = []
            self._change_back(*list(self._changed))

    def _see_who_was_resumed(self) -> None:
        """By an operator: then it is no longer held by us, and a pause that comes later is theirs."""
        self._compare_at = float("inf")
        if not self._is_held:
            return
        self._compare_at = time.monotonic() + COMPARE_EVERY
        running = _running_in(self._rows("SHOW DATABASES"))
        gone = [name for name in self._held if name in running]
        if gone:
            self._resumed.update(gone)
            self._held = [name for name in self._held if name not in running]
            self._is_complete = False
            self._note()
            say(dict(self._status(), event="resumed"))

    def _see_whether_complete(self) -> None:
        self._look_at = float("inf")
        if self._is_held and not self._is_complete and not self._resumed:
            self._note_whether_complete(self._rows("SHOW DATABASES"))
            if self._is_complete:
                say(dict(self._status(), event="complete"))

    def _note_whether_complete(self, rows: Rows, behind: Sequence[str] = ()) -> None:
        """Complete when all that is to be held is paused, by whomever, and no transaction runs in it.
        Sessions may stay for ever and do not count. If it is not, it is looked at again soon.
        """
        wanted = self._wanted(rows)
        (shown,) = self._answers("SHOW POOLS", behind=behind)
        pools = [row for row in shown.rows if row.get("pool_mode") != "session"]
        runs = _sums(pools, wanted, "sv_active", "sv_tested") > 0
        self._is_complete = not runs and set(wanted) <= _paused_in(rows)
        if not self._is_complete:
            self._look_at = time.monotonic() + (0.001 if time.monotonic() - self._began < 0.1 else 0.02)

    def _status(self) -> Dict[str, Any]:
        now = time.monotonic()
        return {
            "held": self._is_held,
            "complete": self._is_complete,
            "databases": self._held,
            "age": now - self._began if self._is_held else 0.0,
            "left": self._until - now if self._is_held else 0.0,
        }

    # --- releasing ------------------------------------------------------------------------------------

    def _release(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Let clients go on: after `reload`, if the route is `expect` and `greet` takes logins.

        Refused, and everything stays held, where PgBouncer shows another route or the server takes no login.
        """
        if not self._is_held:
            return dict(self._status(), was_held=False)
        self._held = self._still_ours(self._held)
        if request.get("greet") and not self._is_vouched_for(request.get("vouched_at")):
            self._check_logins(*request["greet"])
        with self._known_records().turn():
            expect = request.get("expect") or {}
            reload = bool(request.get("reload")) and not self._is_led(expect, request.get("greet"))
            with self._moved((request.get("moves") or []) if reload else []) as moved:
                rows = self._reload_and_look(reload, expect, moved)
                self._check_made(rows, request.get("greet"))
                names = self._held if request.get("sure") else self._not_shared()
                old = self._old_in_use(self._held)
                running = _running_in(rows)
                going = self._words_to_go_on([name for name in names if name not in running])
                self._record_and_ask(self._words_for_logins() + self._words_to_make_room(old), *going)
            if request.get("sure"):
                self._known_records().take_from_others(self._held)
        held, self._held = self._held, []
        held_for = self._over()
        self._see_to_others()
        self._after_release(held + moved, old, request)
        return dict(self._status(), was_held=True, held_for=held_for, shown=rows)

    def _is_vouched_for(self, at: Optional[float]) -> bool:
        """Whether another agent's greeting counts for ours: it was just that when our hold was `at` seconds
        old, and the request may have been on its way since.
        """
        return at is not None and abs(time.monotonic() - self._began - float(at)) < VOUCHED_LIMIT

    def _is_led(self, expect: Dict[str, Any], greet: Optional[List[Any]]) -> bool:
        """Whether clients go on already, to where they should: another watcher was quicker. A RELOAD would
        break off the logins that have begun since, and whoever waits for one of those would fail.
        """
        if not greet:
            return False
        rows = self._rows("SHOW DATABASES")
        led = {
            _named(row, "name")
            for row in rows
            if not _count(row, "paused") and _leads(row, expect.get(_named(row, "name")) or greet[:2])
        }
        in_use = {_named(row, "name") for row in rows}
        names = {*(name for name in self._held if name in in_use), *expect}
        return bool(names) and names <= led

    # --- leading reads elsewhere --------------------------------------------------------------------

    def _move(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """RELOAD, while nobody is held, with these databases paused for that moment; what runs in them goes
        on where it is, and is not waited for.
        """
        others = self._of_others()
        if self._is_held or others - set(request["databases"]):  # but for those that wait for this very move
            raise Refused("held", "clients are held: a reload now would turn some of them away")
        expect = request["expect"]
        with self._known_records().turn():
            rows = self._rows("SHOW DATABASES")
            led = {_named(row, "name") for row in rows if _leads(row, expect.get(_named(row, "name")))}
            if led >= set(request["databases"]):  # another watcher was quicker
                self._let_reads_go_on()
                return {"shown": rows}
            self._began = time.monotonic()
            with self._moved(request["databases"]) as moved:
                rows = self._reload_and_look(True, expect, moved)
                old = self._old_in_use(moved)
                self._record_and_ask(self._words_for_logins() + self._words_to_make_room(old))
        now = time.monotonic()
        self._later.append((now + LOGINS_AFTER, lambda: self._await_logins(moved, now + LOGIN_LIMIT)))
        if old:
            self._later.append((0.0, lambda: self._see_drained(moved, now + LONGEST_DRAIN)))
        return {"shown": rows}

    @contextlib.contextmanager
    def _moved(self, databases: List[str]) -> Iterator[List[str]]:
        """Paused meanwhile, but for those that are paused already, by whomever. A plain RELOAD would break
        off the logins that are under way, and each of those turns clients away (PgBouncer objects.c,
        disconnect_server).
        """
        try:
            self._pause_moving(databases)
            yield list(self._moving)
        finally:
            self._let_reads_go_on()

    def _pause_moving(self, databases: List[str]) -> None:
        """Those that wait already, since their server refuses, go on waiting; those that another agent makes
        wait for that are ours then.
        """
        known = self._paused() if databases else set()
        fresh = [name for name in databases if name not in known]
        theirs = known & self._of_others() - set(self._moving)
        self._moving = self._moving + [name for name in databases if name in theirs]
        if databases:
            self._config_now = self._config()
        if fresh:
            self._moving = self._moving + fresh
            changes = self._words_to_change(self._config_now, **NO_NEW_LOGINS)
            self._note()
            self._let_logins_end(fresh, changes, MOVE_QUIET_LIMIT)
            self._send_pauses(fresh)

    def _let_reads_go_on(self) -> None:
        moving, self._moving = self._still_ours(self._moving), []
        paused = self._paused() if moving else set()  # another agent may have led them on
        self._let_go_on([name for name in moving if name in paused])
        self._change_back(*["max_db_connections"] + ([] if self._is_held else ["min_pool_size"]))

    def _hold_reads(self, host: str, port: int) -> None:
        """For the moment that it takes the watcher to lead them elsewhere. Not while the primary's clients
        are held, for then they are not led elsewhere before that is over.
        """
        rows = self._rows("SHOW DATABASES")
        names = [
            _named(row, "name")
            for row in rows
            if _named(row, "name") in self._for_reads
            and not _count(row, "paused")
            and (host in _named(row, "host").split(",") and _count(row, "port") == port)
        ]
        if not names or self._is_held or self._moving:
            return
        self._began = time.monotonic()
        self._moving = names
        self._note()
        self._later.append((self._began + LONGEST_MOMENT, self._let_reads_go_on))
        self._send_pauses(names)
        self._change(self._config(), **NOT_FILLED)

    def _see_drained(self, databases: List[str], until: float) -> None:
        """Old connections take room in their pool until what runs on them is over."""
        if self._old_in_use(databases) and time.monotonic() < until:
            self._later.append((time.monotonic() + 1.0, lambda: self._see_drained(databases, until)))
        else:
            self._change_back("default_pool_size")

    # --- greeting -----------------------------------------------------------------------------------

    def _check_logins(self, host: str, port: int, user: str) -> None:
        self._bounds.check_address(host, str(port))
        left = max(0.1, self._until - time.monotonic())  # a hold's end does not wait for an answer
        answer = greet_postgres(host, port, user, min(GREETING_LIMIT, self._limit, left))
        if answer.verdict != TAKES:
            raise Refused("login", "%s:%s takes no login: %s" % (host, port, answer.problem))

    def _reload_and_look(self, reload: bool, expect: Dict[str, Any], moved: List[str]) -> Rows:
        """The rows of SHOW DATABASES. In one turn of PgBouncer's loop, as far as can be: between RELOAD and
        RESUME a new client makes a paused pool log in and be marked as failed. Those that are `moved` go on
        in that very turn.
        """
        asked, moves = (["RELOAD"] if reload else []) + ["SHOW CONFIG"], self._words_for_moved(moved)
        *replies, shown = self._ask(*asked, *moves, "SHOW DATABASES")
        self._moving = []
        _see_that_none_is_refused([*asked, "SHOW DATABASES"], [*replies[: len(asked)], shown])
        config, rows = _settings_in(replies[len(asked) - 1]), shown.rows
        self._check_route(rows, expect)
        for name in list(self._changed):  # RELOAD takes back what was set
            if not _same(config.get(name), self._set_to.get(name)):
                del self._changed[name]
        self._config_now = config
        return rows

    def _waits_with_logins(self) -> bool:
        """Whether a pool that is marked as failed would not try again at once."""
        return float(self._config_now.get("server_login_retry") or 0) > float(LOGIN_RETRY)

    def _words_for_logins(self) -> List[str]:
        """Said before RESUME: pools try at once."""
        if not self._waits_with_logins():
            return []
        return self._words_to_change(self._config_now, server_login_retry=LOGIN_RETRY)

    def _words_for_moved(self, databases: List[str]) -> List[str]:
        """RELOAD takes the retry back, and between it and RESUME there is no time to ask what it was."""
        if not databases or not self._waits_with_logins():
            return self._words_to_go_on(databases)
        self._changed.setdefault("server_login_retry", self._config_now["server_login_retry"])
        self._set_to["server_login_retry"] = LOGIN_RETRY
        self._note()
        return ["SET server_login_retry='%s'" % LOGIN_RETRY, *self._words_to_go_on(databases)]

    def _words_to_go_on(self, databases: List[str]) -> List[str]:
        """RECONNECT first, which while paused does one thing: a client that logs in before the first server
        has waits for that, where a pool marked as failed would turn it away (objects.c, finish_client_login).
        One that is not paused any more would break off logins by it.
        """
        return ["%s %s" % (word, _quoted(name)) for name in databases for word in ("RECONNECT", "RESUME")]

    def _let_go_on(self, databases: List[str]) -> None:
        if databases:
            self._ask(*self._words_to_go_on(databases))

    def _made(self) -> Set[str]:
        """What we hold and nobody named: PgBouncer made it from `*`."""
        return set(self._held) - set(self._asked["databases"])

    def _check_made(self, rows: Rows, greet: Optional[List[Any]]) -> None:
        """Whether what was made from `*` leads there by now. Some may look so that another file defines, so
        one is enough.
        """
        made = [row for row in rows if _named(row, "name") in self._made()]
        if greet and made and not any(_leads(row, greet[:2]) for row in made):
            name, host, port = _named(made[0], "name"), _named(made[0], "host"), _count(made[0], "port")
            where = "%s:%s instead of %s:%s" % (host, port, greet[0], greet[1])
            raise Refused("route", "PgBouncer shows %s at %s" % (name, where))

    def _check_route(self, rows: Rows, expect: Dict[str, Any]) -> None:
        shown = {_named(row, "name"): (_named(row, "host"), _count(row, "port")) for row in rows}
        made = self._made()  # which is not shown while nobody is there; see `_check_made` too
        for name, (host, port) in expect.items():
            if shown.get(name) != (host, port) and name not in made:
                where = "%s:%s" % shown[name] if name in shown else "not at all"
                raise Refused(
                    "route", "PgBouncer shows %s at %s instead of %s:%s" % (name, where, host, port)
                )

    def _still_ours(self, paused: List[str]) -> List[str]:
        """Of what we paused, but for what others have ended meanwhile, by our record, while we were frozen: a
        pause that came after that is an operator's.
        """
        recorded = self._known_records().own() if paused else []
        return [name for name in paused if name in recorded]

    def _not_shared(self) -> List[str]:
        """What no other agent that lives holds as well."""
        shared = self._of_others()
        return [name for name in self._held if name not in shared]

    def _of_others(self) -> Set[str]:
        """What other agents that live make wait."""
        return {name for other in self._known_records().others() for name in other["databases"]}

    def _over(self) -> float:
        """Nothing is held any more; for how long it was."""
        self._is_held, self._is_complete = False, False
        self._until = self._look_at = self._compare_at = float("inf")
        return time.monotonic() - self._began

    def _end_at_limit(self) -> None:
        self.let_go("the hold has lasted its limit")

    def let_go(self, why: str) -> None:
        """End our hold without a condition, and put every setting back."""
        if self._control is None or not (self._is_held or self._changed or self._moving):
            return
        was_held, complete = self._is_held, self._is_complete
        self._until = float("inf")
        with contextlib.suppress(OSError, Refused), self._known_records().turn():
            self._held = self._still_ours(self._held)
            self._resume(self._not_shared() + self._still_ours(self._moving))
            self._held, self._moving = [], []
            self._later.clear()
            self._see_to_others()
            self._change_back(*list(self._changed))
        held_for = self._over()
        if was_held:
            with contextlib.suppress(OSError):
                say({"event": "ended", "why": why, "held_for": held_for, "complete": complete})

    # --- after a release ------------------------------------------------------------------------------

    def _old_in_use(self, databases: List[str]) -> Rows:
        """Connections in use that still lead where the database no longer does."""
        return [
            row
            for row in self._rows("SHOW SERVERS")
            if _named(row, "database") in databases
            and _named(row, "state") == "active"
            and _count(row, "close_needed")
        ]

    def _words_to_make_room(self, old: Rows) -> List[str]:
        """Old connections count against a pool's size until they end: let it grow by so many meanwhile."""
        if not old:
            return []
        size = int(self._config_now.get("default_pool_size") or 20) + len(old)
        return self._words_to_change(self._config_now, default_pool_size=str(size))

    def _after_release(self, held: List[str], old: Rows, request: Dict[str, Any]) -> None:
        now = time.monotonic()
        self._change_back("min_pool_size")
        if "server_login_retry" in self._changed:
            self._later.append((now + LOGINS_AFTER, lambda: self._await_logins(held, now + LOGIN_LIMIT)))
        if old and request.get("close_sessions"):
            self._change(self._config_now, server_fast_close="1")
            self._later.append((now + FAST_CLOSE_SECONDS, lambda: self._change_back("server_fast_close")))
        if old:
            cut_after = request.get("cut_after")
            at = now + (float(cut_after) if cut_after is not None else FAST_CLOSE_SECONDS)
            self._later.append((at, lambda: self._cut_old(held, now, cut_after is not None)))

    def _await_logins(self, databases: List[str], until: float) -> None:
        """Put `server_login_retry` back once every pool that has clients waiting has a server."""
        rows = [row for row in self._rows("SHOW POOLS") if _named(row, "database") in databases]
        waiting = [
            row
            for row in rows
            if _count(row, "cl_waiting") and not _count(row, "sv_active", "sv_idle", "sv_used")
        ]
        if waiting and time.monotonic() < until:
            self._later.append((time.monotonic() + 0.01, lambda: self._await_logins(databases, until)))
        else:
            self._change_back("server_login_retry")

    def _cut_old(self, databases: List[str], since: float, by_force: bool, tries: int = 10) -> None:
        """End connections to the old server that are still in use; each fails for the client that has it."""
        old = self._old_in_use(databases)
        if not old or not by_force or not tries:
            self._change_back("default_pool_size", "query_timeout")
            return
        if self._version >= (1, 24):
            self._kill_clients(old)
        else:
            self._cut_by_age(old, time.monotonic() - since)
        again = time.monotonic() + FAST_CLOSE_SECONDS + 0.1
        self._later.append((again, lambda: self._cut_old(databases, since, by_force, tries - 1)))

    def _kill_clients(self, old: Rows) -> None:
        clients = {_named(row, "ptr"): _named(row, "id") for row in self._rows("SHOW CLIENTS")}
        doomed = [clients[_named(row, "link")] for row in old if _named(row, "link") in clients]
        if doomed:
            self._ask(*["KILL_CLIENT %s" % client for client in doomed])
            say({"event": "cut", "count": len(doomed), "how": "KILL_CLIENT"})

    def _cut_by_age(self, old: Rows, seconds: float) -> None:
        """Before PgBouncer 1.24: `query_timeout` for a moment, longer than anything can have lasted by its
        end that began since the release, and than any client waits; not at all while another query is older.
        """
        pools = self._rows("SHOW POOLS")
        waits = max([_count(row, "maxwait") + _count(row, "maxwait_us") / 1e6 for row in pools] + [0.0])
        ours = {_named(row, "ptr") for row in old}
        active = [row for row in self._rows("SHOW SERVERS") if _named(row, "state") == "active"]
        now = max([_moment(row) for row in self._rows("SHOW CLIENTS")] + [0.0])  # the one that asks is us
        if any(now - _moment(row) >= seconds for row in active if _named(row, "ptr") not in ours):
            return
        limit = max(seconds, waits) + FAST_CLOSE_SECONDS + 0.1
        self._change_back("query_timeout")
        self._change(self._config(), query_timeout="%.2f" % limit)
        self._later.append(
            (time.monotonic() + FAST_CLOSE_SECONDS, lambda: self._change_back("query_timeout"))
        )
        say({"event": "cut", "count": len(old), "how": "query_timeout"})

    # --- the guard ------------------------------------------------------------------------------------

    def _watch(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Watch `host` and `port` from now on, or nobody; with `hold`, a refusal begins a hold at once."""
        if self._guard is not None:
            self._guard.stop()
        self._on_refusal = request.get("hold")
        host = request.get("host")
        if host:
            self._bounds.check_address(host, str(request["port"]))
        self._guard = Guard(host, int(request["port"]), request["user"], self._ring) if host else None
        return {}

    def _heed_guard(self) -> None:
        guard = self._guard
        if guard is None:
            return
        status: Dict[str, Any] = {}
        if guard.refuses and self._on_refusal is not None and not self._is_held and self._leads_to(guard):
            asked = self._on_refusal
            status = self._answer(json.dumps(dict(asked, verb="hold", at_once=True)).encode("ascii"))
        where = {"host": guard.host, "port": guard.port}
        say(dict(status or self._status(), event="alarm", refuses=guard.refuses, why=guard.problem, **where))

    def _watch_readers(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Watch these servers from now on, and no others, as servers for reads: clients of `databases` that
        lead to one that refuses wait for a moment.
        """
        self._for_reads = [str(name) for name in request["databases"]]
        wanted = [(str(host), int(port)) for host, port in request["endpoints"]]
        if len(wanted) > MOST_READERS:
            raise Refused("request", "%d servers for reads are too many" % len(wanted))
        for host, port in wanted:
            self._bounds.check_address(host, str(port))
        for gone in set(self._readers) - set(wanted):
            self._readers.pop(gone).stop()
            self._told.pop(gone, None)
        for host, port in wanted:
            if (host, port) not in self._readers:
                guard = Guard(host, port, request["user"], self._readers_ring, READER_AGAIN)
                self._readers[host, port] = guard
        return {}

    def _heed_readers(self) -> None:
        for (host, port), guard in self._readers.items():
            refuses = guard.refuses
            if self._told.get((host, port), False) != refuses:
                self._told[host, port] = refuses
                if refuses:
                    with contextlib.suppress(Refused):
                        self._hold_reads(host, port)
                where = {"host": host, "port": port}
                say(dict(where, event="reader", refuses=refuses, why=guard.problem))

    def _leads_to(self, guard: Guard) -> bool:
        """Whether its clients are still led to the guarded server; another watcher may have led them away."""
        with contextlib.suppress(OSError, Refused):
            return any(
                (_named(row, "host"), _count(row, "port")) == (guard.host, guard.port)
                for row in self._rows("SHOW DATABASES")
            )
        return False


def _leads(row: Dict[str, Optional[str]], end: Optional[List[Any]]) -> bool:
    return end is not None and [_named(row, "host"), _count(row, "port")] == list(end)


def _same(one: Optional[str], other: Optional[str]) -> bool:
    """Two words for one value, as `2.5` and `2.50`; what was never noted counts as the same."""
    if one == other or one is None or other is None:
        return True
    try:
        return float(one) == float(other)
    except ValueError:
        return False


def _moment(row: Dict[str, Optional[str]]) -> float:
    """A row's `request_time` in seconds of PgBouncer's own clock and zone, good for differences only."""
    try:
        return time.mktime(time.strptime(_named(row, "request_time")[:19], "%Y-%m-%d %H:%M:%S"))
    except ValueError:
        return 0.0
