"""Installs what the test bed needs, on Debian: packages, two accounts, a virtual environment with Patroni,
and, unpacked beside Debian's own, a newer PgBouncer.

    python3 -m tests.support.install

Standard library only. Run again it does nothing, quickly. It starts no service, and those that came with the
packages it installs are stopped and disabled; what was on the machine before is left as it is. Root is
needed (it calls sudo itself): the bed's sshd and the change of user need it as well.
"""

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support import axe, newer_pgbouncer
from tests.support.install_steps import STATE, InstallError, run, say
from tests.support.pinned_venv import PinnedVenv

BOUNCER_ACCOUNTS = ("bed-bouncer1", "bed-bouncer2")
POLICY = Path("/usr/sbin/policy-rc.d")
NO_MAIN_CLUSTER = Path("/etc/postgresql-common/createcluster.d/pgbouncer-watcher-bed.conf")

PATRONI_PINS = (
    "patroni==4.1.5",
    "click==8.5.1",
    "dnspython==2.9.2",
    "prettytable==3.18.0",
    "psutil==7.2.2",
    "psycopg2-binary==2.9.13",
    "python-dateutil==4.0.0",
    "python-etcd==0.4.5",
    "PyYAML==6.0.3",
    "urllib3==2.8.0",
    "wcwidth==0.9.4",
    "ydiff==1.4.2",
)
PATRONI = PinnedVenv("venv-patroni-4", PATRONI_PINS)
PATRONI_VENV = PATRONI.folder


@dataclass(frozen=True)
class Need:
    """A file the bed uses (a pattern below /), its Debian package, the services that would start."""

    pattern: str
    package: str
    services: tuple[str, ...] = ()

    def is_met(self) -> bool:
        """Whether the file is there, whoever put it there."""
        return any(Path("/").glob(self.pattern))


NEEDS = (
    Need("usr/bin/etcd", "etcd-server", ("etcd",)),
    Need("usr/bin/etcdctl", "etcd-client"),
    Need("usr/lib/postgresql/*/bin/postgres", "postgresql", ("postgresql",)),
    Need("usr/sbin/pgbouncer", "pgbouncer", ("pgbouncer",)),
    Need("usr/sbin/sshd", "openssh-server", ("ssh", "ssh.socket")),
    Need("usr/bin/ssh-keygen", "openssh-client"),
    Need("usr/bin/ss", "iproute2"),
    Need("usr/bin/setpriv", "util-linux"),
    Need("usr/lib/python3*/ensurepip/__main__.py", "python3-venv"),
    Need("usr/bin/patroni", "patroni", ("patroni",)),
    Need("usr/sbin/haproxy", "haproxy", ("haproxy",)),
    Need("usr/sbin/nft", "nftables", ("nftables",)),
    Need("usr/bin/curl", "curl"),
    Need("usr/bin/openssl", "openssl"),
    Need("usr/bin/promtool", "prometheus", ("prometheus",)),
    Need("usr/bin/amtool", "prometheus-alertmanager", ("prometheus-alertmanager",)),
    Need("usr/bin/chromium", "chromium"),
    Need("usr/share/fonts/truetype/dejavu/DejaVuSans.ttf", "fonts-dejavu-core"),
    Need("usr/lib/python3/dist-packages/etcd/__init__.py", "python3-etcd"),
)


def missing_packages(needs: Sequence[Need] = NEEDS) -> list[Need]:
    """Needs that are not met."""
    return [need for need in needs if not need.is_met()]


def missing_accounts() -> list[str]:
    """Accounts of the bed that do not exist."""
    known = {entry.pw_name for entry in pwd.getpwall()}
    return [account for account in BOUNCER_ACCOUNTS if account not in known]


def what_is_missing() -> list[str]:
    """What the bed cannot run without, in words. The newer PgBouncer is not of it: few tests need that, and
    they fail without it, with the remedy.
    """
    missing = [f"package {need.package}" for need in missing_packages()]
    missing += [f"account {account}" for account in missing_accounts()]
    missing += [] if PATRONI.is_current() else [f"Patroni in {PATRONI_VENV}"]
    return missing if axe.SCRIPT.exists() else [*missing, f"axe in {axe.SCRIPT}"]


@contextlib.contextmanager
def temporary_file(path: Path, text: str, mode: int) -> Iterator[None]:
    """Have a file for a while, unless there is one already, which then stays."""
    if path.exists():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def install_packages(needs: Sequence[Need]) -> None:
    """apt-get, with every start of a service refused and no PostgreSQL cluster created."""
    if shutil.which("apt-get") is None:
        packages = ", ".join(need.package for need in needs)
        raise InstallError(
            f"no apt-get here.\nHINT: this is for Debian; elsewhere install by hand: {packages}"
        )
    names = [need.package for need in needs]
    say(f"packages: {' '.join(names)}")
    run(["apt-get", "update", "-qq"], "is the network there, and /etc/apt/sources.list right?")
    with (
        temporary_file(POLICY, "#!/bin/sh\nexit 101\n", 0o755),
        temporary_file(NO_MAIN_CLUSTER, "create_main_cluster = false\n", 0o644),
    ):
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *names]
        run(command, "the lines above are apt's own; `apt-get -f install` repairs a broken state")
    for need in needs:
        put_services_to_rest(need)


def put_services_to_rest(need: Need) -> None:
    """Stop and disable what a package just installed may have started, or would at the next boot."""
    if not need.services or not Path("/run/systemd/system").is_dir():
        return
    say(f"services off: {' '.join(need.services)}")
    subprocess.run(
        ["systemctl", "disable", "--now", *need.services],
        capture_output=True,
        check=False,
    )


def create_account(account: str) -> None:
    """A system account that can log in by SSH key alone: /bin/sh, a password that never matches."""
    say(f"account: {account}")
    home = STATE / account
    useradd = ["useradd", "--system", "--user-group", "--shell=/bin/sh", "--password=*"]
    run([*useradd, f"--home-dir={home}", "--create-home", account], "useradd (package passwd) must work here")


def create_newer_pgbouncer() -> None:
    """Where it cannot be had the bed runs all the same, so that is said and no more."""
    try:
        newer_pgbouncer.create()
    except InstallError as error:
        say(f"WARNING: tests of a newer PgBouncer will fail, for it cannot be had here:\n{error}")


def become_root(module: str = "tests.support.install") -> None:
    """Go on as root, by way of sudo, with the same module."""
    if os.geteuid() == 0:
        return
    if shutil.which("sudo") is None:
        raise InstallError(f"not root, and no sudo.\nHINT: su -c 'python3 -m {module}'")
    say("not root: asking sudo")
    os.execvp("sudo", ["sudo", sys.executable, "-m", module])  # noqa: S606


def install() -> None:
    """Add whatever is missing."""
    if not what_is_missing() and newer_pgbouncer.is_current():
        say("nothing is missing")
        return
    become_root()
    os.umask(0o022)
    STATE.mkdir(parents=True, exist_ok=True)
    if needs := missing_packages():
        install_packages(needs)
    for account in missing_accounts():
        create_account(account)
    if not PATRONI.is_current():
        PATRONI.create()
    if not axe.SCRIPT.exists():
        axe.create()
    if not newer_pgbouncer.is_current():
        create_newer_pgbouncer()
    if still := what_is_missing():
        raise InstallError(
            f"still missing: {', '.join(still)}\nHINT: this release of Debian packs it otherwise"
        )
    say("done")


if __name__ == "__main__":
    try:
        install()
    except InstallError as error:
        sys.exit(f"{error}")
