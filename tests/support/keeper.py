"""The parent of one server: nothing of that server outlives the process that asked for it.

Run as a program with the standard library alone, by `processes.Process`. It starts the server as another
user, adopts whatever the server leaves behind (a PostgreSQL whose Patroni was killed, an sshd session), and
when its standard input ends, because the asking process closed it or died in any way, it kills them all.
It ends by itself, with the server's exit status, when nothing of the server is left.

    python3 -I -S keeper.py REPORT_FD USER ARGV…      (USER «-»: stay who we are)
"""

import contextlib
import ctypes
import os
import pwd
import select
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
EXEC_FAILED = 127


def prctl(option: int, value: int) -> None:
    """Linux prctl(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def become(user: str) -> None:
    """Take the identity of `user`, with its groups and home."""
    if user == "-":
        return
    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    os.environ.update(HOME=entry.pw_dir, USER=user, LOGNAME=user)


def run_server(user: str, become_server: Callable[[], object], inherited: signal.Handlers) -> None:
    """In the child: become the server. Never returns.

    The death signal is set after the change of user, because that change clears it.
    """
    try:
        signal.signal(signal.SIGCHLD, inherited)
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        become(user)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        become_server()
    except OSError as error:
        sys.stderr.write(f"keeper: cannot start the server: {error}\n")
        sys.stderr.flush()
    finally:
        os._exit(EXEC_FAILED)


def descendants(root: int) -> list[int]:
    """Process ids below `root`, parents first."""
    found: list[int] = []
    queue = [root]
    while queue:
        pid = queue.pop()
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                queue += [int(child) for child in (task / "children").read_text().split()]
        found.append(pid)
    return found[1:]


def kill_all() -> None:
    """SIGKILL to everything below us, until nothing is left; new children in between are caught too."""
    while below := descendants(os.getpid()):
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)


def reap(main: int, status: int) -> tuple[bool, int]:
    """Collect the dead: (something is still alive, exit status of the main server so far)."""
    try:
        while True:
            pid, raw = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return True, status
            if pid == main:
                status = os.waitstatus_to_exitcode(raw)
    except ChildProcessError:
        return False, status


def keep(main: int, wakeup: int) -> int:
    """Wait until the server and all it left are gone, or the lifeline (standard input) ends."""
    status, alive = 0, True
    while alive:
        ready, _, _ = select.select([0, wakeup], [], [])
        if wakeup in ready:
            os.read(wakeup, 4096)
        if 0 in ready and not os.read(0, 4096):
            kill_all()
        alive, status = reap(main, status)
    return status


def keep_server(report: int, user: str, become_server: Callable[[], object]) -> int:
    """Fork the server, report its process id, keep it; its exit status, mod 256."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    inherited = signal.signal(signal.SIGCHLD, lambda *_: None)
    wakeup, notify = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(notify, warn_on_full_buffer=False)
    child = os.fork()
    if child == 0:
        for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        for ours in (report, wakeup, notify):
            os.close(ours)
        handler = signal.SIG_DFL if not isinstance(inherited, signal.Handlers) else inherited
        run_server(user, become_server, handler)
    os.write(report, f"{child}\n".encode())
    os.close(report)
    return keep(child, wakeup) & 0xFF


def main(report: int, user: str, argv: Sequence[str]) -> int:
    """Keep a server that is a program of its own."""
    return keep_server(report, user, lambda: os.execvpe(argv[0], list(argv), os.environ))  # noqa: S606  # a list


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
