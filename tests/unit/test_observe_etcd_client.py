"""Whatever grpc raises becomes one error of ours, with its reason and a hint."""

import subprocess
import sys

import grpc
import pytest

from watcher.decide.errors import AccessDenied
from watcher.observe.etcd_access import EtcdAccess
from watcher.observe.etcd_client import EtcdClient, EtcdUnheard, Reason, translated

Code = grpc.StatusCode


class Failure(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str | None) -> None:
        super().__init__()
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str | None:
        return self._details


@pytest.mark.parametrize(
    ("code", "details", "reason"),
    [
        (Code.UNAVAILABLE, "Socket closed", Reason.CLOSED),
        (Code.UNAVAILABLE, "Connection reset by peer", Reason.CLOSED),
        (Code.UNAVAILABLE, "GOAWAY received", Reason.CLOSED),
        (
            Code.UNAVAILABLE,
            "failed to connect to all addresses; last error: Connection refused",
            Reason.REFUSED,
        ),
        (Code.UNAVAILABLE, "failed to connect to all addresses; connect: Permission denied", Reason.REFUSED),
        (Code.UNAVAILABLE, "failed to connect to all addresses; Tls handshake failed", Reason.REFUSED),
        (Code.UNAVAILABLE, "DNS resolution failed for etcd1", Reason.REFUSED),
        (Code.UNAVAILABLE, "No route to host", Reason.REFUSED),
        (Code.UNAVAILABLE, "ping timeout", Reason.SILENT),
        (Code.UNAVAILABLE, "etcdserver: no leader", Reason.NO_QUORUM),
        (Code.UNAVAILABLE, "etcdserver: request timed out", Reason.NO_QUORUM),
        (Code.UNAVAILABLE, "etcdserver: leader changed", Reason.NO_QUORUM),
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", Reason.SILENT),
        (Code.PERMISSION_DENIED, "etcdserver: permission denied", Reason.DENIED),
        (Code.UNAUTHENTICATED, "etcdserver: invalid auth token", Reason.DENIED),
        (Code.UNAUTHENTICATED, None, Reason.DENIED),
        (Code.INVALID_ARGUMENT, "etcdserver: user name is empty", Reason.DENIED),
        (Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", Reason.DENIED),
        (
            Code.INVALID_ARGUMENT,
            "etcdserver: authentication failed, invalid user ID or password",
            Reason.DENIED,
        ),
        (Code.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max (9 vs. 8)", Reason.TOO_LARGE),
        (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", Reason.COMPACTED),
        (Code.CANCELLED, "Channel closed!", Reason.CLOSED),
        (Code.INTERNAL, "something new", Reason.BROKEN),
    ],
)
def test_each_error_has_its_reason(code: grpc.StatusCode, details: str | None, reason: Reason) -> None:
    error = translated(Failure(code, details), "etcd e:1")
    assert error.reason is reason
    assert error.place == "etcd e:1"
    assert error.problem == (details or code.name)
    assert isinstance(error, AccessDenied) is (reason is Reason.DENIED)
    assert error.hint or reason in (Reason.BROKEN, Reason.CLOSED)


def test_an_error_that_is_a_novel_is_cut_and_put_on_one_line() -> None:
    error = translated(Failure(Code.INTERNAL, "word\n" * 1000), "etcd e:1")
    assert len(error.problem) == 500
    assert "\n" not in error.problem


def client(wanted: bool = True) -> EtcdClient:
    access = EtcdAccess(("127.0.0.1:9",))
    return EtcdClient(access, access.parsed()[0], lambda: wanted)


def test_a_closed_client_says_so() -> None:
    closed = client()
    closed.close()
    with pytest.raises(EtcdUnheard, match="closed") as caught:
        closed.list_keys("/service/demo/", 1.0)
    assert caught.value.reason is Reason.CLOSED
    with pytest.raises(EtcdUnheard, match="closed"):
        closed.watch("/service/demo/", 1)


def test_a_prefix_without_its_slash_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="does not end with a slash"):
        client().list_keys("/service/demo", 1.0)


WITHOUT_DESCRIPTORS = """
import os, resource, sys
from watcher.observe.etcd_access import EtcdAccess
from watcher.observe.etcd_client import EtcdClient, EtcdUnheard
access = EtcdAccess(endpoints=("127.0.0.1:1",))
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
lowest = os.dup(0)
os.close(lowest)
for free in range(20):
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, most))
    try:
        EtcdClient(access, access.parsed()[0], lambda: True).close()
    except EtcdUnheard as error:
        print(free, error.problem)
    else:
        break
"""


def test_where_no_descriptor_is_left_the_process_goes_on() -> None:
    """GRPC itself would abort it."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DESCRIPTORS], capture_output=True, text=True, check=False
    )
    problem = "no file descriptors are left for a connection: Too many open files"
    assert (done.returncode, done.stdout.splitlines()) == (0, [f"{free} {problem}" for free in range(6)])
