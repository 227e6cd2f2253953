"""A target over SSH by Fabric: a warm connection, and agents on its channels. Sole importer of fabric.

Measured (docs/adr/0006): paramiko does not set TCP_NODELAY, which costs 40 ms an exchange; Fabric
accepts any host key by default; and no time-out of either bounds a peer that is frozen while a channel
is being opened. All three are seen to here.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import paramiko
from fabric import Config, Connection
from paramiko.hostkeys import InvalidHostKey
from paramiko.ssh_exception import NoValidConnectionsError

from watcher.apply.agent import bundle
from watcher.apply.agent_link import NO_THREAD_HINT, Stream, agent_words, greet
from watcher.decide.errors import (
    LoginRefused,
    NotWanted,
    TargetError,
    TargetRefused,
    TargetUnreachable,
    WatcherError,
)

_READER_WAKES = 60.0  # seconds; it is woken by what arrives, and by `_cut`
_USER_TIMEOUT_MS = 5000  # a link whose data nobody acknowledges is dead after that
_KEEPALIVE_AFTER, _KEEPALIVE_EVERY = 2, 1
"""Seconds without a word until the kernel asks the host whether it is there, and between two questions from
then on: several within the time above, for one packet may be lost (Linux counts that time, not them)."""


@dataclass(frozen=True, slots=True)
class SshAccess:
    """How to log in. `agent_command` None: the agent is sent; otherwise it is installed there."""

    host: str
    port: int
    user: str
    known_hosts: Path
    key_file: Path | None = None
    key_passphrase: str | None = None
    password: str | None = None
    agent_command: str | None = None
    python: str = "python3"
    connect_timeout: float = 5.0


class SshPlace:
    """Starts agents over one warm connection. See `agent_link.Place` for the promise.

    `may_log_in` is asked once the host has answered, and may wait; nobody logs in where it says no, which
    raises NotWanted. What comes then costs a processor: until then a host that is dead costs nothing.
    """

    def __init__(
        self,
        name: str,
        access: SshAccess,
        agent_options: Sequence[str],
        may_log_in: Callable[[], bool] = lambda: True,
    ) -> None:
        self.name = name
        self._may_log_in = may_log_in
        self._access = access
        self._options = tuple(agent_options)
        self._source = bundle.as_sent()
        self._connection: Connection | None = None  # for what is opened next
        self._streams: list[ChannelStream] = []  # on that one
        self._beside: list[
            tuple[Connection, list[ChannelStream]]
        ] = []  # earlier ones, and what is open there

    @property
    def connected(self) -> bool:
        return self._connection is not None and bool(self._connection.is_connected)

    def open(self, word: str) -> Stream:
        """Within about two `connect_timeout`s: one to connect, one to start the agent."""
        with self._translated():
            self._end_those_without_a_session()
            stood, transport = self.connected, self._transport()
            try:
                with _bounded(transport, self._access.connect_timeout):
                    self._streams.append(self._start(transport, word))
                    return self._streams[-1]
            except paramiko.ChannelException as error:
                if not stood:
                    raise
                return self._start_beside(word, error)

    def close(self) -> None:
        current, beside = self._connection, self._beside
        self._connection, self._streams, self._beside = None, [], []
        for connection in [current, *(earlier for earlier, _ in beside)]:
            if connection is not None:
                _end(connection)

    def _end_those_without_a_session(self) -> None:
        """Of the connections that were made for want of room on another."""
        self._streams = [stream for stream in self._streams if not stream.ended]
        beside, self._beside = self._beside, []
        for connection, streams in beside:
            if all(stream.ended for stream in streams):
                _end(connection)
            else:
                self._beside.append((connection, streams))

    # --- the connection --------------------------------------------------------------------------

    def _transport(self) -> paramiko.Transport:
        if not self.connected:
            self.close()
            self._connection = self._connect()
        return _transport_of(cast(Connection, self._connection))

    def _connect(self) -> Connection:
        access = self._access
        connection = Connection(
            access.host,
            user=access.user,
            port=access.port,
            config=_no_ssh_configs(),
            connect_timeout=access.connect_timeout,
            connect_kwargs={**_connect_options(access), "transport_factory": self._transport_on},
        )
        try:
            connection.client.load_system_host_keys(str(access.known_hosts))
            connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
            connection.open()
            _tune(_socket_of(_transport_of(connection)))
        except BaseException:
            connection.client.close()  # a login that failed leaves its connection open, and sshd counts those
            raise
        return connection

    def _transport_on(self, sock: socket.socket, **options: Any) -> paramiko.Transport:
        try:
            sock.settimeout(self._access.connect_timeout)
            sock.recv(1, socket.MSG_PEEK)
            if not self._may_log_in():
                raise NotWanted(self.name, "no login is wanted any more: the watcher stops")
            return paramiko.Transport(sock, **options)
        except BaseException:
            sock.close()
            raise

    def _start_beside(self, word: str, refused: paramiko.ChannelException) -> ChannelStream:
        """On one more connection, for sshd has no room for one more session on that which stands: it bounds
        each, as it was set up when that began. What is open goes on.
        """
        try:
            connection = self._connect()
        except _FOREIGN as error:
            raise refused from error
        try:
            transport = _transport_of(connection)
            with _bounded(transport, self._access.connect_timeout):
                stream = self._start(transport, word)
        except _FOREIGN as error:
            _end(connection)
            raise refused from error
        except BaseException:
            _end(connection)
            raise
        if self._connection is not None:
            self._beside.append((self._connection, self._streams))
        self._connection, self._streams = connection, [stream]
        return stream

    # --- the agent ---------------------------------------------------------------------------------

    def _start(self, transport: paramiko.Transport, word: str) -> ChannelStream:
        channel = transport.open_session(timeout=self._access.connect_timeout)
        channel.settimeout(self._access.connect_timeout)
        command = self._command(word)
        channel.exec_command(command)  # nosec B601 # from the settings, quoted by shlex
        stream = ChannelStream(channel)
        try:
            if self._access.agent_command is None:
                stream.sendall(self._source)
            greet(stream, self.name, self._access.connect_timeout)
        except (EOFError, OSError) as error:
            if isinstance(error, TimeoutError) or not transport.is_active():
                raise
            refusal = self._no_agent(channel)
            channel.close()
            raise refusal from error
        except TargetError:
            channel.close()
            raise
        return stream

    def _command(self, word: str) -> str:
        if self._access.agent_command is not None:
            return f"{self._access.agent_command} {word}"
        return shlex.join([self._access.python, *agent_words(len(self._source)), word, *self._options])

    def _no_agent(self, channel: paramiko.Channel) -> TargetError:
        said = _last_words(channel)
        command = self._access.agent_command or self._access.python
        hint = (
            f"look at this key's line in authorized_keys of {self._access.user}: does its command= run there?"
            if self._access.agent_command is not None
            else f"log in as {self._access.user} and see whether {command!r} runs there"
        )
        return TargetRefused(self.name, f"the agent did not start there: {said or 'it said nothing'}", hint)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Foreign exceptions → ours; the connection is given up with any of them, but for a host that has no
        room for one more session: what is open goes on.
        """
        try:
            yield
        except paramiko.ChannelException as error:
            raise TargetRefused(
                self.name, f"sshd opens no further session: {error.text}", _NO_ROOM
            ) from error
        except _FOREIGN as error:
            self.close()
            raise _explain(error, self.name, self._access) from error
        except RuntimeError as error:  # there is no thread to be had; what is open goes on
            raise WatcherError(self.name, str(error), NO_THREAD_HINT) from error


@cache
def _no_ssh_configs() -> Config:
    """What Fabric is to know beside our own words; one for all targets, for it is no small thing."""
    return Config(lazy=True, overrides={"load_ssh_configs": False})


def _connect_options(access: SshAccess) -> dict[str, Any]:
    options: dict[str, Any] = {
        "allow_agent": False,
        "look_for_keys": False,
        "banner_timeout": access.connect_timeout,
        "auth_timeout": access.connect_timeout,
        "channel_timeout": access.connect_timeout,
    }
    if access.key_file is not None:
        options |= {"key_filename": str(access.key_file), "passphrase": access.key_passphrase}
    if access.password is not None:
        options["password"] = access.password
    return options


_FOREIGN = (paramiko.SSHException, InvalidHostKey, OSError, EOFError, ValueError)
"""What Fabric and paramiko raise."""


def _transport_of(connection: Connection) -> paramiko.Transport:
    return cast(paramiko.Transport, connection.transport)


def _end(connection: Connection) -> None:
    with contextlib.suppress(Exception):  # whatever a broken connection says, it is gone
        _cut(_transport_of(connection))
        connection.close()


def _socket_of(transport: paramiko.Transport) -> socket.socket:
    return cast(socket.socket, transport.sock)


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_AFTER)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_EVERY)
    sock.settimeout(_READER_WAKES)  # paramiko's reader looks ten times a second whether it should end


def _cut(transport: paramiko.Transport) -> None:
    """Ends the connection at once, for every thread that waits on it, paramiko's reader too."""
    with contextlib.suppress(OSError):
        _socket_of(transport).shutdown(socket.SHUT_RDWR)
    transport.close()


@contextlib.contextmanager
def _bounded(transport: paramiko.Transport, limit: float) -> Iterator[None]:
    """TimeoutError if the block takes longer, its transport closed: some waits of paramiko have no limit."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        transport.close()

    watchdog = threading.Timer(limit, expire)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    except (paramiko.SSHException, TargetError, OSError, EOFError) as error:
        if expired.is_set():
            raise TimeoutError from error
        raise
    finally:
        watchdog.cancel()


def _last_words(channel: paramiko.Channel) -> str:
    channel.settimeout(0.5)
    with contextlib.suppress(OSError):
        return channel.recv_stderr(4096).decode("utf-8", "replace").strip()[-300:]
    return ""


_NO_ROOM = (
    "allow three on a connection (`MaxSessions` in sshd_config), or three connections, or no client is held"
)


def _explain(error: Exception, place: str, access: SshAccess) -> TargetError:
    if isinstance(error.__context__, TimeoutError):  # paramiko's own words for it tell less
        error = error.__context__
    said = " ".join(_words_of(error).split()) or type(error).__name__
    where = f"{access.user}@{access.host}:{access.port}"
    for kind, text, outcome, problem, hint in _EXPLANATIONS:
        if isinstance(error, kind) and text in said:
            names = {
                "said": said,
                "known_hosts": access.known_hosts,
                "key": access.key_file,
                "access": access,
            }
            return outcome(place, f"{where}: {problem.format(**names)}", hint.format(**names))
    return TargetUnreachable(place, f"{where}: {said}", "can this host reach it? is sshd running there?")


def _words_of(error: Exception) -> str:
    """Paramiko does not say why each of a name's addresses failed; their own errors do."""
    if isinstance(error, NoValidConnectionsError):
        each = (why.strerror if isinstance(why, OSError) else None for why in error.errors.values())
        return "; ".join(dict.fromkeys(filter(None, each)))
    return str(error)


_EXPLANATIONS: tuple[tuple[type[Exception], str, type[TargetError], str, str], ...] = (
    (
        paramiko.BadHostKeyException,
        "",
        LoginRefused,
        "its host key is not the one in {known_hosts}",
        "was the host installed anew? then put its new key there; if not, somebody answers in its place",
    ),
    (
        paramiko.SSHException,
        "not found in known_hosts",
        LoginRefused,
        "its host key is not in {known_hosts}",
        "ssh-keyscan -p {access.port} {access.host}, compare the key on the host itself, then add it there",
    ),
    (
        paramiko.PasswordRequiredException,
        "",
        LoginRefused,
        "the key {key} needs a passphrase",
        "set `ssh.key_passphrase`",
    ),
    (
        paramiko.AuthenticationException,
        "",
        LoginRefused,
        "it refuses our login: {said}",
        "is our public key in authorized_keys of that account, with the right owner and mode?",
    ),
    *(
        (
            paramiko.SSHException,
            text,
            TargetRefused,
            "the key {key} cannot be used: {said}",
            "is it the private key, whole, and `ssh.key_passphrase` right?",
        )
        for text in ("private key file", "base64 decoding error", "Invalid key")
    ),
    (
        paramiko.SSHException,
        "No authentication methods",
        TargetRefused,
        "there is nothing to log in with",
        "set `ssh.key_file` or `ssh.password`",
    ),
    (
        paramiko.SSHException,
        "protocol banner",
        TargetUnreachable,
        "it hung up before it said that it is sshd",
        "is it? does its MaxStartups, or a guard like fail2ban, turn us away?",
    ),
    *(
        (
            kind,
            "",
            TargetRefused,
            "{known_hosts} cannot be read: {said}",
            "correct that line; ssh-keygen -l -f {known_hosts} shows what can be read",
        )
        for kind in (InvalidHostKey, UnicodeError)
    ),
    (
        FileNotFoundError,
        "",
        TargetRefused,
        "{said}",
        "correct the path of the key or of known_hosts in the settings",
    ),
    (
        PermissionError,
        "",
        TargetRefused,
        "{said}",
        "let the watcher's user read the key and known_hosts",
    ),
    *(
        (
            kind,
            text,
            TargetUnreachable,
            "no answer in time",
            "is the host up, and sshd answering? does a firewall drop the connection?",
        )
        for kind, text in ((TimeoutError, ""), (paramiko.SSHException, "No existing session"))
    ),
)


class ChannelStream:
    """A paramiko channel as a socket-like `Stream`."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def settimeout(self, timeout: float | None, /) -> None:
        self._channel.settimeout(timeout)

    def recv(self, size: int, /) -> bytes:
        return self._channel.recv(size)

    def sendall(self, data: bytes, /) -> None:
        self._channel.sendall(data)

    @property
    def ended(self) -> bool:
        return bool(self._channel.closed or self._channel.eof_received)

    def close(self) -> None:
        self._channel.close()

    def makefile(self, mode: Literal["rwb"]) -> io.BufferedRWPair:
        del mode  # the only one
        return io.BufferedRWPair(_Raw(self._channel), _Raw(self._channel))


class _Raw(io.RawIOBase):
    def __init__(self, channel: paramiko.Channel) -> None:
        super().__init__()
        self._channel = channel

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        chunk = self._channel.recv(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def write(self, data: Any, /) -> int:
        return self._channel.send(bytes(data))
