"""The agent as a program of its own, as `watcher agent` prints it."""

from pathlib import Path

from watcher.apply.agent import bundle


def write_agent(folder: Path) -> Path:
    """Its one file, in `folder`."""
    program = folder / "agent.py"
    program.write_text(bundle.source())
    return program
