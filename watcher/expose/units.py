"""Moments, durations and sizes as people read them."""

from __future__ import annotations

from datetime import datetime


def printable(text: str) -> str:
    """Without what would steer a terminal: others' names and words may hold it.

    >>> printable("a\\x1b[2Jb")
    'a [2Jb'
    """
    return "".join(char if char.isprintable() else " " for char in text)


def clock(moment: datetime) -> str:
    """
    >>> clock(datetime(2026, 1, 2, 3, 4, 5, 678000))
    '2026-01-02 03:04:05.678'
    """
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def ago(now: datetime, then: datetime) -> str:
    """
    >>> ago(datetime(2026, 1, 2, 3, 4, 5), datetime(2026, 1, 2, 3, 2, 1))
    '2 min 4 s'
    """
    seconds = max(0.0, (now - then).total_seconds())
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    told = [f"{count} {unit}" for count, unit in units if count]
    return " ".join(told[:2])


def after(seconds: float | None) -> str:
    """When clients went on; None: when another let them go, which is not known.

    >>> after(1.5), after(None)
    ('after 1.50 s', "by another's word")
    """
    return "by another's word" if seconds is None else f"after {seconds:.2f} s"


def of_bytes(count: int) -> str:
    """
    >>> of_bytes(0), of_bytes(20480), of_bytes(5 << 30)
    ('0 B', '20.0 KiB', '5.0 GiB')
    """
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{count} B" if units[0] == "B" else f"{size:.1f} {units[0]}"
