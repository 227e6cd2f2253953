"""Whom a TLS connection trusts and who we are to it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from watcher.decide.errors import SourceError


@dataclass(frozen=True, slots=True)
class Trust:
    """Files in PEM. Without `ca` the system's authorities are trusted."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """From the files as they are now: a renewed certificate needs no restart. SourceError if unusable."""
        try:
            return _context(self, tuple(file.stat().st_mtime_ns for file in self._files()))
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            files = ", ".join(map(str, self._files()))
            raise SourceError(
                f"TLS files {files or 'of the system'}",
                f"cannot be used: {error}",
                "each must be PEM, readable by the watcher, and the key must belong to the certificate",
            ) from error

    def _files(self) -> list[Path]:
        return [file for file in (self.ca, self.certificate, self.key) if file is not None]


@lru_cache(maxsize=16)
def _context(trust: Trust, _changed_at: tuple[int, ...]) -> ssl.SSLContext:
    """Made once for each state of the files: reading the system's authorities takes some ten milliseconds."""
    context = ssl.create_default_context(cafile=None if trust.ca is None else str(trust.ca))
    if trust.certificate is not None:
        context.load_cert_chain(trust.certificate, trust.key, password=_no_passphrase)
    return context


def _no_passphrase() -> str:
    """Asked for the passphrase of an encrypted key; without this OpenSSL would ask at the terminal."""
    raise ValueError("the key is encrypted")
