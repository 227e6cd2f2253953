"""The tables of variables in deploy/ansible/README.md, made from the roles' own specifications.

python -m tests.support.ansible_page      writes them
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

COLLECTION = Path(__file__).parents[2] / "deploy/ansible"
PAGE = COLLECTION / "README.md"
BEGIN, END = "<!-- variables: begin -->\n", "<!-- variables: end -->\n"
ROLES = ("cluster", "tls", "etcd", "patroni", "pgbouncer", "watcher", "haproxy", "prometheus_rules")


def page() -> str:
    """The page as it should be."""
    before, rest = PAGE.read_text().split(BEGIN)
    return before + BEGIN + "".join(_table(role) for role in ROLES) + "\n" + END + rest.split(END)[1]


def _table(role: str) -> str:
    spec = yaml.safe_load((COLLECTION / f"roles/{role}/meta/argument_specs.yml").read_text())
    defaults = yaml.safe_load((COLLECTION / f"roles/{role}/defaults/main.yml").read_text())
    entry = spec["argument_specs"]["main"]
    elsewhere = f"[see there](roles/{role}/defaults/main.yml)"
    rows = "".join(_rows(entry["options"], defaults, elsewhere))
    head = f"\n### `{role}`: {entry['short_description']}\n\n"
    return f"{head}| variable | type | default | what |\n|---|---|---|---|\n{rows}"


def _rows(options: dict[str, dict[str, Any]], defaults: dict[str, Any], elsewhere: str) -> Iterator[str]:
    for name, option in options.items():
        kind = " or ".join(f"`{one}`" for one in option["choices"]) if "choices" in option else option["type"]
        default = _default(option, defaults.get(name)) or elsewhere
        yield f"| `{name}` | {kind} | {default} | {option['description']} |\n"


def _default(option: dict[str, Any], value: Any) -> str:
    """As a word; '' if it takes more than that."""
    if option.get("required"):
        return "**a secret**"
    if value in ("", [], {}, None):
        return "empty"
    return f"`{json.dumps(value)}`" if isinstance(value, bool | int) else _plain(str(value))


def _plain(text: str) -> str:
    return "" if set(text) & set("{[") else f"`{text}`"


if __name__ == "__main__":
    PAGE.write_text(page())
