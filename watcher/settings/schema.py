"""What can be settled, and what is refused. Every field carries its unit, its bounds and its description;
`docs/configuration.md` and every error message are made from them.

A section checks what its own fields say together in `_contradictions`, so that all of its faults are
reported at once. Nothing here reads a file, the environment or a clock: `layers.py` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from watcher.decide.backoff import Backoff
from watcher.decide.decision import (
    Announced,
    CanaryPolicy,
    ConnectVia,
    HoldPolicy,
    Policy,
    ReadyBy,
    Standby,
)
from watcher.decide.endpoint import check_host, parse_address
from watcher.decide.errors import MalformedPayload
from watcher.decide.model import MAX_LAG, Choose, Endpoint
from watcher.decide.readers import ReadPolicy
from watcher.settings.faults import Fault, refuse, refuse_all

PREFIX = "WATCHER_"
DELIMITER = "__"
SECRET_FILES = {"password_file": "password", "key_passphrase_file": "key_passphrase"}
"""Settings that name the file which holds another setting of the same section."""


# --- values ---------------------------------------------------------------------------------------


def _not_bool(value: object) -> object:
    return refuse("is true or false, not a number", "write a number") if isinstance(value, bool) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _check_host(text: str) -> str:
    try:
        return check_host(text, "")
    except MalformedPayload:
        return refuse("is neither a host name nor an address", "write one host, without port or user")


def _check_address(text: str) -> str:
    try:
        parse_address(text, "")
    except MalformedPayload:
        return refuse("is not host:port", "write one host and port, an IPv6 address in brackets")
    return text


def _check_host_port(text: str) -> str:
    if "://" in text:
        return refuse("is a URL", "write host:port, without a scheme; `tls` switches TLS on")
    if not re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]+):\d+", text, re.ASCII):
        return refuse("is not host:port", "write host and port, an IPv6 address in brackets")
    return _check_address(text)


def _check_node(url: str) -> str:
    wanted = "write http://host:8008 or https://host:8008, as Patroni's restapi.connect_address says"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return refuse("is not a URL", wanted)
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return refuse("is not an http or https URL", wanted)
    if "@" in parts.netloc or parts.path not in ("", "/") or parts.query or parts.fragment:
        return refuse("holds more than scheme, host and port", wanted)
    _check_host(parts.hostname)
    return url.rstrip("/")


def _check_path(text: str) -> str:
    if not text.startswith("/"):
        return refuse("is not an absolute path", "write the path from / on; ~ and variables are not expanded")
    return text


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({value for value in values if values.count(value) > 1})
    return refuse(f"names {twice[0]} twice", "leave one of them") if twice else values


_LINE = r"^[^\x00-\x1f\x7f]+$"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value looks like, for people."""

    text: str


Number = Annotated[float, BeforeValidator(_not_bool)]
Text = Annotated[str, Field(min_length=1, max_length=1000, pattern=_LINE)]
Name = Annotated[Text, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Path = Annotated[Text, AfterValidator(_check_path), Kind("absolute path")]
Scope = Annotated[
    Text, Field(pattern=r"^[^/\s\x00-\x1f\x7f]([^/\x00-\x1f\x7f]*[^/\s\x00-\x1f\x7f])?$"), Kind("text")
]
Secret = Annotated[SecretStr, Field(min_length=1)]
Host = Annotated[Text, AfterValidator(_check_host), Kind("host")]
HostPort = Annotated[Text, AfterValidator(_check_host_port), Kind("host:port")]
Address = Annotated[Text, AfterValidator(_check_address), Kind("host:port")]
NodeUrl = Annotated[Text, AfterValidator(_check_node), Kind("URL")]
Group = Annotated[int, BeforeValidator(_not_bool), Field(ge=0, le=2**31 - 1), Kind("whole number")]
Bytes = Annotated[int, BeforeValidator(_not_bool), Field(ge=0, le=2**63 - 1), Kind("bytes")]
Count = Annotated[int, BeforeValidator(_not_bool), Field(ge=1, le=1000), Kind("whole number")]
Port = Annotated[int, BeforeValidator(_not_bool), Field(ge=1, le=65535), Kind("port")]


def _seconds(default: float, limit: float, description: str) -> Any:
    return Field(
        default=default,
        gt=0,
        le=limit,
        allow_inf_nan=False,
        description=description,
        json_schema_extra={"unit": "seconds"},
    )


class Section(BaseModel):
    """Frozen, closed to unknown keys, and checked as a whole once every field of it is right."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def _contradictions(self) -> Iterator[Fault]:
        """What is wrong between the fields; a fault's place is relative to this section."""
        return iter(())

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Section:
        refuse_all(self._contradictions())
        return self


class Tls(Section):
    ca: Path = Field(description="File of the certificate authorities that are trusted, PEM.")
    certificate: Path | None = Field(default=None, description="File of the client certificate; with `key`.")
    key: Path | None = Field(default=None, description="File of its key, without a passphrase.")

    def _contradictions(self) -> Iterator[Fault]:
        yield from _together(self, "certificate", "key")


def _together(section: BaseModel, *names: str) -> Iterator[Fault]:
    given = [name for name in names if getattr(section, name) is not None]
    for name in names:
        if given and name not in given:
            yield Fault(
                name, f"is missing beside `{given[0]}`", f"set both `{names[0]}` and `{names[1]}`, or neither"
            )


# --- the cluster, etcd and Patroni ----------------------------------------------------------------


class Sql(Section):
    user: Text = Field(description="Role that may log in to PostgreSQL; it needs no other right.")
    password: Secret | None = Field(default=None, description="The role's password.")
    password_file: Path | None = Field(
        default=None, description="File that holds `password`; read when the settings are."
    )
    database: Text = Field(default="postgres", description="Database to log in to.")
    tls: Tls | None = Field(default=None, description="TLS towards PostgreSQL. Not set: a plain connection.")


class Etcd(Section):
    endpoints: Annotated[tuple[HostPort, ...], AfterValidator(_distinct)] = Field(
        min_length=1, description="Client addresses of etcd's members, `host:port`; tried in this order."
    )
    tls: Tls | None = Field(default=None, description="TLS towards etcd. Not set: a plain connection.")
    username: Text | None = Field(
        default=None, description="etcd user that may read the cluster's prefix; with `password`."
    )
    password: Secret | None = Field(default=None, description="The etcd user's password.")
    password_file: Path | None = Field(
        default=None, description="File that holds `password`; read when the settings are."
    )
    timeout: Number = _seconds(2.5, 60, "Longest wait for one answer of etcd.")
    reread_interval: Number = _seconds(
        5.0, 300, "The keys are read again this often beside the watch, which bounds what a lost event costs."
    )
    silence_limit: Number = _seconds(
        10.0,
        3600,
        "etcd unheard for so long: the health check of the nodes decides."
        " More than `reread_interval` and `timeout` together.",
    )

    def _contradictions(self) -> Iterator[Fault]:
        yield from _together(self, "username", "password")
        least = self.reread_interval + self.timeout
        if self.silence_limit <= least:
            sum_of = f"`reread_interval` + `timeout` = {least:g}"
            problem = f"is not above {sum_of}, so a healthy etcd would seem silent"
            yield Fault("silence_limit", problem, f"set it above {least:g}, or lower those two")

    @property
    def addresses(self) -> tuple[Endpoint, ...]:
        """The endpoints as values."""
        return tuple(parse_address(text, "etcd.endpoints") for text in self.endpoints)


class OtherSite(Section):
    etcd: Etcd = Field(description="The etcd that the other site's Patroni uses.")
    scope: Scope | None = Field(
        default=None, description="`scope` in Patroni's configuration there. Not set: as here."
    )
    namespace: Text | None = Field(
        default=None, description="`namespace` in Patroni's configuration there. Not set: as here."
    )
    addresses: dict[Text, Address] = Field(
        default_factory=dict,
        description="Member name there to `host:port`; with `connect_via: addresses`.",
    )
    nodes: Annotated[tuple[NodeUrl, ...], AfterValidator(_distinct)] = Field(
        default=(), description="REST URLs of the nodes there, beside those that the member keys tell."
    )


class Cluster(Section):
    scope: Scope = Field(description="The cluster's name: `scope` in Patroni's configuration. No slash.")
    namespace: Text = Field(
        default="service",
        description="Where Patroni keeps its keys: `namespace` in its configuration, without outer slashes.",
    )
    group: Group | None = Field(
        default=None,
        description="In a Citus cluster, the group that is followed, 0 being the coordinator's: `citus.group`"
        " in Patroni's configuration.",
    )
    connect_via: ConnectVia = Field(
        default=ConnectVia.CONN_URL,
        description="Which address of the leader clients are sent to: `conn_url` or `proxy_url` as its"
        " Patroni publishes them, or the one in `addresses`.",
    )
    addresses: dict[Text, Address] = Field(
        default_factory=dict,
        description="Member name to `host:port` (port 5432 if none is given); with `connect_via: addresses`.",
    )
    standby: Standby = Field(
        default=Standby.KEEP,
        description="While it is a standby cluster: `keep` the route as it is; lead clients to its"
        " `standby_leader`, which is read-only; or to the primary of the `other_site` (docs/sites.md).",
    )
    other_site: OtherSite | None = Field(
        default=None,
        description="Where the cluster of the other site is heard of; exactly with `standby: other_site`.",
    )
    ready_by: ReadyBy = Field(
        default=ReadyBy.REST,
        description="How a new leader proves that it takes clients: `rest`, its own Patroni says that it runs"
        " as primary; `sql`, its PostgreSQL says so; `leader_key`, the key in etcd is enough.",
    )
    unknown_limit: Number = _seconds(
        3.0, 300, "A leader that does not answer the question for so long gets its clients all the same."
    )
    sql: Sql | None = Field(
        default=None, description="Login to the leader's PostgreSQL; exactly with `ready_by: sql`."
    )

    def _contradictions(self) -> Iterator[Fault]:
        by_table = self.connect_via is ConnectVia.ADDRESSES
        if by_table and not self.addresses:
            yield Fault(
                "addresses",
                "is empty, but `connect_via` is `addresses`",
                "name every member and its host:port",
            )
        if self.addresses and not by_table:
            problem = f"has no effect: `connect_via` is `{self.connect_via}`"
            yield Fault("addresses", problem, "set `connect_via: addresses`, or leave `addresses` out")
        if self.ready_by is ReadyBy.SQL and self.sql is None:
            yield Fault(
                "sql", "is missing, but `ready_by` is `sql`", "set `sql.user`, and what its login needs"
            )
        if self.sql is not None and self.ready_by is not ReadyBy.SQL:
            problem = f"has no effect: `ready_by` is `{self.ready_by}`"
            yield Fault("sql", problem, "set `ready_by: sql`, or leave `sql` out")
        yield from self._contradictions_of_sites()
        if not self.namespace.strip("/"):
            yield Fault(
                "namespace",
                "is empty",
                "copy `namespace` from Patroni's configuration (its default: service)",
            )

    def _contradictions_of_sites(self) -> Iterator[Fault]:
        by_site = self.standby is Standby.OTHER_SITE
        if by_site and self.other_site is None:
            yield Fault(
                "other_site", "is missing, but `standby` is `other_site`", "name where it is heard of"
            )
        if self.other_site is not None and not by_site:
            problem = f"has no effect: `standby` is `{self.standby}`"
            yield Fault("other_site", problem, "set `standby: other_site`, or leave `other_site` out")
        if self.other_site is None:
            return
        by_table = self.connect_via is ConnectVia.ADDRESSES
        if by_table and not self.other_site.addresses:
            remedy = "name every member there and its host:port"
            yield Fault("other_site.addresses", "is empty, but `connect_via` is `addresses`", remedy)
        if self.other_site.addresses and not by_table:
            problem = f"has no effect: `connect_via` is `{self.connect_via}`"
            remedy = "set `connect_via: addresses`, or leave `addresses` out"
            yield Fault("other_site.addresses", problem, remedy)

    def of_other_site(self) -> Cluster | None:
        """The cluster there, as a cluster of its own."""
        other = self.other_site
        if other is None:
            return None
        named = {
            "scope": other.scope or self.scope,
            "namespace": other.namespace or self.namespace,
            "addresses": other.addresses,
            "standby": Standby.KEEP,
            "other_site": None,
        }
        return self.model_copy(update=named)

    @property
    def prefix(self) -> str:
        """Of all keys of the cluster in etcd, with the slash at its end."""
        return f"{self.namespace_prefix}{self.name}/"

    @property
    def name(self) -> str:
        """By which logs, metrics, pages and commands know it: the scope; `scope/group` of a Citus group."""
        return self.scope if self.group is None else f"{self.scope}/{self.group}"

    @property
    def namespace_prefix(self) -> str:
        """Of all keys of all clusters of its namespace."""
        return f"/{self.namespace.strip('/')}/"


class Patroni(Section):
    nodes: Annotated[tuple[NodeUrl, ...], AfterValidator(_distinct)] = Field(
        default=(),
        description="REST URLs of the nodes, `http://host:8008`, beside those that the member keys tell."
        " Name them if the watcher may start while etcd is down.",
    )
    interval: Number = _seconds(
        30.0, 300, "Health check of all nodes this often while etcd speaks; it decides nothing then."
    )
    interval_when_silent: Number = _seconds(
        1.0, 300, "The same while etcd is silent, and shortly before, so that an answer is there at once."
    )
    timeout: Number = _seconds(2.0, 60, "Longest wait for one node's answer.")
    tls: Tls | None = Field(
        default=None,
        description="Trust and client certificate for https nodes; without it the system's authorities"
        " are trusted.",
    )


# --- targets --------------------------------------------------------------------------------------


class Ssh(Section):
    host: Host = Field(description="Host that PgBouncer runs on.")
    port: Port = Field(default=22, description="Port of its SSH server.")
    user: Text = Field(
        description="Account to log in to; it must be able to write `file`, or run the installed agent."
    )
    known_hosts: Path = Field(description="File with the host's key; any other key is refused.")
    key_file: Path | None = Field(default=None, description="File of the private key; this, or `password`.")
    key_passphrase: Secret | None = Field(default=None, description="Passphrase of `key_file`.")
    key_passphrase_file: Path | None = Field(
        default=None, description="File that holds `key_passphrase`; read when the settings are."
    )
    password: Secret | None = Field(default=None, description="The account's password; a key is better.")
    password_file: Path | None = Field(
        default=None, description="File that holds `password`; read when the settings are."
    )
    agent_command: Text | None = Field(
        default=None,
        description="Command that starts the agent installed on the host, as its `authorized_keys` forces it."
        " Not set: the watcher sends its own agent over the connection.",
    )
    python: Annotated[Text, Field(pattern=r"^[A-Za-z0-9_./+-]+$")] = Field(
        default="python3",
        description="Python (3.6 or later) on the host that runs an agent sent there; a name or a path.",
    )
    connect_timeout: Number = _seconds(5.0, 60, "Longest wait for a connection, login included.")

    def _contradictions(self) -> Iterator[Fault]:
        if self.key_file is None and self.password is None:
            yield Fault("key_file", "is missing, and so is `password`", "name the private key: `key_file`")
        if self.key_passphrase is not None and self.key_file is None:
            yield Fault(
                "key_passphrase", "has no effect without `key_file`", "name the private key: `key_file`"
            )


class Console(Section):
    socket: Path | None = Field(
        default=None,
        description="PgBouncer's Unix socket on its host, such as `/var/run/postgresql/.s.PGSQL.6432`;"
        " this, or `address`.",
    )
    address: HostPort | None = Field(
        default=None, description="`host:port` of PgBouncer, as its own host reaches it."
    )
    user: Text = Field(default="pgbouncer", description="A user of PgBouncer's `admin_users`.")
    password: Secret | None = Field(
        default=None, description="Its password; the account that runs PgBouncer needs none over the socket."
    )
    password_file: Path | None = Field(
        default=None, description="File that holds `password`; read when the settings are."
    )
    tls: Tls | None = Field(default=None, description="TLS towards `address`. Not set: a plain connection.")

    def _contradictions(self) -> Iterator[Fault]:
        if (self.socket is None) == (self.address is None):
            said = "is missing, and so is `address`" if self.socket is None else "is set beside `address`"
            yield Fault("socket", said, "set exactly one of `socket` and `address`")
        if self.socket is not None and self.tls is not None:
            yield Fault("tls", "has no effect on a Unix socket", "leave it out, or connect by `address`")


class Target(Section):
    name: Name = Field(description="Its name in the log: at most 64 letters, digits, `_`, `.`, `-`.")
    via: Literal["ssh", "local"] = Field(description="Whether its file is reached over `ssh` or is `local`.")
    file: Path = Field(description="File on PgBouncer's host that holds the marked block.")
    block: Annotated[Text, Field(pattern=r"^[^:\]\s]([^:\]]*[^:\]\s])?$")] | None = Field(
        default=None,
        description="Name in its markers, without `:` and `]`; they must have it then."
        " Not set: `cluster.scope`, or markers without a name.",
    )
    write: Literal["auto", "rename", "in_place"] = Field(
        default="auto",
        description="How the file is replaced: `rename` over it, `in_place` where it is a mount of its own,"
        " `auto` finds out.",
    )
    ssh: Ssh | None = Field(default=None, description="The SSH connection; exactly with `via: ssh`.")
    console: Console | None = Field(
        default=None,
        description="PgBouncer's admin console, to reload and to see the route in force;"
        " this, or `reload_command`, or both.",
    )
    reload_command: Text | None = Field(
        default=None,
        description="Shell command on PgBouncer's host that reloads it, instead of the console's `RELOAD`."
        " It is shown by `check-config`, so it must hold no password.",
    )
    group: Name | None = Field(
        default=None,
        description="Its group, one of `groups`, whose policy it has. Not set: the cluster's own policy.",
    )
    step_timeout: Number = _seconds(5.0, 300, "Longest time for one step on this target.")

    def _contradictions(self) -> Iterator[Fault]:
        if self.via == "ssh" and self.ssh is None:
            yield Fault(
                "ssh",
                "is missing, but `via` is `ssh`",
                "set `ssh.host`, `ssh.user`, `ssh.known_hosts` and a key",
            )
        if self.via == "local" and self.ssh is not None:
            yield Fault("ssh", "has no effect: `via` is `local`", "set `via: ssh`, or leave `ssh` out")
        if self.via == "ssh" and self.console is not None and self.console.tls is not None:
            problem = "has no effect: the console is reached over SSH, which encrypts"
            yield Fault("console.tls", problem, "leave it out")
        if self.console is None and self.reload_command is None:
            remedy = (
                "set `console.socket` or `console.address`; with `reload_command` alone no route is confirmed"
            )
            yield Fault("console", "is missing, and so is `reload_command`", remedy)


def _unique_names(targets: tuple[Target, ...]) -> tuple[Target, ...]:
    names = [target.name for target in targets]
    repeated = [(i, name) for i, name in enumerate(names) if name in names[:i]]
    refuse_all(
        Fault(f"[{i}].name", f"a second target is named {name!r}", "give every target a name of its own")
        for i, name in repeated
    )
    return targets


# --- holds ----------------------------------------------------------------------------------------


class Hold(Section):
    enabled: bool = Field(
        default=True,
        description="Let clients wait in PgBouncer (`PAUSE`) while there is no primary, instead of failing.",
    )
    limit: Number = _seconds(
        60.0,
        600,
        "No hold is longer. Above the cluster's ttl and promotion, below PgBouncer's `query_wait_timeout`.",
    )
    announced: Announced | None = Field(
        default=None,
        description="When an announced switchover makes clients wait: `at_once`; `at_barrier`, only when the"
        " leader's node says that it is about to stop PostgreSQL, which `watcher barrier` does there"
        " (docs/barrier.md); `never`, only once the leader key has gone. Not set: `at_barrier` with"
        " `barrier.enabled`, else `at_once`.",
    )
    announced_limit: Number = _seconds(
        10.0, 600, "An announcement that nothing follows makes clients wait no longer."
    )
    on_crash: bool = Field(
        default=True,
        description="Let clients wait while the primary's PostgreSQL refuses connections from PgBouncer's"
        " host, or cannot be reached from there.",
    )
    old_connections: Literal["leave", "fast_close", "cut"] = Field(
        default="cut",
        description="What becomes of clients that are still connected to the old server after a switch, since"
        " it hangs or cannot be reached: `leave` them there; `fast_close`, each ends between two of its"
        " transactions; `cut`, after `cut_after` within one, too.",
    )
    cut_after: Number = _seconds(
        2.0, 600, "With `old_connections: cut`, so long after clients go on the rest is ended."
    )

    def _contradictions(self) -> Iterator[Fault]:
        if self.announced_limit > self.limit:
            yield Fault("announced_limit", f"is above `limit` = {self.limit:g}", "set it to `limit` or less")


class TargetGroup(Section):
    """What a group settles; the whole of it, for `groups.py` has laid it over what its cluster says."""

    hold: Hold = Field(
        default_factory=lambda: Hold(), description="As `hold`; what is not said here is as it is there."
    )


class Canary(Section):
    targets: Annotated[tuple[Name, ...], AfterValidator(_distinct)] = Field(
        default=(),
        description="Names of targets that are led to a new leader before all others; these wait until"
        " PgBouncer of one of them confirms it. None: all are led at once.",
    )
    limit: Number = _seconds(5.0, 60, "The others wait no longer for it, from when the leader is ready.")
    after_limit: Literal["go_on", "stay"] = Field(
        default="go_on",
        description="What the others do then: `go_on` to the new leader; `stay` where they are, their clients"
        " not held, until a canary confirms.",
    )


class Barrier(Section):
    enabled: bool = Field(
        default=False,
        description="Announce the targets in etcd, and say there when each is held, so that `watcher barrier`"
        " on the Patroni nodes can wait for it before PostgreSQL is stopped. The etcd user must be able to"
        " write below `pgbouncer-watcher/` of the cluster's keys.",
    )
    ttl: Number = Field(
        default=15.0,
        ge=5,
        le=300,
        allow_inf_nan=False,
        description="So long after this watcher died the barrier no longer waits for it.",
        json_schema_extra={"unit": "seconds"},
    )


class Controller(Section):
    mode: Literal["together", "lease"] = Field(
        default="together",
        description="How several watchers of the same targets share the work: `together`, each does all of"
        " it; `lease`, one is active by a lease in etcd and leads clients elsewhere, the others stand by. The"
        " etcd user must then be able to write below `pgbouncer-watcher/` of the cluster's keys.",
    )
    ttl: Number = Field(
        default=2.0,
        ge=2,
        le=60,
        allow_inf_nan=False,
        description="So long at the most the others wait for the active one, whatever became of it.",
        json_schema_extra={"unit": "seconds"},
    )
    name: Annotated[Text, Field(max_length=100)] | None = Field(
        default=None, description="By which the others show this one. Not set: the name of its host."
    )

    def _contradictions(self) -> Iterator[Fault]:
        if self.mode == "together" and self.name is not None:
            yield Fault("name", "has no effect: `mode` is `together`", "set `mode: lease`, or leave it out")


# --- reads ----------------------------------------------------------------------------------------


class Replicas(Section):
    databases: Annotated[tuple[Text, ...], AfterValidator(_distinct)] = Field(
        default=(),
        description="Databases of the block that lead to replicas, beside those that have `;; role=replica`"
        " in the line above theirs (docs/replicas.md).",
    )
    choose: Choose = Field(
        default=Choose.ALL,
        description="Whom they lead to: `all` replicas that are fit, which PgBouncer takes in turn (1.17 or"
        " later); `least_lag`, the one that is least behind, for as long as it is fit.",
    )
    otherwise: Literal["primary", "keep"] = Field(
        default="primary",
        description="Where they lead while no replica is fit: to the `primary`, or as before.",
    )
    max_lag: Bytes = Field(
        default=MAX_LAG,
        description="Bytes of WAL that a replica may be behind, by its key in etcd, and still be fit.",
    )
    settle: Number = Field(
        default=10.0,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="One that was not fit counts again once it has been for so long.",
        json_schema_extra={"unit": "seconds"},
    )


# --- the watcher itself ---------------------------------------------------------------------------


class Retry(Section):
    first: Number = _seconds(
        0.1, 60, "Wait after the first failure on a target; doubled with each further one."
    )
    limit: Number = _seconds(2.0, 600, "The longest of these waits.")

    def _contradictions(self) -> Iterator[Fault]:
        if self.limit < self.first:
            yield Fault("limit", f"is below `first` = {self.first:g}", "set it to `first` or more")

    def backoff(self) -> Backoff:
        return Backoff(self.first, self.limit)


class Http(Section):
    listen: HostPort | None = Field(
        default="127.0.0.1:9632",
        description="Where the status page, `/status`, `/metrics` and the probes are served. They tell hosts,"
        " ports and names, and take no password: only where those may see them who should. `null`: nowhere,"
        " and `watcher status` and `watcher history` have nobody to ask.",
    )


class Log(Section):
    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)] = Field(
        default="INFO", description="The least level that is written."
    )
    format: Literal["auto", "json", "text"] = Field(
        default="auto", description="`json` lines, `text` for people, `auto`: text on a terminal, else json."
    )


class Settings(BaseSettings):
    """All of it, as one frozen value. `loading.load` makes it."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        env_ignore_empty=True,
        env_parse_none_str="null",
    )

    clusters: Annotated[tuple[dict[str, Any], ...], Kind("list of sections")] = Field(
        default=(),
        description="Several clusters in one watcher (docs/fleet.md): each a section with `cluster.scope` and"
        " `targets`, and whatever of the other settings shall not be for it as it is for all. A cluster has"
        " none of `connect_at_once`, `controller`, `http`, `log`, `stop_limit`.",
    )
    cluster_files: Path | None = Field(
        default=None,
        description="Pattern of files that hold one such cluster each, beside `clusters`:"
        " `/etc/pgbouncer-watcher/clusters.d/*.yaml`.",
    )
    cluster: Cluster = Field(description="The Patroni cluster that is followed.")
    etcd: Etcd = Field(description="Where the cluster's leader is heard of.")
    patroni: Patroni = Field(default_factory=lambda: Patroni(), description="The nodes' REST API.")
    targets: Annotated[tuple[Target, ...], AfterValidator(_unique_names)] = Field(
        min_length=1, description="Every PgBouncer that is led to the leader."
    )
    target_files: Path | None = Field(
        default=None,
        description="Pattern of files that hold one target each, beside `targets`:"
        " `/etc/pgbouncer-watcher/targets.d/*.yaml`.",
    )
    hold: Hold = Field(
        default_factory=lambda: Hold(), description="When clients wait instead of failing (docs/holds.md)."
    )
    groups: Annotated[dict[Name, TargetGroup], Kind("name → section")] = Field(
        default_factory=dict,
        description="Groups of targets with a policy of their own (docs/fleet.md): a name, and under it"
        " `hold` with what shall not be as `hold` has it for all. Targets name their `group`.",
    )
    canary: Canary = Field(
        default_factory=lambda: Canary(),
        description="Targets that go first when the leader changes (docs/fleet.md).",
    )
    barrier: Barrier = Field(
        default_factory=lambda: Barrier(),
        description="Stops of PostgreSQL that wait until targets are held (docs/barrier.md).",
    )
    replicas: Replicas = Field(
        default_factory=lambda: Replicas(), description="Databases for reads, which follow the replicas."
    )
    controller: Controller = Field(
        default_factory=lambda: Controller(),
        description="Several watchers of the same targets (docs/controllers.md).",
    )
    resync_interval: Number = _seconds(
        10.0,
        3600,
        "Each target is looked at this often, and put right if somebody changed it; where its clients can be"
        " held an agent there looks and tells, and the watcher asks once a minute.",
    )
    connect_at_once: Count = Field(
        default=4,
        description="So many connections to PgBouncers' hosts are opened at the same time, over all clusters;"
        " whose leader changed last goes first. One that waits for its host does not count for long.",
    )
    retry: Retry = Field(
        default_factory=lambda: Retry(), description="Waits between tries on a target that fails."
    )
    stop_limit: Number = _seconds(5.0, 300, "A switch under way may take so long to finish after SIGTERM.")
    http: Http = Field(
        default_factory=lambda: Http(), description="What is served over HTTP (docs/status.md)."
    )
    log: Log = Field(default_factory=lambda: Log(), description="The log, on standard error.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed in: `layers.py` reads the sources, so that each fault has its place."""
        return (init_settings,)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Settings:
        refuse_all(self._contradictions())
        return self

    def _contradictions(self) -> Iterator[Fault]:
        known = ", ".join(self.groups) or "none"
        for i, target in enumerate(self.targets):
            if target.group is not None and target.group not in self.groups:
                problem = f"{target.group!r} is none of `groups`"
                yield Fault(f"targets[{i}].group", problem, f"name one of `groups`: {known}")
        yield from self._faults_of_canary()

    def _faults_of_canary(self) -> Iterator[Fault]:
        known = {target.name: target for target in self.targets}
        for i, name in enumerate(self.canary.targets):
            place = f"canary.targets[{i}]"
            if name not in known:
                yield Fault(place, f"no target is named {name!r}", f"name some of: {', '.join(known)}")
            elif known[name].console is None:
                yield Fault(place, f"{name!r} has no console to confirm by", "set `console` of that target")
        if self.canary.targets and not set(known) - set(self.canary.targets):
            remedy = "leave a target out of it, or leave `canary` out"
            yield Fault("canary.targets", "names all targets, so nobody goes second", remedy)
        yield from self._limits_of_canary()

    def _limits_of_canary(self) -> Iterator[Fault]:
        """Whoever waits for it must still be held then."""
        holds = {"hold": self.hold} | {f"groups.{name}.hold": one.hold for name, one in self.groups.items()}
        for place, hold in holds.items():
            if self.canary.targets and hold.enabled and self.canary.limit >= hold.limit:
                problem = f"is not below `{place}.limit` = {hold.limit:g}"
                yield Fault("canary.limit", problem, "lower it, or leave `canary` out")

    def hold_of(self, target: Target) -> Hold:
        """What is settled of holds for that target."""
        return self.hold if target.group is None else self.groups[target.group].hold

    def block_of(self, target: Target) -> str:
        """The name in the markers of the target's block."""
        return target.block or self.cluster.scope

    def can_hold(self, target: Target) -> bool:
        """Whether clients of that target are ever held: it takes a console that reloads, which its own host
        can speak to in the clear.
        """
        console = target.console
        return (
            self.hold_of(target).enabled
            and console is not None
            and console.tls is None
            and target.reload_command is None
        )

    @property
    def health_check_after(self) -> float:
        """Seconds of not hearing etcd after which rounds of the health check follow each other fast, so that
        an answer is there when etcd counts as silent, however long its round took. Never while etcd is well.
        """
        etcd, patroni = self.etcd, self.patroni
        in_time = etcd.silence_limit - (patroni.interval_when_silent + patroni.timeout)
        return max(in_time, etcd.reread_interval + etcd.timeout)

    def policy(self, target: Target | None = None) -> Policy:
        """What `decide` needs to know of all this, for that target; without one, for what is asked once for
        all of them: whoever can be held makes it worth asking.

        A health round counts until the next two could have come, each as slow as its limit lets it be.
        """
        cluster, patroni = self.cluster, self.patroni
        return Policy(
            connect_via=cluster.connect_via,
            addresses=_endpoints(cluster.addresses),
            ready_by=cluster.ready_by,
            unknown_limit=cluster.unknown_limit,
            silence_limit=self.etcd.silence_limit,
            health_fresh=2 * (patroni.interval_when_silent + patroni.timeout),
            standby=cluster.standby,
            other_site=None if (other := self.of_other_site()) is None else other.policy(target),
            canary=self._canary_policy(),
            hold=self._widest_hold() if target is None else self._hold_policy(self.hold_of(target)),
            reads=ReadPolicy(
                self.replicas.choose, self.replicas.otherwise == "primary", self.replicas.settle
            ),
        )

    def of_other_site(self) -> Settings | None:
        """All that is settled of the other site's cluster; the targets are ours."""
        other, cluster = self.cluster.other_site, self.cluster.of_other_site()
        if other is None or cluster is None:
            return None
        patroni = self.patroni.model_copy(update={"nodes": other.nodes})
        return self.model_copy(update={"cluster": cluster, "etcd": other.etcd, "patroni": patroni})

    def _canary_policy(self) -> CanaryPolicy | None:
        canary = self.canary
        if not canary.targets:
            return None
        return CanaryPolicy(frozenset(canary.targets), canary.limit, canary.after_limit == "go_on")

    def _widest_hold(self) -> HoldPolicy | None:
        holds = (self.hold, *(group.hold for group in self.groups.values()))
        enabled = [policy for policy in map(self._hold_policy, holds) if policy is not None]
        on_crash = any(policy.on_crash for policy in enabled)
        return replace(enabled[0], on_crash=on_crash) if enabled else None

    def _hold_policy(self, hold: Hold) -> HoldPolicy | None:
        if not hold.enabled:
            return None
        announced = hold.announced or (Announced.AT_BARRIER if self.barrier.enabled else Announced.AT_ONCE)
        return HoldPolicy(hold.limit, announced, hold.announced_limit, hold.on_crash)


def _endpoints(addresses: Mapping[str, str]) -> dict[str, Endpoint]:
    return {name: parse_address(text, f"cluster.addresses.{name}") for name, text in addresses.items()}
