"""The replaced design: ask every Patroni every few seconds, and run Ansible where the answer is another.

A program of its own, which knows nothing of the watcher:

    poll_ansible.py SETTINGS.json

It keeps a copy of the block that it deployed last. When exactly one node answers 200 on `/primary`, and the
copy leads elsewhere, it runs the playbook and, if that went well, writes the copy anew. Of what it does
it prints lines of JSON.
"""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REST_TIMEOUT = 2
PLAYBOOK_TIMEOUT = 600


def say(event: str, **fields: Any) -> None:
    """One line of JSON."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    print(json.dumps({"time": now, "event": event, **fields}), flush=True)


def is_primary(node: dict[str, Any]) -> bool:
    """Whether the node answers 200 on /primary."""
    try:
        with urllib.request.urlopen(f"{node['api_url']}/primary", timeout=REST_TIMEOUT) as answer:  # noqa: S310 - http
            return bool(answer.status == 200)
    except OSError:  # URLError and HTTPError, a 503 of a replica, are such
        return False


def primary_of(nodes: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The one primary; None if there is none, or more than one."""
    found = [node for node in nodes if is_primary(node)]
    return found[0] if len(found) == 1 else None


def deployed_host(block: Path) -> str | None:
    """The host in the copy of the block."""
    found = re.search(r"\bhost=(\S+)", block.read_text()) if block.exists() else None
    return found[1] if found else None


def deploy(settings: dict[str, Any], primary: dict[str, Any]) -> bool:
    """Run the playbook; whether it went well."""
    facts = {"primary_host": primary["host"], "primary_port": primary["port"]}
    began = time.monotonic()
    done = subprocess.run(
        [
            settings["ansible_playbook"],
            "-i",
            settings["inventory"],
            settings["playbook"],
            "-e",
            json.dumps(facts),
        ],
        capture_output=True,
        text=True,
        timeout=PLAYBOOK_TIMEOUT,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    took = round((time.monotonic() - began) * 1000, 3)
    if done.returncode != 0:
        say("failed", exit=done.returncode, output=(done.stdout + done.stderr)[-3000:], playbook_ms=took)
        return False
    say("switch", leader=primary["name"], route=f"{primary['host']}:{primary['port']}", playbook_ms=took)
    return True


def turn(settings: dict[str, Any]) -> None:
    """One look, and what follows from it."""
    block = Path(settings["block"])
    primary = primary_of(settings["nodes"])
    if primary is None or primary["host"] == deployed_host(block):
        return
    if deploy(settings, primary):
        new = block.with_suffix(".new")
        new.write_text(f"app = host={primary['host']} port={primary['port']} dbname=app\n")
        os.replace(new, block)  # noqa: PTH105 - atomic


def main(file: str) -> None:
    """For ever."""
    settings = json.loads(Path(file).read_text())
    say("start", pid=os.getpid())
    while True:
        turn(settings)
        time.sleep(settings["interval"])


if __name__ == "__main__":
    main(sys.argv[1])
