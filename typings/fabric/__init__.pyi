"""The part of Fabric that the watcher uses."""

from typing import Any

import paramiko

class Config:
    def __init__(self, *, lazy: bool = ..., overrides: dict[str, Any] | None = ...) -> None: ...

class Connection:
    client: paramiko.SSHClient
    def __init__(
        self,
        host: str,
        user: str | None = ...,
        port: int | None = ...,
        config: Config | None = ...,
        connect_timeout: float | None = ...,
        connect_kwargs: dict[str, Any] | None = ...,
    ) -> None: ...
    @property
    def transport(self) -> paramiko.Transport | None: ...
    @property
    def is_connected(self) -> bool: ...
    def open(self) -> Any: ...
    def close(self) -> None: ...
