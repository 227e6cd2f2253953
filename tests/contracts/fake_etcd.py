"""An etcd in memory, and the client of it: what `EtcdClient` promises, without a network."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from watcher.observe.etcd_access import EtcdAccess, EtcdEndpoint
from watcher.observe.etcd_client import EtcdDenied, EtcdUnheard, KeyValue, Reason, Said


@dataclass
class FakeEtcd:
    """`put` and `delete` as etcd does them. Misbehaviour is switched on by the fields."""

    cluster_id: int = 7
    revision: int = 1
    term: int = 2
    compacted: int = 0
    down: set[str] = field(default_factory=set)
    denied: bool = False
    read_only: bool = False
    mute: bool = False  # watches are neither accepted nor served
    lossy: bool = False  # events are not delivered
    opened: list[str] = field(default_factory=list)
    streams: list["FakeStream"] = field(default_factory=list)
    leases: dict[int, set[str]] = field(default_factory=dict)  # lease → its keys
    _keys: dict[bytes, KeyValue] = field(default_factory=dict)
    _history: list[KeyValue] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def put(self, key: str, value: str) -> int:
        with self._lock:
            self.revision += 1
            known = self._keys.get(key.encode())
            created = self.revision if known is None else known.create_revision
            event = KeyValue(key.encode(), value.encode(), created, self.revision)
            self._keys[event.key] = event
            return self._tell(event)

    def delete(self, key: str) -> int:
        with self._lock:
            self.revision += 1
            del self._keys[key.encode()]
            self.attach(key, 0)
            return self._tell(KeyValue(key.encode(), b"", 0, self.revision, deleted=True))

    def has(self, key: str) -> bool:
        return key.encode() in self._keys

    def grant(self) -> int:
        with self._lock:
            lease = len(self.opened) * 1000 + len(self.leases) + 1
            self.leases[lease] = set()
            return lease

    def attach(self, key: str, lease: int) -> None:
        """A key hangs on one lease at most, that of its last write."""
        for keys in self.leases.values():
            keys.discard(key)
        if lease:
            self.leases[lease].add(key)

    def end_lease(self, lease: int) -> None:
        with self._lock:
            for key in sorted(self.leases.pop(lease)):
                self.delete(key)

    def compact(self) -> None:
        self.compacted = self.revision

    def end_streams(self) -> None:
        for stream in list(self.streams):
            stream.items.put(EtcdUnheard("etcd fake", "Socket closed", reason=Reason.CLOSED))

    def _tell(self, event: KeyValue) -> int:
        self._history.append(event)
        for stream in list(self.streams):
            stream.serve(event)
        return self.revision

    def said(self, *keys: KeyValue) -> Said:
        return Said(self.cluster_id, self.revision, self.term, keys)

    def client(self, _: EtcdAccess, endpoint: EtcdEndpoint, __: Callable[[], bool]) -> "FakeClient":
        self.opened.append(str(endpoint))
        return FakeClient(self, str(endpoint))

    def listing(self, prefix: str) -> Said:
        with self._lock:
            return self.said(
                *(kv for key, kv in sorted(self._keys.items()) if key.startswith(prefix.encode()))
            )

    def watch(self, prefix: str, revision: int) -> "FakeStream":
        with self._lock:
            stream = FakeStream(self, prefix.encode())
            if self.mute:
                return stream
            if revision <= self.compacted:
                stream.items.put(EtcdUnheard("etcd fake", "compacted", reason=Reason.COMPACTED))
                return stream
            stream.items.put(self.said())
            for event in self._history:
                if event.mod_revision >= revision:
                    stream.serve(event)
            self.streams.append(stream)
            return stream


class FakeStream:
    def __init__(self, etcd: FakeEtcd, prefix: bytes) -> None:
        self.items: queue.Queue[Said | EtcdUnheard] = queue.Queue()
        self._etcd = etcd
        self._prefix = prefix

    def serve(self, event: KeyValue) -> None:
        if event.key.startswith(self._prefix) and not self._etcd.lossy:
            self.items.put(self._etcd.said(event))

    def cancel(self) -> None:
        self.items.put(EtcdUnheard("etcd fake", "cancelled", reason=Reason.CLOSED))
        if self in self._etcd.streams:
            self._etcd.streams.remove(self)

    def __iter__(self) -> Iterator[Said]:
        while not isinstance(item := self.items.get(), EtcdUnheard):
            yield item
        raise item


class FakeClient:
    def __init__(self, etcd: FakeEtcd, endpoint: str) -> None:
        self._etcd = etcd
        self._endpoint = endpoint
        self.place = f"etcd {endpoint}"

    def authenticate(self) -> None:
        self._check()

    def list_keys(self, prefix: str, limit: float) -> Said:  # noqa: ARG002 - answers at once
        self._check()
        return self._etcd.listing(prefix)

    def watch(self, prefix: str, revision: int) -> FakeStream:
        return self._etcd.watch(prefix, revision)

    def grant(self, seconds: int) -> int:  # noqa: ARG002 - knows no time
        self._check()
        return self._etcd.grant()

    def write(self, puts: Mapping[str, str], deletes: Iterable[str], lease: int) -> None:
        self._check()
        if self._etcd.read_only:
            raise EtcdDenied(self.place, "permission denied", reason=Reason.DENIED)
        if puts and lease not in self._etcd.leases:
            raise EtcdUnheard(self.place, "requested lease not found")
        for key, value in puts.items():
            self._etcd.put(key, value)
            self._etcd.attach(key, lease)
        for key in filter(self._etcd.has, deletes):
            self._etcd.delete(key)

    def claim(self, key: str, value: str, lease: int) -> bool:
        self._check()
        is_free = not self._etcd.has(key)
        if is_free:
            self.write({key: value}, (), lease)
        return is_free

    def keep_alive(self, lease: int) -> bool:
        self._check()
        return lease in self._etcd.leases

    def revoke(self, lease: int) -> None:
        self._check()
        self._etcd.end_lease(lease)

    def close(self) -> None:
        """Nothing to close."""

    def _check(self) -> None:
        if self._endpoint in self._etcd.down:
            raise EtcdUnheard(self.place, "Connection refused", reason=Reason.REFUSED)
        if self._etcd.denied:
            raise EtcdDenied(self.place, "permission denied", reason=Reason.DENIED)
