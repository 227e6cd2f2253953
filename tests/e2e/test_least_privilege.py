"""A key that may do no more than the watcher needs: the watcher works by it, and a thief tries for more."""

import base64
import json
import shlex
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.e2e.hold_stage import assert_all_on, clients_on, wait_until_held, wait_until_released, watching
from tests.e2e.test_stage import Keys, at, is_led, settings_by_keys, wait_until_led
from tests.support.agent import write_agent
from tests.support.bed import Bed, BouncerHost
from tests.support.processes import run
from tests.support.waiting import wait_for
from tests.support.watcher import WatcherProcess, run_watcher, settings_for, ssh_target
from watcher.apply.agent.file import digest

pytestmark = pytest.mark.long

INSTALLED = "pgbouncer-watcher-agent"
"""What the settings say for the agent's command; the forced command does not look at it."""


def forced(bed: Bed, host: BouncerHost, *, block: str, allow: list[str]) -> str:
    """The command of docs/install.md."""
    hosts = [word for address in allow for word in ("--allow", address)]
    return installed(bed, host.pgbouncer.config_file, host.pgbouncer.socket, ["--block", block, *hosts])


def installed(bed: Bed, file: Path, console: Path, bounds: list[str]) -> str:
    agent = write_agent(bed.folder)
    agent.chmod(0o644)
    files = ["--file", str(file), "--console", str(console)]
    return shlex.join(["/usr/bin/python3", "-I", str(agent), *files, *bounds])


@contextmanager
def locked(bed: Bed, block: str, allow: list[str]) -> Iterator[None]:
    """Every PgBouncer host lets the key start its installed agent, and nothing else."""
    with ExitStack() as stack:
        for host in bed.bouncers:
            stack.callback(host.sshd.kill_sessions)
            stack.callback(host.sshd.authorize)
            host.sshd.authorize("restrict", forced(bed, host, block=block, allow=allow))
        yield


def target(host: BouncerHost) -> dict[str, Any]:
    plain = ssh_target(host)
    return {**plain, "ssh": {**plain["ssh"], "agent_command": INSTALLED}}


# --- the watcher works by it -----------------------------------------------------------------------


def test_a_switchover_by_such_a_key_holds_switches_and_releases_and_no_client_fails(
    bed: Bed, tmp_path: Path
) -> None:
    old, members = bed.leader(), [node.host for node in bed.patroni.nodes]
    bed.patroni.wait_for_replicas()
    with locked(bed, bed.patroni.scope, members):
        targets = [target(host) for host in bed.bouncers]
        with watching(bed, tmp_path, targets=targets) as watcher, clients_on(bed) as clients:
            bed.patroni.switchover()
            leader = bed.patroni.wait_for_leader(other_than=old)
            wait_until_held(watcher, bed.bouncers, "announced")
            wait_until_led(bed.bouncers, at(leader), watcher)
            assert_all_on(clients, leader, after=time.monotonic())
            wait_until_released(watcher, bed.bouncers)


def test_a_leader_at_an_address_that_is_not_allowed_is_not_written_and_the_log_says_where_to_look(
    bed: Bed, tmp_path: Path
) -> None:
    keys, host = Keys(bed.etcd), bed.bouncers[0]
    first = keys.crown("a")
    with locked(bed, keys.scope, [first.split(":")[0]]):
        settings = settings_by_keys(bed, keys, targets=[target(host)])
        with WatcherProcess(tmp_path, settings) as watcher:
            wait_until_led([host], first, watcher)
            keys.crown("b")
            watcher.wait_for_line(
                "failed", saying=["none of the hosts that --allow names", "authorized_keys"]
            )
            assert is_led(host, first)


def test_a_line_that_is_mended_amid_a_switch_counts_once_the_settings_are_read_anew(
    bed: Bed, tmp_path: Path
) -> None:
    """The connection that is open keeps the old line; clients wait until a new one has led them."""
    old, (new, *_) = bed.leader(), bed.patroni.wait_for_replicas()
    everywhere = [node.host for node in bed.patroni.nodes]
    with locked(bed, bed.patroni.scope, [one for one in everywhere if one != new.host]):
        targets = [target(host) for host in bed.bouncers]
        with watching(bed, tmp_path, targets=targets) as watcher, clients_on(bed) as clients:
            bed.patroni.switchover(new)
            bed.patroni.wait_for_leader(other_than=old)
            for host in bed.bouncers:
                watcher.wait_for_line("failed", target=host.name, saying=["[bounds]"])
                host.sshd.authorize("restrict", forced(bed, host, block=bed.patroni.scope, allow=everywhere))
            watcher.process.send(signal.SIGHUP)
            wait_until_led(bed.bouncers, at(new), watcher)
            assert_all_on(clients, new, after=time.monotonic())


def fails(watcher: WatcherProcess, host: BouncerHost) -> bool:
    since = f'watcher_target_failing_since_timestamp_seconds{{cluster="demo",target="{host.name}"}}'
    return since in watcher.get("/metrics")[1]


def is_well(watcher: WatcherProcess, host: BouncerHost) -> bool:
    return not fails(watcher, host)


def test_a_guard_that_a_line_forbids_is_told_of_and_set_up_once_the_line_is_mended(
    bed: Bed, tmp_path: Path
) -> None:
    leader, everywhere = bed.leader(), [node.host for node in bed.patroni.nodes]
    bed.patroni.wait_for_replicas()
    with (
        locked(bed, bed.patroni.scope, [one for one in everywhere if one != leader.host]),
        watching(bed, tmp_path, targets=[target(host) for host in bed.bouncers]) as watcher,
    ):
        for host in bed.bouncers:
            watcher.wait_for_line("failed", target=host.name, saying=["[bounds]"])
            assert fails(watcher, host)
            host.sshd.authorize("restrict", forced(bed, host, block=bed.patroni.scope, allow=everywhere))
        watcher.process.send(signal.SIGHUP)
        for host in bed.bouncers:
            wait_for(partial(is_well, watcher, host), 30, f"{host.name} is well", logs=[watcher.log])
        leader.kill()
        wait_until_held(watcher, bed.bouncers, "primary_refuses")


def test_check_config_tells_which_members_clients_could_not_be_led_to(bed: Bed, tmp_path: Path) -> None:
    replica = bed.patroni.wait_for_replicas()[0]
    allowed = [node.host for node in bed.patroni.nodes if node is not replica]
    with locked(bed, bed.patroni.scope, allowed):
        settings = settings_for(bed, targets=[target(host) for host in bed.bouncers])
        code, said, _ = run_watcher(tmp_path, "check-config", settings)
    problem = f"{replica.host} is none of the hosts that --allow names [bounds]"
    faults = {line for line in said.splitlines() if line.startswith("FAULT")}
    assert faults == {
        f"FAULT    target {host.name} rights: {host.pgbouncer.config_file}: {problem}"
        for host in bed.bouncers
    }
    assert "see `--block` and `--allow` in this key's line of authorized_keys" in said
    assert code == 2


def test_check_config_tells_of_a_line_that_bounds_nothing_and_of_one_with_another_file(
    bed: Bed, tmp_path: Path
) -> None:
    host = bed.bouncers[0]
    other = host.pgbouncer.config_file.with_name("other.ini")
    shutil.copy2(host.pgbouncer.config_file, other)
    shutil.chown(other, host.pgbouncer.account, host.pgbouncer.account)
    with locked(bed, bed.patroni.scope, [node.host for node in bed.patroni.nodes]):
        settings = settings_for(bed, targets=[target(host)])
        host.sshd.authorize("restrict", installed(bed, other, host.pgbouncer.socket, []))
        code, said, _ = run_watcher(tmp_path, "check-config", settings)
        other.write_text(other.read_text().replace(bed.leader().host, "10.0.0.9"))
        host.sshd.authorize("restrict", installed(bed, other, other, ["--block", bed.patroni.scope]))
        bad_code, bad_said, _ = run_watcher(tmp_path, "check-config", settings)
        host.sshd.authorize("restrict", installed(bed, other, host.pgbouncer.socket, ["--block", "main"]))
        _, elsewhere, _ = run_watcher(tmp_path, "check-config", settings)
        other.unlink()
        _, gone, _ = run_watcher(tmp_path, "check-config", settings)
    about = [line for line in said.splitlines() if line.startswith(("warning", "advice"))]
    assert any(f"reads and writes {other}, which is not `targets.file`" in line for line in about)
    assert any("whoever has its key may write any text" in line for line in about)
    assert code == 0
    assert (
        f"FAULT    target {host.name} console: PgBouncer's console: {other}: Connection refused" in bad_said
    )
    assert bad_code == 2
    assert "leads app to 10.0.0.9:" in elsewhere
    assert "a reload is due, or it reads another file" in elsewhere
    assert "may lead clients to any address: add `--allow`" in elsewhere
    assert f"its agent is at {other}: No such file or directory [ENOENT]" in gone
    assert "`--file` in its line of authorized_keys counts" in gone


# --- and nobody gets more --------------------------------------------------------------------------


@pytest.fixture
def thief(bed: Bed) -> Iterator[BouncerHost]:
    """A host whose key was stolen; its block leads to Patroni's leader, which is all that is allowed."""
    bed.point_at_leader()
    with locked(bed, bed.patroni.scope, [bed.leader().host]):
        yield bed.bouncers[0]


def options(host: BouncerHost) -> list[str]:
    sshd = host.sshd
    words = {"BatchMode": "yes", "IdentitiesOnly": "yes", "UserKnownHostsFile": str(sshd.known_hosts)}
    given = [word for name, value in words.items() for word in ("-o", f"{name}={value}")]
    return ["-F", "none", *given, "-i", str(sshd.client_key)]


def ssh(
    host: BouncerHost, *more: str, asks: str = "", stdin: str = "", env: Mapping[str, str] | None = None
) -> CompletedProcess[str]:
    login = f"{host.account}@{host.sshd.address}"
    command = ["ssh", *options(host), *more, "-p", str(host.sshd.port), login, *([asks] if asks else [])]
    return run(command, stdin=stdin, env=env, check=False, timeout=20)


COMMANDS = [
    "id",
    "file; id",
    "file && id",
    "$(id)",
    "`id`",
    "file\nid",
    "| id",
    "id #",
    "sh -c id",
    "--reload-command id file",
    "--file /etc/passwd file",
    "agent --help",
    "../../bin/id",
]


@pytest.mark.parametrize("asks", COMMANDS)
def test_no_command_runs(thief: BouncerHost, asks: str) -> None:
    said = ssh(thief, asks=asks)
    assert "uid=" not in said.stdout + said.stderr
    for line in said.stdout.splitlines():
        assert json.loads(line).keys() <= {"agent", "error", "problem"}


def test_a_key_that_is_not_bound_would_run_it(bed: Bed) -> None:
    """So the tests here can fail."""
    assert "uid=" in ssh(bed.bouncers[0], asks="id").stdout


def test_there_is_no_shell_no_terminal_and_no_file_transfer(thief: BouncerHost, tmp_path: Path) -> None:
    assert "uid=" not in ssh(thief, stdin="id\n").stdout
    assert "PTY allocation request failed" in ssh(thief, "-tt").stderr
    stolen, given = tmp_path / "stolen", tmp_path / "given"
    given.write_text("x")
    there = f"{thief.account}@{thief.sshd.address}"
    port = ["-P", str(thief.sshd.port)]
    for protocol in ([], ["-O"]):
        fetch: list[str | Path] = ["scp", *protocol, *options(thief), *port, f"{there}:/etc/passwd", stolen]
        assert run(fetch, check=False, timeout=20).returncode != 0
        give: list[str | Path] = [
            "scp",
            *protocol,
            *options(thief),
            *port,
            given,
            f"{there}:{tmp_path}/arrived",
        ]
        assert run(give, check=False, timeout=20).returncode != 0
    sftp = ["sftp", *options(thief), *port, there]
    assert run(sftp, stdin="ls /\n", check=False, timeout=20).returncode != 0
    assert not stolen.exists()
    assert not (tmp_path / "arrived").exists()


def test_nothing_is_forwarded(bed: Bed, thief: BouncerHost) -> None:
    etcd = bed.etcd.endpoints[0]
    assert "administratively prohibited" in ssh(thief, "-W", etcd).stderr
    back = ssh(thief, "-o", "ExitOnForwardFailure=yes", "-R", "127.0.0.1:0:127.0.0.1:1", asks="file")
    assert "remote port forwarding failed" in back.stderr


def test_the_environment_changes_nothing(thief: BouncerHost, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "json.py").write_text("print('uid=ours')")
    with thief.sshd.set_up("AcceptEnv PYTHON*"):
        said = ssh(thief, "-o", "SendEnv=PYTHONPATH", asks="file", env={"PYTHONPATH": str(tmp_path)})
    assert json.loads(said.stdout) == {"agent": 2}


def requests(host: BouncerHost, word: str, *asked: dict[str, Any]) -> list[dict[str, Any]]:
    said = ssh(host, asks=word, stdin="".join(json.dumps(one) + "\n" for one in asked))
    return [json.loads(line) for line in said.stdout.splitlines()][1:]


@pytest.mark.parametrize(
    "change",
    [
        ("host=", "host=10.66.6.6 auth_user="),
        ("[pgbouncer]", "[pgbouncer]\nauth_type = any"),
        ("; [config", "%include /etc/passwd\n;; [config"),
        ("dbname=app", "dbname=postgres"),
    ],
)
def test_no_hostile_text_is_written(thief: BouncerHost, change: tuple[str, str]) -> None:
    file = thief.pgbouncer.config_file
    before = file.read_bytes()
    text = before.decode().replace(*change)
    assert text.encode() != before
    [answer] = requests(thief, "file", {"verb": "write", "expect": digest(before), "text": text})
    assert answer["error"] == "bounds"
    assert file.read_bytes() == before


def test_a_request_cannot_name_another_file(thief: BouncerHost, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("x")
    asked = {"verb": "read", "file": str(other), "path": str(other)}
    [answer] = requests(thief, "file", asked)
    assert answer["text"] == thief.pgbouncer.config_file.read_text()


def test_no_command_is_run_for_a_reload(thief: BouncerHost) -> None:
    [answer] = requests(thief, "file", {"verb": "reload", "command": "id", "reload_command": "id"})
    assert answer["problem"] == "no reload command was given"


START = b"\0\0\0\x2b\0\x03\0\0user\0pgbouncer\0database\0pgbouncer\0\0"
SHUTDOWN = b"Q\0\0\0\x0dSHUTDOWN\0"


def passed(console: str, said: bytes) -> dict[str, Any]:
    return {"verb": "pass", "console": console, "bytes": base64.b64encode(said).decode()}


def test_the_console_takes_no_other_word(thief: BouncerHost) -> None:
    assert len(START) == START[3]
    said = ssh(thief, asks="console", stdin=(START + SHUTDOWN).decode("latin-1"))
    assert "SHOW and RELOAD" in said.stderr
    assert thief.pgbouncer.is_alive()


def test_a_hold_takes_a_login_and_greets_and_guards_no_other_host(thief: BouncerHost) -> None:
    """The agent connects where it is told to, which would tell a thief what listens in that network."""
    consoles = ("control", "pause")
    login = [one for name in consoles for one in ({"verb": "dial", "console": name}, passed(name, START))]
    elsewhere = {"verb": "guard", "host": "10.66.6.6", "port": 22, "user": "x"}
    said = requests(thief, "hold", *login, passed("control", SHUTDOWN), {"verb": "begin"}, elsewhere)
    assert [answer.get("error") for answer in said] == [None] * 4 + ["bounds", None, "bounds"]
    assert "none of the hosts" in said[-1]["problem"]
    assert thief.pgbouncer.is_alive()
