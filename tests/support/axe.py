"""axe, which finds what keeps people from using a page: one file, out of the PyPI package that carries it.

The package would bring a browser driver of 40 MB along, which nothing here needs; so it is downloaded, held
to its checksum, and only the file is kept. Standard library only, as all of the installation.
"""

import sys
import tempfile
import zipfile
from pathlib import Path

from tests.support.install_steps import STATE, run, say

PACKAGE = "axe-playwright-python==0.1.8"
CHECKSUM = "sha256:fdd263c998388f1a8e67cad02677e612d946248bd44d163be5e8650ea31f95f8"
SCRIPT = STATE / "axe-4.12.1.min.js"
_IN_PACKAGE = "axe_playwright_python/axe.min.js"


def create() -> None:
    """Download the package and keep the script."""
    say(f"axe from PyPI: {PACKAGE}")
    with tempfile.TemporaryDirectory() as name:
        pins = Path(name) / "pins.txt"
        pins.write_text(f"{PACKAGE} --hash={CHECKSUM}\n")
        pip: list[str | Path] = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        pip += ["--require-hashes", "--dest", name, "--requirement", pins]
        run(pip, "is the network there? pip's own settings (pip.conf, PIP_INDEX_URL) are honoured")
        with zipfile.ZipFile(next(Path(name).glob("*.whl"))) as package:
            SCRIPT.write_bytes(package.read(_IN_PACKAGE))
