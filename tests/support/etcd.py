"""Real etcd: one member or a cluster, with TLS, authentication, loss of quorum, and restore from a backup."""

import base64
import functools
import json
import shutil
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.addresses import take_address
from tests.support.processes import Process, run
from tests.support.tls import KeyPair, Tls
from tests.support.waiting import BedError, wait_for

CLIENT_PORT = 2379
PEER_PORT = 2380
READY_SECONDS = 20.0
V3 = {"ETCDCTL_API": "3"}


@functools.cache
def _help() -> str:
    done = run(["etcd", "--help"], check=False)
    return done.stdout + done.stderr


def _b64(text: str) -> str:
    return base64.b64decode(text).decode(errors="surrogateescape")


@dataclass(frozen=True)
class User:
    """An etcd user who may read and write below `prefixes`; `read_only` takes the writing away."""

    password: str
    prefixes: Sequence[str] = ()
    read_only: bool = False


class Member:
    """One etcd server. Its address, ports and data stay the same over kill() and start()."""

    def __init__(self, name: str, folder: Path, address: str, tls: Tls | None) -> None:
        self.name = name
        self.address = address
        self.data = folder / name
        self.log = folder / f"{name}.log"
        self.scheme = "https" if tls else "http"
        self.key_pair: KeyPair | None = tls.for_server(name, [address, "localhost"]) if tls else None
        self.process = Process(name, ["etcd"], log=self.log)

    @property
    def endpoint(self) -> str:
        """host:port for clients."""
        return f"{self.address}:{CLIENT_PORT}"

    @property
    def peer_url(self) -> str:
        """Where the other members reach this one (peers never use TLS here)."""
        return f"http://{self.address}:{PEER_PORT}"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        return self.process.pid

    def is_alive(self) -> bool:
        """Whether the server runs, frozen or not."""
        return self.process.is_alive()

    def start(self) -> None:
        """Start it; returns at once. EtcdCluster.wait_until_ready() waits."""
        self.process.start()

    def kill(self) -> None:
        """SIGKILL: connections are reset, the data stays."""
        self.process.kill()

    def terminate(self) -> None:
        """SIGTERM: an orderly stop."""
        self.process.terminate()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        self.process.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.thaw()


class EtcdCluster(AbstractContextManager["EtcdCluster"]):
    """An etcd cluster of `size` members, each on an address of its own with the standard ports.

    Entering starts it and waits until every member answers a linearizable read. Leaving kills it. Data and
    logs are in `folder`; nothing else is written. `auth_token_ttl` (seconds) shortens the life of tokens.
    """

    def __init__(
        self,
        folder: Path,
        size: int = 3,
        *,
        tls: Tls | None = None,
        auth_token_ttl: int | None = None,
        heartbeat_ms: int = 100,
        election_ms: int = 1000,
        extra_args: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.tls = tls
        self._credentials: str | None = None
        self._token = "bed"
        self._client_pair = tls.authority.client("root") if tls and tls.client_certificates else None
        self._options = [
            f"--heartbeat-interval={heartbeat_ms}",
            f"--election-timeout={election_ms}",
            *extra_args,
        ]
        if auth_token_ttl is not None:
            self._options.append(f"--auth-token-ttl={auth_token_ttl}")
        if "--unsafe-no-fsync" in _help():
            self._options.append("--unsafe-no-fsync")
        folder.mkdir(parents=True, exist_ok=True)
        self.members = [Member(f"etcd{n}", folder, take_address(), tls) for n in range(1, size + 1)]
        for member in self.members:
            member.process.argv = self._argv(member)

    @property
    def endpoints(self) -> list[str]:
        """host:port of every member."""
        return [member.endpoint for member in self.members]

    @property
    def urls(self) -> list[str]:
        """scheme://host:port of every member."""
        return [f"{member.scheme}://{member.endpoint}" for member in self.members]

    @property
    def initial_cluster(self) -> str:
        """What etcd calls --initial-cluster."""
        return ",".join(f"{member.name}={member.peer_url}" for member in self.members)

    def _argv(self, member: Member) -> list[str]:
        return [
            "etcd",
            f"--name={member.name}",
            f"--data-dir={member.data}",
            f"--listen-client-urls={member.scheme}://{member.endpoint}",
            f"--advertise-client-urls={member.scheme}://{member.endpoint}",
            f"--listen-peer-urls={member.peer_url}",
            f"--initial-advertise-peer-urls={member.peer_url}",
            f"--initial-cluster={self.initial_cluster}",
            f"--initial-cluster-token={self._token}",
            "--initial-cluster-state=new",
            "--logger=zap",
            *self._options,
            *self._tls_arguments(member),
        ]

    def _tls_arguments(self, member: Member) -> list[str]:
        if self.tls is None or member.key_pair is None:
            return []
        arguments = [f"--cert-file={member.key_pair.certificate}", f"--key-file={member.key_pair.key}"]
        if self.tls.client_certificates:
            arguments += ["--client-cert-auth", f"--trusted-ca-file={self.tls.authority.ca_file}"]
        return arguments

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

    def start(self) -> None:
        """Start the members that do not run and wait until all answer.

        With expired server certificates nobody can ask, so there it waits for the open ports only.
        """
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start the members that do not run, without waiting."""
        for member in self.members:
            if not member.is_alive():
                member.start()

    def wait_until_ready(
        self, timeout: float = READY_SECONDS, members: Iterable[Member] | None = None
    ) -> None:
        """Wait until the given members (default: all) answer a linearizable read."""
        for member in self.members if members is None else members:
            self._wait_for_member(member, timeout)

    def _wait_for_member(self, member: Member, timeout: float) -> None:
        wait_for(
            lambda: self._answers(member), timeout, f"{member.name} answers", logs=[member.log], poll=0.1
        )

    def _answers(self, member: Member) -> bool:
        if not member.is_alive():
            raise BedError(f"{member.name} has ended")
        if self.tls is not None and self.tls.expired:
            return _port_is_open(member.address)
        self.etcdctl("get", "bed-is-ready", endpoints=[member.endpoint], timeout=5)
        return True

    def stop(self) -> None:
        """Kill every member. Idempotent."""
        for member in self.members:
            member.process.stop()

    # --- failures -------------------------------------------------------------------------------------

    def leader(self) -> Member:
        """The member that leads raft now. Raises BedError when no running member knows one."""
        for row in self._statuses():
            status = row["Status"]
            if status["header"]["member_id"] == status["leader"]:
                return next(
                    m for m in self.members if m.endpoint == row["Endpoint"].removeprefix(f"{m.scheme}://")
                )
        raise BedError("no member says that it leads")

    def followers(self) -> list[Member]:
        """Everyone but the raft leader."""
        leader = self.leader()
        return [member for member in self.members if member is not leader]

    def lose_quorum(self, survivor: Member | None = None) -> Member:
        """Kill a majority so that `survivor` (default: the first) and at most a minority is left."""
        survivor = survivor or self.members[0]
        others = [member for member in self.members if member is not survivor]
        for member in others[: len(self.members) // 2 + 1]:
            member.kill()
        return survivor

    def freeze(self) -> None:
        """SIGSTOP to every member."""
        for member in self.members:
            member.freeze()

    def thaw(self) -> None:
        """SIGCONT to every member."""
        for member in self.members:
            member.thaw()

    # --- etcdctl --------------------------------------------------------------------------------------

    def etcdctl(
        self,
        *args: str,
        endpoints: Sequence[str] | None = None,
        credentials: str | None = None,
        stdin: str = "",
        timeout: float = 15,
    ) -> str:
        """Run etcdctl (v3) with the endpoints, TLS files and credentials that fit; its output.

        `credentials` is "user:password", by default root's once enable_auth() was called. Raises BedError.
        """
        credentials = credentials or self._credentials
        login = [f"--user={credentials}"] if credentials else []
        command = ["etcdctl", f"--endpoints={','.join(self._reachable(endpoints))}", "--command-timeout=4s"]
        done = run([*command, *self._client_tls(), *login, *args], env=V3, stdin=stdin, timeout=timeout)
        return done.stdout

    def _reachable(self, endpoints: Sequence[str] | None) -> list[str]:
        """The endpoints asked for; by default those of live members, so that a dead one costs no time-out."""
        alive = [member.endpoint for member in self.members if member.is_alive()]
        scheme = "https://" if self.tls else "http://"
        return [f"{scheme}{endpoint}" for endpoint in endpoints or alive or self.endpoints]

    def _client_tls(self) -> list[str]:
        if self.tls is None:
            return []
        pair = self._client_pair
        shown = [f"--cert={pair.certificate}", f"--key={pair.key}"] if pair else []
        return [f"--cacert={self.tls.authority.ca_file}", *shown]

    def _json(self, *args: str, endpoints: Sequence[str] | None = None) -> Any:
        return json.loads(self.etcdctl("--write-out=json", *args, endpoints=endpoints))

    def _statuses(self) -> list[Any]:
        rows: list[Any] = []
        for member in self.members:
            if member.is_alive():
                rows += self._json("endpoint", "status", endpoints=[member.endpoint])
        return rows

    def put(self, key: str, value: str, *, lease: str | None = None) -> int:
        """Write a key; the revision of the write."""
        extra = [f"--lease={lease}"] if lease else []
        return int(self._json("put", *extra, "--", key, value)["header"]["revision"])

    def get(self, key: str) -> str | None:
        """The value of a key, or None."""
        return self.get_prefix(key, exact=True).get(key)

    def get_prefix(self, prefix: str, *, exact: bool = False) -> dict[str, str]:
        """All keys below a prefix with their values."""
        answer = self._json("get", *([] if exact else ["--prefix"]), "--", prefix)
        return {_b64(pair["key"]): _b64(pair.get("value", "")) for pair in answer.get("kvs", [])}

    def delete(self, key: str, *, prefix: bool = False) -> int:
        """Delete a key, or all below a prefix; the revision afterwards."""
        answer = self._json("del", *(["--prefix"] if prefix else []), "--", key)
        return int(answer["header"]["revision"])

    def txn(self, *operations: str) -> None:
        """Several operations in one revision, each as etcdctl writes it: `put k v`, `del k`."""
        self.etcdctl("txn", stdin="\n" + "\n".join(operations) + "\n\n\n")

    def grant_lease(self, seconds: int) -> str:
        """A new lease (hexadecimal id) that runs out after `seconds`."""
        return f"{int(self._json('lease', 'grant', str(seconds))['ID']):x}"

    def revoke_lease(self, lease: str) -> None:
        """End a lease: its keys are deleted in one revision."""
        self.etcdctl("lease", "revoke", lease)

    def revision(self) -> int:
        """The present revision of the store."""
        return int(self._json("get", "bed-is-ready")["header"]["revision"])

    def compact(self, revision: int | None = None) -> int:
        """Compact away the history up to `revision` (default: the present one), which is returned."""
        upto = revision if revision is not None else self.revision()
        self.etcdctl("compact", "--physical", str(upto))
        return upto

    def defrag(self) -> None:
        """Defragment every live member."""
        self.etcdctl("defrag")

    # --- authentication -------------------------------------------------------------------------------

    def enable_auth(self, root_password: str, users: Mapping[str, User] | None = None) -> None:
        """Create root and `users` (each with a role of its own name) and switch authentication on.

        From then on the helpers here log in as root.
        """
        self.etcdctl("user", "add", f"root:{root_password}")
        self.etcdctl("user", "grant-role", "root", "root")
        for name, user in (users or {}).items():
            self.add_user(name, user)
        self.etcdctl("auth", "enable")
        self._credentials = f"root:{root_password}"

    def disable_auth(self) -> None:
        """Switch authentication off."""
        self.etcdctl("auth", "disable")
        self._credentials = None

    def add_user(self, name: str, user: User) -> None:
        """Create a user with a role of the same name and the role's permissions."""
        self.etcdctl("role", "add", name)
        for prefix in user.prefixes:
            self.grant(name, prefix, read_only=user.read_only)
        self.etcdctl("user", "add", f"{name}:{user.password}")
        self.etcdctl("user", "grant-role", name, name)

    def grant(self, name: str, prefix: str, *, read_only: bool = False) -> None:
        """Let the role `name` read (and write) below `prefix`."""
        kind = "read" if read_only else "readwrite"
        self.etcdctl("role", "grant-permission", "--prefix=true", name, kind, prefix)

    def revoke(self, name: str, prefix: str) -> None:
        """Take back what grant() gave."""
        self.etcdctl("role", "revoke-permission", "--prefix=true", name, prefix)

    def change_password(self, name: str, password: str) -> None:
        """Give a user another password; etcd ends all tokens of that user."""
        self.etcdctl("user", "passwd", name, "--interactive=false", stdin=password + "\n")

    # --- backup ---------------------------------------------------------------------------------------

    def save_snapshot(self, path: Path) -> Path:
        """Write a backup to `path`."""
        alive = [member for member in self.members if member.is_alive()]
        self.etcdctl("snapshot", "save", str(path), endpoints=[alive[0].endpoint])
        return path

    def restore_from_snapshot(self, path: Path) -> None:
        """Replace the whole cluster by a backup, at the same addresses: a new cluster id, older revisions."""
        self.stop()
        self._token = f"{self._token}-restored"
        for member in self.members:
            shutil.rmtree(member.data)
            self._restore_member(member, path)
            member.process.argv = self._argv(member)
        self.start()

    def _restore_member(self, member: Member, path: Path) -> None:
        run(
            [
                "etcdctl",
                "snapshot",
                "restore",
                path,
                f"--name={member.name}",
                f"--data-dir={member.data}",
                f"--initial-cluster={self.initial_cluster}",
                f"--initial-cluster-token={self._token}",
                f"--initial-advertise-peer-urls={member.peer_url}",
            ],
            env=V3,
        )

    def cluster_id(self) -> int:
        """The id of the cluster; another one after a restore."""
        return int(self._statuses()[0]["Status"]["header"]["cluster_id"])


def _port_is_open(address: str) -> bool:
    with socket.create_connection((address, CLIENT_PORT), timeout=1):
        return True
