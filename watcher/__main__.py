"""The door of the installed program. `watcher barrier` goes through without what all else needs.

Patroni waits for the barrier at every stop, and settings, gRPC and SSH take longer to import than it does.
"""

from __future__ import annotations

import gc
import sys


def main() -> int:
    """The exit code."""
    if sys.argv[1:2] == ["barrier"]:
        from watcher import barrier

        return barrier.main(sys.argv[2:])
    gc.disable()  # what is imported stays, and to look for garbage in it is a fifth of a start
    from watcher import command_line

    return command_line.main()


if __name__ == "__main__":
    sys.exit(main())
