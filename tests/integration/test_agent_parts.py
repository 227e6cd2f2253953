"""The parts of which the agent's `hold` is made, each by itself, on real servers."""

import fcntl
import itertools
import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn, cast

import pytest

from tests.support.folders import bed_folder, make_read_only
from tests.support.network import Segment, own_network
from tests.support.pgbouncer import ADMIN, PgBouncer
from tests.support.postgres import Postgres
from tests.support.waiting import wait_for
from watcher.apply.agent import guard as guard_part
from watcher.apply.agent import record as record_part
from watcher.apply.agent.bounds import Bounds
from watcher.apply.agent.console import Console, Reply, dial
from watcher.apply.agent.greeting import FULL, REFUSES, SILENT, TAKES, greet_postgres
from watcher.apply.agent.guard import Guard
from watcher.apply.agent.hold import Holder
from watcher.apply.agent.record import Records, identity
from watcher.apply.agent.wire import Refused, never_wait
from watcher.decide.advice import recommended

LIMIT = 5.0
SHORT = 0.3
NOWHERE = ("127.0.0.1", 1)
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with bed_folder() as path:
        yield path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Postgres]:
    with Postgres(folder / "postgres", auth="scram-sha-256") as server:
        yield server


@pytest.fixture
def postgres(server: Postgres) -> Iterator[Postgres]:
    """Running, and running again afterwards."""
    yield server
    server.thaw()
    if not server.is_alive():
        server.start()


@pytest.fixture(scope="module")
def pgbouncer(folder: Path) -> Iterator[PgBouncer]:
    with PgBouncer(folder / "bouncer") as pgbouncer:
        yield pgbouncer


@pytest.fixture
def bouncer(pgbouncer: PgBouncer) -> Iterator[PgBouncer]:
    """Leading nowhere, and nobody waits in it, also where the test before broke off."""
    yield pgbouncer
    if any(row["paused"] == "1" for row in pgbouncer.console("SHOW DATABASES")):
        pgbouncer.console("RESUME")
    if pgbouncer.route() != NOWHERE:
        pgbouncer.point_at(*NOWHERE)


# --- greeting: does a PostgreSQL take a login? ------------------------------------------------------


def greet(host: str, port: int, limit: float = LIMIT) -> tuple[str, str]:
    answer = greet_postgres(host, port, "watcher", limit)
    return answer.verdict, answer.problem


def test_a_server_that_asks_for_a_password_takes_logins(postgres: Postgres) -> None:
    assert greet(postgres.address, postgres.port) == (TAKES, "")


def test_a_server_that_has_stopped_refuses(postgres: Postgres) -> None:
    postgres.stop_fast()
    assert greet(postgres.address, postgres.port) == (REFUSES, "connection refused")


def test_a_server_that_waits_for_its_sessions_to_stop_refuses(postgres: Postgres) -> None:
    """A smart shutdown: it listens and says no, as a server that starts up does."""
    with _session(postgres):
        os.kill(postgres.pid, signal.SIGTERM)
        wait_for(lambda: greet(postgres.address, postgres.port)[0] == REFUSES, LIMIT, "it refuses")
        assert greet(postgres.address, postgres.port)[1] == "the database system is shutting down"
        postgres.stop_fast()


def test_a_server_without_a_free_connection_is_full_and_does_not_refuse(postgres: Postgres) -> None:
    most = int(postgres.sql("SHOW max_connections")[0]["max_connections"])
    with ExitStack() as stack:
        for _ in range(most):
            stack.enter_context(closing(_half_a_login(postgres)))
        wait_for(lambda: greet(postgres.address, postgres.port)[0] == FULL, LIMIT, "it is full")
    wait_for(lambda: greet(postgres.address, postgres.port)[0] == TAKES, LIMIT, "it has room")


def test_a_server_that_hangs_has_said_nothing(postgres: Postgres) -> None:
    postgres.freeze()
    assert greet(postgres.address, postgres.port, SHORT) == (SILENT, f"no answer within {SHORT:g} s")


@pytest.mark.parametrize(
    ("said", "verdict"),
    [(b"", REFUSES), (b"E", REFUSES), (b"HTTP/1.1 400 Bad Request\r\n\r\n", REFUSES)],
    ids=["nothing", "half a message", "another protocol"],
)
def test_who_hangs_up_before_a_whole_answer_refuses(said: bytes, verdict: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_say_and_hang_up, args=(listener, said))
        thread.start()
        assert greet(*listener.getsockname())[0] == verdict
        thread.join()


def _say_and_hang_up(listener: socket.socket, said: bytes) -> None:
    link, _ = listener.accept()
    with link:
        link.recv(1024)
        link.sendall(said)


def _half_a_login(server: Postgres) -> socket.socket:
    """Asked for its password, and silent."""
    link = socket.create_connection((server.address, server.port), LIMIT)
    words = b"user\0postgres\0database\0postgres\0\0"
    link.sendall(struct.pack("!II", len(words) + 8, 196608) + words)
    link.recv(1)
    return link


@contextmanager
def _session(server: Postgres) -> Iterator[None]:
    """Somebody logged in."""
    argv = [
        "psql",
        "-h",
        str(server.folder),
        "-p",
        str(server.port),
        "-U",
        "postgres",
        "-c",
        "SELECT pg_sleep(60)",
    ]
    with subprocess.Popen(
        argv, user="postgres", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
    ) as session:
        busy = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(60)%'"
        wait_for(lambda: server.sql(busy), LIMIT, "a session")
        yield
        session.kill()


# --- guard: notices when a PostgreSQL begins to refuse ----------------------------------------------


@contextmanager
def _guarded(server: Postgres) -> Iterator[tuple[Guard, int]]:
    """A guard, and where its alarm rings."""
    bell, ring = os.pipe()
    guard = Guard(server.address, server.port, "watcher", ring)
    try:
        yield guard, bell
    finally:
        guard.stop()
        guard._thread.join(LIMIT)
        assert not guard._thread.is_alive()
        os.close(bell)
        os.close(ring)


def rung(bell: int, limit: float) -> bool:
    """Whether it rings within the limit; the ring is taken."""
    if not select.select([bell], [], [], limit)[0]:
        return False
    return os.read(bell, 1) == b"x"


def _wired(server: Postgres) -> str:
    """Once the guard's wire is at the server, and the greeting that follows it is over: which one it is."""

    def only() -> str | None:
        wires = _wires(server)
        return wires[0] if len(wires) == 1 else None

    return wait_for(only, LIMIT, "the wire")


def _wires(server: Postgres) -> list[str]:
    found = subprocess.run(
        ["ss", "-Htn", "state", "established", "dst", f"{server.address}:{server.port}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.splitlines()


GONE = ("connection refused", "Connection reset by peer", "it hung up without a word")
"""Its socket is gone, or goes while we stand in its queue."""

REFUSALS = {"kill": GONE, "stop_fast": (*GONE, "the database system is shutting down")}


@pytest.mark.parametrize("deed", REFUSALS)
def test_a_primary_that_dies_or_stops_is_noticed_and_so_is_its_return(postgres: Postgres, deed: str) -> None:
    with _guarded(postgres) as (guard, bell):
        _wired(postgres)
        assert not guard.refuses
        getattr(postgres, deed)()
        assert rung(bell, LIMIT)
        assert guard.refuses
        assert guard.problem in REFUSALS[deed]
        assert not rung(bell, SHORT)
        postgres.start()
        assert rung(bell, LIMIT)
        assert (guard.refuses, guard.problem) == (False, "")


@pytest.mark.parametrize("number", [1, 2])
def test_a_primary_that_stops_does_not_wait_for_a_wire_that_it_took_meanwhile(
    postgres: Postgres, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would until `authentication_timeout`, a minute later; be it the first wire or a renewed one."""
    _keep_long(number, monkeypatch)
    with ExitStack() as stack:
        if number == 2:
            _, bell = stack.enter_context(_guarded(postgres))
            _wired(postgres)
        os.kill(postgres.pid, signal.SIGSTOP)  # the postmaster alone: wires stand in its queue
        if number == 1:
            _, bell = stack.enter_context(_guarded(postgres))
        wait_for(lambda: _unread(postgres), LIMIT, "a wire in the queue")
        os.kill(postgres.pid, signal.SIGINT)
        os.kill(postgres.pid, signal.SIGCONT)
        postgres.process.wait()
        assert rung(bell, LIMIT)


def _keep_long(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wires are renewed soon until the one of that number, counted from 1, is made."""
    connect, made = Guard._connect, itertools.count(1)
    monkeypatch.setattr(guard_part, "WIRE_SECONDS", SHORT)

    def counted(guard: Guard) -> socket.socket | None:
        if next(made) == number:
            monkeypatch.setattr(guard_part, "WIRE_SECONDS", 45.0)
        return connect(guard)

    monkeypatch.setattr(Guard, "_connect", counted)


def _unread(server: Postgres) -> bool:
    """Whether its socket has connections that it has not taken up."""
    found = subprocess.run(
        ["ss", "-Hltn", "src", f"{server.address}:{server.port}"], capture_output=True, text=True, check=True
    )
    return int(found.stdout.split()[1]) > 0


def test_a_primary_that_is_not_there_when_the_guard_begins_refuses(postgres: Postgres) -> None:
    postgres.kill()
    with _guarded(postgres) as (guard, bell):
        assert rung(bell, LIMIT)
        assert guard.refuses


def test_a_primary_that_hangs_is_no_alarm(postgres: Postgres) -> None:
    with _guarded(postgres) as (guard, bell):
        _wired(postgres)
        postgres.freeze()
        assert not rung(bell, 2.0)
        postgres.thaw()
        assert not rung(bell, SHORT)
        assert not guard.refuses


def test_a_host_that_vanishes_is_noticed_before_pgbouncer_gives_its_connections_up(folder: Path) -> None:
    """A moment without packets is no alarm."""
    limit = float(recommended((1, 18))["tcp_user_timeout"]) / 1000
    server = Postgres(folder / "vanishing")
    with own_network(), Segment(folder, server.address) as segment, ExitStack() as stack:
        segment.house(server.process)
        stack.enter_context(server)
        guard, bell = stack.enter_context(_guarded(server))
        time.sleep(1.5)
        for _ in range(3):
            segment.drop()
            time.sleep(0.3)
            segment.mend()
            assert not rung(bell, 1.0)
        segment.drop()
        began = time.monotonic()
        assert rung(bell, LIMIT)
        assert time.monotonic() - began < limit
        assert (guard.refuses, guard.problem) == (True, "no connection within 0.75 s")
        segment.mend()
        assert rung(bell, LIMIT)
        assert not guard.refuses


def test_a_wire_that_alone_is_cut_is_no_alarm_and_is_made_again(postgres: Postgres) -> None:
    """As PostgreSQL does at the end of `authentication_timeout`."""
    postgres.set("authentication_timeout", "1s")
    try:
        with _guarded(postgres) as (guard, bell):
            first = _wired(postgres)
            wait_for(lambda: first not in (wires := _wires(postgres)) and wires, LIMIT, "another wire")
            assert not rung(bell, SHORT)
            assert not guard.refuses
    finally:
        postgres.set("authentication_timeout", "60s")


def test_a_wire_is_renewed_before_postgresql_would_end_it(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_part, "WIRE_SECONDS", 1.2)
    with _guarded(postgres) as (_, bell):
        first = _wired(postgres)
        wait_for(lambda: first not in (wires := _wires(postgres)) and wires, LIMIT, "another wire")
        assert not rung(bell, SHORT)


def test_a_guard_that_is_stopped_says_nothing_more(postgres: Postgres) -> None:
    with _guarded(postgres) as (guard, bell):
        _wired(postgres)
        guard.stop()
        guard._thread.join(LIMIT)
        postgres.kill()
        assert not rung(bell, SHORT)
        assert _wires(postgres) == []


def test_what_the_guard_sees_begins_a_hold_without_a_wait_for_logins(
    bouncer: PgBouncer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """None can succeed, and each client that comes meanwhile is turned away."""
    monkeypatch.setattr(Holder, "_let_logins_end", lambda *_: pytest.fail("it waited"))
    holder = Holder(str(bouncer.ini), f"{bouncer.address}:{bouncer.port}", LIMIT, Bounds(None, None))
    with _console(bouncer) as control, _console(bouncer) as pauser:
        holder._consoles = {"control": control._pooler, "pause": pauser._pooler}
        holder._begin()
        holder._on_refusal = {"databases": ["app"], "limit": 30.0}
        holder._guard = cast(
            Guard, SimpleNamespace(refuses=True, host="127.0.0.1", port=1, problem="connection refused")
        )
        holder._heed_guard()
        assert bouncer.is_paused()
        holder.let_go("the test is over")
        assert not bouncer.is_paused()
    said = {line["event"]: line for line in map(json.loads, capfd.readouterr().out.splitlines())}
    assert set(said) == {"alarm", "ended"}  # that it was complete from the start the alarm says too
    alarm = said["alarm"]
    assert (alarm["held"], alarm["complete"], alarm["why"]) == (True, True, "connection refused")


def test_a_switch_takes_few_exchanges_with_pgbouncer(
    bouncer: PgBouncer, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each costs both sides a turn, and a fleet's agents may share their processors with PgBouncers."""
    exchanges: list[tuple[str, ...]] = []
    ask = Console.ask

    def counted(console: Console, limit: float, *statements: str) -> list[Reply]:
        exchanges.append(statements)
        return ask(console, limit, *statements)

    monkeypatch.setattr(Console, "ask", counted)
    bouncer.write_block(postgres.address, postgres.port)
    holder = Holder(str(bouncer.ini), f"{bouncer.address}:{bouncer.port}", LIMIT, Bounds(None, None))
    with _console(bouncer) as control, _console(bouncer) as pauser:
        holder._consoles = {"control": control._pooler, "pause": pauser._pooler}
        holder._begin()
        exchanges.clear()
        held = holder._answer(b'{"verb": "hold", "databases": ["app"], "limit": 30.0}')
        assert held["complete"]
        waits = {("SHOW POOLS",)}  # again until no login is under way; a look too, until all is paused
        assert [one for one, _ in itertools.groupby(exchanges) if one not in waits] == [
            ("SHOW CONFIG", "SHOW DATABASES"),
            ("SET max_db_connections='1'", "SHOW POOLS"),
            ("SHOW DATABASES",),
            ("SET max_db_connections='0'", "SHOW POOLS"),
        ]
        assert not holder._later, "it asks more once it has answered"
        exchanges.clear()
        where = [postgres.address, postgres.port]
        request = {"reload": True, "sure": True, "expect": {"app": where}, "greet": [*where, "watcher"]}
        released = holder._answer(json.dumps({"verb": "release", **request}).encode("ascii"))
        assert released["was_held"]
        assert len(exchanges) <= 4, exchanges
        holder.let_go("the test is over")


def test_logins_that_a_hold_kept_off_begin_again_whatever_another_agent_has_on_record(
    bouncer: PgBouncer, postgres: Postgres
) -> None:
    """It may have let them begin already, and not noted that yet: then nobody else would."""
    bouncer.write_block(postgres.address, postgres.port)
    holder = Holder(str(bouncer.ini), f"{bouncer.address}:{bouncer.port}", LIMIT, Bounds(None, None))
    with _console(bouncer) as control, _console(bouncer) as pauser:
        holder._consoles = {"control": control._pooler, "pause": pauser._pooler}
        holder._begin()
        config = holder._config()
        other = Records(str(bouncer.ini), identity(control._pooler))
        other.note([], {"max_db_connections": config["max_db_connections"]}, {"max_db_connections": "1"})
        assert holder._answer(b'{"verb": "hold", "databases": ["app"], "limit": 30.0}')["held"]
        assert holder._config()["max_db_connections"] == config["max_db_connections"]
        other.forget()
        holder.let_go("the test is over")


@pytest.mark.parametrize(
    ("inside", "outside"), [(1, 3000), (300, 0)], ids=["many outside the block", "many in the block"]
)
def test_many_databases_are_held_and_released_over_a_unix_socket(
    folder: Path, inside: int, outside: int
) -> None:
    """PgBouncer writes an answer into the middle of one that the socket did not take whole, and hangs up
    where some 270 small ones were not read: neither may come of what is said in one piece.
    """
    names = [f"app{number}" for number in range(inside)]
    others = [f"tenant_{number:05d} = host=10.0.0.1 port=5432" for number in range(outside)]
    with PgBouncer(folder / f"many{inside}", databases=names, outside=others) as many:
        holder = Holder(str(many.ini), str(many.socket), LIMIT, Bounds(None, None))
        with _console(many, str(many.socket)) as control, _console(many, str(many.socket)) as pauser:
            holder._consoles = {"control": control._pooler, "pause": pauser._pooler}
            holder._begin()
            for host in ("127.0.0.2", "127.0.0.3"):
                held = holder._answer(
                    json.dumps({"verb": "hold", "databases": names, "limit": 30.0}).encode("ascii")
                )
                assert held.get("complete"), held
                assert len(held["databases"]) == inside
                many.write_block(host, 5433)
                expect = {name: [host, 5433] for name in names}
                request = {"verb": "release", "reload": True, "sure": True, "expect": expect}
                released = holder._answer(json.dumps(request).encode("ascii"))
                assert released.get("was_held"), released
                for _, action in holder._later:
                    action()
                holder._later = []
            holder.let_go("the test is over")
        assert not any(row["paused"] == "1" for row in many.console("SHOW DATABASES"))


@pytest.mark.parametrize("how", ["it is over", "its channel ends"])
def test_an_operators_pause_after_a_moment_for_reads_that_another_ended_stays(
    bouncer: PgBouncer, how: str
) -> None:
    """Whose moment it was had been frozen in it."""
    ours, other = (Holder(str(bouncer.ini), "", LIMIT, Bounds(None, None)) for _ in range(2))
    with ExitStack() as stack:
        for holder in (ours, other):
            holder._consoles = {
                name: stack.enter_context(_console(bouncer))._pooler for name in ("control", "pause")
            }
            holder._begin()
        ours._pause_moving(["app"])
        ours._known_records().note(["app"], {}, {}, left=-1.0)
        assert other._end_left() == ["app"]
        bouncer.console("PAUSE app")
        if how == "it is over":
            ours._let_reads_go_on()
        else:
            ours.let_go("the watcher has gone")
        assert bouncer.is_paused("app")
        bouncer.console("RESUME app")


def test_a_hold_until_no_moment_at_all_is_not_begun(bouncer: PgBouncer) -> None:
    """NaN is neither reached nor passed, so it would never end."""
    holder = Holder(str(bouncer.ini), f"{bouncer.address}:{bouncer.port}", LIMIT, Bounds(None, None))
    with _console(bouncer) as control, _console(bouncer) as pauser:
        holder._consoles = {"control": control._pooler, "pause": pauser._pooler}
        holder._begin()
        for limit in (b"NaN", b"[]", b"1" + b"0" * 400, b"[" * 5000):
            asked = b'{"verb": "hold", "databases": ["app"], "limit": %s}' % limit
            assert holder._answer(asked)["error"] == "request"
            assert not bouncer.is_paused()


def test_a_hold_ends_though_nobody_reads_what_its_agent_says(bouncer: PgBouncer) -> None:
    """Its answers fill the pipe, and the agent must not hang in one of them."""
    (asked, ask), (_, said) = os.pipe(), os.pipe()
    with _console(bouncer) as control, _console(bouncer) as pauser:
        pid = os.fork()
        if pid == 0:
            os.close(ask)
            _hold_for(bouncer, {"control": control._pooler, "pause": pauser._pooler}, asked, said)
        os.close(asked)
        try:
            os.write(ask, b'{"verb": "hold", "databases": ["app"], "limit": 2.0}\n')
            wait_for(bouncer.is_paused, LIMIT, "clients wait")
            while select.select([], [ask], [], SHORT)[1]:  # until it is stuck, or has ended
                try:
                    os.write(ask, b'{"verb": "%s"}\n' % (b"z" * 3000))
                except BrokenPipeError:
                    break
            wait_for(lambda: not bouncer.is_paused(), 30, "the hold ends")
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _hold_for(bouncer: PgBouncer, consoles: dict[str, socket.socket], asked: int, said: int) -> NoReturn:
    """The agent's loop, on these two pipes, and never more of this process."""
    os.dup2(asked, 0)
    os.dup2(said, 1)
    never_wait()
    holder = Holder(str(bouncer.ini), f"{bouncer.address}:{bouncer.port}", LIMIT, Bounds(None, None))
    holder._consoles = consoles
    try:
        holder._begin()
        holder.serve()
    except OSError:
        holder.let_go("nobody reads")
    finally:
        os._exit(0)


# --- console: simple queries to a PgBouncer ---------------------------------------------------------


@contextmanager
def _console(bouncer: PgBouncer, address: str = "") -> Iterator[Console]:
    """Logged in by trust."""
    pooler = dial(address or f"{bouncer.address}:{bouncer.port}")
    words = f"user\0{ADMIN}\0database\0pgbouncer\0\0".encode()
    pooler.sendall(struct.pack("!II", len(words) + 8, 196608) + words)
    console = Console(pooler)
    console._reply(time.monotonic() + LIMIT)  # up to ReadyForQuery
    with closing(console):
        yield console


def test_rows_come_by_column_and_what_is_nothing_is_none(bouncer: PgBouncer) -> None:
    with _console(bouncer) as console:
        (row,) = [row for row in console.rows(LIMIT, "SHOW DATABASES") if row["name"] == "app"]
    assert (row["host"], row["port"], row["paused"], row["force_user"]) == ("127.0.0.1", "1", "0", None)


def test_of_pairs_those_that_are_wanted_come_by_column(bouncer: PgBouncer) -> None:
    with _console(bouncer) as console:
        (reply,) = console.ask(LIMIT, "SHOW CONFIG")
    assert reply.pairs("key", "value", ["min_pool_size", "is_none"]) == {"min_pool_size": "0"}
    assert reply.pairs("key", "changeable", ["listen_port"]) == {"listen_port": "no"}
    assert set(reply.pairs("changeable", "key", ["yes"])) == {"yes"}
    assert reply.pairs("key", "is_none", ["min_pool_size"]) == {}


def test_statements_in_one_piece_are_answered_in_their_order_errors_too(bouncer: PgBouncer) -> None:
    with _console(bouncer) as console:
        wrong, right = console.ask(LIMIT, "FROB", "RELOAD")
    assert (wrong.error, wrong.tag) == ("invalid command 'FROB', use SHOW HELP;", "")
    assert (right.error, right.tag) == ("", "RELOAD")


def test_a_statement_that_is_refused_names_itself(bouncer: PgBouncer) -> None:
    with _console(bouncer) as console, pytest.raises(Refused) as refusal:
        console.rows(LIMIT, "SHOW NOTHING")
    assert (refusal.value.code, refusal.value.problem[:14]) == ("console", "SHOW NOTHING: ")


def test_an_answer_that_does_not_come_in_time_breaks_the_console(bouncer: PgBouncer) -> None:
    with _console(bouncer) as console:
        bouncer.freeze()
        try:
            with pytest.raises(OSError, match="did not answer in time"):
                console.ask(SHORT, "SHOW VERSION")
        finally:
            bouncer.thaw()


def test_answers_that_are_there_are_taken_without_a_wait_and_half_of_one_is_left(bouncer: PgBouncer) -> None:
    with _console(bouncer) as console:
        assert console.arrived() == []
        console.post("PAUSE app", "RESUME app")
        found: list[str] = []

        def both() -> bool:
            found.extend(reply.tag for reply in console.arrived())
            return len(found) == 2

        wait_for(both, LIMIT, "both answers")
        assert found == ["PAUSE", "RESUME"]
    near, far = socket.socketpair()
    with near, far:
        half = Console(near)
        far.sendall(b"C\0\0\0\x0aPAU")
        assert half.arrived() == []
        far.sendall(b"SE\0Z\0\0\0\x05I")
        assert [reply.tag for reply in half.arrived()] == ["PAUSE"]
        far.close()
        with pytest.raises(OSError, match="closed its console"):
            half.arrived()


@pytest.mark.parametrize("address", ["/nowhere/.s.PGSQL.6432", "127.0.0.1:1"])
def test_who_cannot_be_dialled_is_named(address: str) -> None:
    with pytest.raises(OSError, match=f"{address}: (No such file or directory|Connection refused)"):
        dial(address)


def test_which_process_answers_is_told_and_changes_with_it(
    bouncer: PgBouncer,
) -> None:
    with closing(dial(str(bouncer.socket))) as pooler:
        first = identity(pooler)
        assert first.startswith(f"{bouncer.pid} since ")
    with closing(dial(f"{bouncer.address}:{bouncer.port}")) as pooler:
        by_port = identity(pooler)
        assert by_port.startswith("listener ")
    bouncer.kill()
    bouncer.start()
    with closing(dial(str(bouncer.socket))) as pooler:
        assert identity(pooler) not in ("", first)
    with closing(dial(f"{bouncer.address}:{bouncer.port}")) as pooler:
        assert identity(pooler) not in ("", by_port)


# --- record: what a successor has to undo -----------------------------------------------------------

ANOTHER = """
import signal, sys
from watcher.apply.agent.record import Records
records = Records(sys.argv[1], sys.argv[2])
records.note(["app"], {"query_timeout": "0"}, {"query_timeout": "2"}, 1.0, float(sys.argv[3]))
print("noted", flush=True)
signal.pause()
"""


@contextmanager
def _another_agent(
    ini: Path, pooler: str = "7 since 1", left: float = 60.0
) -> Iterator["subprocess.Popen[str]"]:
    """Another process, with a record of its own, of a hold that may last `left` seconds more."""
    with subprocess.Popen(
        [sys.executable, "-c", ANOTHER, str(ini), pooler, str(left)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    ) as agent:
        assert agent.stdout is not None
        agent.stdout.readline()
        yield agent
        agent.kill()


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    path = tmp_path / "pgbouncer.ini"
    path.write_text("")
    return path


def test_a_record_is_anothers_while_that_one_lives_and_left_once_it_was_killed(ini: Path) -> None:
    ours = Records(str(ini), "7 since 1")
    with _another_agent(ini) as agent:
        (record,) = ours.others()
        assert (record["databases"], record["settings"]) == (["app"], {"query_timeout": "0"})
        assert ours.left() == []
        agent.kill()
        agent.wait()
        assert ours.others() == []
        (left,) = ours.left()
        assert left["databases"] == ["app"]
        ours.remove([left])
        assert ours.left() == []


@pytest.mark.parametrize("before", ["it is locked", "it is read"])
def test_who_writes_his_record_anew_while_it_is_looked_at_is_not_taken_for_dead(
    ini: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """The file that was opened is let go then; or one watcher that goes would end the hold of another, and
    one that holds the same clients would take their pause for an operator's.
    """
    ours, other = Records(str(ini), "7 since 1"), Records(str(ini), "7 since 1")
    other.note(["app"], {}, {})
    module, name = (record_part, "_is_locked") if before == "it is locked" else (os, "pread")
    look = getattr(module, name)

    def replaced_just_before(*asked: int) -> object:
        other.note(["app"], {}, {})
        return look(*asked)

    for looked_at, expected in ((ours.others, [["app"]]), (ours.left, [])):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, _once(replaced_just_before, look))
            assert [record["databases"] for record in looked_at()] == expected


def test_a_record_of_one_that_knows_pgbouncer_by_another_name_is_left_to_those_who_do(ini: Path) -> None:
    """By its process over a Unix socket, by its listener over TCP."""
    _leave(ini)
    assert Records(str(ini), "listener 7").left() == []
    assert Records(str(ini), "7 since 1").left()
    assert Records(str(ini), "8 since 1").left() == []  # this one is of a PgBouncer that has gone
    assert _files(ini) == []


def _once(first: Callable[..., object], then: Callable[..., object]) -> Callable[..., object]:
    """`first` at the first call."""
    calls = itertools.chain([first], itertools.repeat(then))
    return lambda *asked: next(calls)(*asked)


def test_a_record_past_its_deadline_is_left_behind_although_its_agent_lives(ini: Path) -> None:
    """It is frozen: nobody else ends what it holds."""
    ours = Records(str(ini), "7 since 1")
    with _another_agent(ini, left=0.2):
        (record,) = ours.others()
        assert 1.0 <= record["age"] < LIMIT
        assert 0.0 < record["left"] <= 0.2
        wait_for(ours.left, LIMIT, "it is overdue")
        assert ours.others() == []


def test_a_record_about_a_pgbouncer_that_has_gone_is_nobodys(ini: Path) -> None:
    with _another_agent(ini, "6 since 1") as agent:
        ours = Records(str(ini), "7 since 1")
        assert ours.others() == []
        agent.kill()
        agent.wait()
        assert ours.left() == []
        assert _files(ini) == []


def test_a_record_says_what_was_noted_last_and_goes_when_it_is_forgotten(ini: Path) -> None:
    ours, successor = Records(str(ini), "7 since 1"), Records(str(ini), "7 since 1")
    ours.note(["app"], {}, {})
    ours.note(["app", "b"], {"max_db_connections": "0"}, {"max_db_connections": "1"})
    (record,) = successor.others()
    assert (record["databases"], record["settings"]) == (["app", "b"], {"max_db_connections": "0"})
    ours.forget()
    ours.forget()
    assert _files(ini) == []


def test_what_is_no_record_is_left_alone(ini: Path) -> None:
    stem = f".{ini.name}.watcher-hold-"
    for name, content in {"a": " ", "b": "{", "c": "[]", "d": '{"pooler": "7 since 1"}'}.items():
        (ini.parent / (stem + name)).write_text(content)
    (ini.parent / (stem + "e")).symlink_to("/etc/passwd")
    os.mkfifo(ini.parent / (stem + "f"))
    ours = Records(str(ini), "7 since 1")
    assert (ours.others(), ours.left()) == ([], [])
    assert len(_files(ini)) == 6


def test_a_record_that_was_emptied_is_removed_once_that_can_be(ini: Path) -> None:
    (ini.parent / f".{ini.name}.watcher-hold-a").write_text("")
    assert Records(str(ini), "7 since 1").left() == []
    assert _files(ini) == []


def test_a_record_that_was_emptied_stays_while_its_agent_lives(ini: Path) -> None:
    emptied = ini.parent / f".{ini.name}.watcher-hold-a"
    with emptied.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ours = Records(str(ini), "7 since 1")
        assert (ours.others(), ours.left()) == ([], [])
    assert _files(ini) == [emptied]


def test_a_record_of_another_account_is_none_and_is_not_written_in(ini: Path) -> None:
    ours = Records(str(ini), "7 since 1")
    with _another_agent(ini) as agent:
        (record,) = _files(ini)
        os.chown(record, 65534, 65534)
        said = record.read_text()
        assert ours.others() == []
        ours.take_from_others(["app"])
        agent.kill()
        agent.wait()
        assert ours.left() == []
    assert record.read_text() == said


@pytest.mark.parametrize("is_link", [True, False])
def test_what_has_come_in_the_place_of_a_record_that_is_removed_is_not_emptied(
    ini: Path, tmp_path: Path, is_link: bool
) -> None:
    """By a link that may be any file, by a name it is another account's."""
    theirs = tmp_path / "theirs"
    theirs.write_text("of worth")
    os.chown(theirs, 65534, 65534)
    ours = Records(str(ini), "7 since 1")
    _leave(ini)
    (record,) = _files(ini)
    left = ours.left()
    record.unlink()
    if is_link:
        os.chown(theirs, os.geteuid(), os.getegid())
        record.symlink_to(theirs)
    else:
        record.hardlink_to(theirs)
    ours.remove(left)
    assert theirs.read_text() == "of worth"


def _leave(ini: Path) -> None:
    """A hold on record, whose agent was killed."""
    with _another_agent(ini):
        pass


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place for records that cannot be beside the file, not yet made."""
    monkeypatch.setattr(record_part, "ELSEWHERE", str(tmp_path / "elsewhere-%d"))
    return tmp_path / f"elsewhere-{os.geteuid()}"


@pytest.fixture
def read_only(tmp_path: Path, elsewhere: Path) -> Iterator[SimpleNamespace]:
    """A file in whose folder a dead agent and `frozen`, past its deadline, have left records, and which is
    read-only since, until `write_again` is called.
    """
    folder = tmp_path / "etc"
    folder.mkdir()
    path = folder / "pgbouncer.ini"
    path.write_text("")
    _leave(path)
    frozen = Records(str(path), "7 since 1")
    frozen.note(["b"], {}, {}, left=-2 * record_part.OVERDUE)
    with ExitStack() as undo:
        undo.callback(make_read_only(folder))
        yield SimpleNamespace(
            ini=path, frozen=frozen, records=lambda: Records(str(path), "7 since 1"), write_again=undo.close
        )


def test_what_could_not_be_removed_once_it_was_undone_is_undone_to_all(read_only: SimpleNamespace) -> None:
    ours = read_only.records()
    left = ours.left()
    assert sorted(record["databases"] for record in left) == [["app"], ["b"]]
    ours.remove(left)
    for one in (ours, read_only.records()):
        assert (one.left(), one.are_more()) == ([], False)
    assert read_only.frozen.own() == []
    assert len(_files(read_only.ini)) == 2


def test_it_is_removed_once_that_can_be_and_so_is_what_told_it(
    read_only: SimpleNamespace, elsewhere: Path
) -> None:
    ours = read_only.records()
    ours.remove(ours.left())
    assert len(_told(elsewhere)) == 2
    assert read_only.records().left() == []
    assert len(_told(elsewhere)) == 2
    read_only.write_again()
    assert read_only.records().left() == []
    assert _files(read_only.ini) == _told(elsewhere) == []
    assert read_only.frozen.own() == []


def test_who_was_told_to_be_undone_is_seen_when_he_holds_again(read_only: SimpleNamespace) -> None:
    ours = read_only.records()
    ours.remove(ours.left())
    read_only.frozen.note(["c"], {}, {})
    assert read_only.frozen.own() == ["c"]
    assert not read_only.frozen.are_more()
    assert [record["databases"] for record in ours.others()] == [["c"]]
    read_only.write_again()
    assert ours.left() == []
    assert [record["databases"] for record in ours.others()] == [["c"]]


def test_who_can_tell_nobody_that_a_record_is_undone_knows_it_at_least(
    read_only: SimpleNamespace, elsewhere: Path
) -> None:
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    ours = read_only.records()
    ours.remove(ours.left())
    assert ours.left() == []
    assert len(read_only.records().left()) == 2
    assert _told(elsewhere) == []


def _told(elsewhere: Path) -> list[Path]:
    return list(elsewhere.glob(".*.watcher-hold.undone-*"))


@pytest.mark.parametrize("of", ["another", "all", "ours, by a link"])
def test_a_place_that_is_not_our_accounts_alone_is_not_looked_at(ini: Path, elsewhere: Path, of: str) -> None:
    """Or any local user could keep us busy, or say by a link of theirs that it is another."""
    elsewhere.mkdir()
    elsewhere.chmod(0o777 if of == "all" else 0o700)
    planted = elsewhere / f".{str(ini).strip('/').replace('/', '-')}.watcher-hold-a"
    planted.write_text("{}")
    ours = Records(str(ini), "7 since 1")
    assert ours.are_more() is (of != "all")
    if of == "another":
        os.chown(elsewhere, 65534, 65534)
    if of == "ours, by a link":
        elsewhere.rename(elsewhere.with_name("real"))
        elsewhere.symlink_to("real")
    assert not ours.are_more()


def test_a_place_that_is_not_our_accounts_alone_is_not_written_in(elsewhere: Path) -> None:
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    ours = Records("/proc/pgbouncer.ini", "7 since 1")
    with pytest.raises(OSError, match=r"/proc/\.pgbouncer\.ini"), ours.turn():
        ours.note(["app"], {}, {})
    assert list(elsewhere.iterdir()) == []


def test_what_cannot_be_written_whole_is_no_record(ini: Path, elsewhere: Path) -> None:
    """The disk becomes full amid it."""
    ours = Records(str(ini), "7 since 1")
    with _files_end_at(10), pytest.raises(OSError, match="No space left"):
        ours.note(["app"], {}, {})
    assert _files(ini) == list(elsewhere.iterdir()) == []
    ours.note(["app"], {}, {})
    assert ours.own() == ["app"]


@contextmanager
def _files_end_at(size: int) -> Iterator[None]:
    """A write that goes past it is cut short."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_without_a_place_for_temporary_files_a_record_is_beside_the_file(
    ini: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_part, "ELSEWHERE", "/proc/nowhere-%d")
    ours, other = Records(str(ini), "7 since 1"), Records(str(ini), "7 since 1")
    with ours.turn():
        ours.note(["app"], {}, {})
    assert [record["databases"] for record in other.others()] == [["app"]]
    assert other.left() == []
    nowhere = Records("/proc/pgbouncer.ini", "7 since 1")
    with pytest.raises(OSError, match="nowhere"):
        nowhere.note(["app"], {}, {})


def test_what_was_never_finished_is_swept_and_what_is_being_made_is_not(ini: Path) -> None:
    dead = ini.parent / f".{ini.name}.watcher-hold.new-dead"
    dead.write_text("{")
    alive = ini.parent / f".{ini.name}.watcher-hold.new-alive"
    with alive.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert Records(str(ini), "7 since 1").left() == []
    assert _files(ini) == [alive]


@pytest.mark.parametrize("where", ["beside", "elsewhere"])
@pytest.mark.usefixtures("elsewhere")
def test_one_agent_at_a_time_has_the_turn_and_a_frozen_one_does_not_keep_it(ini: Path, where: str) -> None:
    file = str(ini) if where == "beside" else "/proc/pgbouncer.ini"
    first, second = Records(file, "7 since 1"), Records(file, "7 since 1")
    order: list[str] = []

    def take() -> None:
        with second.turn():
            order.append("second")

    waiting = threading.Thread(target=take)
    with first.turn():
        waiting.start()
        waiting.join(0.1)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
    with first.turn(), second.turn():  # whoever holds it for longer than the limit does not stop the other
        pass


def _files(ini: Path) -> list[Path]:
    return sorted(
        path for path in ini.parent.iterdir() if ".watcher-hold" in path.name and ".lock" not in path.name
    )
