"""What watcher.observe.etcd_client uses of etcd3 0.12."""

from typing import Any

class Etcd3Client:
    channel: Any
    kvstub: Any
    leasestub: Any
    def close(self) -> None: ...

def client(
    host: str = ...,
    port: int = ...,
    ca_cert: str | None = ...,
    cert_key: str | None = ...,
    cert_cert: str | None = ...,
    timeout: float | None = ...,
    user: str | None = ...,
    password: str | None = ...,
    grpc_options: list[tuple[str, int]] | None = ...,
) -> Etcd3Client: ...
