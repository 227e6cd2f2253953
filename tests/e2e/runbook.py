"""Follows a runbook on the bed: takes its commands from the page and runs each of them for real.

Paths of an installed system become those of the bed, and `systemctl` and `journalctl`, which the bed has not,
become what they do. A command that is not known here fails the test: then it does not work as written.
"""

import os
import re
import shlex
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.bed import Bed
from tests.support.processes import run
from tests.support.waiting import wait_for
from tests.support.watcher import PYTHON, REPOSITORY, WatcherProcess

RUNBOOKS = REPOSITORY / "docs/runbooks"
CONFIG = "/etc/pgbouncer-watcher/watcher.yaml"
PATRONI = "/etc/patroni/config.yml"


@dataclass(frozen=True)
class Said:
    """A command of a runbook, and what came of it."""

    command: str
    code: int
    output: str


def commands(alert: str, part: str) -> list[str]:
    """The lines of the `sh` blocks below that heading."""
    text = (RUNBOOKS / f"{alert}.md").read_text()
    section = re.search(rf"^## {part}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    blocks = re.findall(r"```sh\n(.*?)```", section[1], re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


class Operator:
    """Who was just paged, on the hosts of the bed."""

    def __init__(self, bed: Bed, watcher: WatcherProcess, prefix: str) -> None:
        self._bed = bed
        self._watcher = watcher
        self._prefix = prefix
        self._programs: dict[str, Callable[[Sequence[str]], tuple[int, str]]] = {
            "watcher": self._run_watcher,
            "patronictl": self._patronictl,
            "etcdctl": self._etcdctl,
            "curl": self._curl,
            "psql": self._psql,
            "systemctl": self._systemctl,
            "journalctl": self._journalctl,
        }

    def follow(self, alert: str, part: str) -> list[Said]:
        """Run every command of that part, in order."""
        return [self.say(line) for line in commands(alert, part)]

    def say(self, command: str) -> Said:
        """Run one command."""
        program, *arguments = shlex.split(command)
        code, output = self._programs[program](arguments)
        return Said(command, code, output)

    def verify(self, alert: str) -> None:
        """Once mended: all commands of `Verification` say that it is well."""
        for said in wait_for(lambda: self._all_well(alert), 30, f"{alert}: verified"):
            assert said.code == 0, said

    def _all_well(self, alert: str) -> list[Said] | None:
        said = self.follow(alert, "Verification")
        return said if all(one.code == 0 for one in said) else None

    # --- programs -------------------------------------------------------------------------------------

    def _run_watcher(self, arguments: Sequence[str]) -> tuple[int, str]:
        config = str(self._watcher.config)
        words = [word.replace(CONFIG, config) for word in arguments]
        done = run([PYTHON, "-m", "watcher", *words], cwd=REPOSITORY, check=False)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    def _patronictl(self, arguments: Sequence[str]) -> tuple[int, str]:
        assert arguments[:2] == ["-c", PATRONI]
        return 0, self._bed.patroni.patronictl(*arguments[2:], check=False)

    def _etcdctl(self, arguments: Sequence[str]) -> tuple[int, str]:
        words = [word.replace("/service/demo/", self._prefix) for word in arguments]
        endpoints = ",".join(self._bed.etcd.endpoints)
        environment = {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": endpoints}
        done = run(["etcdctl", *words], env=environment, check=False)
        return done.returncode, done.stdout + done.stderr

    def _curl(self, arguments: Sequence[str]) -> tuple[int, str]:
        node = self._bed.patroni.nodes[0].api_url
        words = [word.replace("http://10.0.0.11:8008", node) for word in arguments]
        done = run(["curl", *words], check=False)
        return 0, done.stdout

    def _psql(self, arguments: Sequence[str]) -> tuple[int, str]:
        host = self._bed.bouncers[0]
        words = [word.replace("/var/run/postgresql", str(host.pgbouncer.folder)) for word in arguments]
        done = run(["psql", *words], user=host.account, check=False)
        return done.returncode, done.stdout + done.stderr

    def _systemctl(self, arguments: Sequence[str]) -> tuple[int, str]:
        word, unit = arguments[:2]
        assert unit == "pgbouncer-watcher"
        process = self._watcher.process
        if word == "restart":
            process.terminate()
            process.start()
        elif word == "reload":
            process.send(signal.SIGHUP)
        else:
            assert word == "status"
        return 0 if process.is_alive() else 3, ""

    def _journalctl(self, arguments: Sequence[str]) -> tuple[int, str]:
        assert arguments[0] == "-u"
        logs = {"pgbouncer-watcher": [self._watcher.log], "patroni": self._bed.patroni.logs}
        return 0, "".join(_tail(log) for log in logs[arguments[1]])


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 20_000))
        return file.read().decode(errors="replace")
