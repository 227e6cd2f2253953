"""The signals that `watcher run` obeys."""

import os
import signal

_MANY = 65536  # bytes; all that a pipe holds


class Signals:
    """What was asked of us, from now on. To be made and waited on in the main thread.

    The interpreter itself writes each signal's number into a pipe, and the handler does nothing: a handler in
    Python would not run for a signal that comes in the moment before the thread begins to wait, or to another
    thread (Python's `signal.set_wakeup_fd`).
    """

    def __init__(self) -> None:
        self._asked, told = os.pipe()
        os.set_blocking(told, False)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)

    def wait(self) -> signal.Signals:
        """Until something is asked. All that was asked meanwhile counts as one, an end before all else."""
        asked = set(os.read(self._asked, _MANY))
        ends = asked - {signal.SIGHUP}
        return signal.Signals(ends.pop() if ends else signal.SIGHUP)
