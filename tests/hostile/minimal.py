"""A failing input made as small as it goes."""

from __future__ import annotations

from collections.abc import Callable

_TRIES = 2000


def failure_of(check: Callable[[bytes], None], data: bytes) -> str:
    """What kind of failure the input is, and empty where it is none."""
    try:
        check(data)
    except Exception as error:
        return type(error).__name__
    return ""


def minimal(check: Callable[[bytes], None], data: bytes) -> bytes:
    """The input without every run of bytes that its failure does not need.

    >>> def check(data: bytes) -> None:
    ...     assert b"x" not in data
    >>> minimal(check, b"many bytes, an x, and more")
    b'x'
    """
    kind, tries, size = failure_of(check, data), 0, len(data) // 2
    while size and tries < _TRIES:
        at = 0
        while at < len(data) and tries < _TRIES:
            shorter, tries = data[:at] + data[at + size :], tries + 1
            if failure_of(check, shorter) == kind:
                data = shorter
            else:
                at += size
        size //= 2
    return data
