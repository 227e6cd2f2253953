"""Follows a runbook on the bed: takes its commands from the page and runs each of them for real.

Paths and addresses of an installed system become those of the bed, and `systemctl` and `journalctl`, which
the bed has not, become what they do. A command that is not known here fails the test: then it does not work
as written. A command ends with 0, unless its line says otherwise: `… # exit code 1 or 4`.
"""

import os
import re
import shlex
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.accounts import POSTGRES_ACCOUNT
from tests.support.bed import Bed
from tests.support.patroni import PROGRAMS, Node
from tests.support.preloaded import run_watcher
from tests.support.processes import run
from tests.support.repository import REPOSITORY
from tests.support.waiting import wait_for
from tests.support.watcher import WatcherProcess

RUNBOOKS = REPOSITORY / "docs/runbooks"
CONFIG = "/etc/pgbouncer-watcher/watcher.yaml"
PATRONI = "/etc/patroni/config.yml"


@dataclass(frozen=True)
class Said:
    """A command of a runbook, and what came of it."""

    command: str
    code: int
    output: str
    allowed: frozenset[int] = frozenset({0})

    @property
    def is_as_written(self) -> bool:
        """Whether it ended as the runbook says."""
        return self.code in self.allowed


def commands(page: str, part: str) -> list[str]:
    """The lines of the `sh` blocks below that heading."""
    text = (RUNBOOKS / f"{page}.md").read_text()
    section = re.search(rf"^## {part}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", section[1], re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


class Operator:
    """Who was just paged, on the hosts of the bed.

    `leader` is the node that the runbooks call 10.0.0.12: the one that clients belong to. `places` are words
    of the runbooks, and what they are here.
    """

    def __init__(self, bed: Bed, watcher: WatcherProcess, prefix: str, leader: Node | None = None) -> None:
        self._bed = bed
        self._watcher = watcher
        self.leader = leader
        pgbouncer = bed.bouncers[0].pgbouncer
        self.places = {
            CONFIG: str(watcher.config),
            PATRONI: str(bed.patroni.nodes[0].config_file),
            "127.0.0.1:9632": watcher.http,
            "/service/demo/": prefix,
            "/var/run/postgresql": str(pgbouncer.folder),
            "/etc/pgbouncer/pgbouncer.ini": str(pgbouncer.config_file),
            "10.0.0.11": bed.patroni.nodes[0].host,
            ":ssh": f":{bed.bouncers[0].sshd.port}",
        }
        self._programs: dict[str, Callable[[Sequence[str]], tuple[int, str]]] = {
            "watcher": self._run_watcher,
            "patronictl": self._patronictl,
            "etcdctl": self._etcdctl,
            "curl": self._on_this_host("curl"),
            "openssl": self._on_this_host("openssl"),
            "psql": self._on_pgbouncers_host("psql"),
            "sed": self._on_pgbouncers_host("sed"),
            "ss": self._on_pgbouncers_host("ss"),
            "systemctl": self._systemctl,
            "journalctl": self._journalctl,
        }

    def follow(self, page: str, part: str) -> list[Said]:
        """Run every command of that part, in order."""
        return [self.say(line) for line in commands(page, part)]

    def say(self, line: str) -> Said:
        """Run one command."""
        command, *remark = line.split(" # ")
        codes = re.match(r"exit code (\d+(?: or \d+)*)", remark[0]) if remark else None
        program, *arguments = (self._here(word) for word in shlex.split(command))
        code, output = self._programs[program](arguments)
        allowed = codes[1].split(" or ") if codes else ["0"]
        return Said(command.strip(), code, output, frozenset(map(int, allowed)))

    def _here(self, word: str) -> str:
        places = dict(self.places)
        if self.leader is not None:
            places["10.0.0.12"] = self.leader.host
        for written, real in places.items():
            word = word.replace(written, real)
        return word

    def is_well(self, alert: str) -> bool:
        """Whether the commands of `Verification` say so, which a fault must keep them from."""
        return all(said.is_as_written for said in self.follow(alert, "Verification"))

    def verify(self, alert: str) -> None:
        """Once mended: all commands of `Verification` say that it is well."""
        wait_for(lambda: self.is_well(alert), 30, f"{alert}: verified")

    # --- programs -------------------------------------------------------------------------------------

    def _run_watcher(self, arguments: Sequence[str]) -> tuple[int, str]:
        done = run_watcher(arguments)
        assert "Traceback" not in done.stderr
        assert "usage:" not in done.stderr, done.stderr
        return done.returncode, done.stdout + done.stderr

    def _patronictl(self, arguments: Sequence[str]) -> tuple[int, str]:
        program = PROGRAMS[self._bed.patroni.version] / "patronictl"
        done = run([program, *arguments], user=POSTGRES_ACCOUNT, env={"COLUMNS": "200"}, check=False)
        return done.returncode, done.stdout + done.stderr

    def _etcdctl(self, arguments: Sequence[str]) -> tuple[int, str]:
        endpoints = ",".join(self._bed.etcd.endpoints)
        environment = {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": endpoints}
        done = run(["etcdctl", *arguments], env=environment, check=False)
        return done.returncode, done.stdout + done.stderr

    def _on_this_host(self, program: str) -> Callable[[Sequence[str]], tuple[int, str]]:
        def do(arguments: Sequence[str]) -> tuple[int, str]:
            done = run([program, *arguments], check=False)
            return done.returncode, done.stdout + done.stderr

        return do

    def _on_pgbouncers_host(self, program: str) -> Callable[[Sequence[str]], tuple[int, str]]:
        """As the account that runs PgBouncer there."""

        def do(arguments: Sequence[str]) -> tuple[int, str]:
            done = run([program, *arguments], user=self._bed.bouncers[0].account, check=False)
            return done.returncode, done.stdout + done.stderr

        return do

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
