"""The agent's command line."""

import argparse
import os
import sys
from typing import List, Optional

from watcher.apply.agent.bounds import Bounds, is_allowable
from watcher.apply.agent.console import relay
from watcher.apply.agent.file import serve
from watcher.apply.agent.hold import keep
from watcher.apply.agent.wire import say


def main(arguments: List[str], asked: Optional[str]) -> int:
    """`asked` is what an SSH client asked for where a forced command runs us."""
    options = _options(arguments)
    word = options.word or (asked or "").rpartition(" ")[2]
    if word == "file":
        serve(options)
    elif word == "console" and options.console:
        relay(options.console, options.bounds.gate())
    elif word == "hold" and options.console:
        keep(options)
    else:
        no_console = "this agent was started without --console"
        unknown = "this key starts an agent, which may be asked for `file`, `console` or `hold` only"
        say({"error": "word", "problem": no_console if word in ("console", "hold") else unknown})
        return 1
    return 0


def _options(arguments: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Runs beside PgBouncer for pgbouncer-watcher.")
    parser.add_argument("word", nargs="?", choices=["file", "console", "hold"])
    parser.add_argument("--file", required=True, help="the file that holds the marked block")
    parser.add_argument("--console", help="PgBouncer's Unix socket, or host:port")
    parser.add_argument("--write", choices=["auto", "rename", "in_place"], default="auto")
    parser.add_argument("--reload-command", help="makes PgBouncer read its file, where it has no console")
    parser.add_argument("--limit", type=float, default=4.0, help="seconds for a lock or the reload command")
    parser.add_argument(
        "--block", help="write nothing but the addresses and the stamp in this cluster's block"
    )
    parser.add_argument(
        "--allow", action="append", metavar="HOST[:PORT]", help="and these addresses alone, each named"
    )
    options = parser.parse_args(arguments)
    if options.allow and options.block is None:
        parser.error("--allow needs --block")
    for text in options.allow or ():
        if not is_allowable(text):
            parser.error("--allow %s: not HOST, HOST:PORT or [HOST]:PORT" % text)
    options.bounds = Bounds(options.block, options.allow)
    return options


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:], os.environ.get("SSH_ORIGINAL_COMMAND")))
    except (BrokenPipeError, ConnectionError, KeyboardInterrupt):
        sys.exit(0)
