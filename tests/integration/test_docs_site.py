"""The site of docs/: what `make docs-site` builds, in a real browser; and what it refuses to build."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from tests.support.chromium import Look, open_in_browser
from tests.support.processes import run
from tests.support.waiting import wait_for

pytestmark = pytest.mark.long

REPOSITORY = Path(__file__).parents[2]
SITE = REPOSITORY / "build/site"
MKDOCS = REPOSITORY / ".venv-site/bin/mkdocs"

ONLY_FROM_HERE = "default-src 'self' 'unsafe-inline' data: blob:; report-uri /reports"
"""The browser refuses all else, and tells."""

ELSEWHERE = b"<!doctype html><img src='http://elsewhere.invalid/'>"
PROBE = b"""<!doctype html><iframe src="/?q=server_login_retry" width="1280" height="900"></iframe><script>
setInterval(() => {
  const found = document.querySelector("iframe").contentDocument.querySelectorAll(".md-search-result__link");
  if (found.length) fetch("/found", {method: "POST", body: [...found].map(a => a.href).join("\\n")});
}, 100)</script>"""
"""A page of the test's own that waits for what the site's search finds, and tells."""


@dataclass
class Server:
    """Serves the site as any web server would."""

    url: str = ""
    reports: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)


class Handler(SimpleHTTPRequestHandler):
    def __init__(self, *arguments: object, told: Server) -> None:
        self._told = told
        super().__init__(*arguments, directory=str(SITE))  # type: ignore[arg-type]

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", ONLY_FROM_HERE)
        super().end_headers()

    def do_GET(self) -> None:
        own = {"/probe": PROBE, "/elsewhere": ELSEWHERE}.get(self.path)
        if own is None:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(own)

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        (self._told.found if self.path == "/found" else self._told.reports).append(text)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module", autouse=True)
def site() -> Path:
    run(["make", "docs-site"], cwd=REPOSITORY, timeout=170)
    return SITE


@pytest.fixture
def server() -> Iterator[Server]:
    told = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, told=told)) as http:
        told.url = f"http://127.0.0.1:{http.server_port}"
        Thread(target=http.serve_forever, daemon=True).start()
        yield told
        http.shutdown()


def pages() -> list[Path]:
    return sorted(SITE.rglob("*.html"))


# --- what it is -----------------------------------------------------------------------------------------


def test_the_search_finds_without_anything_from_elsewhere(server: Server, tmp_path: Path) -> None:
    with open_in_browser(f"{server.url}/probe", Look(), tmp_path / "log"):
        found = wait_for(lambda: server.found, 30, "the site's search finds something")
    assert f"{server.url}/pgbouncer/?h=server_login_retry" in found[-1]
    assert server.reports == []


def test_a_page_that_asks_elsewhere_would_be_told(server: Server, tmp_path: Path) -> None:
    with open_in_browser(f"{server.url}/elsewhere", Look(), tmp_path / "log"):
        (report,) = wait_for(lambda: server.reports, 30, "the browser's report")
    assert "http://elsewhere.invalid" in report


def test_no_page_loads_anything_from_elsewhere() -> None:
    """Links may lead elsewhere; what a page is made of may not."""
    loads = re.compile(r"""<(?:script|img|iframe|source)[^>]+src="?https?:|<link[^>]+href="?https?:""")
    assert [page for page in pages() if loads.search(page.read_text())] == []
    sheets = [sheet for sheet in SITE.rglob("*.css") if re.search(r"url\(.?https?:", sheet.read_text())]
    assert sheets == []


def test_every_alert_s_runbook_is_at_the_address_that_it_names() -> None:
    rules = yaml.safe_load((REPOSITORY / "deploy/prometheus/alerts.yaml").read_text())["groups"][0]["rules"]
    for rule in rules:
        name = rule["annotations"]["runbook_url"].rpartition("/")[2]
        assert (SITE / "runbooks" / name / "index.html").exists()


def test_no_page_shows_markdown_that_was_not_understood() -> None:
    """A list without a line before it, and code that is not far enough in, stay as they were typed."""
    left = re.compile(r"<p>(?:(?!</p>).)*?(?:\n(?:[*-]|\d+\.) |```|\]\()", re.DOTALL)
    assert [page for page in pages() if left.search(page.read_text())] == []


def test_files_that_pages_link_to_are_shown() -> None:
    shown = (SITE / "deploy/watcher.example.yaml/index.html").read_text()
    assert "<code>deploy/watcher.example.yaml</code> of the repository" in shown
    assert 'href="../deploy/watcher.example.yaml/"' in (SITE / "configuration/index.html").read_text()


def test_the_examples_in_the_hook_are_true() -> None:
    hook = REPOSITORY / "docs/site/repository.py"
    run([MKDOCS.parent / "python", "-m", "doctest", hook])
    assert hook.read_text().count(">>> ") > 2


# --- what is refused ------------------------------------------------------------------------------------


@contextmanager
def changed(folder: Path, name: str, old: str, new: str) -> Iterator[None]:
    file = folder / name
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    yield
    file.write_text(text)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    for name in ("docs", "deploy", "compose"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("secrets"))
    for file in filter(Path.is_file, REPOSITORY.iterdir()):
        shutil.copy(file, folder)
    return folder


def build(folder: Path) -> tuple[int, str]:
    done = run([MKDOCS, "build", "--strict", "-f", folder / "docs/site/mkdocs.yml"], check=False)
    return done.returncode, done.stderr


def test_a_copy_is_built(copy: Path) -> None:
    code, said = build(copy)
    assert code == 0, said


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("docs/holds.md", "(barrier.md)", "(barriers.md)", "'barriers.md'"),
        ("docs/architecture.md", "holds.md#what-fails-in-a-crash", "holds.md#crash", "anchor '#crash'"),
        ("README.md", "(docs/cli.md)", "(docs/commands.md)", "'docs/commands.md'"),
        ("docs/metrics.md", "/scrape.yaml)", "/scraper.yaml)", "'../deploy/prometheus/scraper.yaml'"),
        ("docs/site/mkdocs.yml", "architecture.md", "building.md", "'building.md' is included in the 'nav'"),
        ("docs/site/mkdocs.yml", "- Holds: holds.md", "", 'not included in the "nav"'),
    ],
    ids=["page", "anchor", "page from the README", "file outside docs", "navigation", "page left out"],
)
def test_what_leads_nowhere_fails_the_build(copy: Path, name: str, old: str, new: str, said: str) -> None:
    with changed(copy, name, old, new):
        code, output = build(copy)
    assert code == 1
    assert said in output
