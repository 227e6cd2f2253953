"""What a watcher depends on, so that a re-read knows what has changed: settings, and files by their time."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import TypeAlias

from pydantic import BaseModel

from watcher.settings.loading import files_read_later

Mark: TypeAlias = Mapping[str, object]


def mark_of(section: BaseModel, but_for: Collection[str] = ()) -> Mark:
    """Of a section, without some of its settings: these, and the files that connections by them read."""
    names = [name for name in type(section).model_fields if name not in but_for]
    told = {name: getattr(section, name) for name in names}
    return told | {file: _changed_at(file) for file in files_read_later(section, but_for)}


def _changed_at(file: str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)  # noqa: PTH116 - a link's target, as whoever opens it
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
