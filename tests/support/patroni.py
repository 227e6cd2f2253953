"""A real Patroni cluster: PostgreSQL nodes that elect their leader through etcd."""

import contextlib
import http.client
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from tests.support import install
from tests.support.accounts import POSTGRES_ACCOUNT, own_file, own_folder
from tests.support.addresses import take_address
from tests.support.etcd import EtcdCluster
from tests.support.postgres import (
    APP,
    APP_PASSWORD,
    CHEAP,
    SUPERUSER_PASSWORD,
    bin_dir,
    hba,
    psql,
    remove_shared_memory,
)
from tests.support.processes import Process, run
from tests.support.waiting import BedError, wait_for

Version = Literal["4", "debian"]
PROGRAMS: Mapping[str, Path] = {"4": install.PATRONI_VENV / "bin", "debian": Path("/usr/bin")}
REST_PORT = 8008
POSTGRES_PORT = 5432
LEADER_SECONDS = 60.0
CREATE_APP = f"""
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{APP}') THEN
    CREATE ROLE {APP} LOGIN PASSWORD '{APP_PASSWORD}';
  END IF;
END $$"""
APP_EXISTS = f"SELECT 1 FROM pg_database WHERE datname = '{APP}'"  # noqa: S608  # a constant


class Node:
    """One Patroni with its PostgreSQL, on an address of its own with the standard ports."""

    def __init__(self, name: str, folder: Path, address: str, version: Version) -> None:
        self.name = name
        self.folder = own_folder(folder, POSTGRES_ACCOUNT)
        self.host = address
        self.port = POSTGRES_PORT
        self.data = folder / "data"
        self.config_file = folder / "patroni.yml"
        self.log = folder / "patroni.log"
        self.process = Process(
            f"patroni {name}",
            [PROGRAMS[version] / "patroni", self.config_file],
            log=self.log,
            user=POSTGRES_ACCOUNT,
        )

    def __repr__(self) -> str:
        return f"<Node {self.name} at {self.host}>"

    @property
    def api_url(self) -> str:
        """The REST API's root."""
        return f"http://{self.host}:{REST_PORT}"

    @property
    def pid(self) -> int:
        """Process id of Patroni."""
        return self.process.pid

    def postmaster_pid(self) -> int:
        """Process id of the running PostgreSQL. BedError while it has not written it."""
        words = (self.data / "postmaster.pid").read_text().split()
        if not words:
            raise BedError(f"{self} has not written its process id yet")
        return int(words[0])

    # --- life -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start Patroni, which starts PostgreSQL or takes over the one that runs; returns at once."""
        self.process.start()

    def kill(self) -> None:
        """SIGKILL to Patroni and PostgreSQL, as if the host had lost its power. The data stays."""
        self.process.kill()

    def kill_patroni(self) -> None:
        """SIGKILL to Patroni alone: PostgreSQL goes on."""
        self.process.kill_main()

    def kill_postgres(self) -> None:
        """SIGKILL to the postmaster: Patroni notices, and starts it again."""
        os.kill(self.postmaster_pid(), signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM: Patroni stops PostgreSQL and gives its leadership back."""
        self.process.terminate(timeout=60)

    def freeze(self) -> None:
        """SIGSTOP to Patroni and PostgreSQL: connections stay, nothing answers."""
        self.process.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.thaw()

    def is_alive(self) -> bool:
        """Whether Patroni runs, frozen or not."""
        return self.process.is_alive()

    # --- questions ------------------------------------------------------------------------------------

    def rest(
        self, path: str = "/patroni", method: str = "GET", body: Any = None, *, timeout: float = 2
    ) -> tuple[int, str]:
        """One REST call: status and body. Raises OSError when there is no answer in time."""
        connection = http.client.HTTPConnection(self.host, REST_PORT, timeout=timeout)
        text = None if body is None else json.dumps(body)
        try:
            connection.request(method, path, text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except http.client.HTTPException as error:
            raise OSError(f"{self.api_url}{path}: {error!r}") from error
        finally:
            connection.close()

    def is_ok(self, path: str) -> bool:
        """Whether a health check of Patroni's, such as /primary or /replica, says 200 now."""
        return self._answer(path) == 200

    def _answer(self, path: str) -> int | str:
        """The status, or why there is none."""
        try:
            return self.rest(path)[0]
        except OSError as error:
            return str(error)

    def status(self) -> dict[str, Any]:
        """The body of GET /patroni: state, role, timeline, …"""
        answer: dict[str, Any] = json.loads(self.rest("/patroni")[1])
        return answer

    def sql(self, sql: str, *, dbname: str = "postgres", user: str = "postgres") -> list[dict[str, str]]:
        """Run a statement on this node through its Unix socket, as superuser by default; over TCP where a
        former postmaster, hung and ended late, has taken the socket with it.
        """
        has_socket = (self.folder / f".s.PGSQL.{self.port}").exists()
        host = self.folder if has_socket else self.host
        return psql(host, self.port, user, dbname, sql, as_account=POSTGRES_ACCOUNT, timeout=5)

    def turns(self) -> int:
        """How many quiet turns of its loop Patroni has taken."""
        return self.log.read_text(errors="replace").count("no action. I am (")

    def accepts_writes(self) -> bool:
        """Whether this PostgreSQL answers and is no standby."""
        try:
            return not self.is_standby()
        except BedError:
            return False

    def is_standby(self) -> bool:
        """Whether it is in recovery, by its own word. BedError where it says none."""
        return self.sql("SELECT pg_is_in_recovery() AS r")[0]["r"] == "t"

    def claims(self) -> str:
        """What it says of leading, for who waits in vain."""
        heard = "no Patroni" if not self.is_alive() else self._answer("/leader")
        return f"{self.name}: {heard}"


class PatroniCluster(AbstractContextManager["PatroniCluster"]):
    """A Patroni cluster in `etcd` under `namespace`/`scope`; Patroni 4 from PyPI, or Debian's 3.0.2.

    Entering starts it and waits for a leader that takes writes and for its replicas. `auth` is how loopback
    logs in. `dcs` is merged into the dynamic configuration at the start; `node_config` into every node's
    file (`{"postgresql": {"before_stop": …}}`), or what it makes of each node. `standby_of` (host, port)
    makes it a standby cluster.
    `etcd_user` is (user, password).
    """

    def __init__(
        self,
        folder: Path,
        etcd: EtcdCluster,
        scope: str = "demo",
        nodes: int = 3,
        *,
        ttl: int = 20,
        loop_wait: int = 5,
        retry_timeout: int = 5,
        namespace: str = "/service/",
        version: Version = "4",
        auth: str = "trust",
        dcs: Mapping[str, Any] | None = None,
        node_config: Mapping[str, Any] | Callable[[Node], Mapping[str, Any]] | None = None,
        standby_of: tuple[str, int] | None = None,
        etcd_user: tuple[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.etcd = etcd
        self.scope = scope
        self.namespace = namespace
        self.version: Version = version
        self.ttl, self.loop_wait = ttl, loop_wait
        self.standby_of = standby_of
        self._auth = auth
        self._node_config = node_config or {}
        self._etcd_user = etcd_user
        self._dcs: dict[str, Any] = {
            "ttl": ttl,
            "loop_wait": loop_wait,
            "retry_timeout": retry_timeout,
            "maximum_lag_on_failover": 16 << 20,
            "postgresql": {"use_pg_rewind": True, "use_slots": True},
        }
        if standby_of:
            self._dcs["standby_cluster"] = {"host": standby_of[0], "port": standby_of[1]}
        self._dcs = _merged(self._dcs, dcs or {})
        folder.mkdir(parents=True, exist_ok=True)
        self.nodes = [Node(f"pg{n}", folder / f"pg{n}", take_address(), version) for n in range(1, nodes + 1)]
        for node in self.nodes:
            self.write_config(node)

    @property
    def prefix(self) -> str:
        """The keys' common prefix in etcd, with the slash at its end."""
        return f"{self.namespace}{self.scope}/"

    @property
    def logs(self) -> list[Path]:
        """The nodes' logs, Patroni's and PostgreSQL's lines together."""
        return [node.log for node in self.nodes]

    def __getitem__(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    # --- configuration --------------------------------------------------------------------------------

    def write_config(self, node: Node) -> None:
        """Write the node's file (JSON, which YAML includes), readable by PostgreSQL's account alone."""
        extra = self._node_config(node) if callable(self._node_config) else self._node_config
        config = _merged(self._config(node), extra)
        own_file(node.config_file, json.dumps(config, indent=1), POSTGRES_ACCOUNT, 0o600)

    def _config(self, node: Node) -> dict[str, Any]:
        return {
            "scope": self.scope,
            "namespace": self.namespace,
            "name": node.name,
            "restapi": _listen(node.host, REST_PORT),
            "etcd3": self._etcd_config(),
            "bootstrap": {
                "dcs": self._dcs,
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums", "no-sync"],
            },
            "postgresql": self._postgresql(node),
        }

    def _postgresql(self, node: Node) -> dict[str, Any]:
        # pg_rewind refuses a source without full_page_writes
        cheap = {
            name: value
            for name, value in CHEAP.items()
            if name not in ("full_page_writes", "max_connections")
        }
        login = {"username": "postgres", "password": SUPERUSER_PASSWORD}
        return {
            **_listen(node.host, node.port),
            "data_dir": str(node.data),
            "bin_dir": str(bin_dir()),
            "pgpass": str(node.folder / "pgpass"),
            "authentication": {
                "superuser": login,
                "replication": {"username": "replicator", "password": SUPERUSER_PASSWORD},
            },
            "parameters": {**cheap, "unix_socket_directories": str(node.folder)},
            "pg_hba": hba(self._auth),
            "basebackup": [{"checkpoint": "fast"}, "no-sync"],
            "remove_data_directory_on_rewind_failure": True,
            "remove_data_directory_on_diverged_timelines": True,
        }

    def _etcd_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {"hosts": self.etcd.endpoints}
        if tls := self.etcd.tls:
            config |= {"protocol": "https", "cacert": str(tls.authority.ca_file)}
            if tls.client_certificates:
                pair = tls.authority.client("patroni")
                config |= {"cert": str(pair.certificate), "key": str(_readable(pair.key))}
        if self._etcd_user:
            config |= {"username": self._etcd_user[0], "password": self._etcd_user[1]}
        return config

    @contextlib.contextmanager
    def configured(
        self, node_config: Mapping[str, Any] | Callable[[Node], Mapping[str, Any]]
    ) -> Iterator[None]:
        """With another `node_config` for a while; every node has taken it up when this goes on."""
        before = self._node_config
        try:
            self._reconfigure(node_config)
            yield
        finally:
            self._reconfigure(before)

    def _reconfigure(self, node_config: Mapping[str, Any] | Callable[[Node], Mapping[str, Any]]) -> None:
        self._node_config = node_config
        turns = {}
        for node in self.nodes:
            self.write_config(node)
            turns[node] = node.turns()
            wait_for(lambda: node.rest("/reload", "POST"), 60, f"{node.name} is up", logs=self.logs)  # noqa: B023
        for node, before in turns.items():  # it is read at the end of a turn, so the next one knows it
            wait_for(lambda: node.turns() > before, 60, f"{node.name} has read its file", logs=self.logs)  # noqa: B023

    # --- life -----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def launch(self) -> None:
        """Start the nodes that do not run, without waiting."""
        for node in self.nodes:
            if not node.is_alive():
                node.start()

    def start(self) -> None:
        """Start the nodes that do not run; wait for the leader, the role and database `app`, the replicas."""
        self.launch()
        leader = self.wait_for_leader(writable=self.standby_of is None)
        if self.standby_of is None:
            self._create_app(leader)
        self.wait_for_replicas()

    def _create_app(self, leader: Node) -> None:
        leader.sql(CREATE_APP)
        if not leader.sql(APP_EXISTS):
            leader.sql(f"CREATE DATABASE {APP} OWNER {APP}")

    def stop(self) -> None:
        """Make sure that no node runs. Idempotent."""
        for node in self.nodes:
            node.process.stop()
            remove_shared_memory(node.data)

    # --- who leads ------------------------------------------------------------------------------------

    def leader(self) -> Node | None:
        """The node that says it holds the leader key, or None. A standby leader counts."""
        holders = [node for node in self.nodes if node.is_alive() and node.is_ok("/leader")]
        holders += [] if holders else [n for n in self.nodes if n.is_alive() and n.is_ok("/standby-leader")]
        return holders[0] if len(holders) == 1 else None

    def wait_for_leader(
        self, timeout: float = LEADER_SECONDS, *, other_than: Node | None = None, writable: bool = True
    ) -> Node:
        """Wait for a leader, by default one that takes writes; `other_than` the old one."""

        def found() -> Node | None:
            leader = self.leader()
            if leader is None or leader is other_than:
                raise BedError(f"/leader says {', '.join(node.claims() for node in self.nodes)}")
            return None if writable and leader.is_standby() else leader

        return wait_for(found, timeout, f"a leader of {self.scope}", logs=self.logs, poll=0.1)

    def replicas(self) -> list[Node]:
        """Nodes that are healthy replicas now: Patroni says so, and the leader streams to them.

        Patroni alone says so too soon, of a former leader that is about to be rewound and restarted.
        """
        leader = self.leader()
        if leader is None:
            return []
        rows = leader.sql(
            "SELECT application_name AS name FROM pg_stat_replication WHERE state = 'streaming'"
        )
        fed = {row["name"] for row in rows}
        return [
            node for node in self.nodes if node.name in fed and node.is_alive() and node.is_ok("/replica")
        ]

    def wait_for_replicas(self, count: int | None = None, timeout: float = LEADER_SECONDS) -> list[Node]:
        """Wait until `count` (default: all but one) nodes are healthy replicas."""
        wanted = len(self.nodes) - 1 if count is None else count

        def found() -> tuple[list[Node]] | None:
            replicas = self.replicas()
            return (replicas,) if len(replicas) >= wanted else None

        return wait_for(found, timeout, f"{wanted} replicas of {self.scope}", logs=self.logs, poll=0.1)[0]

    # --- orders ---------------------------------------------------------------------------------------

    def _order(self, path: str, body: Any, method: str = "POST", *, node: Node | None = None) -> str:
        target = node or self.leader() or self._any_alive()
        status, text = target.rest(path, method, body, timeout=60)
        if status not in (200, 202):
            raise BedError(f"{method} {target.api_url}{path} {body}: {status} {text}")
        return text

    def _any_alive(self) -> Node:
        for node in self.nodes:
            if node.is_alive():
                return node
        raise BedError(f"no node of {self.scope} runs")

    def switchover(self, candidate: Node | None = None, scheduled: str | None = None) -> str:
        """A planned switchover; returns when it is over, or is noted for `scheduled` (ISO 8601 with zone)."""
        leader = self.wait_for_leader(writable=False)
        body: dict[str, str] = {"leader": leader.name}
        body |= {"candidate": candidate.name} if candidate else {}
        body |= {"scheduled_at": scheduled} if scheduled else {}
        return self._order("/switchover", body, node=leader)

    def cancel_switchover(self) -> str:
        """Withdraw a scheduled switchover."""
        return self._order("/switchover", None, "DELETE")

    def failover(self, candidate: Node) -> str:
        """A manual failover to a node."""
        return self._order("/failover", {"candidate": candidate.name})

    def patch_config(self, changes: Mapping[str, Any]) -> str:
        """Change the dynamic configuration; None takes a key out (`{"standby_cluster": None}`)."""
        return self._order("/config", dict(changes), "PATCH", node=self._any_alive())

    def pause(self) -> None:
        """Maintenance mode on; waits until every live node knows."""
        self.patch_config({"pause": True})
        self._wait_for_pause(wanted=True)

    def resume(self) -> None:
        """Maintenance mode off; waits until every live node knows."""
        self.patch_config({"pause": None})
        self._wait_for_pause(wanted=False)

    def _wait_for_pause(self, *, wanted: bool) -> None:
        def known() -> bool:
            return all(bool(n.status().get("pause")) is wanted for n in self.nodes if n.is_alive())

        wait_for(known, 30, f"pause is {wanted}", logs=self.logs, poll=0.1)

    def restart(self, node: Node) -> str:
        """Restart the node's PostgreSQL."""
        return self._order("/restart", {}, node=node)

    def reinit(self, node: Node) -> str:
        """Make a replica anew from the leader; returns at once."""
        return self._order("/reinitialize", {"force": True}, node=node)

    def patronictl(self, *args: str, check: bool = True, timeout: float = 60) -> str:
        """Run patronictl as PostgreSQL's account; its output."""
        command: list[str | Path] = [
            PROGRAMS[self.version] / "patronictl",
            "-c",
            self.nodes[0].config_file,
            *args,
        ]
        return run(
            command, user=POSTGRES_ACCOUNT, env={"COLUMNS": "200"}, check=check, timeout=timeout
        ).stdout


def with_room_for(bouncers: int) -> dict[str, Any]:
    """`dcs` under which PostgreSQL has room for so many PgBouncers: each has a pool, and an agent whose guard
    keeps a connection open.
    """
    return {"postgresql": {"parameters": {"max_connections": 100 + 2 * bouncers}}}


def _listen(host: str, port: int) -> dict[str, str]:
    return {"listen": f"{host}:{port}", "connect_address": f"{host}:{port}"}


def _readable(path: Path) -> Path:
    with contextlib.suppress(OSError):
        path.chmod(0o644)
    return path


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, dictionary by dictionary."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        both = isinstance(value, Mapping) and isinstance(old, Mapping)
        result[key] = _merged(old, value) if both and old is not None else value
    return result
