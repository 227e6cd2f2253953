"""How etcd is reached: endpoints, credentials, limits. Pure; refuses what could not work or would leak.

The etcd client opens a plaintext channel without a word when it is given a client certificate but no CA,
so a combination that does not say plainly whether TLS is meant is a `SettingsError` here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from watcher.decide.backoff import Backoff
from watcher.decide.errors import SettingsError

DEFAULT_PORT = 2379
_PLACE = "etcd access"
_ENDPOINT = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(?P<port>\d{1,5}))?/?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class EtcdEndpoint:
    """One member of etcd. `host` is a name or an address, an IPv6 address in brackets.

    >>> EtcdEndpoint.parse("https://etcd1:2379")
    EtcdEndpoint(host='etcd1', port=2379, tls=True)
    >>> str(EtcdEndpoint.parse("[::1]:2379"))
    '[::1]:2379'
    """

    host: str
    port: int
    tls: bool | None = None  # None: the endpoint does not say

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> EtcdEndpoint:
        """`host`, `host:port`, `http(s)://host:port`, `[ipv6]:port`; port 2379 where none is given."""
        match = _ENDPOINT.fullmatch(text.strip())
        port = int(match["port"] or DEFAULT_PORT) if match else 0
        if match is None or not 1 <= port <= 65535:
            raise SettingsError(
                _PLACE, f"{text[:80]!r} is not an etcd endpoint", "write host:port or https://host:port"
            )
        return cls(match["host"], port, None if match["scheme"] is None else match["scheme"] == "https")


@dataclass(frozen=True, slots=True)
class EtcdAccess:
    """Where etcd is and who we are to it. Times in seconds. SettingsError for what cannot be used.

    TLS is on where `ca` is given. A frozen member of etcd is noticed within
    `reread_interval` + `reread_limit`, a silent one at the start within `first_response_limit`.
    """

    endpoints: tuple[str, ...]
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    timeout: float = 2.5  # for the reads that open a session
    first_response_limit: float = 3.0  # for the word that a watch is accepted
    reread_interval: float = 2.0  # at most; a quarter less by jitter
    reread_limit: float = 2.0
    missed_limit: float = 1.0  # how far the watch may lag behind a read
    max_message_bytes: int = 8 * 1024 * 1024
    backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise SettingsError(_PLACE, "no endpoint is given", "name at least one etcd member")
        for endpoint in self.parsed():
            self._check_scheme(endpoint)
        self._check_certificate()
        if (self.username is None) != (self.password is None):
            raise SettingsError(
                _PLACE, "user name and password come together", "give the one that is missing"
            )

    def parsed(self) -> tuple[EtcdEndpoint, ...]:
        """The endpoints, in the order given, each once."""
        return tuple(dict.fromkeys(EtcdEndpoint.parse(text) for text in self.endpoints))

    def _check_scheme(self, endpoint: EtcdEndpoint) -> None:
        if endpoint.tls and self.ca is None:
            raise SettingsError(
                _PLACE, f"https://{endpoint} needs the CA that signed its certificate", "name the CA's file"
            )
        if endpoint.tls is False and self.ca is not None:
            raise SettingsError(
                _PLACE, f"http://{endpoint} and a CA contradict each other", "write https:// or drop the CA"
            )

    def _check_certificate(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise SettingsError(
                _PLACE, "a client certificate and its key come together", "name both files, or neither"
            )
        if self.certificate is not None and self.ca is None:
            raise SettingsError(
                _PLACE,
                "a client certificate without a CA would go over an unencrypted connection",
                "name the file of the CA that signed etcd's certificate",
            )
