"""One connection to one member of etcd: authenticate, list, watch, and keys that live with a lease.
The sole importer of etcd3 and grpc.

etcd3 gives the channel, TLS and the generated calls. Its own `Watcher` is not used: it spins while etcd
is down, and swallows a refusal, so a watch refused for want of a permission is silent for ever. Here a
stream carries one watch, and everything that ends it is raised as one `EtcdUnheard`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from watcher.decide.errors import AccessDenied, SourceError
from watcher.observe.etcd_access import EtcdAccess, EtcdEndpoint

# etcd3's generated code is older than protobuf 4 and runs only on its pure-Python implementation, which
# is chosen once, when protobuf is first imported. The messages here are tiny: its speed does not matter.
os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"
# grpc's C core writes lines of its own to stderr, in the middle of ours. What it says there also comes
# as an exception.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# grpc's own care for a fork crashes every few children before their exec (measured: one in seven, by SIGBUS,
# SIGSEGV or SIGABRT), and at times hangs the parent. Children here exec at once and need none of it.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

from google.protobuf.internal import api_implementation

if api_implementation.Type() != "python":
    raise ImportError(
        "protobuf was imported before watcher.observe.etcd_client and runs as "
        f"{api_implementation.Type()!r}; etcd3 needs the implementation 'python'. Import the watcher first, "
        "or set PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python in the environment."
    )

with warnings.catch_warnings():  # «Call to deprecated create function», once for each message type
    warnings.simplefilter("ignore", DeprecationWarning)
    import etcd3
    import grpc
    from etcd3 import etcdrpc
    from grpc import _common

# A thread that waits for the next event looks ten times a second whether a signal came (gRPC issue 19464).
# Ours are not the main thread, and are woken by events and by cancel() all the same.
if hasattr(_common, "MAXIMUM_WAIT_TIMEOUT"):
    _common.MAXIMUM_WAIT_TIMEOUT = 5.0

TICK = 0.4
"""Seconds between two looks whether an answer is still wanted."""

_ALL, _FIRST_PAGE = 0, 1024
"""Keys asked for at once: all, as RangeRequest has it, and where these are too large for a message."""
_MESSAGES = 8
"""Times what a message may hold is as much as a listing may."""


class Reason(StrEnum):
    """Why a session with etcd began or ended; a label of metrics, so a closed set."""

    STARTED = "started"
    CLOSED = "closed"  # the connection or the stream was ended by the other side
    REFUSED = "refused"  # no connection, or no TLS
    SILENT = "silent"  # no answer in time
    DENIED = "denied"  # credentials or permissions
    NO_QUORUM = "no_quorum"
    COMPACTED = "compacted"  # the history that the watch was to start from is gone
    MISSED = "missed"  # a read showed what the watch did not deliver
    LAGGING = "lagging"  # the member fell back behind what it had said
    RESTORED = "restored"  # another cluster, or an earlier revision: a backup was restored
    TOO_LARGE = "too_large"
    BROKEN = "broken"  # anything else


class EtcdUnheard(SourceError):
    """A member of etcd could not be heard. `reason` for metrics."""

    def __init__(self, place: str, problem: str, hint: str = "", reason: Reason = Reason.BROKEN) -> None:
        super().__init__(place, problem, hint)
        self.reason = reason


class EtcdDenied(EtcdUnheard, AccessDenied):
    """… because it refused our credentials, or they do not permit this."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as etcd holds it; after a deletion `value` is empty and `create_revision` 0."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Said:
    """What one response carried: all keys of a listing, or the events of a watch in etcd's order."""

    cluster_id: int
    revision: int
    term: int
    keys: tuple[KeyValue, ...]


class EtcdClient:
    """A fresh channel to one endpoint. `close()` ends every call on it, from any thread.

    A token is fetched once; nothing refreshes it, so a refusal is answered by a new client.
    `wanted` is asked every `TICK` seconds while an answer is outstanding; EtcdUnheard once it says no.
    """

    def __init__(self, access: EtcdAccess, endpoint: EtcdEndpoint, wanted: Callable[[], bool]) -> None:
        self.place = f"etcd {endpoint}"
        self._access = access
        self._wanted = wanted
        self._metadata: tuple[tuple[str, str], ...] = _WITH_LEADER
        self._keys_at_once = _ALL
        self._client = _open(access, endpoint)

    def close(self) -> None:
        self._client.close()

    def authenticate(self) -> None:
        """Fetch a token where a user is given. An etcd with authentication switched off needs none.

        The token goes as metadata: grpc refuses call credentials on a plaintext channel.
        """
        user = self._access.username
        if user is None:
            return
        request = etcdrpc.AuthenticateRequest(name=user, password=self._access.password)
        try:
            answer = self._call(
                etcdrpc.AuthStub(self._client.channel).Authenticate, request, self._access.timeout
            )
        except EtcdUnheard as error:
            if "authentication is not enabled" not in error.problem:
                raise
        else:
            self._metadata = (*_WITH_LEADER, ("token", answer.token))

    def list_keys(self, prefix: str, limit: float) -> Said:
        """Every key below `prefix`, by one linearizable read within `limit` seconds.

        What is too large for one message comes in several, all as of the first one's revision.
        """
        header, keys, size = None, [], 0
        for page in self._pages(prefix, time.monotonic() + limit):
            header = header or page.header
            keys += [KeyValue(kv.key, kv.value, kv.create_revision, kv.mod_revision) for kv in page.kvs]
            size += sum(len(kv.value) for kv in page.kvs)
            if size > _MESSAGES * self._access.max_message_bytes:
                raise _classified(self.place, f"the keys are larger than max: {size} bytes and more")
        return _said(header, tuple(keys))

    def _pages(self, prefix: str, until: float) -> Iterator[Any]:
        first, end = _range(prefix)
        page = self._page(first, end, 0, until)
        revision = page.header.revision
        yield page
        while page.more:
            page = self._page(page.kvs[-1].key + b"\0", end, revision, until)
            yield page

    def _page(self, first: bytes, end: bytes, revision: int, until: float) -> Any:
        """As many keys as fit; no more than that are asked for at once from then on."""
        while True:
            request = etcdrpc.RangeRequest(
                key=first, range_end=end, revision=revision, limit=self._keys_at_once
            )
            try:
                return self._call(self._client.kvstub.Range, request, until - time.monotonic())
            except EtcdUnheard as error:
                if error.reason is not Reason.TOO_LARGE or self._keys_at_once == 1:
                    raise
            self._keys_at_once = self._keys_at_once // 4 or _FIRST_PAGE

    def watch(self, prefix: str, revision: int) -> EtcdStream:
        """The changes below `prefix` from `revision` on."""
        first, end = _range(prefix)
        create = etcdrpc.WatchCreateRequest(
            key=first, range_end=end, start_revision=revision, progress_notify=True
        )
        stub = etcdrpc.WatchStub(self._client.channel)
        return EtcdStream(self.place, stub, etcdrpc.WatchRequest(create_request=create), self._metadata)

    def grant(self, seconds: int) -> int:
        """A new lease; its keys go `seconds` after it was last kept alive. etcd may grant more."""
        request = etcdrpc.LeaseGrantRequest(TTL=seconds)
        return int(self._call(self._client.leasestub.LeaseGrant, request, self._access.timeout).ID)

    def write(self, puts: Mapping[str, str], deletes: Iterable[str], lease: int) -> None:
        """All at one revision. What is put goes with `lease`; deleting what is not there is no error."""
        operations = [_put(key, value, lease) for key, value in puts.items()]
        operations += [_delete(key) for key in deletes]
        self._write(etcdrpc.TxnRequest(success=operations))

    def claim(self, key: str, value: str, lease: int) -> bool:
        """Whether the key was not there, and is now, with `lease`; at one revision, whoever else tries."""
        absent = etcdrpc.Compare(
            key=key.encode(), target=etcdrpc.Compare.CREATE, result=etcdrpc.Compare.EQUAL, create_revision=0
        )
        request = etcdrpc.TxnRequest(compare=[absent], success=[_put(key, value, lease)])
        return bool(self._write(request).succeeded)

    def check_may_write(self, keys: Iterable[str]) -> None:
        """EtcdDenied if we may not write each of them. Nothing is written: etcd looks at the rights that a
        transaction needs before its condition, and no key was created before the first revision.
        """
        puts = [_put(key, "", lease=0) for key in keys]
        never = [
            etcdrpc.Compare(
                key=put.request_put.key,
                target=etcdrpc.Compare.CREATE,
                result=etcdrpc.Compare.LESS,
                create_revision=0,
            )
            for put in puts
        ]
        self._write(etcdrpc.TxnRequest(compare=never, success=puts))

    def keep_alive(self, lease: int) -> bool:
        """Whether the lease still lived; if so, it lives for its whole time again."""
        request = etcdrpc.LeaseKeepAliveRequest(ID=lease)
        with self._translating():
            answers = self._client.leasestub.LeaseKeepAlive(
                iter((request,)), timeout=self._access.timeout, metadata=self._metadata
            )
            lives = [answer.TTL > 0 for answer in answers]  # to the end, so that nothing of the call stays
        return any(lives)

    def revoke(self, lease: int) -> None:
        """End a lease: its keys go at once."""
        request = etcdrpc.LeaseRevokeRequest(ID=lease)
        self._call(self._client.leasestub.LeaseRevoke, request, self._access.timeout)

    def _write(self, request: Any) -> Any:
        try:
            return self._call(self._client.kvstub.Txn, request, self._access.timeout)
        except EtcdDenied as error:
            hint = _PERMIT_WRITE if error.hint == _PERMIT else error.hint
            raise EtcdDenied(error.place, error.problem, hint, error.reason) from error

    def _call(self, method: Any, request: Any, limit: float) -> Any:
        with self._translating():
            return self._answer(method.future(request, timeout=limit, metadata=self._metadata))

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise translated(error, self.place) from error
        except grpc.FutureCancelledError as error:
            raise EtcdUnheard(self.place, "no longer wanted", reason=Reason.CLOSED) from error
        except ValueError as error:  # what grpc says of a channel that was closed meanwhile
            raise EtcdUnheard(self.place, f"the channel is closed: {error}", reason=Reason.CLOSED) from error

    def _answer(self, call: Any) -> Any:
        while True:
            try:
                return call.result(timeout=TICK)
            except grpc.FutureTimeoutError:
                if not self._wanted():
                    call.cancel()


class EtcdStream:
    """One watch on a stream of its own. Iterate it in one thread; `cancel()` from any."""

    def __init__(self, place: str, stub: Any, create: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._place = place
        self._over = threading.Event()
        try:
            self._call = stub.Watch(self._requests(create), metadata=metadata)
        except ValueError as error:
            raise EtcdUnheard(place, f"the channel is closed: {error}", reason=Reason.CLOSED) from error

    def _requests(self, create: Any) -> Iterator[Any]:
        yield create
        self._over.wait()  # etcd ends the watch when the requests end

    def cancel(self) -> None:
        self._over.set()
        self._call.cancel()

    def __iter__(self) -> Iterator[Said]:
        """The first item says that the watch was accepted. EtcdUnheard for every end but none."""
        try:
            for response in self._call:
                self._check(response)
                yield _said(response.header, tuple(_event(event) for event in response.events))
        except grpc.RpcError as error:
            raise translated(error, self._place) from error
        raise EtcdUnheard(self._place, "the watch was closed by etcd", reason=Reason.CLOSED)

    def _check(self, response: Any) -> None:
        """A refused watch has the id -1 on etcd 3.4 and 0 on 3.5: only `canceled` tells."""
        if response.compact_revision:
            problem = f"the history up to revision {response.compact_revision} was compacted"
            raise EtcdUnheard(
                self._place, problem, "nothing to do: the watcher lists again", Reason.COMPACTED
            )
        if response.canceled:
            raise _classified(
                self._place, response.cancel_reason or "etcd cancelled the watch without a word"
            )


# --- the channel ----------------------------------------------------------------------------------

_WITH_LEADER = (("hasleader", "true"),)  # without it a member cut off from its quorum stays silent

_OPTIONS = (
    # A dead peer is noticed within 8 s where nothing else asks. Under 5000 ms etcd ends the connection.
    ("grpc.keepalive_time_ms", 6000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.ping_timeout_ms", 2000),  # what counts from grpcio 1.62 on
    ("grpc.keepalive_permit_without_calls", 0),  # 1 is answered by GOAWAY too_many_pings
    ("grpc.http2.max_pings_without_data", 0),
    # A new client is a new connection: none shared, no back-off inherited, no retry behind our back.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
)


_DESCRIPTORS = 6
"""What must be free before gRPC makes a channel: it takes four, then one to connect, and looks up names."""


def _require_descriptors(place: str) -> None:
    """gRPC aborts the whole process where it gets too few (measured with grpcio 1.85)."""
    taken: list[int] = []
    try:
        while len(taken) < _DESCRIPTORS:
            taken += os.pipe()
    except OSError as error:
        problem = f"no file descriptors are left for a connection: {error.strerror}"
        hint = "raise the limit of the watcher's process (LimitNOFILE), and see what has so many open"
        raise EtcdUnheard(place, problem, hint) from error
    finally:
        for descriptor in taken:
            os.close(descriptor)


def _open(access: EtcdAccess, endpoint: EtcdEndpoint) -> Any:
    _require_descriptors(f"etcd {endpoint}")
    try:
        return etcd3.client(
            host=endpoint.host,
            port=endpoint.port,
            ca_cert=_text(access.ca),
            cert_cert=_text(access.certificate),
            cert_key=_text(access.key),
            timeout=access.timeout,
            grpc_options=[*_OPTIONS, ("grpc.max_receive_message_length", access.max_message_bytes)],
        )
    except OSError as error:
        raise EtcdUnheard(
            f"etcd {endpoint}",
            f"a TLS file cannot be read: {error}",
            "correct the path or the file's permissions",
            Reason.REFUSED,
        ) from error


def _text(path: object | None) -> str | None:
    return None if path is None else str(path)


def _range(prefix: str) -> tuple[bytes, bytes]:
    """The keys from `…/` up to, not including, `…0`, the character after the slash."""
    if not prefix.endswith("/"):
        raise ValueError(f"the prefix {prefix!r} does not end with a slash")
    return prefix.encode(), prefix[:-1].encode() + b"0"


def _put(key: str, value: str, lease: int) -> Any:
    return etcdrpc.RequestOp(
        request_put=etcdrpc.PutRequest(key=key.encode(), value=value.encode(), lease=lease)
    )


def _delete(key: str) -> Any:
    return etcdrpc.RequestOp(request_delete_range=etcdrpc.DeleteRangeRequest(key=key.encode()))


def _said(header: Any, keys: tuple[KeyValue, ...]) -> Said:
    return Said(header.cluster_id, header.revision, header.raft_term, keys)


def _event(event: Any) -> KeyValue:
    kv = event.kv
    return KeyValue(kv.key, kv.value, kv.create_revision, kv.mod_revision, event.type == _DELETE)


_DELETE = 1  # mvccpb.Event.EventType


# --- errors, translated once ----------------------------------------------------------------------


def translated(error: grpc.RpcError, place: str) -> EtcdUnheard:
    """A foreign error as ours, by its text where the code alone would mislead, else by its code."""
    problem = error.details() or error.code().name
    by_text = _by_text(problem)
    if by_text is not None:
        return _made(place, problem, *by_text)
    return _made(place, problem, *_BY_CODE.get(error.code(), (Reason.BROKEN, "")))


def _classified(place: str, problem: str) -> EtcdUnheard:
    return _made(place, problem, *(_by_text(problem) or (Reason.BROKEN, "")))


def _made(place: str, problem: str, reason: Reason, hint: str) -> EtcdUnheard:
    kind = EtcdDenied if reason is Reason.DENIED else EtcdUnheard
    return kind(place, " ".join(problem.split())[:500], hint, reason)


def _by_text(problem: str) -> tuple[Reason, str] | None:
    lower = problem.lower()
    return next((meaning for words, meaning in _TEXTS if words in lower), None)


_PERMIT = (
    "grant the user's role read permission on the prefix, or on the whole namespace where one watcher "
    "follows several clusters of it (etcdctl role grant-permission)"
)
_PERMIT_WRITE = (
    "grant the user's role readwrite permission on pgbouncer-watcher/ below the cluster's prefix "
    "(etcdctl role grant-permission)"
)
_PASSWORD = "correct `etcd.username` and its password"  # noqa: S105 - a hint
_TOKEN = "nothing to do: a new token is fetched; if this stays, see who changes etcd's users"  # noqa: S105
_QUORUM = "bring a majority of etcd's members back"
_PORT = "is etcd running there, and is the port open to us?"
_NAME = "correct the name, or the resolver of this host"
_OWN_TLS = "correct `etcd.tls`: each file must be PEM, and the key must belong to the certificate"
_TLS = "is etcd up there and answering? if it is, compare `etcd.tls` with its own TLS settings"

_TEXTS: tuple[tuple[str, tuple[Reason, str]], ...] = (
    ("dns resolution", (Reason.REFUSED, _NAME)),
    ("errors resolving", (Reason.REFUSED, _NAME)),
    ("connection refused", (Reason.REFUSED, _PORT)),
    ("unreachable", (Reason.REFUSED, _PORT)),
    ("no route to host", (Reason.REFUSED, _PORT)),
    ("failed to create security handshaker", (Reason.REFUSED, _OWN_TLS)),
    ("failed to connect", (Reason.REFUSED, _TLS)),  # it did connect, and was not understood
    ("permission denied", (Reason.DENIED, _PERMIT)),
    ("permissiondenied", (Reason.DENIED, _PERMIT)),
    ("authentication failed", (Reason.DENIED, _PASSWORD)),
    ("user name is empty", (Reason.DENIED, "etcd demands a user: set `etcd.username` and its password")),
    ("user name not found", (Reason.DENIED, _PASSWORD)),
    ("invalid auth token", (Reason.DENIED, _TOKEN)),
    ("auth store is old", (Reason.DENIED, _TOKEN)),
    ("larger than max", (Reason.TOO_LARGE, "see who writes so much below the watched prefix")),
    ("no leader", (Reason.NO_QUORUM, _QUORUM)),
    ("leader changed", (Reason.NO_QUORUM, _QUORUM)),
    ("etcdserver: request timed out", (Reason.NO_QUORUM, _QUORUM)),
    ("has been compacted", (Reason.COMPACTED, "nothing to do: the watcher lists again")),
    ("ping timeout", (Reason.SILENT, "is the member overloaded or cut off?")),
    ("keepalive", (Reason.SILENT, "is the member overloaded or cut off?")),
)

_BY_CODE: dict[grpc.StatusCode, tuple[Reason, str]] = {
    grpc.StatusCode.UNAUTHENTICATED: (Reason.DENIED, _PASSWORD),
    grpc.StatusCode.PERMISSION_DENIED: (Reason.DENIED, _PERMIT),
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        Reason.SILENT,
        "is the member overloaded, cut off or without quorum?",
    ),
    grpc.StatusCode.UNAVAILABLE: (Reason.CLOSED, _PORT),
    grpc.StatusCode.CANCELLED: (Reason.CLOSED, ""),
}
