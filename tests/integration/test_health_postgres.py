"""The SQL question against a real PostgreSQL."""

import socket
import time
from pathlib import Path

import pytest

from tests.support.addresses import take_address
from tests.support.postgres import Postgres as Server
from watcher.decide.errors import AccessDenied, SourceError
from watcher.decide.model import Endpoint
from watcher.observe.postgres import Postgres, SqlAnswer, SqlLogin
from watcher.observe.trust import Trust


@pytest.fixture
def server(service_folder: Path) -> Server:
    return Server(service_folder / "pg", take_address())


def at(server: Server) -> Endpoint:
    return Endpoint(server.address, server.port)


def test_a_standby_says_recovery_until_it_is_promoted_on_one_connection(service_folder: Path) -> None:
    with Server(service_folder / "a") as primary, Server(service_folder / "b", primary=primary) as standby:
        assert ask(primary) == SqlAnswer(in_recovery=False, timeline=1)
        sql = Postgres(SqlLogin("postgres"))
        assert sql.ask(at(standby)) == SqlAnswer(in_recovery=True, timeline=None)
        standby.promote()
        assert sql.ask(at(standby)) == SqlAnswer(in_recovery=False, timeline=2)
        sql.close()


def ask(server: Server, **login: object) -> SqlAnswer:
    sql = Postgres(SqlLogin(**{"user": "postgres", "limit": 0.5, **login}))  # type: ignore[arg-type]
    try:
        return sql.ask(at(server))
    finally:
        sql.close()


def test_a_server_that_restarts_is_asked_again_over_a_new_connection(server: Server) -> None:
    sql = Postgres(SqlLogin("postgres"))
    with server:
        sql.ask(at(server))
        server.stop_fast()
        with pytest.raises(SourceError):
            sql.ask(at(server))
        server.start()
        server.wait_until_ready()
        assert not sql.ask(at(server)).in_recovery
    sql.close()


def test_a_frozen_server_costs_the_limit(server: Server) -> None:
    with server:
        server.freeze()
        began = time.monotonic()
        with pytest.raises(SourceError, match=r"within 0\.5 s"):
            ask(server)
        assert time.monotonic() - began < 10
        server.thaw()


def test_nobody_there_is_told(server: Server) -> None:
    with pytest.raises(SourceError, match="refused"):
        ask(server)


def test_a_wrong_login_names_the_role(service_folder: Path) -> None:
    with (
        Server(service_folder / "pg", auth="scram-sha-256") as server,
        pytest.raises(AccessDenied, match="HINT"),
    ):
        ask(server, user="app", password="wrong")


def test_tls_that_the_server_does_not_speak_is_told(server: Server) -> None:
    with server, pytest.raises(SourceError, match="refuses SSL"):
        ask(server, trust=Trust())


def test_something_else_than_postgresql_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        sql = Postgres(SqlLogin("postgres", limit=0.3))
        with pytest.raises(SourceError, match="within"):
            sql.ask(Endpoint("127.0.0.1", port))
