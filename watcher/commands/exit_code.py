"""What `watcher` tells its caller by its exit code. Documented in docs/cli.md, held to it by a test."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The number says which kind of answer it was."""

    OK = 0
    FAILED = 1
    BAD_SETTINGS = 2
    WOULD_CHANGE = 3
    UNDECIDED = 4
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "all is as it should be; for `once`, every target now leads to the leader",
    ExitCode.FAILED: "a target or a source failed; the last lines say which and why",
    ExitCode.BAD_SETTINGS: "the settings cannot be used, or `check-config` found a fault; nothing was done",
    ExitCode.WOULD_CHANGE: "`plan` found something to change",
    ExitCode.UNDECIDED: "too little is known to decide where clients belong, or an operator paused the"
    " watcher; nothing was changed; for `status` also: clients wait",
    ExitCode.INTERRUPTED: "ended by Ctrl-C before it was through",
}
