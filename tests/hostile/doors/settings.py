"""The settings: YAML, TOML, environment, a secret's file; and Patroni's own file, as the barrier reads it."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from tests.hostile.door import Door, as_text, repeated, throwaway_folder
from tests.hostile.doors.etcd_keys import JSON
from tests.hostile.doors.file import GOOD, STAMP, check_rewrite
from watcher.barrier import Unusable, parser, settings_of
from watcher.decide.errors import SettingsError
from watcher.decide.model import Route
from watcher.settings.loading import load, redacted

BASE = (
    "cluster: {scope: demo}\netcd: {endpoints: ['127.0.0.1:2379']}\n"
    "targets: [{name: here, via: local, file: /x, console: {socket: /s}}]\n"
)


@cache
def _folder() -> Path:
    return throwaway_folder()


def _check_loaded(file: Path, environ: dict[str, str], secrets: Path | None = None) -> None:
    with suppress(SettingsError):
        loaded = load({}, file, environ, secrets)
        redacted(loaded)
        for settings in loaded.fleet:
            for endpoint in settings.policy().addresses.values():
                check_rewrite(GOOD, Route(endpoint, STAMP))


def check_file(name: str, data: bytes) -> None:
    file = _folder() / name
    file.write_bytes(data)
    _check_loaded(file, {})


def _base() -> Path:
    file = _folder() / "base.yaml"
    if not file.exists():
        file.write_text(BASE)
    return file


def check_environment(data: bytes) -> None:
    """Lines of NAME=value; the kernel lets no NUL into an environment."""
    pairs = (line.partition("=") for line in as_text(data.replace(b"\0", b"")).split("\n"))
    _check_loaded(_base(), {name: value for name, _, value in pairs if name})


def check_secret(data: bytes) -> None:
    folder = _folder() / "secrets"
    folder.mkdir(exist_ok=True)
    (folder / "etcd__password").write_bytes(data)
    (folder / "etcd__username").write_text("u")
    _check_loaded(_base(), {}, folder)


def check_patroni_file(data: bytes) -> None:
    file = _folder() / "patroni.yml"
    file.write_bytes(data)
    with suppress(Unusable):
        settings_of(parser("barrier").parse_args(["--patroni-config", os.fspath(file)]))


_YAML = (
    *(
        b"cluster:\n  scope: demo\n",
        b"  connect_via: addresses\n",
        b"  addresses: {pg1: '10.0.0.1:5432'}\n",
        b"etcd: {endpoints: [a:1]}\n",
        b"clusters:\n- cluster: {scope: demo}\n  ",
        b"cluster_files: /nowhere/*.yaml\n",
    ),
    *(
        b"targets: [{name: here, via: local, file: /x, console: {socket: /s}}]\n",
        b"&a ",
        b"*a",
        b"<<: ",
        b"!!str ",
        b"!!binary ",
    ),
    *(
        b"!!python/object:os.system ",
        b"!!timestamp ",
        b"!!int ",
        b"!!set ",
        b"!!omap ",
        b"? ",
        b"- ",
        b"{",
        b"}",
        b"[",
        b"]",
        b": ",
        b"\n",
        b"  ",
    ),
    *(
        b"---\n",
        b"...\n",
        b"%YAML 9.9\n",
        b"%TAG ! x\n",
        b"|\n",
        b"'",
        b'"',
        b"\t",
        b"#",
        b"0o9",
        b"0b",
        b"1:2:3",
        b"2001-99-99",
        b"._",
        b"=\n",
    ),
)
_TOML = (
    *(
        b"[cluster]\nscope = 'demo'\n",
        b"[etcd]\nendpoints = ['a:1']\n",
        b"[[targets]]\nname = 'here'\nvia = 'local'\nfile = '/x'\n",
        b"[[clusters]]\ncluster.scope = 'demo'\n",
        b"[[clusters.targets]]\nname = 'here'\nvia = 'local'\nfile = '/x'\n",
    ),
    *(
        b"a = ",
        b"1979-05-27",
        b"'''",
        b"[",
        b"]",
        b"{",
        b"}",
        b"=",
        b".",
        b"\n",
        b"0x",
        b"inf",
        b"nan",
        b"1e",
        b"\\u",
        b"9" * 5000,
        b"[" * 2000,
    ),
)
_PROMISE = "SettingsError with every fault, or settings; an address in them breaks out of no place"


def _bomb(size: int) -> bytes:
    """Each line holds the one before it ten times: what it stands for grows tenfold a line."""
    lines = (
        b"a%d: &a%d [" % (n, n) + b",".join([b"*a%d" % (n - 1)] * 10) + b"]"
        for n in range(1, max(2, size // 50))
    )
    return b"\n".join([b"a0: &a0 [x,x,x,x,x,x,x,x,x,x]", *lines])


DOORS = (
    Door(
        "settings_yaml",
        _PROMISE,
        partial(check_file, "w.yaml"),
        (*_YAML, *JSON),
        1,
        {"aliases": _bomb, "digits": repeated(b"a: ", b"9")},
    ),
    Door(
        "settings_toml",
        _PROMISE,
        partial(check_file, "w.toml"),
        _TOML,
        6,
        {
            "nesting": repeated(b"a = ", b"["),
            "digits": repeated(b"a = ", b"9"),
        },
    ),
    Door(
        "settings_environment",
        _PROMISE,
        check_environment,
        (
            *(
                b"WATCHER_CLUSTER__ADDRESSES=",
                b'{"pg1": "10.0.0.1"}',
                b"WATCHER_CLUSTER__CONNECT_VIA=addresses",
                b"\n",
            ),
            *(
                b"WATCHER_ETCD__ENDPOINTS=",
                b'["a:1"]',
                b"WATCHER_",
                b"__",
                b"WATCHER_TARGETS=",
                b"null",
                b"\xff",
                *JSON,
            ),
        ),
        3,
        {
            "nesting": repeated(b"WATCHER_CLUSTER__ADDRESSES=", b"["),
            "digits": repeated(b"WATCHER_TARGETS=", b"9"),
        },
    ),
    Door(
        "settings_secret",
        _PROMISE,
        check_secret,
        (b"s3cret", b"\n", b"\r\n", b"\0", b"\xff", b"null", b"{", b" "),
        2,
    ),
    Door(
        "patroni_file",
        "Unusable with the reason, or settings of the barrier",
        check_patroni_file,
        (
            b"scope: demo\nname: pg1\n",
            b"etcd3:\n  hosts: [a:1]\n",
            b"  url: http://u:p@h:1\n",
            b"  port: ",
            *_YAML,
            *JSON,
        ),
        6,
        {"digits": repeated(b"scope: ", b"9")},
    ),
)
