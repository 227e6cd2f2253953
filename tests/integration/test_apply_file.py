"""The agent's file: whole for every reader at every instant, whatever happens to the writer."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import write_agent
from tests.support.folders import bed_folder
from tests.support.pgbouncer import ADMIN, ADMIN_PASSWORD, PgBouncer
from tests.support.processes import run
from tests.support.waiting import wait_for
from watcher.apply.agent import file as agent
from watcher.apply.agent.bounds import Bounds
from watcher.apply.agent.main import main
from watcher.apply.agent.wire import LONGEST, PROTOCOL, Refused
from watcher.apply.console import Console, ConsoleAccess

NOBODY = 65534
GREETING = f'{{"agent": {PROTOCOL}}}\n'
OLD, NEW = b"old\n" * 500, b"a new line\n" * 40_000  # NEW has more than a hundred pages
SHORT, LONG = b"short\n" * 10, b"longer\n" * 500  # within one page of the kernel's


@pytest.fixture
def folder() -> Iterator[Path]:
    with bed_folder() as path:
        yield path


@contextmanager
def mounted(*arguments: str | Path) -> Iterator[None]:
    run(["mount", *arguments])
    try:
        yield
    finally:
        run(["umount", "--lazy", arguments[-1]])


@pytest.fixture(params=["renamed", "mounted"])
def file(request: pytest.FixtureRequest, folder: Path) -> Iterator[Path]:
    """One that can be renamed over, and one that is a mount of its own, as in a container."""
    path = folder / "pgbouncer.ini"
    path.write_bytes(OLD)
    if request.param == "renamed":
        yield path
        return
    with mounted("--bind", path, path):
        yield path


def replace(path: Path, content: bytes, way: str = "auto", limit: float = 4.0) -> None:
    agent.write(str(path), agent.digest(path.read_bytes()), content, way, limit)


def options(path: Path, **others: Any) -> Namespace:
    return Namespace(
        **{
            "file": str(path),
            "write": "auto",
            "limit": 0.3,
            "reload_command": None,
            "console": None,
            "bounds": Bounds(None, None),
        }
        | others
    )


def in_child(work: Callable[[], object]) -> int:
    """A forked process that does this work, and nothing else."""
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    return pid


def end_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def temporary_files(path: Path) -> list[str]:
    return [entry.name for entry in path.parent.iterdir() if entry != path]


# --- readers -----------------------------------------------------------------------------------------


def torn_texts(path: Path, write: Callable[[bytes], object], count: int) -> int:
    """How often a reader in another process saw neither text while `count` writes happened."""

    def watch() -> None:
        os.close(gate[1])
        torn = 0
        while not os.get_blocking(gate[0]) and not _ended(gate[0]):
            torn += path.read_bytes() not in (OLD, NEW)
            time.sleep(0.0001)
        os._exit(min(torn, 100))

    gate = os.pipe()
    os.set_blocking(gate[0], False)
    reader = in_child(watch)
    for number in range(count):
        write((OLD, NEW)[number % 2])
    os.close(gate[1])
    os.close(gate[0])
    return end_of(reader)


def _ended(pipe: int) -> bool:
    with suppress(BlockingIOError):
        return os.read(pipe, 1) == b""
    return False


def test_no_reader_sees_a_part(file: Path) -> None:
    assert torn_texts(file, lambda content: replace(file, content), 2000) == 0
    assert temporary_files(file) == []


def test_the_same_reader_sees_the_parts_of_a_plain_write(folder: Path) -> None:
    path = folder / "plain"
    path.write_bytes(OLD)
    assert torn_texts(path, lambda content: path.write_bytes(content), 300) > 0


def test_a_rename_over_a_mount_fails_and_auto_knows_it(folder: Path) -> None:
    path = folder / "pgbouncer.ini"
    path.write_bytes(OLD)
    with mounted("--bind", path, path):
        inode = path.stat().st_ino
        with pytest.raises(OSError, match="busy"):
            replace(path, NEW, "rename")
        assert path.read_bytes() == OLD
        assert temporary_files(path) == []
        replace(path, NEW)
        assert (path.read_bytes(), path.stat().st_ino) == (NEW, inode)
        replace(path, SHORT)
        assert path.read_bytes() == SHORT


def test_a_mounted_file_with_an_odd_name_is_known_as_a_mount(folder: Path) -> None:
    path = folder / "a b\\c\td.ini"
    path.write_bytes(OLD)
    with mounted("--bind", path, path):
        replace(path, NEW)
        assert path.read_bytes() == NEW


def test_a_link_to_the_file_stays_a_link(folder: Path) -> None:
    path, link = folder / "real.ini", folder / "link.ini"
    path.write_bytes(OLD)
    link.symlink_to(path)
    replace(link, NEW)
    assert link.is_symlink()
    assert path.read_bytes() == NEW


def test_a_file_that_somebody_keeps_open_is_not_written_in_place(folder: Path) -> None:
    path = folder / "pgbouncer.ini"
    path.write_bytes(OLD)
    with path.open("rb"):
        begun = time.monotonic()
        with pytest.raises(Refused, match="kept open by another") as refused:
            replace(path, NEW, "in_place", limit=0.2)
        assert refused.value.code == "busy"
        assert 0.2 <= time.monotonic() - begun < 10
        assert path.read_bytes() == OLD
    replace(path, NEW, "in_place")
    assert path.read_bytes() == NEW


def test_a_reader_waits_while_the_file_is_written_in_place_and_kills_nobody(folder: Path) -> None:
    path = folder / "pgbouncer.ini"
    path.write_bytes(OLD)
    ready, told = os.pipe()

    def keep_the_lease() -> None:
        descriptor = os.open(path, os.O_RDWR)
        agent._lease(descriptor, time.monotonic() + 1)
        os.write(told, b"!")
        time.sleep(0.3)
        agent._overwrite(descriptor, OLD, NEW)
        os.close(descriptor)

    writer = in_child(keep_the_lease)
    os.read(ready, 1)
    begun = time.monotonic()
    assert path.read_bytes() == NEW
    assert 0.2 < time.monotonic() - begun < 10
    assert end_of(writer) == 0
    os.close(ready)
    os.close(told)


def test_without_leases_nothing_is_written_in_place(folder: Path) -> None:
    path = folder / "pgbouncer.ini"
    path.write_bytes(OLD)
    switch = Path("/proc/sys/fs/leases-enable")
    switch.write_text("0")
    try:
        with pytest.raises(Refused, match="its file system grants no lease") as refused:
            replace(path, NEW, "in_place")
    finally:
        switch.write_text("1")
    assert refused.value.code == "mount"
    assert path.read_bytes() == OLD


def test_who_may_write_a_file_that_is_not_his_is_told_why_he_gets_no_lease(folder: Path) -> None:
    path = folder / "pgbouncer.ini"
    path.write_bytes(OLD)
    path.chmod(0o666)

    def try_as_nobody() -> None:
        os.setuid(NOBODY)
        begun = time.monotonic()
        with pytest.raises(Refused, match="only the account that owns it") as refused:
            replace(path, NEW, "in_place", limit=5)
        assert refused.value.code == "lease"
        assert time.monotonic() - begun < 4

    assert end_of(in_child(try_as_nobody)) == 0
    assert path.read_bytes() == OLD


# --- writers that die, and full disks ------------------------------------------------------------------


def write_for_ever(path: Path, way: str) -> None:
    while True:
        for content in (LONG, SHORT) if way == "in_place" else (NEW, OLD):
            replace(path, content, way)


@pytest.mark.parametrize("way", ["rename", "in_place"])
def test_a_writer_that_is_killed_leaves_the_old_or_the_new_text(folder: Path, way: str) -> None:
    """In place this holds for the texts within one page; empty lines may follow."""
    path = folder / "pgbouncer.ini"
    path.write_bytes(SHORT)
    dice = random.Random(7)  # noqa: S311
    for _ in range(60):
        writer = in_child(lambda: write_for_ever(path, way))
        time.sleep(dice.random() * 0.01)
        os.kill(writer, signal.SIGKILL)
        assert end_of(writer) == -signal.SIGKILL
        text = path.read_bytes()
        assert text.rstrip(b"\n") + b"\n" in (OLD, NEW, SHORT, LONG)
        assert temporary_files(path) in ([], [".pgbouncer.ini.watcher-new"])
    replace(path, OLD)
    assert path.read_bytes() == OLD
    assert temporary_files(path) == []


@pytest.mark.parametrize("way", ["rename", "in_place"])
def test_a_full_disk_leaves_the_file_and_nothing_beside_it(folder: Path, way: str) -> None:
    disk = folder / "disk"
    disk.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=256k", "small", disk):
        path = disk / "pgbouncer.ini"
        path.write_bytes(OLD)
        (disk / "ballast").write_bytes(b"x" * (256 * 1024 - 8192))
        with pytest.raises(OSError, match="No space left"):
            replace(path, NEW, way)
        assert path.read_bytes() == OLD
        assert sorted(temporary_files(path)) == ["ballast"]
        said = agent.answer(
            {"verb": "write", "expect": agent.digest(OLD), "text": NEW.decode()}, options(path, write=way)
        )
        assert said["error"] == "ENOSPC"
        (disk / "ballast").unlink()
        replace(path, LONG, way)
        assert path.read_bytes() == LONG


# --- several writers ------------------------------------------------------------------------------------


def count_up(path: Path, until: float) -> None:
    """Adds one to the number in the file as often as it can, and writes down how often that was."""
    won = 0
    while time.monotonic() < until:
        content = path.read_bytes()
        with suppress(Refused):
            agent.write(
                str(path),
                agent.digest(content),
                b"%d\n" % (int(content) + 1),
                "auto",
                until - time.monotonic(),
            )
            won += 1
    Path(f"{path}.{os.getpid()}").write_text(str(won))


def test_of_writers_that_read_the_same_text_exactly_one_wins(file: Path) -> None:
    file.write_bytes(b"0\n")
    until = time.monotonic() + 1.0
    for writer in [in_child(lambda: count_up(file, until)) for _ in range(3)]:
        assert end_of(writer) == 0
    won = [int(count.read_text()) for count in file.parent.glob("*.ini.*")]
    assert min(won) > 0
    assert int(file.read_text()) == sum(won) > 50


UNBOUNDED = {"bounded": False, "any_address": True, "other_file": None}
BOUNDED = {"bounded": True, "any_address": False}


def test_a_probe_that_must_wait_removes_nothing_of_the_writer_that_is_at_it(folder: Path) -> None:
    path, fresh = folder / "pgbouncer.ini", folder / ".pgbouncer.ini.watcher-new"
    path.write_bytes(OLD)
    lock = os.open(folder, os.O_RDONLY)
    agent._lock(lock, time.monotonic())
    fresh.write_bytes(NEW)
    assert agent.answer({"verb": "probe"}, options(path))["error"] == "locked"
    assert fresh.exists()
    os.close(lock)
    assert agent.answer({"verb": "probe"}, options(path)) == UNBOUNDED
    assert not fresh.exists()
    assert path.read_bytes() == OLD


@pytest.mark.parametrize(
    ("block", "addresses", "problem"),
    [
        ("demo", [["10.0.0.1", 5432], ["10.0.0.2", 5432]], ""),
        ("demo", [], ""),
        ("other", [], "there is no one block 'other' in the file"),
        (
            "demo",
            [["10.0.0.1", 5432], ["10.0.0.3", 5432], ["10.0.0.2", 5433]],
            "10.0.0.3 is none of the hosts that --allow names; "
            "5433 is none of the ports of 10.0.0.2 that --allow names",
        ),
    ],
)
def test_a_probe_tells_which_addresses_may_not_be_written(
    tmp_path: Path, block: str, addresses: list[list[str | int]], problem: str
) -> None:
    path = tmp_path / "pgbouncer.ini"
    path.write_text(";; [config cluster demo: begin]\napp = host=10.0.0.1\n;; [config cluster demo: end]\n")
    bounded = options(path, bounds=Bounds(block, ["10.0.0.1", "10.0.0.2:5432"]))
    said = agent.answer({"verb": "probe", "addresses": addresses}, bounded)
    assert said == ({"error": "bounds", "problem": problem} if problem else {**UNBOUNDED, **BOUNDED})


def test_a_probe_tells_of_another_file_than_the_watcher_means(folder: Path) -> None:
    path, link, other = (folder / name for name in ("pgbouncer.ini", "link.ini", "other.ini"))
    path.write_bytes(OLD)
    link.symlink_to(path)
    said = [
        agent.answer({"verb": "probe", "file": str(file)}, options(path))["other_file"]
        for file in (path, link, other)
    ]
    assert said == [None, None, str(path)]


def test_a_lock_that_is_never_given_back_is_an_error_in_time(folder: Path) -> None:
    path = folder / "pgbouncer.ini"
    path.write_bytes(OLD)
    lock = os.open(folder, os.O_RDONLY)
    agent._lock(lock, time.monotonic())
    with pytest.raises(Refused, match="another watcher"):
        replace(path, NEW, limit=0.1)
    os.close(lock)
    assert path.read_bytes() == OLD


# --- what stays --------------------------------------------------------------------------------------------

ACCESS_LIST = bytes.fromhex(
    "0200000001000600ffffffff02000400feff000004000400ffffffff10000400ffffffff20000000ffffffff"
)  # fmt: skip - user::rw-, user:65534:r--, group::r--, mask::r--, other::---


def test_the_access_list_of_the_file_stays(folder: Path) -> None:
    path = folder / "pgbouncer.ini"
    path.write_bytes(OLD)
    os.setxattr(path, "system.posix_acl_access", ACCESS_LIST)
    os.setxattr(path, "user.note", b"kept")
    before = path.stat()
    replace(path, NEW)
    assert os.getxattr(path, "system.posix_acl_access") == ACCESS_LIST
    assert os.getxattr(path, "user.note") == b"kept"
    assert (path.stat().st_mode, path.stat().st_uid) == (before.st_mode, before.st_uid)


def test_the_new_file_takes_no_access_list_from_its_folder(folder: Path) -> None:
    path = folder / "pgbouncer.ini"
    path.write_bytes(OLD)
    path.chmod(0o640)
    os.setxattr(folder, "system.posix_acl_default", ACCESS_LIST)
    replace(path, NEW)
    assert "system.posix_acl_access" not in os.listxattr(path)
    assert path.stat().st_mode & 0o7777 == 0o640


def test_an_owner_that_cannot_be_kept_is_refused_with_the_file_as_it_was(folder: Path) -> None:
    path = folder / "pgbouncer.ini"
    path.write_bytes(OLD)
    folder.chmod(0o777)

    def try_as_nobody() -> None:
        os.setuid(NOBODY)
        with pytest.raises(Refused, match="cannot keep its owner"):
            replace(path, NEW)

    path.chmod(0o644)
    assert end_of(in_child(try_as_nobody)) == 0
    assert path.read_bytes() == OLD
    assert temporary_files(path) == []


def test_a_file_too_large_to_be_one_is_not_read(folder: Path) -> None:
    path = folder / "pgbouncer.ini"
    with path.open("wb") as large:
        large.truncate(agent.MAX_FILE + 1)
    assert agent.answer({"verb": "read"}, options(path))["error"] == "large"


# --- a PgBouncer that reloads all the while --------------------------------------------------------------


@pytest.mark.parametrize("way", ["rename", "in_place"])
def test_a_pgbouncer_that_reloads_during_the_writes_drops_no_database(folder: Path, way: str) -> None:
    names = [f"app{number:03}" for number in range(200)]
    with PgBouncer(folder / "b", databases=names) as pgbouncer:
        login = ConsoleAccess(ADMIN, ADMIN_PASSWORD, host=pgbouncer.address, port=pgbouncer.port)
        console = Console("here", login, None, 5)
        counts: list[int] = []
        stop = threading.Event()

        def reload() -> None:
            while not stop.is_set():
                for _ in range(20):
                    console.reload()
                counts.append(len(console.databases()))

        databases, _, settings = pgbouncer.ini.read_bytes().partition(b"[pgbouncer]")
        text = b"[pgbouncer]" + settings + databases  # where half a text drops databases
        replace(pgbouncer.ini, text, way)
        reloading = threading.Thread(target=reload)
        reloading.start()
        try:
            while reloading.is_alive() and len(counts) < 11:
                for host in (b"host=10.20.30.40 ", b"host=127.0.0.1 "):
                    replace(pgbouncer.ini, text.replace(b"host=127.0.0.1 ", host), way)
        finally:
            stop.set()
            reloading.join()
            console.close()
        assert set(counts) == {len(names) + 1}
        log = pgbouncer.log.read_text()
        assert log.count("RELOAD command issued") > 200
        assert "ERROR" not in log
        assert "WARNING config" not in log


# --- the agent as a process -------------------------------------------------------------------------


def start_agent(path: Path, word: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-I", str(write_agent(path.parent)), word, "--file", str(path), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_an_agent_ends_with_its_input(folder: Path) -> None:
    with start_agent(folder / "x", "file") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == GREETING
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(2) == 0


def test_an_agent_answers_nonsense_with_an_error_and_lives_on(folder: Path) -> None:
    path = folder / "x"
    path.write_bytes(OLD)
    lines = [
        "nonsense",
        "[]",
        "{}",
        '{"verb": "rm"}',
        '{"verb": "write"}',
        '{"verb": "reload"}',
        '{"verb": "read"}',
    ]
    with start_agent(path, "file") as process:
        said, _ = process.communicate("\n".join(lines) + "\n", timeout=5)
    replies = said.splitlines()[1:]
    assert [('"error": "request"' in reply) for reply in replies] == [True] * 6 + [False]
    assert path.read_bytes() == OLD


@pytest.mark.parametrize("word", ["file", "hold"])
def test_an_agent_that_is_asked_without_end_ends(folder: Path, word: str) -> None:
    """The memory that it takes is bounded, whoever has the key."""
    nowhere = str(folder / "no-socket")
    with start_agent(folder / "x", word, "--console", nowhere) as process:
        said, _ = process.communicate("x" * (LONGEST + 1), timeout=30)
    assert '"a line that does not end"' in said
    assert process.returncode == 0


def test_a_request_that_stands_for_more_than_memory_holds_is_refused(folder: Path) -> None:
    """63 MiB of `{},` would be 1.7 GB of dictionaries."""
    with start_agent(folder / "x", "file", "--block", "demo") as process:
        said, _ = process.communicate("[" + "{}," * (21 << 20) + "{}]\n", timeout=60)
        assert '"not a line of JSON"' in said


def test_a_key_that_may_only_ask_for_words_gets_nothing_else(folder: Path) -> None:
    for asked in ("rm -rf /", "", "console", "file; id"):
        assert main(["--file", str(folder / "x")], asked) == 1


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("true", None),
        ("sleep 2 &", None),  # what stays behind keeps the output open
        ("echo no such thing; exit 3", "exit code 3: no such thing"),
        ("yes | head -c 300000; exit 4", "exit code 4"),
        ("sleep 100", "did not end within 0.3 s"),
        ("trap '' TERM HUP; sleep 100 & wait", "did not end within 0.3 s"),
    ],
)
def test_a_reload_command_is_judged_by_its_own_end(folder: Path, command: str, problem: str | None) -> None:
    begun = time.monotonic()
    said = agent.answer({"verb": "reload"}, options(folder / "x", reload_command=f"{command}"))
    assert time.monotonic() - begun < 30
    assert said == {} if problem is None else problem in said["problem"]


def test_a_relay_ends_when_pgbouncer_hangs_up(folder: Path) -> None:
    address = str(folder / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        with start_agent(folder / "x", "console", "--console", address) as process:
            pooler, _ = listener.accept()
            assert process.stdout is not None
            assert process.stdout.readline() == GREETING
            pooler.sendall(b"hello\n")
            assert process.stdout.readline() == "hello\n"
            pooler.close()
            assert process.wait(2) == 0


def test_a_relay_says_why_it_cannot_connect(folder: Path) -> None:
    for address, why in ((str(folder / "none"), "No such file"), ("no.such.invalid:6432", "not known")):
        with start_agent(folder / "x", "console", "--console", address) as process:
            said, _ = process.communicate(timeout=10)
        assert '"error": "console"' in said
        assert why in said


@pytest.mark.parametrize("version", ["3.6", "3.7", "3.13"])
def test_the_agent_runs_on_old_and_new_versions_of_python(folder: Path, version: str) -> None:
    found = shutil.which(f"python{version}")
    if found is None or subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip(f"no python{version} on the path; tests/unit/test_agent.py holds the grammar to 3.6")
    path = folder / "x"
    path.write_bytes(OLD)
    request = json.dumps({"verb": "write", "expect": agent.digest(OLD), "text": "new"}) + "\n"
    command = [found, "-I", str(write_agent(folder)), "file", "--file", str(path)]
    said = subprocess.run(command, input=request, capture_output=True, text=True, timeout=10, check=True)
    assert agent.digest(b"new") in said.stdout
    assert path.read_bytes() == b"new"


def test_an_agent_whose_reader_is_gone_ends(folder: Path) -> None:
    with start_agent(folder / "x", "file") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write('{"verb": "read"}\n' * 3)
            process.stdin.flush()
        wait_for(lambda: process.poll() is not None, 3, "the agent's end")
