"""`check-config` on a real PgBouncer: what its settings would do in a failover, and nothing of it a fault."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml

from tests.e2e.test_stage import Keys
from tests.support.etcd import EtcdCluster
from tests.support.folders import bed_folder
from tests.support.pgbouncer import RECOMMENDED, PgBouncer, Version
from watcher.command_line import main


@pytest.fixture(scope="module")
def keys(installed: None) -> Iterator[Keys]:
    with bed_folder() as folder, EtcdCluster(folder, 1) as etcd:
        keys = Keys(etcd)
        keys.crown("a")
        yield keys


@pytest.fixture
def said(keys: Keys, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> "Said":
    return Said(keys, tmp_path / "watcher.yaml", capsys)


class Said:
    """What `check-config` says of one PgBouncer beside it."""

    def __init__(self, keys: Keys, file: Path, output: pytest.CaptureFixture[str]) -> None:
        self._keys, self._file, self._output = keys, file, output

    def __call__(self, bouncer: PgBouncer) -> list[str]:
        """The lines of advice. There is no fault among the target's lines, and none in the exit code."""
        self._file.write_text(yaml.safe_dump(self._settings(bouncer)))
        self._output.readouterr()
        code = main(["check-config", "--config", str(self._file)])
        out = self._output.readouterr().out
        assert not re.findall("^FAULT .*", out, re.MULTILINE)
        assert code == 0
        return re.findall("^advice   (.*)$", out, re.MULTILINE)

    def _settings(self, bouncer: PgBouncer) -> dict[str, object]:
        target = {
            "name": "pgb1",
            "via": "local",
            "file": str(bouncer.config_file),
            "console": {"address": f"{bouncer.address}:{bouncer.port}", "user": "admin"},
        }
        return {
            "cluster": {"scope": self._keys.scope, "namespace": "service", "ready_by": "leader_key"},
            "etcd": {"endpoints": self._keys.etcd.endpoints},
            "targets": [target],
        }


def _of(lines: list[str]) -> list[str]:
    """What each line is about. The version is left out: it is what Debian has."""
    places = [
        re.fullmatch(r"target pgb1: ((?:database \S+: )?\w+) is .+, better .+: .+", line) for line in lines
    ]
    assert all(places), lines
    return [place[1] for place in places if place is not None and place[1] != "version"]


def test_pgbouncers_defaults_are_advised_against(service_folder: Path, said: Said) -> None:
    with PgBouncer(service_folder / "b", pool_mode="session") as bouncer:
        assert _of(said(bouncer)) == [
            "pool_mode",
            "server_login_retry",
            "server_connect_timeout",
            "tcp_keepidle",
            "tcp_keepintvl",
            "tcp_keepcnt",
            "tcp_user_timeout",
            "client_login_timeout",
        ]


@pytest.mark.parametrize("version", get_args(Version))
def test_what_is_recommended_is_not_advised_against(
    service_folder: Path, said: Said, version: Version
) -> None:
    with PgBouncer(service_folder / "b", ini_extra=RECOMMENDED, version=version) as bouncer:
        assert _of(said(bouncer)) == []
        number = bouncer.console("SHOW VERSION")[0]["version"].split()[-1]
        assert [line for line in said(bouncer) if f"version is {number}, better " in line]


def test_what_a_newer_pgbouncer_can_do_is_asked_for(service_folder: Path, said: Said) -> None:
    without = {**RECOMMENDED, "max_prepared_statements": "0"}
    with PgBouncer(service_folder / "b", ini_extra=without, version="new") as bouncer:
        assert _of(said(bouncer)) == ["max_prepared_statements"]


def test_a_database_that_goes_its_own_way_is_named_and_one_outside_the_block_is_not(
    service_folder: Path, said: Said
) -> None:
    outside = ["theirs = host=127.0.0.1 port=1 pool_mode=session"]
    with PgBouncer(
        service_folder / "b", databases=["app", "own"], outside=outside, ini_extra=RECOMMENDED
    ) as bouncer:
        file = bouncer.config_file
        own = "dbname=own pool_mode=session min_pool_size=2 pool_size=5"
        file.write_text(file.read_text().replace("dbname=own", own))
        bouncer.reload()
        assert _of(said(bouncer)) == ["database own: pool_mode", "database own: min_pool_size"]


def test_clients_are_to_outlast_the_clusters_own_ttl(service_folder: Path, keys: Keys, said: Said) -> None:
    keys.put("config", '{"ttl": 300, "loop_wait": 10}')
    try:
        with PgBouncer(service_folder / "b", ini_extra=RECOMMENDED) as bouncer:
            lines = said(bouncer)
    finally:
        keys.etcd.delete(keys.prefix + "config")
    of_the_hold, *lines = lines
    assert of_the_hold.startswith("hold.limit is 60, better 310 or more: ")
    assert _of(lines) == ["query_wait_timeout", "client_login_timeout"]
    assert "is 120, better more than 310: " in lines[0]


def test_a_live_setting_counts_and_not_the_file(service_folder: Path, said: Said) -> None:
    with PgBouncer(service_folder / "b", ini_extra=RECOMMENDED) as bouncer:
        bouncer.console("SET server_login_retry = '0'")
        assert _of(said(bouncer)) == ["server_login_retry"]
