"""Settings towards etcd that could not work, or would leak, are refused before anything is sent."""

from pathlib import Path
from typing import Any

import pytest

from watcher.decide.errors import SettingsError
from watcher.observe.etcd_access import EtcdAccess, EtcdEndpoint

PEM = Path("some.pem")


@pytest.mark.parametrize(
    ("text", "host", "port", "tls"),
    [
        ("etcd1", "etcd1", 2379, None),
        ("etcd1:4001", "etcd1", 4001, None),
        ("10.0.0.1:2379", "10.0.0.1", 2379, None),
        ("[::1]:2379", "[::1]", 2379, None),
        ("http://etcd1:2379", "etcd1", 2379, False),
        ("https://etcd1.example.org:2379/", "etcd1.example.org", 2379, True),
        ("https://[fd00::1]", "[fd00::1]", 2379, True),
    ],
)
def test_an_endpoint_is_read_in_every_common_form(text: str, host: str, port: int, tls: bool | None) -> None:
    assert EtcdEndpoint.parse(text) == EtcdEndpoint(host, port, tls)


@pytest.mark.parametrize(
    "text",
    ["", "etcd1:0", "etcd1:65536", "::1:2379", "ftp://etcd1", "a b", "etcd1:2379/path", "u:p@etcd1:2379"],
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="is not an etcd endpoint"):
        EtcdAccess((text,))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"endpoints": ()}, "no endpoint"),
        ({"endpoints": ("https://etcd1",)}, "needs the CA"),
        ({"endpoints": ("http://etcd1",), "ca": PEM}, "contradict"),
        ({"certificate": PEM, "key": PEM}, "without a CA"),
        ({"certificate": PEM, "ca": PEM}, "come together"),
        ({"key": PEM, "ca": PEM}, "come together"),
        ({"username": "watcher"}, "come together"),
        ({"password": "secret"}, "come together"),
    ],
)
def test_contradictions_are_refused_with_a_hint(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as caught:
        EtcdAccess(**{"endpoints": ("etcd1",), **given})
    assert caught.value.hint


def test_an_endpoint_named_twice_is_one() -> None:
    assert len(EtcdAccess(("etcd1", "etcd1:2379", "etcd2")).parsed()) == 2


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(EtcdAccess(("etcd1",), username="watcher", password="secret"))
