"""When certificates expire."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from cryptography import x509


def expiries(files: Mapping[str, Path]) -> dict[str, float]:
    """For each file when the first certificate in it expires, in seconds since the epoch.

    A file that cannot be read, or holds none, is left out: that it cannot be used is said where it is.
    """
    found: dict[str, float] = {}
    for name, file in files.items():
        expires = _expires(file)
        if expires is not None:
            found[name] = expires
    return found


def _expires(file: Path) -> float | None:
    try:
        return _first_to_expire(file, file.stat().st_mtime_ns)
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=512)
def _first_to_expire(file: Path, _changed_at: int) -> float:
    """Read once for each state of the file. ValueError where no certificate can be read."""
    certificates = x509.load_pem_x509_certificates(file.read_bytes())
    return min(certificate.not_valid_after_utc.timestamp() for certificate in certificates)
