"""A PgBouncer newer than Debian 12's, beside it: that of the next Debian, with its own C library.

`KILL_CLIENT` came with 1.24, Debian 12 has 1.18. The packages are downloaded by the machine's own apt, from
its own mirrors, with nothing changed but the suite's name and with a state of its own, so that the machine's
package lists and packages stay as they are. They are unpacked into one folder, not installed, and PgBouncer
is run by the loader that is among them. Standard library only, as all of the installation.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.install_steps import STATE, InstallError, run, say

SUITE = "trixie"
FOLDER = STATE / f"pgbouncer-{SUITE}"
APT = Path("/etc/apt")
OS_RELEASE = Path("/etc/os-release")
PACKAGES = (
    "pgbouncer",
    "libaudit1",
    "libc6",
    "libcap-ng0",
    "libcap2",
    "libcares2",
    "libevent-2.1-7t64",
    "libgcc-s1",
    "libpam0g",
    "libssl3t64",
    "libsystemd0",
    "libzstd1",
    "zlib1g",
)
"""PgBouncer and all libraries that it loads; what else its package depends on is for its service."""

_HINT = f"apt must reach a Debian mirror that has {SUITE}; an old debian-archive-keyring lacks its keys"


# --- what is there --------------------------------------------------------------------------------


def command(folder: Path = FOLDER) -> list[Path | str]:
    """The words that run it; its arguments come behind them. Raises InstallError where it is missing."""
    if not is_current(folder):
        raise InstallError(
            f"no PgBouncer of {SUITE} in {folder}\nHINT: python3 -m tests.support.install says why"
        )
    return _command(folder)


def _command(folder: Path) -> list[Path | str]:
    """Found by pattern, for the names have the machine's architecture in them."""
    loader = next(folder.glob("usr/lib/*-linux-*/ld-linux-*.so.*"), None)
    if loader is None:
        raise InstallError(f"no loader below {folder}\nHINT: remove the folder, and install again")
    return [loader, "--library-path", str(loader.parent), folder / "usr/sbin/pgbouncer"]


def is_current(folder: Path = FOLDER) -> bool:
    """Whether it was unpacked to the end, from the packages asked for here."""
    note = _note(folder)
    return note.exists() and note.read_text().split() == list(PACKAGES)


def _note(folder: Path) -> Path:
    return folder / "unpacked-packages.txt"


# --- how it comes there ---------------------------------------------------------------------------


def create(folder: Path = FOLDER) -> None:
    """Download, unpack, try. What was in the folder is replaced, and only by a PgBouncer that runs."""
    say(f"PgBouncer of {SUITE}, unpacked into {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder.parent) as name:
        fresh = Path(name) / "root"
        for package in _download(Path(name)):
            run(["dpkg-deb", "--extract", package, fresh], "is the disk full?")
        run(
            [*_command(fresh), "--version"],
            "this machine cannot run it; are all of its libraries in PACKAGES?",
        )
        _note(fresh).write_text("\n".join(PACKAGES) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)


def _download(folder: Path) -> list[Path]:
    """The packages as files. One source that fails does no harm while another has them."""
    apt_get, debs = ["apt-get", f"--config-file={_apt_settings(folder)}", "-qq"], folder / "debs"
    debs.mkdir()
    failure: InstallError | None = None
    try:
        run([*apt_get, "update", "--error-on=any"], _HINT)
    except InstallError as error:
        failure = error
    try:
        run([*apt_get, "download", *PACKAGES], _HINT, cwd=debs)
    except InstallError as error:
        raise failure or error from error
    return sorted(debs.glob("*.deb"))


def _apt_settings(folder: Path) -> Path:
    """The machine's own settings of apt (proxies, logins, keys) stay; sources and state are in the folder."""
    sources = folder / "sources"
    sources.mkdir()
    for name, text in _sources():
        (sources / name).write_text(text)
    for part in ("state/lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    file = folder / "apt.conf"
    file.write_text(_APT_SETTINGS.format(folder=folder))
    return file


_APT_SETTINGS = """\
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "{folder}/sources";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "{folder}/state";
Dir::State::Status "/dev/null";
Dir::Cache "{folder}/cache";
APT::Default-Release "";
// the folder is closed to apt's own account
APT::Sandbox::User "root";
Acquire::Languages "none";
// what the machine does behind an update of its own
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""


# --- sources --------------------------------------------------------------------------------------


def _sources() -> list[tuple[str, str]]:
    """The machine's sources that are of its own release of Debian, as ones of `SUITE`."""
    codename = re.search(r"^VERSION_CODENAME=(\w+)$", OS_RELEASE.read_text(), re.MULTILINE)
    files = [APT / "sources.list", *sorted((APT / "sources.list.d").glob("*"))]
    found = [
        (path.name, text)
        for path in files
        if path.is_file() and (text := of_suite(path.name, path.read_text(), codename[1] if codename else ""))
    ]
    if not found:
        raise InstallError(f"{APT} has no source of Debian's own release\nHINT: {_HINT}")
    return found


def of_suite(name: str, text: str, codename: str) -> str:
    """The text of one file of sources with what is of Debian's release, the suite's name changed.

    >>> of_suite("a.list", "deb [a=b] http://mirror bookworm main\\ndeb http://other any main", "bookworm")
    'deb [a=b] http://mirror trixie main\\n'
    >>> of_suite("a.sources", "Types: deb\\nSuites: bookworm bookworm-updates\\n\\nSuites: any", "bookworm")
    'Types: deb\\nSuites: trixie trixie-updates\\n\\n'
    """
    if name.endswith(".list"):
        return "".join(f"{line}\n" for line in _lines_of_suite(text, codename))
    if name.endswith(".sources"):
        return "".join(f"{stanza}\n\n" for stanza in _stanzas_of_suite(text, codename))
    return ""


def _lines_of_suite(text: str, codename: str) -> Iterator[str]:
    """The format of one line a source (sources.list(5))."""
    for line in text.splitlines():
        match = re.fullmatch(r"(deb\s+(?:\[[^\]]*\]\s+)?\S+\s+)(\S+)(\s.*\bmain\b.*)", line.strip())
        if match and (suite := _renamed(match[2], codename)):
            yield f"{match[1]}{suite}{match[3]}"


def _stanzas_of_suite(text: str, codename: str) -> Iterator[str]:
    """The format of one stanza a source; its fields beside the suites stay, keys of many lines too."""
    for stanza in re.split(r"\n\s*\n", text.strip()):
        match = re.search(r"^Suites:(.*)$", stanza, re.MULTILINE | re.IGNORECASE)
        suites = [_renamed(word, codename) for word in match[1].split()] if match else []
        if match and any(suites):
            ours = " ".join(filter(None, suites))
            yield f"{stanza[: match.start()]}Suites: {ours}{stanza[match.end() :]}"


def _renamed(suite: str, codename: str) -> str:
    """
    >>> [_renamed(word, "bookworm") for word in ("bookworm-security", "stable", "bookworm-pgdg", "cloud")]
    ['trixie-security', 'trixie', '', '']
    """
    release, dash, part = suite.partition("-")
    ours = release in {codename, "stable", "oldstable"} - {""} and part in {"", "updates", "security"}
    return f"{SUITE}{dash}{part}" if ours else ""
