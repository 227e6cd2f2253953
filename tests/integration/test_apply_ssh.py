"""A target over SSH when its host, its sshd, its agent or its PgBouncer misbehaves."""

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.agent import write_agent
from tests.support.fake_target import NODES, POLICY, FakePgBouncer, FakeTarget, Reports, led_by
from tests.support.folders import bed_folder
from tests.support.network import Segment, own_network
from tests.support.pgbouncer import ADMIN, ADMIN_PASSWORD, STATS, STATS_PASSWORD, PgBouncer
from tests.support.processes import run
from tests.support.sshd import Sshd, generate_key
from tests.support.waiting import wait_for
from watcher.apply.console import Console, ConsoleAccess
from watcher.apply.local import LocalPlace
from watcher.apply.pooler import Pooler
from watcher.apply.ssh import _USER_TIMEOUT_MS, SshAccess, SshPlace
from watcher.decide.backoff import Backoff
from watcher.decide.errors import LoginRefused, NotConfirmed, TargetError, TargetRefused, TargetUnreachable
from watcher.decide.model import Confirm, Endpoint, Hold, Release, Reload, Route, Stamp, Step, Watch, Write
from watcher.mailbox import Mailbox
from watcher.reconciler import Reconciler, Target

LIMIT = 0.6
PYTHON = "/usr/bin/python3"
ELSEWHERE = Endpoint("127.0.0.9", 5432)
ROUTE = Route(ELSEWHERE, Stamp(1, "7", 2, 3, "node"))
HOME = Route(Endpoint("127.0.0.1", 1), Stamp(1, "7", 2, 3, "node"))


@dataclass
class Host:
    """A PgBouncer with its sshd, and targets for it."""

    pgbouncer: PgBouncer
    sshd: Sshd
    folder: Path

    def access(self, **others: Any) -> SshAccess:
        sshd = self.sshd
        plain = SshAccess(
            sshd.address,
            sshd.port,
            sshd.account,
            sshd.known_hosts,
            sshd.client_key,
            python=PYTHON,
            connect_timeout=1.0,
        )
        return replace(plain, **others)

    def target(self, *, options: tuple[str, ...] | None = None, **access: Any) -> Pooler:
        file, socket = str(self.pgbouncer.config_file), str(self.pgbouncer.socket)
        given = ("--file", file, "--console", socket) if options is None else options
        place = SshPlace("bouncer", self.access(**access), given)
        console = Console("bouncer", ConsoleAccess(), lambda: place.open("console"), LIMIT)
        return pooler(place, file, console)

    def logins(self) -> int:
        return self.sshd.log.read_text().count("Accepted publickey")


def pooler(place: SshPlace | LocalPlace, file: str, console: Console | None) -> Pooler:
    return Pooler(place, file=file, block="demo", console=console, reloads_by_command=False, step_limit=LIMIT)


@pytest.fixture(scope="module")
def one_host() -> Iterator[Host]:
    with (
        bed_folder() as folder,
        PgBouncer(folder / "b") as pgbouncer,
        Sshd(folder / "s", account=pgbouncer.account) as sshd,
    ):
        yield Host(pgbouncer, sshd, folder)


@pytest.fixture
def host(one_host: Host) -> Iterator[Host]:
    """In good health, and led home."""
    yield one_host
    one_host.sshd.thaw()
    one_host.pgbouncer.thaw()
    one_host.sshd.authorize()
    for server in (one_host.sshd, one_host.pgbouncer):
        if not server.is_alive():
            server.start()
    one_host.pgbouncer.point_at("127.0.0.1", 1)


@pytest.fixture
def target(host: Host) -> Iterator[Pooler]:
    found = host.target()
    yield found
    found.close()


def switch(target: Pooler, to: Route = ROUTE) -> None:
    target.read()
    for step in (Write(to), Reload(), Confirm(to.endpoint)):
        target.take(step)


def refusal(host: Host, kind: type[TargetError], problem: str, hint: str, /, **access: Any) -> TargetError:
    """What reading such a target raises; it says where, why and what to do, and the file stays."""
    before = host.pgbouncer.config_file.read_bytes()
    broken = host.target(**access)
    begun = time.monotonic()
    with pytest.raises(kind, match=problem) as caught:
        broken.read()
    broken.close()
    assert time.monotonic() - begun < 10
    assert caught.value.place.startswith("bouncer")
    assert hint in caught.value.hint
    assert host.pgbouncer.config_file.read_bytes() == before
    return caught.value


# --- logging in ----------------------------------------------------------------------------------------


def test_an_unknown_host_key_is_refused_with_the_way_to_learn_it(host: Host) -> None:
    empty = host.folder / "empty"
    empty.write_text("")
    refusal(host, LoginRefused, "host key is not in .*empty", "ssh-keyscan -p", known_hosts=empty)


def test_a_changed_host_key_is_refused(host: Host) -> None:
    other = generate_key(host.folder / "other_host", "x").with_suffix(".pub").read_text().split()[:2]
    changed = host.folder / "changed"
    where = host.sshd.address if host.sshd.port == 22 else f"[{host.sshd.address}]:{host.sshd.port}"
    changed.write_text(f"{where} {' '.join(other)}\n")
    refusal(host, LoginRefused, "is not the one in .*changed", "somebody answers", known_hosts=changed)


@pytest.mark.parametrize("text", [b"# \xe4\n", b"host ssh-ed25519 AAA\n"])
def test_known_hosts_that_cannot_be_read_are_named(host: Host, text: bytes) -> None:
    broken = host.folder / "broken_hosts"
    broken.write_bytes(text)
    refusal(host, TargetRefused, "broken_hosts cannot be read", "ssh-keygen -l", known_hosts=broken)


def test_missing_known_hosts_and_keys_are_named(host: Host) -> None:
    missing = host.folder / "missing"
    refusal(host, TargetRefused, "No such file.*missing", "correct the path", known_hosts=missing)
    refusal(host, TargetRefused, "No such file.*missing", "correct the path", key_file=missing)


def test_a_key_that_sshd_does_not_know_is_a_refused_login(host: Host) -> None:
    stranger = generate_key(host.folder / "stranger", "x")
    refusal(host, LoginRefused, "refuses our login", "authorized_keys", key_file=stranger)


@pytest.mark.parametrize("text", ["", "hello\n", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blb\n"])
def test_a_file_that_is_no_key_is_not_taken_for_an_unreachable_host(host: Host, text: str) -> None:
    broken = host.folder / "broken_key"
    broken.write_text(text)
    refusal(host, TargetRefused, "broken_key cannot be used", "is it the private key", key_file=broken)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_wrong_or_missing_passphrase_is_named(host: Host, kind: str) -> None:
    key = host.folder / f"secret_{kind}"
    if not key.exists():
        run(["ssh-keygen", "-q", "-t", kind, "-N", "right", "-f", key])
    refusal(host, LoginRefused, "needs a passphrase", "ssh.key_passphrase", key_file=key)
    refusal(host, TargetRefused, "cannot be used", "ssh.key_passphrase", key_file=key, key_passphrase="wrong")


def test_without_key_and_password_there_is_nothing_to_log_in_with(host: Host) -> None:
    refusal(host, TargetRefused, "nothing to log in with", "ssh.key_file", key_file=None)


def test_a_closed_port_and_an_unknown_name_are_unreachable(host: Host) -> None:
    refusal(host, TargetUnreachable, "Connection refused", "is sshd running", port=1)
    refusal(host, TargetUnreachable, "Errno -", "can this host reach it", host="no.such.invalid")


def test_refused_logins_leave_no_connection_and_no_thread(host: Host) -> None:
    threads = threading.active_count()
    broken = [
        host.target(key_file=generate_key(host.folder / "stranger2", "x")),
        host.target(key_file=host.folder / "sshd_config_not_a_key"),
        host.target(key_file=None),
    ]
    (host.folder / "sshd_config_not_a_key").write_text("x")
    for _ in range(4):
        for target in broken:
            with pytest.raises(TargetRefused):
                target.read()
    wait_for(lambda: not host.sshd.session_pids(), 2, "the end of all sessions", logs=[host.sshd.log])
    wait_for(lambda: threading.active_count() <= threads, 2, "the end of all threads")


# --- the agent -----------------------------------------------------------------------------------------


def test_a_host_without_python_says_so(host: Host) -> None:
    refusal(host, TargetRefused, "/no/python9: not found", "'/no/python9' runs there", python="/no/python9")
    refusal(host, TargetRefused, "it said nothing", "'/bin/false' runs there", python="/bin/false")


def test_an_agent_that_does_not_know_our_options_shows_its_last_words(host: Host) -> None:
    refusal(
        host, TargetRefused, "unrecognized arguments: --what", "runs there", options=("--what", "--file", "x")
    )


@pytest.mark.parametrize(
    ("forced", "problem", "hint"),
    [
        ("""echo '{"agent": 1}'""", "speaks version 1, we speak 2", "watcher agent"),
        ("""echo '{"agent": null}'""", "speaks version None", "watcher agent"),
        ("echo Welcome", "not an agent: it said 'Welcome'", "another forced command"),
        ("echo '[1]'", "no JSON object", "another forced command"),
        ("true", "it said nothing", "look at this key's line"),
        ("echo oops >&2; false", "oops", "look at this key's line"),
    ],
)
def test_a_forced_command_that_is_not_our_agent_is_refused(
    host: Host, forced: str, problem: str, hint: str
) -> None:
    host.sshd.authorize("restrict", forced)
    refusal(host, TargetRefused, problem, hint, agent_command="agent")


@pytest.mark.parametrize("forced", ["sleep 100", "cat", "yes"])
def test_a_forced_command_that_never_greets_is_given_up_in_time(host: Host, forced: str) -> None:
    host.sshd.authorize("restrict", forced)
    problem = "not an agent" if forced == "yes" else "no answer in time|not an agent"
    refusal(host, TargetError, problem, "", agent_command="agent")
    host.sshd.kill_sessions()


def test_where_a_connection_has_no_room_for_a_session_another_is_made(host: Host) -> None:
    before = host.logins()
    with host.sshd.set_up("MaxSessions 1"):
        place = host.target()._place
        agents = [place.open(word) for word in ("file", "console", "file")]
        assert host.logins() == before + len(agents)
        assert not any(agent.ended for agent in agents)
        place.close()
        wait_for(lambda: all(agent.ended for agent in agents), LIMIT, "all have ended")


def test_connections_do_not_add_up_where_each_has_room_for_one_session(host: Host) -> None:
    with host.sshd.set_up("MaxSessions 1"):
        place = host.target()._place
        agents = [place.open(word) for word in ("file", "console", "file")]
        before = len(host.sshd.session_pids())
        for turn in range(9):
            agents[turn % 3].close()
            agents[turn % 3] = place.open("file")
        wait_for(lambda: len(host.sshd.session_pids()) <= before, 5, "those without a session are closed")
        assert not any(agent.ended for agent in agents)
        place.close()


def test_a_host_without_room_for_any_session_ends_none_that_is_open(host: Host) -> None:
    place = host.target()._place
    agent = place.open("file")
    with host.sshd.set_up("MaxSessions 0", sessions_stay=True):
        before = host.logins()
        with pytest.raises(TargetRefused, match="sshd opens no further session"):
            host.target().read()
        place.open("console")  # on the connection that stands
        assert host.logins() == before + 1
        assert not agent.ended
    place.close()


def test_who_finds_no_room_on_either_connection_keeps_what_is_open(host: Host) -> None:
    place = host.target()._place
    with host.sshd.set_up("MaxSessions 1", sessions_stay=True):
        agent = place.open("file")  # this connection has no room for another one
    with host.sshd.set_up("MaxSessions 0", sessions_stay=True):
        before, sessions = host.logins(), len(host.sshd.session_pids())
        for _ in range(2):
            with pytest.raises(TargetRefused, match="sshd opens no further session"):
                place.open("console")
        assert host.logins() == before + 2
        wait_for(lambda: len(host.sshd.session_pids()) <= sessions, 5, "what was tried is closed")
    place.open("console")  # as soon as it is mended
    assert not agent.ended
    place.close()


def test_a_key_bound_to_our_agent_gets_no_other_agent_in(host: Host) -> None:
    installed = write_agent(host.folder)
    host.sshd.authorize("restrict", f"{PYTHON} -I {installed} --file {host.pgbouncer.config_file}")
    refusal(host, TargetRefused, "this key starts an agent", "set `ssh.agent_command`")


def test_a_key_bound_without_a_console_shows_the_file_and_says_what_is_missing(host: Host) -> None:
    installed = write_agent(host.folder)
    host.sshd.authorize("restrict", f"{PYTHON} -I {installed} --file {host.pgbouncer.config_file}")
    target = host.target(agent_command="agent")
    actual = target.read()
    assert actual.databases
    assert "started without --console" in str(actual.console_problem)
    target.close()


def test_a_killed_agent_is_started_again_over_the_next_connection(host: Host, target: Pooler) -> None:
    switch(target)
    for pid in host.sshd.session_pids():
        with suppress(psutil.NoSuchProcess):  # what the one before has taken along
            if "agent.py" in str((process := psutil.Process(pid)).cmdline()):
                process.kill()
    with pytest.raises(TargetUnreachable, match="the connection broke"):
        target.read()
    switch(target, HOME)


# --- a frozen host -------------------------------------------------------------------------------------

STEPS: dict[str, Callable[[Pooler], object]] = {
    "read": lambda target: target.read(),
    "write": lambda target: target.take(Write(ROUTE)),
    "reload": lambda target: target.take(Reload()),
    "confirm": lambda target: target.take(Confirm(ELSEWHERE)),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_frozen_host_is_given_up_at_the_step_limit_and_serves_again(
    host: Host, target: Pooler, step: str
) -> None:
    target.read()
    host.sshd.freeze()
    begun = time.monotonic()
    with pytest.raises(TargetUnreachable, match="no answer"):
        STEPS[step](target)
    assert time.monotonic() - begun < LIMIT + 5
    assert target.last is None
    host.sshd.thaw()
    with_retry(lambda: switch(target))
    assert host.pgbouncer.route() == (ELSEWHERE.host, ELSEWHERE.port)


def with_retry(action: Callable[[], object]) -> None:
    """As a reconciler does: until it goes through."""
    until = time.monotonic() + 20
    while True:
        try:
            action()
        except TargetError:
            if time.monotonic() > until:
                raise
        else:
            return


def test_a_host_that_is_frozen_while_we_connect_is_given_up_in_time(host: Host, target: Pooler) -> None:
    host.sshd.freeze()
    begun = time.monotonic()
    with pytest.raises(TargetUnreachable, match="no answer in time"):
        target.read()
    assert time.monotonic() - begun < 10
    host.sshd.thaw()
    with_retry(target.read)


def test_a_host_that_is_frozen_while_an_agent_starts_is_given_up_in_time(host: Host, target: Pooler) -> None:
    target._place.open("file")
    host.sshd.freeze()
    begun = time.monotonic()
    with pytest.raises(TargetUnreachable, match="no answer in time"):
        target.read()
    assert time.monotonic() - begun < 10
    host.sshd.thaw()
    with_retry(target.read)


def test_a_write_whose_answer_is_lost_is_reloaded_after_the_thaw(host: Host, target: Pooler) -> None:
    target.read()
    host.sshd.freeze()
    with pytest.raises(TargetUnreachable):
        target.take(Write(ROUTE))
    host.sshd.thaw()
    wait_for(lambda: ELSEWHERE.host in host.pgbouncer.config_file.read_text(), 2, "the late write")
    with_retry(target.read)
    assert target.last is not None
    assert target.last.reload_owed
    target.take(Reload())
    target.take(Confirm(ELSEWHERE))


# --- dying and coming back -----------------------------------------------------------------------------


def test_sshd_dies_and_comes_back(host: Host, target: Pooler) -> None:
    switch(target)
    host.sshd.kill()
    for _ in range(3):
        with pytest.raises(TargetUnreachable):
            target.read()
    assert not target.connected
    host.sshd.start()
    switch(target, HOME)
    assert target.connected


def test_a_killed_session_costs_one_login(host: Host, target: Pooler) -> None:
    switch(target)
    logins = host.logins()
    host.sshd.kill_sessions()
    wait_for(lambda: not target.connected, 10, "it is noticed")
    switch(target, HOME)
    assert host.logins() == logins + 1


def test_a_restarted_pgbouncer_costs_no_error(host: Host, target: Pooler) -> None:
    switch(target)
    host.pgbouncer.kill()
    host.pgbouncer.start()
    switch(target, HOME)


def test_while_only_pgbouncer_is_down_the_file_is_written_over_the_same_connection(
    host: Host, target: Pooler
) -> None:
    target.read()
    logins, sessions = host.logins(), len(host.sshd.session_pids())
    host.pgbouncer.kill()
    for _ in range(10):
        actual = target.read()
        assert actual.shown == ()
        assert "Connection refused" in str(actual.console_problem)
        target.take(Write(ROUTE))
        with pytest.raises(TargetUnreachable, match="Connection refused"):
            target.take(Reload())
    assert ELSEWHERE.host in host.pgbouncer.config_file.read_text()
    host.pgbouncer.start()
    target.read()
    target.take(Confirm(ELSEWHERE))
    assert host.logins() == logins
    wait_for(lambda: len(host.sshd.session_pids()) <= sessions, 2, "no agents left behind")


def test_a_frozen_pgbouncer_is_given_up_in_time_and_only_its_console(host: Host, target: Pooler) -> None:
    target.read()
    logins = host.logins()
    host.pgbouncer.freeze()
    begun = time.monotonic()
    actual = target.read()
    assert "no answer in time" in str(actual.console_problem)
    target.take(Write(ROUTE))
    with pytest.raises(TargetUnreachable, match="no answer in time"):
        target.take(Reload())
    assert time.monotonic() - begun < 2 * LIMIT + 5
    host.pgbouncer.thaw()
    target.read()
    target.take(Reload())
    target.take(Confirm(ELSEWHERE))
    assert host.logins() == logins


def test_a_pgbouncer_that_reads_another_file_is_not_confirmed(host: Host) -> None:
    other = host.folder / "b" / "other.ini"
    shutil.copy(host.pgbouncer.config_file, other)
    shutil.chown(other, host.pgbouncer.account, host.pgbouncer.config_file.group())
    target = host.target(options=("--file", str(other), "--console", str(host.pgbouncer.socket)))
    target.read()
    target.take(Write(ROUTE))
    target.take(Reload())
    with pytest.raises(NotConfirmed, match=r"app at 127\.0\.0\.1:1 instead of 127\.0\.0\.9:5432") as caught:
        target.take(Confirm(ELSEWHERE))
    assert "does it read" in caught.value.hint
    target.close()


# --- the console ---------------------------------------------------------------------------------------


def test_a_host_that_vanishes_while_nothing_is_said_to_it_is_noticed(one_host: Host) -> None:
    """An agent that watches is asked once a minute, and nobody sends it anything until then. A moment without
    packets, in which the kernel asks whether it is there, is not yet its end.
    """
    sshd = Sshd(one_host.folder / "vanishing", account=one_host.pgbouncer.account)
    with own_network(), Segment(one_host.folder, sshd.address) as segment:
        segment.house(sshd.process)
        with sshd:
            target = replace(one_host, sshd=sshd).target()
            target.read()
            time.sleep(1.0)  # the kernel's first questions fall into what follows
            for _ in range(2):
                segment.drop()
                time.sleep(2.0)  # less than makes an end, which would have come before the next one
                segment.mend()
                time.sleep(_USER_TIMEOUT_MS / 1000 + 1.0)
            assert target.connected
            segment.drop()
            wait_for(lambda: not target.connected, 30, "it is noticed")
            target.close()
            segment.mend()


@pytest.fixture
def guarded(one_host: Host) -> Iterator[PgBouncer]:
    """One that asks for passwords."""
    with PgBouncer(one_host.folder / "g", auth_type="scram-sha-256") as pgbouncer:
        yield pgbouncer


def beside(pgbouncer: PgBouncer, user: str, password: str | None) -> Pooler:
    file = str(pgbouncer.config_file)
    login = ConsoleAccess(user, password, host=pgbouncer.address, port=pgbouncer.port)
    return pooler(LocalPlace("bouncer", ["--file", file]), file, Console("bouncer", login, None, LIMIT))


@pytest.mark.parametrize(
    ("user", "password", "hint"),
    [
        (ADMIN, "wrong", "console.password"),
        (ADMIN, None, "console.password"),
        ("nobody", "x", "console.password"),
        ("app", "app-password", "admin_users"),
    ],
)
def test_a_console_that_lets_us_not_in_shows_the_file_and_says_why(
    guarded: PgBouncer, user: str, password: str | None, hint: str
) -> None:
    target = beside(guarded, user, password)
    for _ in range(2):
        actual = target.read()
        assert actual.databases
        assert actual.shown == ()
        assert isinstance(actual.console_problem, TargetRefused)
        assert hint in actual.console_problem.hint
        assert "bouncer console" in actual.console_problem.place
    target.close()


def test_a_console_that_may_only_show_is_found_out_before_and_at_the_reload(guarded: PgBouncer) -> None:
    target = beside(guarded, STATS, STATS_PASSWORD)
    assert target.read().shown
    with pytest.raises(TargetRefused, match="admin access needed") as caught:
        target.check_rights()
    assert "admin_users" in caught.value.hint
    target.take(Write(ROUTE))
    with pytest.raises(TargetRefused, match="admin access needed"):
        target.take(Reload())
    target.close()


def test_an_admin_has_the_rights_and_looking_changes_nothing(guarded: PgBouncer) -> None:
    target = beside(guarded, ADMIN, ADMIN_PASSWORD)
    before = guarded.config_file.stat()
    target.check_rights()
    target.check_rights()
    after = guarded.config_file.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    target.close()


# --- beside it -----------------------------------------------------------------------------------------


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "agent.py" in " ".join(child.cmdline())]


def test_a_frozen_local_agent_is_given_up_in_time_killed_and_replaced(guarded: PgBouncer) -> None:
    target = beside(guarded, ADMIN, ADMIN_PASSWORD)
    target.read()
    [child] = children()
    child.send_signal(signal.SIGSTOP)
    with pytest.raises(TargetUnreachable, match="no answer within"):
        target.read()
    assert children() == []
    switch(target)
    target.close()
    assert children() == []


def test_a_slow_look_at_the_file_counts_from_its_end(guarded: PgBouncer) -> None:
    """Or a read of etcd that began meanwhile would prove an older leader over the file (`fence`)."""
    target = beside(guarded, ADMIN, ADMIN_PASSWORD)
    target.read()
    [child] = children()
    guarded.write_block(ELSEWHERE.host, ELSEWHERE.port)  # by another hand
    child.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    thaw = threading.Timer(0.3, child.send_signal, [signal.SIGCONT])
    thaw.start()
    assert target.read().file_read_at >= begun + 0.3
    thaw.join()
    target.close()


def test_a_local_agent_that_cannot_start_leaves_no_child(one_host: Host) -> None:
    place = LocalPlace("bouncer", ["--no-such-option"])
    for _ in range(3):
        with pytest.raises(TargetUnreachable, match="the agent did not start"):
            place.open("file")
    refused = LocalPlace("bouncer", ["--file", "/x"])
    for _ in range(3):
        with pytest.raises(TargetRefused, match="started without --console"):
            refused.open("console")
    assert children() == []
    assert not place.connected


def test_a_local_agent_ends_with_the_watcher(one_host: Host) -> None:
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        place = LocalPlace("bouncer", ["--file", str(one_host.pgbouncer.config_file)])
        place.open("file")
        os.write(tell, str(place._children[0][0].pid).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    agent_pid = int(os.read(told, 20))
    os.waitpid(pid, 0)
    os.close(told)
    os.close(tell)
    wait_for(lambda: not psutil.pid_exists(agent_pid), 2, "the end of the agent")


def test_a_local_agent_is_not_told_what_the_settings_say(
    guarded: PgBouncer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secrets may come as variables, and a reload command inherits what the agent has."""
    monkeypatch.setenv("WATCHER_ETCD__PASSWORD", "canary-env")
    monkeypatch.setenv("OTHER", "kept")
    target = beside(guarded, ADMIN, ADMIN_PASSWORD)
    target.read()
    [child] = children()
    assert child.environ()["OTHER"] == "kept"
    assert "canary-env" not in str(child.environ())
    target.close()


# --- several targets -----------------------------------------------------------------------------------


def start(
    target: Target, mailbox: "Mailbox[Any]", reports: Reports, stop: threading.Event
) -> threading.Thread:
    reconciler = Reconciler(
        target,
        mailbox,
        POLICY,
        reports,
        resync_interval=0.5,
        backoff=Backoff(0.05, 0.2),
        clock=time.monotonic,
        random=lambda: 0.5,
    )
    thread = threading.Thread(target=reconciler.run, args=(stop,))
    thread.start()
    return thread


def test_a_frozen_host_delays_no_other_target_and_follows_after_the_thaw(host: Host) -> None:
    begun = led_by("node1", 5, time.monotonic())
    text = f";; [config cluster: begin]\napp = host={NODES['node3'].host}\n;; [config cluster: end]\n"
    good, slow = FakeTarget(FakePgBouncer(text)), host.target()
    targets: list[Target] = [good, slow]
    mailboxes, reports = [Mailbox(begun), Mailbox(begun)], [Reports(), Reports()]
    stop = threading.Event()
    threads = [start(t, m, r, stop) for t, m, r in zip(targets, mailboxes, reports, strict=True)]
    try:
        wait_for(lambda: all(report.switches for report in reports), 5, "both switched")
        host.sshd.freeze()
        news = led_by("node2", 9, time.monotonic())
        for mailbox in mailboxes:
            mailbox.put(news)
        wait_for(lambda: len(reports[0].switches) == 2, 2, "the good one switched", poll=0.001)
        assert not reports[1].failures
        wait_for(lambda: reports[1].failures, 3, "an error about the frozen one")
        assert len(reports[1].switches) == 1
        host.sshd.thaw()
        wait_for(lambda: len(reports[1].switches) == 2, 8, "the frozen one followed")
        assert host.pgbouncer.route() == (NODES["node2"].host, NODES["node2"].port)
    finally:
        host.sshd.thaw()
        stop.set()
        for mailbox in mailboxes:
            mailbox.nudge()
        for thread in threads:
            thread.join(5)
    assert good.pgbouncer.shown["app"] == NODES["node2"]
    assert good.calls["close"] == 1
    assert not slow.connected


@pytest.mark.parametrize("step", [Hold(1e9), Watch(ROUTE.endpoint), Release(ROUTE.endpoint)])
def test_a_target_that_was_given_no_hold_says_so(target: Pooler, step: Step) -> None:
    with pytest.raises(TargetError, match="its clients cannot be held"):
        target.take(step)


def test_a_connection_does_not_wait_for_full_packets(host: Host) -> None:
    """Without TCP_NODELAY every exchange over a kept connection costs 40 ms; asked of the kernel itself."""
    place = SshPlace("bouncer", host.access(), ("--file", str(host.pgbouncer.config_file)))
    place.open("file")
    ours = psutil.Process().net_connections("tcp4")
    [fd] = [one.fd for one in ours if one.raddr == (host.sshd.address, host.sshd.port)]
    with socket.socket(fileno=os.dup(fd)) as duplicate:
        assert duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    place.close()
