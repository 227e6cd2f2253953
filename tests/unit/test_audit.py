"""`make audit`: what pip-audit finds, skips and cannot know. A service of our own answers in OSV's form."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from tests.support.audit import CLEAN, FOUND, LOCKS, REPOSITORY, UNKNOWN, audit, judge

HASH = f"--hash=sha256:{'0' * 64}"
ADVISORY = {
    "id": "PYSEC-0-1",
    "summary": "made up",
    "affected": [
        {
            "package": {"name": "alpha", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


class _Osv(BaseHTTPRequestHandler):
    found: ClassVar[dict[str, list[Any]]] = {}

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps({"vulns": self.found.get(asked["package"]["name"], [])}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature is http.server's
        pass


@contextmanager
def _service(found: dict[str, list[Any]]) -> Iterator[list[str]]:
    """Options that make pip-audit ask it."""
    handler = type("Osv", (_Osv,), {"found": found})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield ["-s", "osv", "--osv-url", f"http://127.0.0.1:{http.server_address[1]}/v1/query"]
        http.shutdown()


@pytest.fixture
def locks(tmp_path: Path) -> list[Path]:
    """Two files that have a package in common, as ours have."""
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    files[0].write_text(f"alpha==1.0 {HASH}\n")
    files[1].write_text(f"alpha==1.0 {HASH}\nbeta==2.0 {HASH}\n")
    return files


def test_packages_without_an_advisory_pass_and_are_counted_once(locks: list[Path]) -> None:
    with _service({}) as options:
        assert audit(locks, options) == (CLEAN, ["2 packages, no known advisory"])


def test_an_advisory_fails_and_says_what_mends_it(locks: list[Path]) -> None:
    with _service({"alpha": [ADVISORY]}) as options:
        assert audit(locks, options) == (FOUND, ["alpha 1.0: PYSEC-0-1, mended in 1.1"])


def test_a_service_that_cannot_be_reached_is_no_pass(locks: list[Path]) -> None:
    code, [line] = audit(locks, ["-s", "osv", "--osv-url", "http://127.0.0.1:1/v1/query"])
    assert code == UNKNOWN
    assert line.startswith("advisory data could not be had: ")
    assert "Connection refused" in line


def test_a_service_that_knows_no_package_is_no_pass() -> None:
    """pip-audit says «No known vulnerabilities found» then, and 0; a mirror without advisories is such."""
    skipped = [{"name": name, "skip_reason": "Dependency not found on PyPI"} for name in ("alpha", "beta")]
    assert judge(skipped)[0] == UNKNOWN


def test_one_package_that_was_skipped_fails_beside_others_that_are_clean() -> None:
    code, [line] = judge(
        [{"name": "alpha", "version": "1", "vulns": []}, {"name": "beta", "skip_reason": "gone"}]
    )
    assert code == FOUND
    assert line == "beta was skipped: gone"


def test_every_lock_file_is_asked_about() -> None:
    """But for the rivals' of the benchmark, which are pinned to what they were measured at."""
    found = {str(file.relative_to(REPOSITORY)) for file in REPOSITORY.glob("requirements*.txt")}
    found |= {"docs/site/requirements.txt", "deploy/ansible/roles/patroni/files/requirements.txt"}
    assert set(LOCKS) == found
