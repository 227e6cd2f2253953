"""Faults put into the product on purpose, in a copy of it, so that chaos is seen to fail."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.folders import bed_folder
from tests.support.repository import REPOSITORY


@dataclass(frozen=True)
class Fault:
    """In `file` below `watcher/`, each of the texts becomes the other; the case `seen_by` should see it, and
    say `how` in what it says is broken.
    """

    file: str
    changes: tuple[tuple[str, str], ...]
    seen_by: str
    how: str

    def apply_to(self, text: str) -> str:
        """The file's text with this fault. ValueError where a text is not there exactly once."""
        for right, wrong in self.changes:
            if text.count(right) != 1:
                raise ValueError(f"{self.file} does not have exactly one «{right}»")
            text = text.replace(right, wrong)
        return text


_HOLD = "apply/agent/hold.py"
FAULTS = {
    "a release that resumes nobody": Fault(
        _HOLD,
        (("self._words_to_go_on([name for name in names if name not in running])", "[]"),),
        "etcd-member-gone",
        "holds nobody: not within",
    ),
    "a log that waits for its reader": Fault(
        "expose/logs.py",
        (("            self._lines.put_nowait(line)", "            self._put(line)"),),
        "watchers-log-is-not-read",
        "holds nobody: not within",
    ),
    "no health check where etcd is silent": Fault(
        "decide/decision.py",
        (("    problem = _why_no_fallback(view, policy, now)", '    problem = "nobody is asked"'),),
        "etcd-is-not-heard",
        "holds nobody: not within",
    ),
    "new settings forget what was known": Fault(
        "app.py",
        (("        self.board.post(Handover(before.board.view, time.monotonic()))", "        pass"),),
        "settings-are-read-anew-in-silence",
        "lets clients go",
    ),
    "nobody guards the primary": Fault(
        "decide/decision.py",
        (("        steps.append(Watch(wish.guard))", "        pass"),),
        "primary-dies-and-comes-back",
        "failed more than once",
    ),
}


@contextmanager
def broken_watcher(name: str) -> Iterator[Path]:
    """A folder with a `watcher` that has this fault."""
    fault = FAULTS[name]
    with bed_folder() as folder:
        shutil.copytree(REPOSITORY / "watcher", folder / "watcher")
        path = folder / "watcher" / fault.file
        path.write_text(fault.apply_to(path.read_text()))
        yield folder
