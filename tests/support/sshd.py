"""A real OpenSSH server with its own host key, letting one account in by one key."""

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import CompletedProcess
from types import TracebackType
from typing import Self

from tests.support.addresses import free_port, take_address
from tests.support.processes import Process, run
from tests.support.waiting import wait_for

SSHD = "/usr/sbin/sshd"
PRIVILEGE_SEPARATION_FOLDER = Path("/run/sshd")
READY_SECONDS = 10.0


def generate_key(path: Path, comment: str) -> Path:
    """An ed25519 key pair without a passphrase at `path` and `path`.pub, replacing what was there."""
    path.unlink(missing_ok=True)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path])
    return path


class Sshd(AbstractContextManager["Sshd"]):
    """sshd on an address of its own (port 22 where the machine leaves it free).

    In `folder` for the client: `client_key`, `known_hosts`. `authorized_keys_options` is written before the
    key as it is (`restrict`, …); `forced_command` adds `command="…"` to it. Sessions belong to the object:
    kill() and freeze() include them.
    """

    def __init__(
        self,
        folder: Path,
        address: str | None = None,
        port: int | None = None,
        account: str = "bed-bouncer1",
        *,
        authorized_keys_options: str = "",
        forced_command: str | None = None,
        max_startups: str | None = None,
        max_sessions: int | None = None,
        extra_config: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.address = address or take_address()
        self.port = port or free_port(self.address, 22)
        self.account = account
        self.log = folder / "sshd.log"
        self._limits = [f"MaxStartups {max_startups}"] if max_startups else []
        self._limits += [f"MaxSessions {max_sessions}"] if max_sessions is not None else []
        self._extra = list(extra_config)
        folder.mkdir(parents=True, exist_ok=True)
        self.client_key = generate_key(folder / "id_ed25519", "client")
        self.host_key = generate_key(folder / "host_key", "host")
        self.authorized_keys = folder / "authorized_keys"
        self.known_hosts = folder / "known_hosts"
        self.authorize(authorized_keys_options, forced_command)
        self.write_known_hosts()
        self._write_config()
        self.process = Process("sshd", [SSHD, "-D", "-e", "-f", folder / "sshd_config"], log=self.log)

    @property
    def endpoint(self) -> str:
        """host:port."""
        return f"{self.address}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the listener."""
        return self.process.pid

    # --- files ----------------------------------------------------------------------------------------

    def authorize(self, options: str = "", forced_command: str | None = None) -> None:
        """Let the client's key in with these options from its next login on."""
        words = [options] if options else []
        if forced_command is not None:
            quoted = forced_command.replace('"', '\\"')
            words.append(f'command="{quoted}"')
        key = self.client_key.with_suffix(".pub").read_text().strip()
        self.authorized_keys.write_text(f"{','.join(words)} {key}".strip() + "\n")

    def revoke(self) -> None:
        """Let no key in any more; sessions that are open stay."""
        self.authorized_keys.write_text("")

    def write_known_hosts(self, path: Path | None = None) -> Path:
        """Write the present host key where the client looks."""
        kind, key, *_ = self.host_key.with_suffix(".pub").read_text().split()
        host = self.address if self.port == 22 else f"[{self.address}]:{self.port}"
        target = path or self.known_hosts
        target.write_text(f"{host} {kind} {key}\n")
        return target

    def _write_config(self) -> None:
        lines = [
            f"Port {self.port}",
            f"ListenAddress {self.address}",
            f"HostKey {self.host_key}",
            f"AuthorizedKeysFile {self.authorized_keys}",
            f"AllowUsers {self.account}",
            "PidFile none",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "StrictModes no",
            "UseDNS no",
            "PrintMotd no",
            "PrintLastLog no",
            "LogLevel VERBOSE",
            "Subsystem sftp internal-sftp",
            *self._limits,
            *self._extra,
        ]
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")

    def refuse_holds(self) -> None:
        """From its next login on the key starts every agent but the one that holds."""
        case = 'case "$SSH_ORIGINAL_COMMAND" in *" hold "*) echo no holds here >&2; exit 1;; esac'
        self.authorize("restrict", f'{case}; eval "$SSH_ORIGINAL_COMMAND"')

    # --- life -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def set_up(self, *lines: str, sessions_stay: bool = False) -> Iterator[None]:
        """Started anew with further lines of configuration, for a while. Sessions end both times, or stay."""
        before = self._extra
        end = self.kill_listener if sessions_stay else self.process.stop
        try:
            self._start_anew([*before, *lines], end)
            yield
        finally:
            self._start_anew(before, end)

    def _start_anew(self, extra: list[str], end: Callable[[], None]) -> None:
        end()
        self._extra = extra
        self._write_config()
        self.start()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start, and wait for the banner. Sessions that outlived kill_listener() live on."""
        PRIVILEGE_SEPARATION_FOLDER.mkdir(mode=0o755, exist_ok=True)
        self.process.start()
        wait_for(self._greets, READY_SECONDS, f"sshd at {self.endpoint}", logs=[self.log])

    def _greets(self) -> bool:
        with socket.create_connection((self.address, self.port), timeout=1) as connection:
            return connection.recv(4).startswith(b"SSH-")

    def stop(self) -> None:
        """End the listener and all sessions. Idempotent."""
        self.process.stop()

    def is_alive(self) -> bool:
        """Whether the listener runs."""
        return self.process.is_alive()

    def kill(self) -> None:
        """SIGKILL to the listener and to all sessions, as if the host were gone."""
        self.process.kill()

    def kill_listener(self) -> None:
        """SIGKILL to the listener; open sessions live on, new ones are refused."""
        self.process.kill_main()

    def kill_sessions(self) -> None:
        """SIGKILL to all sessions and what runs in them; the listener goes on."""
        self.process.kill_offspring()

    def session_pids(self) -> list[int]:
        """Processes of open sessions, the commands that run in them included."""
        return [process.pid for process in self.process.offspring()]

    def freeze(self) -> None:
        """SIGSTOP to listener and sessions: the kernel still accepts connections, nobody answers."""
        self.process.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.thaw()

    def replace_host_key(self) -> None:
        """Restart with another host key; `known_hosts` still names the old one."""
        self.process.stop()
        generate_key(self.host_key, "another host")
        self.start()

    # --- a client -------------------------------------------------------------------------------------

    def ssh(
        self, *command: str, stdin: str = "", check: bool = True, timeout: float = 20
    ) -> CompletedProcess[str]:
        """Run a command through the real ssh client, strict about the host key."""
        options = [
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            "IdentitiesOnly=yes",
        ]
        options += ["-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "GlobalKnownHostsFile=/dev/null"]
        target = ["-i", str(self.client_key), "-p", str(self.port), f"{self.account}@{self.address}"]
        return run(["ssh", *options, *target, *command], stdin=stdin, check=check, timeout=timeout)
