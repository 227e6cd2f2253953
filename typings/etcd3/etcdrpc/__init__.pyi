"""The generated code that watcher.observe.etcd_client uses; its fields are those of etcd's rpc.proto."""

from typing import Any

class AuthenticateRequest:
    def __init__(self, *, name: str, password: str | None) -> None: ...

class RangeRequest:
    def __init__(self, *, key: bytes, range_end: bytes, revision: int, limit: int) -> None: ...

class WatchCreateRequest:
    def __init__(
        self, *, key: bytes, range_end: bytes, start_revision: int, progress_notify: bool
    ) -> None: ...

class WatchRequest:
    def __init__(self, *, create_request: WatchCreateRequest) -> None: ...

class LeaseGrantRequest:
    def __init__(self, *, TTL: int) -> None: ...  # noqa: N803 - etcd's own name

class LeaseKeepAliveRequest:
    def __init__(self, *, ID: int) -> None: ...  # noqa: N803

class LeaseRevokeRequest:
    def __init__(self, *, ID: int) -> None: ...  # noqa: N803

class PutRequest:
    def __init__(self, *, key: bytes, value: bytes, lease: int) -> None: ...

class DeleteRangeRequest:
    def __init__(self, *, key: bytes) -> None: ...

class RequestOp:
    def __init__(
        self, *, request_put: PutRequest = ..., request_delete_range: DeleteRangeRequest = ...
    ) -> None: ...

class Compare:
    CREATE: int
    EQUAL: int
    LESS: int
    def __init__(self, *, key: bytes, target: int, result: int, create_revision: int) -> None: ...

class TxnRequest:
    def __init__(self, *, compare: list[Compare] = ..., success: list[RequestOp]) -> None: ...

class AuthStub:
    Authenticate: Any
    def __init__(self, channel: Any) -> None: ...

class WatchStub:
    Watch: Any
    def __init__(self, channel: Any) -> None: ...
