"""What docs/ says of metrics and of `/status`, made from the code.

python -m watcher.expose.reference docs/metrics.md docs/status.schema.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from watcher.expose.families import FAMILIES, Family
from watcher.expose.status import schema
from watcher.marked import between

BEGIN = "<!-- metrics: begin -->"
END = "<!-- metrics: end -->"
_HEAD = "| metric | type | labels | what it says |\n|---|---|---|---|"


def page_with_table(page: str) -> str:
    """The page with the table of the families as they are now."""
    return between(page, BEGIN, END, "\n".join([_HEAD, *map(_row, FAMILIES.values())]))


def _row(family: Family) -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels)
    values = f" Values: {', '.join(f'`{value}`' for value in family.known)}." if family.known else ""
    kind = "gauge, always 1" if family.kind == "info" else family.kind
    return f"| `{family.full_name}` | {kind} | {labels} | {family.about}{values} |"


def schema_text() -> str:
    """The JSON schema of `/status`, as its file has it."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write both files anew."""
    page, file = map(Path, arguments)
    page.write_text(page_with_table(page.read_text(encoding="utf-8")), encoding="utf-8")
    file.write_text(schema_text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
