"""A real Chromium without a window: pictures of a page, and its document once its scripts have run."""

from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import run

PROGRAM = "/usr/bin/chromium"


@dataclass(frozen=True)
class Look:
    """How a page is looked at."""

    width: int = 1280
    height: int = 1400
    dark: bool = False
    scripts: bool = True


def picture(url: str, file: Path, look: Look) -> None:
    """A PNG of the page as it is after two seconds."""
    _browse(url, look, f"--screenshot={file}", seconds=2)


def document(url: str, look: Look = Look(), seconds: float = 2) -> str:
    """The document after so many seconds of its own time, as HTML."""
    return _browse(url, look, "--dump-dom", seconds=seconds)


def _browse(url: str, look: Look, what: str, seconds: float) -> str:
    settings = [f"preferredColorScheme={0 if look.dark else 1}"]
    settings += [] if look.scripts else ["scriptEnabled=false"]
    arguments = [
        "--headless",
        "--no-sandbox",  # the tests run as root
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        f"--window-size={look.width},{look.height}",
        f"--blink-settings={','.join(settings)}",
        f"--virtual-time-budget={seconds * 1000:.0f}",
        what,
        url,
    ]
    return run([PROGRAM, *arguments], timeout=60, env={"HOME": "/tmp"}).stdout
