"""The commands on the real bed: what they say, what they do, and their exit codes."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.e2e.test_stage import (
    QUICK_ETCD,
    Keys,
    at,
    is_led,
    settings_by_keys,
    stays,
    traces,
    wait_until_led,
)
from tests.support.accounts import own_file
from tests.support.bed import Bed, BouncerHost
from tests.support.etcd import EtcdCluster, User
from tests.support.folders import bed_folder
from tests.support.pgbouncer import ADMIN
from tests.support.watcher import Settings, WatcherProcess, run_watcher, settings_for, ssh_target
from watcher.command_line import main

pytestmark = pytest.mark.usefixtures("real_watchers")

NOWHERE = "127.0.0.1:1"
CANARY = "canary-7f3a"
"""Part of every secret here; it may appear in no output, no log, and no process list."""

Answer = tuple[int, str, str]


@pytest.fixture
def keys(bed: Bed) -> Keys:
    return Keys(bed.etcd)


@pytest.fixture(scope="module")
def guarded_etcd() -> Iterator[tuple[EtcdCluster, Keys]]:
    """An etcd that asks for a password, with a leader."""
    with bed_folder() as folder, EtcdCluster(folder, 1) as etcd:
        keys = Keys(etcd)
        keys.crown("a")
        etcd.enable_auth("root", {"watcher": User(f"{CANARY}-etcd", [keys.prefix], read_only=True)})
        yield etcd, keys


class Cli:
    """Runs commands within this process, which saves each the second that imports take."""

    def __init__(self, folder: Path, said: pytest.CaptureFixture[str]) -> None:
        self._file, self._said = folder / "cli.yaml", said

    def __call__(self, word: str, settings: Settings) -> Answer:
        """The command's exit code and outputs, which hold no secret."""
        self._file.write_text(yaml.safe_dump(settings))
        self._said.readouterr()
        code = main([word, "--config", str(self._file)])
        said = self._said.readouterr()
        assert CANARY not in said.out + said.err
        return code, said.out, said.err


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, capsys)


def _with_password_in_block(host: BouncerHost) -> None:
    file = host.pgbouncer.config_file
    text = file.read_text().replace("dbname=app", f"dbname=app password='{CANARY} block'")
    own_file(file, text, host.account)


# --- once and plan --------------------------------------------------------------------------------


def test_out_of_sync_plan_shows_the_change_and_once_makes_it(bed: Bed, keys: Keys, cli: Cli) -> None:
    leader, settings = keys.crown("a"), settings_by_keys(bed, keys)
    for host in bed.bouncers:
        _with_password_in_block(host)
    before = [one.file for one in traces(bed)]

    code, out, err = cli("plan", settings)
    assert (code, err) == (3, "")
    assert out.count("would write, reload, confirm") == 2
    assert re.search(rf"^\+app = host={leader.replace(':', ' port=')} .*password=\*+$", out, re.MULTILINE)
    assert re.search(r"^-app = host=.*password=\*+$", out, re.MULTILINE)
    assert [one.file for one in traces(bed)] == before

    code, out, err = cli("once", settings)
    assert (code, err) == (0, "")
    assert out.count(f"→ {leader}, confirmed by PgBouncer") == 2
    assert all(is_led(host, leader) for host in bed.bouncers)
    assert all(
        f"password='{CANARY} block'" in host.pgbouncer.config_file.read_text() for host in bed.bouncers
    )

    in_sync = [one.file for one in traces(bed)]
    code, out, err = cli("plan", settings)
    assert (code, out.count("nothing to change"), err) == (0, 2, "")
    code, out, err = cli("once", settings)
    assert (code, out.count(f"leads to {leader} already"), err) == (0, 2, "")
    assert [one.file for one in traces(bed)] == in_sync


def test_a_pgbouncer_that_was_not_reloaded_is_out_of_sync(bed: Bed, keys: Keys, cli: Cli) -> None:
    leader, settings = keys.crown("a"), settings_by_keys(bed, keys)
    host = bed.bouncers[0]
    cli("once", settings)
    good = host.pgbouncer.config_file.read_text()
    host.pgbouncer.point_at("127.0.0.9", 5432)
    own_file(host.pgbouncer.config_file, good, host.account)
    code, out, _ = cli("plan", settings)
    assert code == 3
    assert f"{host.name}: would reload, confirm" in out
    assert cli("once", settings)[0] == 0
    assert is_led(host, leader)


@pytest.mark.parametrize("word", ["plan", "once"])
def test_without_a_leader_nothing_is_decided(bed: Bed, keys: Keys, cli: Cli, word: str) -> None:
    keys.join("a")
    before = [one.file for one in traces(bed)]
    code, out, err = cli(word, settings_by_keys(bed, keys))
    assert (code, err) == (4, "")
    assert "cluster: no leader key" in out
    assert "nothing was decided, so nothing was changed" in out
    assert [one.file for one in traces(bed)] == before


def test_without_etcd_once_asks_the_nodes(bed: Bed, cli: Cli) -> None:
    leader = bed.leader()
    for host in bed.bouncers:
        host.pgbouncer.point_at("127.0.0.77", 5432)
    settings = settings_for(bed, etcd={**QUICK_ETCD, "endpoints": [NOWHERE]})
    assert cli("plan", settings)[0] == 3
    code, out, err = cli("once", settings)
    assert code == 0
    assert f"cluster: etcd is silent; {leader.name} alone says that it is the primary" in out
    assert err.startswith(f"error: etcd {NOWHERE}: ")
    assert "HINT: " in err
    assert all(is_led(host, at(leader)) for host in bed.bouncers)


def test_without_etcd_and_nodes_nothing_is_decided(bed: Bed, cli: Cli) -> None:
    settings = settings_for(bed, etcd={**QUICK_ETCD, "endpoints": [NOWHERE]}, patroni={"nodes": []})
    code, out, err = cli("once", settings)
    assert code == 4
    assert "etcd is silent" in out
    assert NOWHERE in err


def test_a_target_that_cannot_be_reached_fails_once_and_the_others_are_led(
    bed: Bed, keys: Keys, cli: Cli
) -> None:
    leader = keys.crown("a")
    dead, other = bed.bouncers
    dead.kill()
    settings = settings_by_keys(bed, keys)
    assert cli("plan", settings)[0] == 1
    code, out, err = cli("once", settings)
    assert code == 1
    assert err.startswith(f"error: {dead.name}: ")
    assert "HINT: " in err
    assert f"{other.name}: " in out
    assert is_led(other, leader)


def test_a_process_tells_by_its_exit_code(bed: Bed, keys: Keys, tmp_path: Path) -> None:
    settings = settings_by_keys(bed, keys)
    assert run_watcher(tmp_path, "once", settings)[0] == 4
    leader = keys.crown("a")
    assert run_watcher(tmp_path, "plan", settings)[0] == 3
    assert run_watcher(tmp_path, "once", settings)[0] == 0
    assert all(is_led(host, leader) for host in bed.bouncers)
    assert run_watcher(tmp_path, "run", {**settings, "targets": []})[0] == 2


@pytest.mark.parametrize("word", ["run", "once", "plan", "check-config"])
def test_bad_settings_are_refused_with_every_fault(bed: Bed, cli: Cli, word: str) -> None:
    settings = settings_for(bed, resync_interval="soon", etcd={"password": CANARY})
    code, out, err = cli(word, settings)
    assert (code, out) == (2, "")
    assert re.findall(r"^- (\S+): ", err, re.MULTILINE) == ["etcd.username", "resync_interval"]


# --- check-config ---------------------------------------------------------------------------------


def test_check_config_finds_nothing_wrong_on_a_good_bed(bed: Bed, cli: Cli) -> None:
    before = traces(bed)
    code, out, err = cli("check-config", settings_for(bed))
    assert (code, err) == (0, "")
    assert "FAULT" not in out
    assert re.search(r"^(\d+) of \1 checks passed$", out, re.MULTILINE)
    assert [one.file for one in traces(bed)] == [one.file for one in before]
    assert [one.reloads for one in traces(bed)] == [one.reloads for one in before]


def _faults(answer: Answer) -> list[str]:
    """The faults that were found, each with its remedy; where there is one, the exit code is 2."""
    code, out, err = answer
    faults = re.findall(r"^FAULT +(.*\n +HINT: .*)$", out, re.MULTILINE)
    assert out.count("FAULT") == len(faults), out
    assert (code, err) == (2 if faults else 0, "")
    return faults


def test_check_config_tells_which_databases_are_for_reads(bed: Bed, cli: Cli) -> None:
    lines = {
        name: cli("check-config", settings_for(bed, replicas={"databases": [name]}))[1]
        for name in ("app", "none_such")
    }
    assert "the block holds app (for reads) → " in lines["app"]
    assert "the block holds app → " in lines["none_such"]


def test_check_config_finds_a_wrong_password_of_etcd(
    bed: Bed, guarded_etcd: tuple[EtcdCluster, Keys], cli: Cli
) -> None:
    _, keys = guarded_etcd
    right = settings_by_keys(bed, keys, etcd={"username": "watcher", "password": f"{CANARY}-etcd"})
    assert _faults(cli("check-config", right)) == []
    wrong = settings_by_keys(bed, keys, etcd={"username": "watcher", "password": f"{CANARY}-wrong"})
    (fault,) = _faults(cli("check-config", wrong))
    assert fault.startswith(f"etcd {keys.etcd.endpoints[0]}: ")
    assert "password" in fault


@pytest.mark.parametrize(
    ("needs", "what", "key"),
    [
        ({"controller": {"mode": "lease"}}, "`controller.mode: lease`", "active"),
        ({"barrier": {"enabled": True}}, "`barrier.enabled`", "targets/"),
    ],
)
def test_check_config_finds_that_what_is_wanted_may_not_be_written_in_etcd(
    bed: Bed, guarded_etcd: tuple[EtcdCluster, Keys], cli: Cli, needs: Settings, what: str, key: str
) -> None:
    etcd, keys = guarded_etcd
    ours = f"{keys.prefix}pgbouncer-watcher/"
    login = {"etcd": {"username": "watcher", "password": f"{CANARY}-etcd"}}
    wanted = settings_by_keys(bed, keys, **login, **needs)
    (fault,) = _faults(cli("check-config", wanted))
    assert fault.startswith(f"etcd rights for {what}: ")
    assert f"may not write {ours}{key}" in fault
    assert fault.endswith(f"etcdctl role grant-permission --prefix=true ROLE readwrite {ours}")
    assert "FAULT" not in cli("check-config", settings_by_keys(bed, keys, **login))[1]
    before = etcd.revision()
    etcd.grant("watcher", ours)
    try:
        answer = cli("check-config", wanted)
    finally:
        etcd.revoke("watcher", ours)
    assert _faults(answer) == []
    assert f"etcd rights for {what}: may write {ours}{key}" in answer[1]
    assert etcd.revision() == before


def test_check_config_warns_of_names_at_the_other_site_as_of_our_own(bed: Bed, keys: Keys, cli: Cli) -> None:
    there = Keys(bed.etcd)
    ends = {"a": keys.crown("a")}, {"b": there.crown("b"), "c": "10.0.0.3:5432"}
    other = {"etcd": {"endpoints": bed.etcd.endpoints}, "scope": there.scope, "addresses": ends[1]}
    cluster = {
        "connect_via": "addresses",
        "addresses": ends[0],
        "standby": "other_site",
        "other_site": other,
    }
    _, out, _ = cli("check-config", settings_by_keys(bed, keys, cluster=cluster))
    assert re.findall(r"^warning +(\S+): ", out, re.MULTILINE) == ["cluster.other_site.addresses.c"]


def test_check_config_tells_of_a_refusal_and_not_of_a_member_that_is_down_behind_it(
    bed: Bed, guarded_etcd: tuple[EtcdCluster, Keys], cli: Cli
) -> None:
    _, keys = guarded_etcd
    etcd = {"username": "watcher", "password": f"{CANARY}-etcd", "endpoints": [*keys.etcd.endpoints, NOWHERE]}
    settings = settings_by_keys(bed, keys, etcd=etcd, controller={"mode": "lease"})
    down, refused = _faults(cli("check-config", settings))
    assert down.startswith(f"etcd {NOWHERE}: ")
    assert "permission denied" in refused


def test_check_config_advises_where_a_pause_could_not_be_written(
    bed: Bed, guarded_etcd: tuple[EtcdCluster, Keys], cli: Cli
) -> None:
    etcd, keys = guarded_etcd
    ours = f"{keys.prefix}pgbouncer-watcher/"
    settings = settings_by_keys(bed, keys, etcd={"username": "watcher", "password": f"{CANARY}-etcd"})
    would_fail = f"advice   `watcher pause` and `resume` would fail: may not write {ours}pause"
    code, out, _ = cli("check-config", settings)
    assert code == 0
    assert would_fail in out
    assert f"readwrite {ours}" in out
    etcd.grant("watcher", ours)
    try:
        assert would_fail not in cli("check-config", settings)[1]
    finally:
        etcd.revoke("watcher", ours)


def test_check_config_warns_of_names_that_match_nothing(bed: Bed, keys: Keys, cli: Cli) -> None:
    leader = keys.crown("a")
    keys.join("b")
    settings = settings_by_keys(
        bed,
        keys,
        cluster={"connect_via": "addresses", "addresses": {"a": leader, "c": "10.0.0.3:5432"}},
        replicas={"databases": ["apq"]},
    )
    code, out, err = cli("check-config", settings)
    assert (code, err) == (0, "")
    assert re.findall(r"^warning +(\S+): (.*)$", out, re.MULTILINE) == [
        ("cluster.addresses.c", "etcd has no member of that name just now"),
        ("cluster.addresses", "has no address for b"),
        ("replicas.databases[0]", "'apq' is no database in the block of bouncer1, bouncer2"),
    ]
    assert "did you mean 'app'?" in out


def test_check_config_finds_that_nobody_could_be_led_to_the_leader(bed: Bed, keys: Keys, cli: Cli) -> None:
    leader = keys.crown("a")
    right, misspelled = (
        settings_by_keys(bed, keys, cluster={"connect_via": "addresses", "addresses": {name: leader}})
        for name in ("a", "ax")
    )
    assert f"ok       leader a: clients belong at {leader}" in cli("check-config", right)[1]
    (fault,) = _faults(cli("check-config", misspelled))
    assert fault.startswith("leader a: nobody can be led there: 'a' is not in `cluster.addresses`; add it")


def test_check_config_finds_a_leader_that_does_not_say_that_it_takes_clients(bed: Bed, cli: Cli) -> None:
    by_sql = {"ready_by": "sql", "sql": {"user": "nobody_knows", "password": "x"}}
    (fault,) = _faults(cli("check-config", settings_for(bed, cluster=by_sql)))
    assert re.match(r"leader \w+: does not say that it takes clients: PostgreSQL at ", fault)


def test_check_config_finds_what_cannot_be_reached_and_what_belongs_to_another_cluster(
    bed: Bed, cli: Cli
) -> None:
    endpoints = [*bed.etcd.endpoints, NOWHERE]
    nodes = [*(node.api_url for node in bed.patroni.nodes), f"http://{NOWHERE}"]
    unreachable = settings_for(bed, etcd={"endpoints": endpoints}, patroni={"nodes": nodes})
    found = _faults(cli("check-config", unreachable))
    assert [fault.split(": ")[0] for fault in found] == [f"etcd {NOWHERE}", f"Patroni http://{NOWHERE}"]

    found = _faults(cli("check-config", settings_for(bed, cluster={"scope": "elsewhere"})))
    assert [fault.split(" ")[0] for fault in found] == ["etcd"] * 3 + ["Patroni"] * 3
    assert "holds no key of this cluster" in found[0]
    assert "cluster.scope" in found[0]
    assert "belongs to scope 'demo', not 'elsewhere'" in found[-1]


def _check_target(bed: Bed, cli: Cli, target: Settings) -> list[str]:
    keys = Keys(bed.etcd)
    keys.crown("a")
    return _faults(cli("check-config", settings_by_keys(bed, keys, targets=[target])))


def test_check_config_finds_an_unknown_host_key(bed: Bed, cli: Cli, tmp_path: Path) -> None:
    host, known_hosts = bed.bouncers[0], tmp_path / "known_hosts"
    known_hosts.write_text("")
    target = ssh_target(host)
    target["ssh"]["known_hosts"] = str(known_hosts)
    (fault,) = _check_target(bed, cli, target)
    assert f"its host key is not in {known_hosts}" in fault
    assert "ssh-keyscan" in fault


def test_check_config_finds_a_key_that_is_not_let_in(bed: Bed, cli: Cli) -> None:
    target = ssh_target(bed.bouncers[0])
    target["ssh"]["key_file"] = str(bed.bouncers[1].sshd.client_key)
    (fault,) = _check_target(bed, cli, target)
    assert "refuses our login" in fault
    assert "authorized_keys" in fault


def test_check_config_finds_a_missing_marker(bed: Bed, cli: Cli) -> None:
    host = bed.bouncers[0]
    file = host.pgbouncer.folder / "without-marker.ini"
    own_file(file, f"[databases]\napp = host=10.0.0.1 password={CANARY}\n", host.account)
    (fault,) = _check_target(bed, cli, ssh_target(host, file=str(file)))
    assert fault.startswith(f"target {host.name} file: {file}: ")
    assert "has no block for cluster" in fault
    assert ";; [config cluster: begin]" in fault


@pytest.mark.parametrize("user", ["nobody", "stats", ADMIN])
def test_check_config_finds_a_user_of_the_console_who_may_not_reload(bed: Bed, cli: Cli, user: str) -> None:
    host = bed.bouncers[0]
    address = f"{host.pgbouncer.address}:{host.pgbouncer.port}"
    console = {"address": address, "user": user, "password": CANARY}
    faults = _check_target(bed, cli, ssh_target(host, console=console))
    if user == ADMIN:
        assert faults == []
    else:
        assert faults
        assert all(f"target {host.name} " in fault for fault in faults)
        assert all("admin_users" in fault or "`console.user`" in fault for fault in faults)


def test_check_config_finds_a_folder_that_is_closed_to_writing(bed: Bed, cli: Cli) -> None:
    host = bed.bouncers[0]
    folder = host.pgbouncer.folder
    folder.chmod(0o555)
    try:
        (fault,) = _check_target(bed, cli, ssh_target(host))
    finally:
        folder.chmod(0o755)
    assert f"target {host.name} rights" in fault
    assert "the right to write the file and its folder" in fault


# --- secrets --------------------------------------------------------------------------------------


def _command_line(pid: int) -> list[str]:
    """Empty for a process that has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).cmdline()
    return []


def test_a_running_watcher_shows_its_secrets_to_nobody(
    bed: Bed, guarded_etcd: tuple[EtcdCluster, Keys], tmp_path: Path
) -> None:
    etcd, keys = guarded_etcd
    host = bed.bouncers[0]
    _with_password_in_block(host)
    console: dict[str, Any] = {
        "address": f"{host.pgbouncer.address}:{host.pgbouncer.port}",
        "user": ADMIN,
        "password": f"{CANARY}-console",
    }
    settings = settings_by_keys(
        bed,
        keys,
        etcd={"username": "watcher", "password": f"{CANARY}-etcd"},
        targets=[ssh_target(host, console=console)],
        log={"format": "json", "level": "DEBUG"},
        resync_interval=1.0,
    )
    leader = keys.crown("a")
    with WatcherProcess(tmp_path, settings) as watcher:
        wait_until_led([host], leader, watcher)
        etcd.change_password("watcher", f"{CANARY}-other")
        host.pgbouncer.kill()
        watcher.wait_for_line("source", level="WARNING")
        watcher.wait_for_line("failed", timeout=20)
        pids = [member.pid for member in watcher.process.members()] + host.sshd.session_pids()
        command_lines = [line for pid in pids if (line := _command_line(pid))]
        stays(watcher.process.is_alive, 0.3, "it goes on")
    assert len(command_lines) > 1
    assert CANARY not in str(command_lines)
    assert CANARY not in watcher.log.read_text()
    etcd.change_password("watcher", f"{CANARY}-etcd")
