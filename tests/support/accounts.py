"""What the machine must have for the bed, and folders that belong to service accounts."""

import os
import pwd
import shutil
from pathlib import Path

from tests.support import install
from tests.support.waiting import BedError

BOUNCER_ACCOUNTS = install.BOUNCER_ACCOUNTS
POSTGRES_ACCOUNT = "postgres"


def require_bed() -> None:
    """Raise BedError with the remedy where something is missing."""
    if not is_root():
        raise BedError(
            "the test bed needs root, for its sshd and its accounts\nHINT: sudo .venv/bin/python -m pytest"
        )
    if missing := install.what_is_missing():
        raise BedError(f"the test bed lacks {', '.join(missing)}\nHINT: python3 -m tests.support.install")


def is_root() -> bool:
    """Whether we may change users."""
    return os.geteuid() == 0


def own_folder(folder: Path, account: str, mode: int = 0o755) -> Path:
    """A folder that belongs to `account`, made if need be; its parents must be open to it already."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.chown(folder, account, pwd.getpwnam(account).pw_gid)
    folder.chmod(mode)
    return folder


def own_file(path: Path, text: str, account: str, mode: int = 0o644) -> Path:
    """A file with `text` that belongs to `account`."""
    path.write_text(text)
    shutil.chown(path, account, pwd.getpwnam(account).pw_gid)
    path.chmod(mode)
    return path
