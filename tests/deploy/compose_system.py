"""The system of compose/ under podman-compose, driven by `compose/demo` as its users drive it."""

import json
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import urllib3

from tests.deploy.images import REPOSITORY, WATCHER
from tests.support.install_deploy import PODMAN_COMPOSE
from tests.support.podman import PREFIX, base_image, build_options, environment, podman
from tests.support.processes import BASE_ENVIRONMENT, run
from tests.support.waiting import log_tail, wait_for

PROJECT = f"{PREFIX}-compose"
DEMO = REPOSITORY / "compose/demo"
SUBNET = "10.123.77"
PORTS = ("ENDPOINT_PORT", "WATCHER1_PORT", "WATCHER2_PORT", "PROMETHEUS_PORT")
SERVICES = (
    *("etcd1", "etcd2", "etcd3", "patroni1", "patroni2", "patroni3"),
    *("pgbouncer1", "pgbouncer2", "watcher1", "watcher2", "haproxy", "prometheus"),
)
UP_SECONDS = 1200.0
CLIENTS = 20


@dataclass(frozen=True)
class Failure:
    """One transaction that failed; see compose/clients.py."""

    at: float
    after: float
    client: int
    through: str
    error: str

    @property
    def began(self) -> float:
        """Unix time."""
        return self.at - self.after


@dataclass
class Seen:
    """What the clients of one run met in all."""

    committed: int = 0
    longest: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    through: dict[str, int] = field(default_factory=dict)


class ComposeSystem(AbstractContextManager["ComposeSystem"]):
    """Up while in context, from nothing; afterwards nothing of it is left, which is checked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        self._command = folder / "podman-compose"
        self._environment = {
            **environment(),
            **{name: str(port) for name, port in self._ports.items()},
            "COMPOSE": str(self._command),
            "COMPOSE_PROJECT_NAME": PROJECT,
            "IMAGES": WATCHER,
            "BASE": base_image(),
            "SUBNET": SUBNET,
            "SECRETS": str(folder / "secrets"),
        }

    def __enter__(self) -> Self:
        self._write_command([])
        self.demo("down")  # what a run left that was killed
        try:
            self.up()
        except BaseException as error:
            error.add_note(_what_ended())
            self.demo("down")
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.demo("down")
        for listing in (("ps", "--all"), ("volume", "ls"), ("network", "ls")):
            left = podman(*listing, f"--filter=name={PROJECT}", "--quiet").stdout
            assert left == "", f"podman {' '.join(listing)}: {left}"

    def build(self) -> None:
        """All its images, and no more."""
        with build_options() as options:
            self._write_command(options)
            words = ("--profile", "clients", "build")
            run([self._command, *words], env=self._environment, cwd=DEMO.parent, timeout=UP_SECONDS)

    def up(self) -> None:
        """Build and start it with `compose/demo up`, which waits until all is well."""
        with build_options() as options:
            self._write_command(options)
            self.demo("up", timeout=UP_SECONDS)

    def heal(self) -> None:
        """Start whatever does not run, with `compose/demo start`, and wait for two replicas that are fed."""
        names = podman("ps", f"--filter=name={PROJECT}_", "--format={{.Names}}").stdout.split()
        for service in SERVICES:
            if _container(service) not in names:
                self.demo("start", service)
        wait_for(self._replicas_are_fed, 120, "two replicas stream", poll=0.5)

    def _replicas_are_fed(self) -> bool:
        return self.exec("patroni1", "patronictl", "list", "--format=tsv").count("\tstreaming\t") == 2

    def _write_command(self, build: list[str]) -> None:
        """podman-compose as `compose/demo` is to call it: one word, which knows how a build goes here."""
        program = PODMAN_COMPOSE.folder / "bin/podman-compose"
        text = f'#!/bin/sh\nexec {program} --in-pod=false --podman-build-args="{" ".join(build)}" "$@"\n'
        self._command.write_text(text)
        self._command.chmod(0o755)

    # --- orders and questions ------------------------------------------------------------------------

    def demo(self, *words: str, timeout: float = 180) -> str:
        """One command of `compose/demo`; what it printed. Raises BedError if it fails."""
        return run([DEMO, *words], env=self._environment, timeout=timeout).stdout

    def leader(self) -> str:
        """The name of the primary's container; empty while there is none."""
        return self.demo("leader").strip()

    def exec(self, service: str, *words: str) -> str:
        """A command in a service's container."""
        return podman("exec", _container(service), *words).stdout

    def is_healthy(self, service: str) -> bool:
        """Its health check, run now: podman's own timers need systemd."""
        return podman("healthcheck", "run", _container(service), check=False).returncode == 0

    def containers(self) -> set[str]:
        """Those that run, by id."""
        return set(podman("ps", f"--filter=name={PROJECT}_", "--quiet").stdout.split())

    def address(self, service: str) -> str:
        """On the system's own network."""
        template = f'{{{{(index .NetworkSettings.Networks "{PROJECT}_default").IPAddress}}}}'
        return podman("inspect", f"--format={template}", _container(service)).stdout.strip()

    def get(self, port: str, path: str, **fields: str) -> Any:
        """JSON from one of the published ports, by its name in compose.yaml."""
        url = f"http://127.0.0.1:{self._ports[port]}{path}"
        return json.loads(urllib3.request("GET", url, fields=fields, timeout=5, retries=False).data)

    # --- clients -------------------------------------------------------------------------------------

    @contextmanager
    def clients(self) -> Iterator["ClientsRun"]:
        """`compose/demo clients` in the background, from their first commits to the end of the context."""
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            clients = ClientsRun(Path(name) / "said", {**BASE_ENVIRONMENT, **self._environment})
            try:
                clients.wait_until_served(CLIENTS)
                yield clients
            finally:
                clients.end()


class ClientsRun:
    """`seen` is known once they have ended."""

    def __init__(self, said: Path, env: Mapping[str, str]) -> None:
        self.seen = Seen()
        self._said = said
        command = [str(DEMO), "clients", "--json", f"--clients={CLIENTS}"]
        with said.open("w") as out:
            self._process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT)

    def _lines(self) -> list[str]:
        return [line for line in self._said.read_text().splitlines() if "  committed " in line]

    def wait_until_served(self, least: int, through: str = "", timeout: float = 60) -> None:
        """Until a second from now on in which at least so many committed, through that PgBouncer too."""
        before = len(self._lines())

        def served() -> bool:
            fresh = (line for line in self._lines()[before:] if through in line)
            return any(int(line.split()[2]) >= least for line in fresh)

        wait_for(served, timeout, f"{least} commits in a second", logs=[self._said], poll=0.1)

    def end(self) -> None:
        """SIGTERM to the clients themselves; they say what they met."""
        running = podman("ps", f"--filter=name={PROJECT}_clients", "--quiet").stdout.split()
        if running:
            podman("kill", "--signal=TERM", *running)
        code = self._process.wait(60)
        summary = next((line for line in self._said.read_text().splitlines() if line.startswith("{")), None)
        assert summary is not None, log_tail(self._said)
        found = json.loads(summary)
        failures = [Failure(**failure) for failure in found.pop("failures")]
        self.seen = Seen(**found, failures=failures)
        assert code == (1 if failures else 0), log_tail(self._said)


def _container(service: str) -> str:
    return f"{PROJECT}_{service}_1"


def _what_ended() -> str:
    """Each container of it that does not run: its end, and the last that it said."""
    listing = podman("ps", "--all", f"--filter=name={PROJECT}_", "--format={{.Names}}\t{{.Status}}").stdout
    ended = [line for line in listing.splitlines() if "\tUp " not in line]
    said = (podman("logs", "--tail=20", line.split("\t")[0], check=False) for line in ended)
    return "\n".join(f"{line}\n{one.stdout}{one.stderr}" for line, one in zip(ended, said, strict=True))


def _free_ports(count: int) -> list[int]:
    """Of 127.0.0.1, all at once so that they differ."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports
