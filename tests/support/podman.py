"""Containers for the tests of what is deployed: podman, over a base image that is made here.

No registry is asked for anything. The base is what Debian's own bootstrap makes of Debian's mirror, and it
stays in podman's storage from one run to the next, as the layers of what is built upon it do, so that only
what has changed is built again. Whatever a test makes is named `watcher-test-…` and removed by that name.
"""

import fcntl
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import install_deploy
from tests.support.install_steps import STATE
from tests.support.processes import run
from tests.support.waiting import BedError

PREFIX = "watcher-test"
RELEASE = "bookworm"
BASE = f"localhost/{PREFIX}-base:{RELEASE}"
MAKE_BASE_SECONDS = 600.0
BUILD_SECONDS = 900.0
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
LENT_CA_BUNDLE = Path("/run/lent-ca-certificates.crt")  # not where the package ca-certificates puts its own
CONFIG_FILE = STATE / "containers.conf"
CONFIG = """\
# Podman without systemd, in a machine that may itself be a container.
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"

[containers]
# a limit above the machine's own would be refused
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
"""


def environment() -> dict[str, str]:
    """What podman, and whatever calls it, must have in its environment."""
    if missing := install_deploy.what_is_missing():
        raise BedError(
            f"the machine lacks {', '.join(missing)}\nHINT: python3 -m tests.support.install_deploy"
        )
    if not CONFIG_FILE.exists() or CONFIG_FILE.read_text() != CONFIG:
        CONFIG_FILE.write_text(CONFIG)
    return {"CONTAINERS_CONF": str(CONFIG_FILE), "HOME": str(Path.home())}


def podman(
    *words: str | Path, timeout: float = 60, stdin: str = "", check: bool = True
) -> "subprocess.CompletedProcess[str]":
    """One command of podman, to its end. Raises BedError with what it said."""
    return run(["podman", *words], env=environment(), stdin=stdin, timeout=timeout, check=check)


# --- images ----------------------------------------------------------------------------------------


def base_image() -> str:
    """The name of a minimal Debian, which is made first where it is missing (half a minute)."""
    with _one_at_a_time():
        _make_base_image()
    return BASE


def _make_base_image() -> None:
    if podman("image", "exists", BASE, check=False).returncode != 0:
        with tempfile.TemporaryDirectory(dir=STATE, prefix="base-") as name:
            root, archive = Path(name) / "root", Path(name) / "root.tar"
            run(["debootstrap", "--variant=minbase", RELEASE, root, _mirror()], timeout=MAKE_BASE_SECONDS)
            run(["tar", "-C", root, "--exclude=./var/cache/apt/archives/*.deb", "-cf", archive, "."])
            podman("import", archive, BASE, timeout=MAKE_BASE_SECONDS)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two processes of tests would make the same image twice."""
    with (STATE / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(
    context: Path,
    dockerfile: Path,
    tag: str,
    args: Mapping[str, str] | None = None,
    timeout: float = BUILD_SECONDS,
) -> str:
    """Build `tag` over our base, its argument `BASE`, unless `args` say otherwise. Returns the tag.

    Unchanged steps come from podman's cache.
    """
    given = {"BASE": base_image(), **(args or {})}
    with build_options() as options, _one_at_a_time():
        podman(
            "build",
            *options,
            *(f"--build-arg={key}={value}" for key, value in given.items()),
            *(f"--tag={tag}", f"--file={dockerfile}", context),
            timeout=timeout,
        )
    return tag


@contextmanager
def build_options() -> Iterator[list[str]]:
    """What `podman build` needs here, whoever calls it.

    How this machine reaches Debian's mirror and PyPI (settings of apt and pip, its certificates) is lent to
    the build and is no part of the image, where at most an empty file stays in each one's place.
    """
    with tempfile.TemporaryDirectory(dir=STATE, prefix="build-") as name:
        volumes = [f"--volume={volume}" for volume in _lent(Path(name))]
        yield ["--format=docker", "--isolation=chroot", "--network=host", "--pull=never", *volumes]


def size(image: str) -> int:
    """All layers of an image, in bytes."""
    return int(podman("image", "inspect", "--format={{.Size}}", image).stdout)


# --- what a build borrows from the machine -----------------------------------------------------------


def _mirror() -> str:
    """The mirror that apt takes this release from."""
    asked = [
        "apt-get",
        "indextargets",
        "--format=$(REPO_URI)",
        "Created-By: Packages",
        f"Codename: {RELEASE}",
    ]
    if uris := run(asked).stdout.split():
        return uris[0]
    raise BedError(
        f"apt knows no mirror of {RELEASE}\nHINT: is this Debian 12, and did `apt-get update` run?"
    )


def _lent(folder: Path) -> Iterator[str]:
    """Volumes of a build: the machine's settings, written into `folder`, and the paths that they name."""
    (folder / "apt.conf").write_text(_apt_settings())
    (folder / "pip.conf").write_text("[global]\n" + "".join(f"{line}\n" for line in _pip_settings()))
    yield f"{folder / 'apt.conf'}:/etc/apt/apt.conf.d/99-lent:ro"
    yield f"{folder / 'pip.conf'}:/etc/pip.conf:ro"
    if CA_BUNDLE.exists():
        yield f"{CA_BUNDLE}:{LENT_CA_BUNDLE}:ro"
    for path in _paths_in("\n".join(_pip_settings())):
        yield f"{path}:{path}:ro"


def _apt_settings() -> str:
    """How apt fetches here: proxies, certificates, which dates it believes."""
    lines = run(["apt-config", "dump"]).stdout.splitlines()
    return "".join(f"{line}\n" for line in lines if line.startswith("Acquire::"))


def _pip_settings() -> list[str]:
    """As lines of pip.conf, those from the environment too."""
    said = run([sys.executable, "-m", "pip", "config", "list"], env={**os.environ}).stdout
    found = re.findall(r"^(?:global|install|:env:)\.(\S+)='(.*)'$", said, re.MULTILINE)
    settings = {name: value.replace("\\n", " ") for name, value in found}
    if CA_BUNDLE.exists():
        settings["cert"] = str(LENT_CA_BUNDLE)
    return [f"{name} = {value}" for name, value in settings.items()]


def _paths_in(text: str) -> list[Path]:
    """The paths of this machine that a text names, each once; of an index (PEP 503's `simple`) the folder
    above, where its files are.

    >>> _paths_in("find-links = /etc/ssl\\nextra-index-url = file:///etc/apt/simple https://pypi.org/etc")
    [PosixPath('/etc/ssl'), PosixPath('/etc/apt')]
    """
    named = map(Path, re.findall(r"(?<=[\s=])(?:file://)?(/[^\s'\"]+)", text))
    paths = [path.parent if path.name == "simple" else path for path in named]
    return [path for path in dict.fromkeys(paths) if path.exists()]


# --- containers --------------------------------------------------------------------------------------


class Container(AbstractContextManager["Container"]):
    """One container, from `podman run` to `podman rm`. `options` are podman's own, before the image."""

    def __init__(self, name: str, image: str, *command: str | Path, options: Sequence[str] = ()) -> None:
        self.name = f"{PREFIX}-{name}"
        self._run = ["run", "--detach", "--replace", f"--name={self.name}", *options, image, *command]

    def __enter__(self) -> Self:
        try:
            podman(*self._run)
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def exec(
        self, *words: str | Path, user: str = "", stdin: str = "", timeout: float = 60, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """A command inside. Raises BedError with what it said."""
        options = ["--interactive", *([f"--user={user}"] if user else [])]
        return podman("exec", *options, self.name, *words, stdin=stdin, timeout=timeout, check=check)

    def logs(self) -> str:
        """What it wrote on both outputs so far."""
        said = podman("logs", self.name)
        return said.stdout + said.stderr

    def inspect(self, template: str) -> str:
        """What podman knows of it, by a Go template."""
        return podman("inspect", f"--format={template}", self.name).stdout.strip()

    def stop(self, limit: int = 10) -> int:
        """SIGTERM, and SIGKILL after `limit` seconds; its exit code."""
        podman("stop", f"--time={limit}", self.name, timeout=limit + 60)
        return int(self.inspect("{{.State.ExitCode}}"))

    def kill(self) -> None:
        """SIGKILL, as if its host lost its power."""
        podman("kill", self.name)

    def remove(self) -> None:
        """Nothing of it is left. Idempotent."""
        podman("rm", "--force", "--time=0", "--ignore", "--volumes", self.name)
