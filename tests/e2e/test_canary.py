"""Every secret of the settings is a canary of its own here, and is sought wherever a watcher says anything:
while each of them is right, wrong, refused, and for a server that is not there.
"""

import base64
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.e2e.test_stage import Keys, settings_by_keys, wait_until_led
from tests.support.bed import Bed
from tests.support.etcd import EtcdCluster, User
from tests.support.folders import bed_folder
from tests.support.pgbouncer import ADMIN
from tests.support.processes import run
from tests.support.sshd import generate_key
from tests.support.waiting import wait_for
from tests.support.watcher import Settings, WatcherProcess, run_watcher, ssh_target

pytestmark = [pytest.mark.usefixtures("real_watchers"), pytest.mark.long]

SECRETS = {name: f"canary-{name}-4b1d" for name in ("etcd", "passphrase", "account", "console", "sql")}
PAGES = ("/", "/status", "/metrics", "/livez", "/readyz", "/targets/bouncer1", "/nothing")
WORDS = ("check-config", "plan", "once", "status")


def seen(text: str) -> list[str]:
    """Names of the secrets that are in it, as they are or in base64."""
    return [
        name
        for name, secret in SECRETS.items()
        if secret in text or base64.b64encode(secret.encode()).decode()[:-4] in text
    ]


@pytest.fixture(scope="module")
def etcd() -> Iterator[tuple[EtcdCluster, Keys]]:
    with bed_folder() as folder, EtcdCluster(folder, 1) as cluster:
        keys = Keys(cluster)
        keys.crown("a")
        cluster.enable_auth("root", {"watcher": User(SECRETS["etcd"], [keys.prefix], read_only=True)})
        yield cluster, keys


@pytest.fixture
def world(bed: Bed, etcd: tuple[EtcdCluster, Keys], tmp_path: Path) -> Settings:
    """A target that works, by a key with a passphrase and a password at its console; one whose sshd refuses a
    password; a leader that no role can log in to.
    """
    good, bad = (ssh_target(host) for host in bed.bouncers)
    good["ssh"] |= {"key_file": str(_locked(bed, tmp_path)), "key_passphrase": SECRETS["passphrase"]}
    pgbouncer = bed.bouncers[0].pgbouncer
    address = f"{pgbouncer.address}:{pgbouncer.port}"
    good["console"] = {"address": address, "user": ADMIN, "password": SECRETS["console"]}
    del bad["ssh"]["key_file"]
    bad["ssh"]["password"] = SECRETS["account"]
    return settings_by_keys(
        bed,
        etcd[1],
        cluster={"ready_by": "sql", "sql": {"user": "w", "password": SECRETS["sql"]}, "unknown_limit": 0.5},
        etcd={"username": "watcher", "password": SECRETS["etcd"]},
        targets=[good, bad],
        resync_interval=1.0,
    )


def _locked(bed: Bed, folder: Path) -> Path:
    """The client's key, under a passphrase."""
    key = folder / "locked"
    shutil.copy(bed.bouncers[0].sshd.client_key, key)
    key.chmod(0o600)
    run(["ssh-keygen", "-q", "-p", "-P", "", "-N", SECRETS["passphrase"], "-f", key])
    return key


def broken(settings: Settings, folder: Path) -> Iterator[Settings]:
    """The same with one secret after the other that opens nothing, or with nobody to tell it to."""
    for path in (("etcd", "password"), ("targets", 0, "ssh", "key_passphrase")):
        yield _with(settings, path, SECRETS["account"])
    yield _with(settings, ("targets", 0, "console", "user"), "nobody")
    yield _with(settings, ("targets", 0, "ssh", "key_file"), str(generate_key(folder / "stranger", "x")))
    yield _with(settings, ("targets", 0, "ssh", "port"), 1)
    yield _with(settings, ("etcd", "endpoints"), ["127.0.0.1:1"])
    yield _with(settings, ("etcd", "pasword"), SECRETS["etcd"])


def _with(settings: Settings, path: tuple[str | int, ...], value: object) -> Settings:
    changed: Any = yaml.safe_load(yaml.safe_dump(settings))
    section = changed
    for step in path[:-1]:
        section = section[step]
    section[path[-1]] = value
    return dict(changed)


def _told_to_others(pids: list[int]) -> str:
    """Command lines and environments."""
    found = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            found.append(f"{process.cmdline()} {process.environ()}")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return "\n".join(found)


def _texts_below(folder: Path) -> str:
    files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    return "\n".join(file.read_bytes().decode("latin-1") for file in files)


def _says(watcher: WatcherProcess, words: str) -> bool:
    return words in watcher.log.read_text()


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_running_watcher_keeps_every_secret_from_what_it_says_writes_and_starts(
    bed: Bed, etcd: tuple[EtcdCluster, Keys], world: Settings, tmp_path: Path, form: str
) -> None:
    cluster, keys = etcd
    host = bed.bouncers[0]
    world["log"] = {"level": "DEBUG", "format": form}
    watcher = WatcherProcess(tmp_path, world)
    watcher.process.env["PYTHONFAULTHANDLER"] = "1"
    try:
        with watcher:
            wait_until_led([host], keys.crown("a"), watcher)
            told = _told_to_others([one.pid for one in watcher.process.members()] + host.sshd.session_pids())
            pages = [watcher.get(page)[1] for page in PAGES]
            cluster.change_password("watcher", "another")
            host.pgbouncer.kill()
            for hint in ("invalid auth token", "is PgBouncer running there?"):
                wait_for(partial(_says, watcher, hint), 30, hint, logs=[watcher.log])
            pages += [watcher.get(page)[1] for page in PAGES]
            written = _texts_below(host.pgbouncer.folder)
            watcher.process.send(signal.SIGABRT)
            watcher.process.wait(10)
    finally:
        cluster.change_password("watcher", SECRETS["etcd"])
        host.start()
    log = watcher.log.read_text()
    assert "Fatal Python error: Aborted" in log
    assert "watcher" in told
    assert [seen(text) for text in (log, told, *pages, written)] == [[]] * (3 + len(pages))


@pytest.mark.parametrize("word", WORDS)
def test_no_command_shows_a_secret_whether_it_opens_the_door_or_not(
    world: Settings, tmp_path: Path, word: str
) -> None:
    for settings in (world, *broken(world, tmp_path)):
        code, out, err = run_watcher(tmp_path, word, settings)
        assert (code, seen(out + err)) == (code, [])
        assert out + err


def test_what_is_said_on_purpose_is_found(world: Settings, tmp_path: Path) -> None:
    """`check-config` shows reload commands, as the docs say; so the search is no blind one."""
    leaky = _with(world, ("targets", 0, "reload_command"), f"true {SECRETS['sql']}")
    _, out, err = run_watcher(tmp_path, "check-config", leaky)
    assert seen(out + err) == ["sql"]
