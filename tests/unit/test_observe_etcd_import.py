"""etcd3 runs only on protobuf's pure-Python implementation, and says so where that was lost."""

import os
import subprocess
import sys

TYPE = "from google.protobuf.internal import api_implementation as a; print(a.Type())"


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PROTOCOL_BUFFERS")}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )


def test_the_import_chooses_the_implementation_by_itself() -> None:
    done = run(f"import watcher.observe.etcd; {TYPE}")
    assert (done.stdout.strip(), done.stderr) == ("python", "")


def test_a_protobuf_that_was_imported_first_is_a_clear_error() -> None:
    done = run(f"{TYPE}; import watcher.observe.etcd")
    assert done.returncode == 1
    assert "protobuf was imported before watcher.observe.etcd_client" in done.stderr
