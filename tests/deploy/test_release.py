"""The wheel and the sdist, installed outside the checkout on each Python at hand, and put to work there."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tomllib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from tests.support.bed import Bed
from tests.support.processes import run
from tests.support.repository import PYTHON, REPOSITORY
from tests.support.watcher import settings_for
from watcher.apply.agent import bundle

PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
_CLASSIFIER = "Programming Language :: Python :: "
PYTHONS = [
    words.removeprefix(_CLASSIFIER)
    for words in PROJECT["classifiers"]
    if words.startswith(f"{_CLASSIFIER}3.")
]
INSTALL_SECONDS = 600.0
pytestmark = pytest.mark.timeout(INSTALL_SECONDS)


def _make(command: Sequence[str | Path]) -> str:
    """A step that needs the network as this machine has it; what it said."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


# --- what is built ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Built:
    """What `make dist` leaves, and a wheel made of the tree without the sdist between."""

    sdist: Path
    wheel: Path
    wheel_of_tree: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    both, of_tree = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("wheel")
    build: list[str | Path] = [
        PYTHON.with_name("uv"),
        "build",
        "-q",
        "--no-build-isolation",
        "--python",
        PYTHON,
    ]
    _make([*build, "--out-dir", both])
    _make([*build, "--out-dir", of_tree, "--wheel"])
    (sdist,) = both.glob("*.tar.gz")
    (wheel,), (wheel_of_tree,) = both.glob("*.whl"), of_tree.glob("*.whl")
    return Built(sdist, wheel, wheel_of_tree)


def test_the_sdist_is_the_tree(built: Built) -> None:
    tracked = set(_make(["git", "ls-files", "--cached", "--others", "--exclude-standard"]).splitlines())
    root = f"{PROJECT['name'].replace('-', '_')}-{PROJECT['version']}"
    with tarfile.open(built.sdist) as archive:
        assert {Path(name) for name in archive.getnames()} == {
            Path(root, name) for name in {*tracked, "PKG-INFO"} if name == "PKG-INFO" or Path(name).exists()
        }


def test_the_wheel_is_the_same_whether_made_of_the_tree_or_of_the_sdist(built: Built) -> None:
    assert _digest(built.wheel) == _digest(built.wheel_of_tree)


def test_the_wheel_has_the_package_alone_and_the_licence(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = archive.namelist()
        (licence,) = [name for name in names if name.endswith("/licenses/LICENSE")]
        assert archive.read(licence) == (REPOSITORY / "LICENSE").read_bytes()
    package = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "watcher").rglob("*.py")}
    assert {name for name in names if ".dist-info/" not in name} == package


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- installed --------------------------------------------------------------------------------------


@cache
def _python(release: str) -> Path | None:
    """The interpreter of that release on this machine, on PATH or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    known = [shutil.which(f"python{release}", path=folder) for folder in os.get_exec_path()]
    known += map(str, sorted(pyenv.glob(f"versions/{release}.*/bin/python{release}"), reverse=True))
    return next((Path(python) for python in known if python is not None and _runs(python)), None)


def _runs(python: str) -> bool:
    """A shim of pyenv's may be on PATH for a release that is not chosen."""
    return subprocess.run([python, "-m", "venv", "-h"], capture_output=True, check=False).returncode == 0


@dataclass(frozen=True)
class Installation:
    """A virtual environment outside the tree, as docs/install.md makes it but for the place."""

    folder: Path

    def pip(self, *words: str | Path) -> None:
        """`pip install`."""
        _make([self.folder / "bin/pip", "install", "-q", "--disable-pip-version-check", *words])

    def watcher(self, *words: str | Path) -> tuple[int, str]:
        """`watcher …`, outside the checkout and with a clean environment: exit code and outputs."""
        done = run([self.folder / "bin/watcher", *words], cwd=self.folder, check=False)
        return done.returncode, done.stdout + done.stderr

    def package(self) -> dict[str, str]:
        """Digests of the package's files."""
        (folder,) = self.folder.glob("lib/python3*/site-packages/watcher")
        return {str(path.relative_to(folder)): _digest(path) for path in folder.rglob("*.py")}


@pytest.fixture(scope="module", params=PYTHONS)
def installation(
    request: pytest.FixtureRequest, built: Built, tmp_path_factory: pytest.TempPathFactory
) -> Installation:
    python = _python(request.param)
    if python is None:
        pytest.skip(f"no Python {request.param} on this machine")
    made = Installation(tmp_path_factory.mktemp(f"python{request.param}") / "venv")
    _make([python, "-m", "venv", made.folder])
    made.pip("--require-hashes", "-r", REPOSITORY / "requirements.txt")
    made.pip("--no-deps", built.wheel)
    return made


def test_the_oldest_python_is_at_hand() -> None:
    """So that not every installation below is skipped."""
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    assert _python(PYTHONS[0]) is not None


def test_what_it_depends_on_is_all_in_the_lock(installation: Installation) -> None:
    _make([installation.folder / "bin/pip", "check"])


def test_it_says_its_version(installation: Installation) -> None:
    assert installation.watcher("--version") == (0, f"watcher {PROJECT['version']}\n")


def test_it_prints_the_agent_that_the_tree_has(installation: Installation) -> None:
    assert installation.watcher("agent") == (0, bundle.source().rstrip("\n") + "\n")


@pytest.mark.parametrize("word", ["check-config", "once"])
def test_it_serves_a_real_cluster(bed: Bed, installation: Installation, tmp_path: Path, word: str) -> None:
    config = tmp_path / "watcher.yaml"
    config.write_text(yaml.safe_dump(settings_for(bed)))
    code, said = installation.watcher(word, "--config", config)
    assert code == 0, said
    assert all(host.name in said for host in bed.bouncers)


def test_the_sdist_installs_the_same(installation: Installation, built: Built) -> None:
    package = installation.package()
    installation.pip("--no-deps", "--force-reinstall", built.sdist)
    assert installation.package() == package


# --- the bill of materials ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    """What `make sbom` writes; it validates that against CycloneDX's schema itself."""
    _make(["make", "sbom"])
    written: dict[str, Any] = json.loads((REPOSITORY / "dist/pgbouncer-watcher.cdx.json").read_text())
    return written


def test_the_bill_names_the_program_and_what_it_asks_for(bill: dict[str, Any]) -> None:
    root = bill["metadata"]["component"]
    assert (root["name"], root["version"]) == (PROJECT["name"], PROJECT["version"])
    (asked,) = [entry["dependsOn"] for entry in bill["dependencies"] if entry["ref"] == root["bom-ref"]]
    wanted = {_normal(re.split(r"[>\[]", line)[0]) for line in PROJECT["dependencies"]}
    assert {_normal(reference.split("==")[0]) for reference in asked} == wanted


def test_the_bill_lists_what_the_lock_installs_at_its_versions(bill: dict[str, Any]) -> None:
    lines = re.findall(r"^(\w.*?)(?: \\)?$", (REPOSITORY / "requirements.txt").read_text(), re.MULTILINE)
    pins = [Requirement(line) for line in lines]
    here = {f"{_normal(pin.name)}{pin.specifier}" for pin in pins if not pin.marker or pin.marker.evaluate()}
    assert {f"{_normal(part['name'])}=={part['version']}" for part in bill["components"]} == here


def _normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
