"""A real Chromium without a window: pictures of a page, and its document once its scripts have run."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.processes import Process, run

PROGRAM = "/usr/bin/chromium"


@dataclass(frozen=True)
class Look:
    """How a page is looked at."""

    width: int = 1280
    height: int = 1400
    dark: bool = False
    scripts: bool = True


def picture(url: str, file: Path, look: Look) -> None:
    """A PNG of the page once it is loaded."""
    with _command(url, look, f"--screenshot={file}", "--timeout=2000") as argv:
        run(argv, timeout=60)


def document(url: str, look: Look = Look(), seconds: float = 2) -> str:
    """The document after so many seconds of its own time, as HTML."""
    with _command(url, look, "--dump-dom", _own_time(seconds)) as argv:
        return run(argv, timeout=60).stdout


@contextmanager
def open_in_browser(url: str, look: Look, log: Path) -> Iterator[None]:
    """The page is open meanwhile, in the time of everybody else."""
    with _command(url, look, "--remote-debugging-port=0") as argv:  # keeps it open
        browser = Process("chromium", argv, log=log)
        browser.start()
        try:
            yield
        finally:
            browser.stop()


@contextmanager
def browsing(url: str, look: Look, log: Path) -> Iterator[None]:
    """The page is open meanwhile, and an hour of its own time goes by in no time."""
    with _command(url, look, "--dump-dom", _own_time(3600)) as argv:
        browser = Process("chromium", argv, log=log)
        browser.start()
        try:
            yield
        finally:
            browser.stop()


def _own_time(seconds: float) -> str:
    return f"--virtual-time-budget={seconds * 1000:.0f}"


@contextmanager
def _command(url: str, look: Look, *options: str) -> Iterator[list[str]]:
    with TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        if not look.scripts:
            _forbid_scripts(Path(profile))
        yield [
            PROGRAM,
            "--headless",
            "--no-sandbox",  # the tests run as root
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            f"--user-data-dir={profile}",
            f"--window-size={look.width},{look.height}",
            f"--blink-settings=preferredColorScheme={0 if look.dark else 1}",
            *options,
            url,
        ]


def _forbid_scripts(profile: Path) -> None:
    preferences = profile / "Default/Preferences"
    preferences.parent.mkdir()
    forbidden = {"profile": {"default_content_setting_values": {"javascript": 2}}}
    preferences.write_text(json.dumps(forbidden))
