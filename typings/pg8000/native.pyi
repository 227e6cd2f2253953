"""The part of pg8000.native that the watcher uses."""

import ssl
from typing import Any

class Connection:
    def __init__(
        self,
        user: str,
        host: str | None = ...,
        database: str | None = ...,
        port: int = ...,
        password: str | None = ...,
        unix_sock: str | None = ...,
        ssl_context: ssl.SSLContext | bool | None = ...,
        timeout: float | None = ...,
        application_name: str | None = ...,
        sock: Any = ...,
    ) -> None: ...
    def run(self, sql: str, **params: Any) -> list[list[Any]] | None: ...
    @property
    def columns(self) -> list[dict[str, Any]] | None: ...
    @property
    def row_count(self) -> int: ...
    def handle_messages(self, context: Any) -> None: ...
    def close(self) -> None: ...
