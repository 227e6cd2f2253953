"""The watcher itself as a server of the bed: its settings from the bed, its log lines as values."""

import contextlib
import json
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import urllib3
import yaml

from tests.support import preloaded
from tests.support.addresses import take_address
from tests.support.bed import Bed, BouncerHost
from tests.support.preloaded import watcher_process
from tests.support.processes import run
from tests.support.repository import PYTHON
from tests.support.waiting import BedError, wait_for

HTTP_PORT = 9632

Settings = dict[str, Any]


def python_for(account: str) -> tuple[Path, dict[str, str]]:
    """A Python that `account` may run, and its environment: ours, or the system's where ours is closed to it.

    Raises BedError where there is neither.
    """
    with contextlib.suppress(PermissionError):
        run([PYTHON, "-V"], user=account)
        return PYTHON, {}
    major, minor, *_ = sys.version_info
    python = Path(f"/usr/bin/python{major}.{minor}")
    if not python.exists():
        raise BedError(f"{account} may run neither {PYTHON} nor {python}")
    return python, {"PYTHONPATH": sysconfig.get_path("purelib")}


def settings_for(bed: Bed, **sections: Any) -> Settings:
    """Settings that serve the whole bed; `sections` replace or, where they are mappings, extend it."""
    settings: Settings = {
        "cluster": {"scope": bed.patroni.scope, "namespace": "service"},
        "etcd": {"endpoints": bed.etcd.endpoints},
        "patroni": {"nodes": [node.api_url for node in bed.patroni.nodes]},
        "targets": [ssh_target(host) for host in bed.bouncers],
        "log": {"format": "json"},
    }
    for name, section in sections.items():
        known = settings.get(name)
        settings[name] = (
            {**known, **section} if isinstance(known, dict) and isinstance(section, dict) else section
        )
    return settings


def ssh_target(host: BouncerHost, **changes: Any) -> Settings:
    """A target over SSH, by the account that runs PgBouncer and with its console over the Unix socket."""
    return {
        "name": host.name,
        "via": "ssh",
        "file": str(host.pgbouncer.config_file),
        "ssh": {
            "host": host.sshd.address,
            "port": host.sshd.port,
            "user": host.account,
            "key_file": str(host.sshd.client_key),
            "known_hosts": str(host.sshd.known_hosts),
        },
        "console": {"socket": str(host.pgbouncer.socket)},
        **changes,
    }


class WatcherProcess(AbstractContextManager["WatcherProcess"]):
    """`watcher run` as a process of its own, with `settings` in a file that `rewrite` replaces."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], name: str = "watcher") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.http = f"{take_address()}:{HTTP_PORT}"
        self.config = folder / f"{name}.yaml"
        self.log = folder / f"{name}.log"
        self.rewrite(settings)
        self.process = watcher_process(name, ["run", "--config", str(self.config)], log=self.log)

    def rewrite(self, settings: Mapping[str, Any] | str) -> None:
        """Other settings, or any text, for the next start or SIGHUP. Settings get an `http.listen` of their
        own unless they have one.
        """
        if not isinstance(settings, str):
            settings = yaml.safe_dump({"http": {"listen": self.http}, **settings})
        self.config.write_text(settings)

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and body of one of its pages."""
        answer = urllib3.request(
            "GET", f"http://{self.http}{path}", headers=headers, timeout=5, retries=False
        )
        return answer.status, answer.data.decode()

    def __enter__(self) -> Self:
        self.process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.stop()

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """The log lines so far, all or those of one event."""
        return [line for line in self._parsed() if event is None or line.get("event") == event]

    def _parsed(self) -> Iterator[dict[str, Any]]:
        text = self.log.read_text() if self.log.exists() else ""
        for line in text[: text.rfind("\n") + 1].splitlines():
            if line.startswith("{"):
                yield json.loads(line)

    def wait_for_line(
        self, event: str, timeout: float = 15, after: int = 0, saying: Iterable[str] = (), **fields: Any
    ) -> dict[str, Any]:
        """The first line of `event` with these fields, and all of these words in its message. The first
        `after` lines of that event are passed over.
        """
        words = tuple(saying)

        def fits(line: dict[str, Any]) -> bool:
            return fields.items() <= line.items() and all(word in line["message"] for word in words)

        def found() -> dict[str, Any] | None:
            return next(filter(fits, self.lines(event)[after:]), None)

        return wait_for(found, timeout, f"the watcher logs {event} {fields} {words}", logs=[self.log])


def run_watcher(
    folder: Path, word: str, settings: Mapping[str, Any], *arguments: str, timeout: float = 60
) -> tuple[int, str, str]:
    """`watcher WORD` to its end: exit code, standard output, standard error."""
    config = folder / "once.yaml"
    config.write_text(yaml.safe_dump(dict(settings)))
    done = preloaded.run_watcher([word, "--config", str(config), *arguments], timeout)
    return done.returncode, done.stdout, done.stderr
