"""The agent as one file, to be sent or installed: its modules one behind the other. Not part of it itself."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PARTS = ("wire", "bounds", "file", "console", "greeting", "guard", "record", "hold", "main")
"""Each imports only from those before it, and no two have a global name in common (a test holds that)."""

_HERE = Path(__file__).parent


@cache
def source() -> str:
    """Python 3.6 and later runs it as it is."""
    about = ast.get_docstring(ast.parse((_HERE / "__init__.py").read_text()))
    parts = (_without_own_imports((_HERE / f"{part}.py").read_text()) for part in PARTS)
    return f'#!/usr/bin/python3\n"""{about}\n"""\n\n' + "\n\n".join(parts)


@cache
def as_sent() -> bytes:
    """The same, once for all targets."""
    return source().encode()


def _without_own_imports(text: str) -> str:
    lines = text.splitlines(keepends=True)
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("watcher."):
            for number in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[number] = ""
    return "".join(lines)
