"""Files that cannot be used: a clear error, not a byte changed, and every other target served."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.accounts import own_file, own_folder
from tests.support.fake_target import NODES, POLICY, FakePgBouncer, FakeTarget, Reports, led_by
from tests.support.folders import bed_folder, make_read_only
from tests.support.processes import run
from tests.support.sshd import Sshd
from watcher.apply.pooler import Pooler
from watcher.apply.ssh import SshAccess, SshPlace
from watcher.decide.backoff import Backoff
from watcher.decide.errors import BlockError, FileChanged, TargetRefused, WatcherError
from watcher.decide.model import Endpoint, Route, Stamp, View, Write
from watcher.mailbox import Mailbox
from watcher.reconciler import Reconciler, Target

BEGIN, END = ";; [config cluster: begin]\n", ";; [config cluster: end]\n"
APP = "app = host=10.0.0.9 port=5432\n"
GOOD = f"[databases]\n{BEGIN}{APP}{END}[pgbouncer]\nlisten_port = 6432\n"
ROUTE = Route(NODES["node1"], Stamp(1, "7", 2, 3, "node1"))


@dataclass
class Host:
    sshd: Sshd
    target: Pooler
    file: Path

    def put(self, text: str) -> None:
        own_file(self.file, text, self.sshd.account)


@pytest.fixture(scope="module")
def one_host() -> Iterator[Host]:
    with bed_folder() as folder, Sshd(folder / "s") as sshd:
        file = own_folder(folder / "etc", sshd.account) / "pgbouncer.ini"
        access = SshAccess(
            sshd.address,
            sshd.port,
            sshd.account,
            sshd.known_hosts,
            sshd.client_key,
            python="/usr/bin/python3",
        )
        place = SshPlace("bouncer", access, ["--file", str(file), "--limit", "0.3"])
        target = Pooler(
            place, file=str(file), block="demo", console=None, reloads_by_command=False, step_limit=3
        )
        yield Host(sshd, target, file)
        target.close()


@pytest.fixture
def host(one_host: Host) -> Host:
    """With a file that can be used, which the target has seen."""
    one_host.put(GOOD)
    one_host.target.read()
    return one_host


def turn(target: Target, view: View) -> Reports:
    """One turn of a reconciler."""
    reports = Reports()
    reconciler = Reconciler(
        target,
        Mailbox(view),
        POLICY,
        reports,
        resync_interval=60,
        backoff=Backoff(),
        clock=time.monotonic,
        random=lambda: 0.5,
    )
    assert reconciler.turn(view) < 60
    return reports


def refusal_of(host: Host) -> WatcherError:
    """What a reconciler says of this target; another one is served meanwhile."""
    view = led_by("node1", 5, time.monotonic())
    other = FakeTarget(FakePgBouncer(GOOD))
    [error] = turn(host.target, view).failures
    assert turn(other, view).failures == []
    assert other.pgbouncer.shown == {"app": NODES["node1"]}
    assert error.hint
    assert "bouncer" in error.place
    assert host.target.last is None
    return error


BAD_TEXTS: dict[str, tuple[str, str]] = {
    "empty file": ("", "has no block for cluster 'demo'"),
    "missing markers": (f"[databases]\n{APP}", "has no block for cluster 'demo'"),
    "nearly a marker": (
        f"[databases]\n;; [Config Cluster: BEGIN]\n{APP}{END}",
        "end marker without its begin",
    ),
    "another cluster's": (
        f"[databases]\n;; [config cluster x: begin]\n{APP};; [config cluster x: end]\n",
        "only for 'x'",
    ),
    "doubled block": (f"[databases]\n{BEGIN}{APP}{END}{BEGIN}b = host=h\n{END}", "ini:5: a second block"),
    "nested blocks": (f"[databases]\n{BEGIN}{BEGIN}{APP}{END}{END}", "ini:3: a block begins inside"),
    "reversed markers": (f"[databases]\n{END}{APP}{BEGIN}", "ini:2: an end marker without its begin"),
    "unclosed block": (f"[databases]\n{BEGIN}{APP}", "ini:2: this block is never ended"),
    "two names": (
        f"[databases]\n{BEGIN}{APP};; [config cluster demo: end]\n",
        "ini:4: ends 'demo', but line 2 begins None",
    ),
    "nameless beside named": (
        f"[databases]\n{BEGIN}{APP}{END};; [config cluster x: begin]\nx=host=h\n;; [config cluster x: end]\n",
        "without a name beside named ones",
    ),
    "no database": (f"[databases]\n{BEGIN};; app = host=h\n\n{END}", "ini:2: the block has no database"),
    "no host": (f"[databases]\n{BEGIN}app = port=5432\n{END}", "ini:3: has no host"),
    "host list": (f"[databases]\n{BEGIN}app = host=a,b\n{END}", "ini:3: has a list of hosts"),
    "socket": (f"[databases]\n{BEGIN}app = host=/run/x\n{END}", "ini:3: leads to a local socket"),
    "broken quote": (f"[databases]\n{BEGIN}app = host=a dbname='x\n{END}", "ini:3: cannot be read from"),
    "twice in the block": (
        f"[databases]\n{BEGIN}{APP}{APP}{END}",
        "ini:3: database 'app' stands in line 4 too",
    ),
    "once more outside": (
        f"[databases]\n{BEGIN}{APP}{END}{APP}",
        "ini:5: database 'app' stands in line 3 too",
    ),
    "wrong section": (f"[databases]\n[pgbouncer]\n{BEGIN}{APP}{END}", "stands in section [pgbouncer]"),
    "a setting": (f"[databases]\n{BEGIN}{APP}[users]\n{END}", "ini:4: is not a line name = key=value"),
    "a NUL": (f"[databases]\n{BEGIN}{APP}\0{END}", "holds a NUL byte"),
    "an unrendered template": ("{% include 'x' %}\n{{ databases }}\n", "has no block"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_a_text_that_cannot_be_used_stays_as_it_is(host: Host, name: str) -> None:
    text, problem = BAD_TEXTS[name]
    host.put(text)
    before = host.file.stat()
    error = refusal_of(host)
    assert isinstance(error, BlockError)
    assert problem in str(error)
    assert str(host.file) in error.place
    after = host.file.stat()
    assert (host.file.read_text(), after.st_ino, after.st_mtime_ns) == (
        text,
        before.st_ino,
        before.st_mtime_ns,
    )


def test_a_text_that_is_put_right_is_used(host: Host) -> None:
    host.put("broken")
    refusal_of(host)
    host.put(GOOD)
    host.target.read()
    host.target.take(Write(ROUTE))
    assert "host=10.0.0.1" in host.file.read_text()


def test_bytes_that_are_no_utf8_survive(host: Host) -> None:
    host.file.write_bytes(b"# \xe4\xff\x80 \n" + GOOD.encode() + b"; \xc3\n")
    host.target.read()
    host.target.take(Write(ROUTE))
    content = host.file.read_bytes()
    assert content.startswith(b"# \xe4\xff\x80 \n[databases]")
    assert content.endswith(b"; \xc3\n")
    assert b"host=10.0.0.1" in content


# --- files that cannot be had ----------------------------------------------------------------------


def unreadable(host: Host) -> Callable[[], object]:
    host.file.chmod(0)
    return lambda: host.file.chmod(0o644)


def vanished(host: Host) -> Callable[[], object]:
    host.file.unlink()
    return lambda: None


def folder_gone(host: Host) -> Callable[[], object]:
    moved = host.file.parent.rename(host.file.parent.with_name("moved"))
    return lambda: moved.rename(host.file.parent)


def closed_folder(host: Host) -> Callable[[], object]:
    os.chown(host.file.parent, 0, 0)
    return lambda: own_folder(host.file.parent, host.sshd.account)


def read_only_file_system(host: Host) -> Callable[[], object]:
    return make_read_only(host.file.parent)


def full_disk(host: Host) -> Callable[[], object]:
    folder = host.file.parent
    run(["mount", "-t", "tmpfs", "-o", "size=64k", "small", folder])
    own_folder(folder, host.sshd.account)
    host.put(GOOD)
    (folder / "ballast").write_bytes(b"x" * 60 * 1024)
    return lambda: run(["umount", "--lazy", folder])


def folder_locked(host: Host) -> Callable[[], object]:
    lock = os.open(host.file.parent, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lambda: os.close(lock)


def somebody_elses(host: Host) -> Callable[[], object]:
    os.chown(host.file, 0, 0)
    return lambda: None


BAD_FILES: list[tuple[Callable[[Host], Callable[[], object]], str, str]] = [
    (unreadable, "Permission denied [EACCES]", "give the account the right"),
    (vanished, "No such file or directory [ENOENT]", "restore it"),
    (folder_gone, "No such file or directory [ENOENT]", "restore it"),
    (closed_folder, "Permission denied [EACCES]", "its folder"),
    (read_only_file_system, "Read-only file system [EROFS]", "mount it for writing"),
    (full_disk, "No space left on device [ENOSPC]", "make room"),
    (folder_locked, "kept the folder's lock for too long [locked]", "lslocks"),
    (somebody_elses, "cannot keep its owner 0:0 [owner]", "the account that owns"),
]


def refused_write(host: Host) -> TargetRefused:
    try:
        host.target.read()
        host.target.take(Write(ROUTE))
    except TargetRefused as error:
        return error
    pytest.fail("it was written")


@pytest.mark.parametrize(("break_it", "problem", "hint"), BAD_FILES)
def test_a_file_that_cannot_be_written_stays_and_is_written_once_it_can(
    host: Host, break_it: Callable[[Host], Callable[[], object]], problem: str, hint: str
) -> None:
    with ExitStack() as undone:
        undone.callback(break_it(host))
        before = host.file.read_bytes() if host.file.exists() else b""
        error = refused_write(host)
        assert problem in str(error)
        assert hint in error.hint
        assert (host.file.read_bytes() if host.file.exists() else b"") == before
        if host.file.parent.exists():
            assert [path.name for path in host.file.parent.iterdir() if "new" in path.name] == []
        view = led_by("node1", 5, time.monotonic())
        other = FakeTarget(FakePgBouncer(GOOD))
        assert len(turn(host.target, view).failures) == 1
        assert turn(other, view).failures == []
    host.put(GOOD)
    host.target.read()
    host.target.take(Write(ROUTE))
    assert "host=10.0.0.1" in host.file.read_text()


@pytest.mark.parametrize(
    "break_it", [closed_folder, read_only_file_system, full_disk, folder_locked, somebody_elses]
)
def test_rights_are_checked_without_a_change(
    host: Host, break_it: Callable[[Host], Callable[[], object]]
) -> None:
    host.target.check_rights()
    with ExitStack() as undone:
        undone.callback(break_it(host))
        with pytest.raises(TargetRefused):
            host.target.check_rights()
    assert sorted(path.name for path in host.file.parent.iterdir()) == ["pgbouncer.ini"]


def test_a_file_that_changes_between_read_and_write_is_read_again(host: Host) -> None:
    theirs = GOOD.replace("listen_port", "# by hand\nlisten_port")
    host.put(theirs)
    with pytest.raises(FileChanged, match="somebody else wrote the file"):
        host.target.take(Write(ROUTE))
    assert host.file.read_text() == theirs
    host.target.read()
    host.target.take(Write(ROUTE))
    assert "# by hand" in host.file.read_text()


def test_a_preview_shows_what_a_write_would_do_and_does_nothing(host: Host) -> None:
    before, after = host.target.preview(ROUTE)
    assert before == host.file.read_text() == GOOD
    host.target.take(Write(ROUTE))
    assert host.file.read_text() == after


def test_hostile_addresses_are_refused_before_they_reach_the_file(host: Host) -> None:
    evil = Route(Endpoint("10.0.0.1 port=1\nadmin_users=x", 5432), ROUTE.stamp)
    with pytest.raises(BlockError, match="neither a host name nor an address"):
        host.target.take(Write(evil))
    assert host.file.read_text() == GOOD
