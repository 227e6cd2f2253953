"""Whether anything that the lock files pin has a known advisory: `make audit`, by pip-audit.

pip-audit alone ends with «No known vulnerabilities found» and 0 where the service knew none of the packages,
so its JSON is judged here. Exit code 0: all were looked up, and none has an advisory. 1: one has, or was
skipped. 3: advisory data could not be had, so nothing is known.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
LOCKS = (
    "requirements.txt",
    "requirements-dev.txt",
    "requirements-build.txt",
    "docs/site/requirements.txt",
    "deploy/ansible/roles/patroni/files/requirements.txt",
)
CLEAN, FOUND, UNKNOWN = 0, 1, 3
SECONDS = 600


def audit(locks: Sequence[Path], options: Sequence[str] = ()) -> tuple[int, list[str]]:
    """The exit code, and the lines that say why. One file at a time: pip-audit takes no package twice."""
    try:
        found = [one for lock in locks for one in _look_up(lock, options)]
    except ValueError as error:
        return UNKNOWN, [f"advisory data could not be had: {error}"]
    return judge(list({(one["name"], one.get("version")): one for one in found}.values()))


def _look_up(lock: Path, options: Sequence[str]) -> list[dict[str, Any]]:
    """pip-audit's list of packages, or ValueError with its last words."""
    tool = str(Path(sys.executable).parent / "pip-audit")
    quietly = ["--disable-pip", "--progress-spinner", "off", "-f", "json"]
    command = [tool, *quietly, "-r", str(lock), *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    try:
        dependencies: list[dict[str, Any]] = json.loads(run.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (run.stderr.strip().splitlines() or [f"pip-audit ended with {run.returncode}"])[-1]
        raise ValueError(last) from None
    return dependencies


def judge(dependencies: Sequence[dict[str, Any]]) -> tuple[int, list[str]]:
    """What pip-audit's list of packages means.

    >>> judge([{"name": "a", "version": "1", "vulns": []}])
    (0, ['1 packages, no known advisory'])
    >>> judge([{"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}])
    (1, ['b was skipped: not found'])
    """
    looked_up = [one for one in dependencies if "skip_reason" not in one]
    if not looked_up:
        return UNKNOWN, [
            f"advisory data could not be had: none of {len(dependencies)} packages is known there"
        ]
    faults = [line for one in dependencies for line in _faults(one)]
    return (FOUND, faults) if faults else (CLEAN, [f"{len(looked_up)} packages, no known advisory"])


def _faults(one: dict[str, Any]) -> list[str]:
    if "skip_reason" in one:
        return [f"{one['name']} was skipped: {one['skip_reason']}"]
    return [_advisory(one, found) for found in one["vulns"]]


def _advisory(one: dict[str, Any], found: dict[str, Any]) -> str:
    mended = ", ".join(found["fix_versions"]) or "nothing yet"
    return f"{one['name']} {one['version']}: {found['id']}, mended in {mended}"


def main(options: Sequence[str]) -> int:
    code, lines = audit([REPOSITORY / lock for lock in LOCKS], options)
    print(*lines, sep="\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
