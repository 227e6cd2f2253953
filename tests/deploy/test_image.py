"""The image (Dockerfile), built and run for real: what is in it, and that it needs no privilege at all."""

import json
import pwd
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.images import build_watcher
from tests.support.bed import Bed, BouncerHost
from tests.support.podman import Container, base_image, podman, size
from tests.support.waiting import wait_for
from tests.support.watcher import Settings, settings_for

pytestmark = pytest.mark.timeout(1500)  # where everything is built first

MOST_OVER_BASE = 150_000_000
STOPS_WITHIN = 1.0
ACCOUNT = 65532
CONFINED = (
    "--network=host",
    "--read-only",
    "--read-only-tmpfs=false",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
)
CONFIG = "/etc/pgbouncer-watcher"


@pytest.fixture(scope="module")
def image() -> str:
    return build_watcher()


def _run(image: str, *command: str, options: tuple[str, ...] = ()) -> tuple[int, str]:
    done = podman("run", "--rm", "--no-healthcheck", *CONFINED, *options, image, *command, check=False)
    return done.returncode, done.stdout + done.stderr


# --- what is in it ---------------------------------------------------------------------------------


def test_it_is_small(image: str) -> None:
    over = size(image) - size(base_image())
    print(f"{over / 1e6:.0f} MB over the base")
    assert over <= MOST_OVER_BASE


def test_nothing_that_installs_or_builds_is_in_it(image: str) -> None:
    assert _run(image, "-m", "pip", options=("--entrypoint=python3",))[1].endswith("No module named pip\n")
    # `command -v` of Debian's sh looks for its first word alone
    seek = 'for one in $0 "$@"; do command -v "$one"; done'
    programs = ("python3", "pip", "pip3", "cc", "gcc", "make")
    (found,) = _run(image, "-c", seek, *programs, options=("--entrypoint=sh",))[1].split()
    assert Path(found).name == "python3"
    seek = "find / -xdev -name ensurepip -o -name hatchling 2> /dev/null"
    assert _run(image, "-c", seek, options=("--entrypoint=sh",))[1] == ""


def test_it_says_what_it_is_and_how_it_runs(image: str) -> None:
    config: Mapping[str, Any] = json.loads(podman("image", "inspect", image).stdout)[0]
    assert config["User"] == f"{ACCOUNT}:{ACCOUNT}"
    assert (config["Config"]["Entrypoint"], config["Config"]["Cmd"]) == (["watcher"], ["run"])
    assert config["HealthCheck" if "HealthCheck" in config else "Healthcheck"]["Test"] == [
        "CMD",
        "watcher",
        "healthcheck",
    ]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"] == _run(image, "--version")[1].split()[1]
    assert labels["org.opencontainers.image.revision"]


# --- what it does ----------------------------------------------------------------------------------


class Mounted:
    """Settings and keys in a folder of the machine, and where a container has them."""

    def __init__(self, folder: Path, settings: Settings, account: int = ACCOUNT) -> None:
        (folder / "watcher.yaml").write_text(yaml.safe_dump(settings))
        for path in folder.iterdir():
            shutil.chown(path, account)
        self.options = (f"--volume={folder}:{CONFIG}:ro",)


def _mounted(bed: Bed, folder: Path, **sections: Any) -> Mounted:
    """The whole bed over SSH. A container's own account must be able to read its keys."""
    settings = settings_for(bed, **sections)
    for target, host in zip(settings["targets"], bed.bouncers, strict=True):
        for name in ("key_file", "known_hosts"):
            copy = folder / f"{host.name}-{name}"
            shutil.copyfile(target["ssh"][name], copy)
            copy.chmod(0o600 if name == "key_file" else 0o644)
            target["ssh"][name] = f"{CONFIG}/{copy.name}"
    return Mounted(folder, settings)


def _http(bed: Bed) -> dict[str, str]:
    """An address that the bed has for us alone."""
    return {"listen": f"{bed.bouncers[0].address}:9632"}


def _misled(hosts: list[BouncerHost]) -> None:
    for host in hosts:
        host.pgbouncer.point_at("127.0.0.77", 5432)


def _wait_until_led(bed: Bed, hosts: list[BouncerHost], container: Container) -> None:
    leader = bed.patroni.wait_for_leader()

    def led() -> bool:
        return all(host.pgbouncer.route() == (leader.host, leader.port) for host in hosts)

    try:
        wait_for(led, 30, f"{[host.name for host in hosts]} lead to {leader.name}")
    except Exception as error:
        error.add_note(container.logs())
        raise


@contextmanager
def _running(image: str, name: str, mounted: Mounted, *options: str) -> Iterator[Container]:
    with Container(name, image, options=(*CONFINED, *mounted.options, *options)) as container:
        yield container


def test_without_a_privilege_it_leads_every_target_and_stops_within_a_second(
    image: str, bed: Bed, service_folder: Path
) -> None:
    _misled(bed.bouncers)
    with _running(image, "image", _mounted(bed, service_folder, http=_http(bed))) as container:
        _wait_until_led(bed, bed.bouncers, container)
        assert _is_healthy(container)
        bed.patroni.switchover(bed.patroni.wait_for_replicas()[0])
        _wait_until_led(bed, bed.bouncers, container)
        took = [_stopped(container)]
        assert '"event": "stop"' in container.logs()
        # of a machine that is busy with other work the best of three tells
        for _ in range(2):
            podman("start", container.name)
            wait_for(lambda: _is_healthy(container), 30, "it is healthy")
            took.append(_stopped(container))
        print(f"stopped after {', '.join(f'{seconds:.2f}' for seconds in took)} s")
        assert min(took) <= STOPS_WITHIN


def _is_healthy(container: Container) -> bool:
    return podman("healthcheck", "run", container.name, check=False).returncode == 0


def _stopped(container: Container) -> float:
    """How long its orderly stop takes, in seconds."""
    asked = time.time()
    assert container.stop() == 0
    return _ended(container) - asked


def _ended(container: Container) -> float:
    """When its first process had ended, as podman noted it."""
    return datetime.fromisoformat(
        container.inspect('{{.State.FinishedAt.Format "2006-01-02T15:04:05.000-07:00"}}')
    ).timestamp()


def test_any_account_can_run_it(image: str, bed: Bed, service_folder: Path) -> None:
    mounted = _mounted(bed, service_folder, http=_http(bed))
    for path in service_folder.iterdir():
        path.chmod(0o644)
    code, said = _run(image, "check-config", options=(*mounted.options, "--user=12345:0"))
    assert (code, "FAULT" in said) == (0, False), said


def test_beside_pgbouncer_it_runs_the_agent_itself(image: str, bed: Bed, service_folder: Path) -> None:
    host = bed.bouncers[0]
    account = pwd.getpwnam(host.account)
    target = {
        "name": host.name,
        "via": "local",
        "file": str(host.pgbouncer.config_file),
        "console": {"socket": str(host.pgbouncer.socket)},
    }
    mounted = Mounted(service_folder, settings_for(bed, targets=[target], http=_http(bed)), account.pw_uid)
    shared = f"--volume={host.pgbouncer.folder}:{host.pgbouncer.folder}"
    _misled([host])
    with _running(image, "image", mounted, shared, f"--user={account.pw_uid}:{account.pw_gid}") as container:
        _wait_until_led(bed, [host], container)


def test_where_no_watcher_runs_the_container_is_unhealthy(image: str, bed: Bed, service_folder: Path) -> None:
    mounted = _mounted(bed, service_folder, http=_http(bed))
    options = (*CONFINED, *mounted.options, "--entrypoint=sleep")
    with Container("image", image, "infinity", options=options) as container:
        assert podman("healthcheck", "run", container.name, check=False).returncode == 1
