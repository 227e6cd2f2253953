"""What the barrier makes of Patroni's configuration and of its flags."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from watcher.barrier import Access, Unusable, access_of, main, parser, read_patroni, settings_of


def settings(folder: Path, config: Any, *flags: str) -> Any:
    file = folder / "patroni.yml"
    file.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return settings_of(parser("barrier").parse_args(["--patroni-config", str(file), *flags]))


CONFIG = {"scope": "main", "name": "pg1", "etcd3": {"host": "e1:2379"}}


def test_patroni_s_own_file_says_it_all(tmp_path: Path) -> None:
    made = settings(tmp_path, CONFIG)
    assert (made.member, made.prefix, made.limit) == ("pg1", "/service/main/", 10)
    assert made.access == Access([("e1", 2379)])
    assert settings(tmp_path, {**CONFIG, "namespace": "/db/"}).prefix == "/db/main/"


@pytest.mark.parametrize(
    ("citus", "flags", "prefix"),
    [
        ({"group": 0, "database": "app"}, (), "/service/main/0/"),
        ({"group": 0, "database": "app"}, ("--group", "3"), "/service/main/3/"),
        ({"group": None}, (), "/service/main/"),
        ("nonsense", (), "/service/main/"),
    ],
)
def test_a_citus_group_has_keys_of_its_own(
    citus: object, flags: tuple[str, ...], prefix: str, tmp_path: Path
) -> None:
    assert settings(tmp_path, {**CONFIG, "citus": citus}, *flags).prefix == prefix


def test_flags_go_over_the_file(tmp_path: Path) -> None:
    flags = ("--name", "n", "--scope", "s", "--namespace", "x", "--etcd", "e2:1,e3:2", "--limit", "3")
    made = settings(tmp_path, CONFIG, *flags)
    assert (made.member, made.prefix, made.limit) == ("n", "/x/s/", 3)
    assert made.access.hosts == [("e2", 1), ("e3", 2)]


def test_without_a_file_the_flags_are_enough() -> None:
    made = settings_of(parser("barrier").parse_args(["--name", "n", "--scope", "s", "--etcd", "e"]))
    assert (made.member, made.prefix, made.access) == ("n", "/service/s/", Access([("e", 2379)]))


def test_a_folder_of_files_is_read_as_patroni_reads_it(tmp_path: Path) -> None:
    (tmp_path / "1.yml").write_text("scope: main\netcd3: {hosts: e1, username: u}\n")
    (tmp_path / "2.yaml").write_text("name: pg1\netcd3: {hosts: e2}\n")
    (tmp_path / "3.conf").write_text("not: read")
    assert read_patroni(str(tmp_path)) == {
        "scope": "main",
        "name": "pg1",
        "etcd3": {"hosts": "e2", "username": "u"},
    }


@pytest.mark.parametrize(
    ("section", "hosts"),
    [
        ({"host": "e1"}, [("e1", 2379)]),
        ({"host": "e1", "port": 4001}, [("e1", 4001)]),
        ({"hosts": "e1:1, e2"}, [("e1", 1), ("e2", 2379)]),
        ({"hosts": ["e1:1", "[::1]:2", "10.0.0.1"]}, [("e1", 1), ("::1", 2), ("10.0.0.1", 2379)]),
        ({"hosts": ["e1", "e2"], "port": 7}, [("e1", 7), ("e2", 7)]),
        ({"url": "http://e1:3"}, [("e1", 3)]),
        ({"url": "http://e1", "host": "e9"}, [("e1", 2379)]),
    ],
)
def test_etcd_is_where_patroni_says(section: dict[str, Any], hosts: list[tuple[str, int]]) -> None:
    assert access_of({"etcd3": section}).hosts == hosts


def test_certificates_and_users_are_patroni_s() -> None:
    files = {"protocol": "https", "cacert": "/ca", "cert": "/cert", "key": "/key"}
    section = {"host": "e1", **files, "username": "u", "password": "p"}
    assert access_of({"etcd3": section}) == Access([("e1", 2379)], True, "/ca", "/cert", "/key", "u", "p")
    in_url = access_of({"etcd3": {"url": "https://u:p@e1:1"}})
    assert (in_url.tls, in_url.username, in_url.password) == (True, "u", "p")


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"name": "pg1", "etcd3": {"host": "e"}}, "`scope` is not in Patroni's configuration"),
        ({"scope": "main", "etcd3": {"host": "e"}}, "`name` is not in Patroni's configuration"),
        ({"scope": "main", "name": "pg1"}, "names no host"),
        ({"scope": "main", "name": "pg1", "etcd": {"host": "e"}}, "names no host"),
        ({**CONFIG, "etcd3": "e1"}, "not a mapping"),
        ({**CONFIG, "etcd3": {"host": "a b/c"}}, "'a b/c' is not host:port"),
        ("- a list", "is not Patroni's configuration"),
        ("a: [", "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path: Path, config: Any, problem: str) -> None:
    with pytest.raises(Unusable, match=problem):
        settings(tmp_path, config)


@pytest.mark.parametrize("limit", ["0", "-1", "301", "nan", "soon"])
def test_a_limit_that_is_none_is_refused(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--limit", limit])
    assert ended.value.code == 2
    assert "--limit" in capsys.readouterr().err


def test_tls_files_that_cannot_be_used_are_told_and_the_stop_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "patroni.yml"
    section = {"host": "127.0.0.1:9", "protocol": "https", "cacert": str(tmp_path / "absent.pem")}
    file.write_text(json.dumps({**CONFIG, "etcd3": section}))
    assert main(["--patroni-config", str(file)]) == 0
    said = capsys.readouterr().err
    assert said.startswith("pgbouncer-watcher barrier: the stop goes on without holds: the TLS files")
    assert said.count("\n") == 1


def test_it_prints_itself_to_be_installed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("#!/usr/bin/env python3\n")
    compile(printed, "barrier", "exec")
