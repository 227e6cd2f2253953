"""A certificate authority for the bed, with the good and the bad certificates that tests need."""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class KeyPair:
    """Two PEM files: a certificate and its private key (readable by all: it is worth nothing)."""

    certificate: Path
    key: Path


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: str,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    start: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )


class Authority:
    """A CA with its files in `folder`. Another Authority of the same name is the «wrong CA» of a test."""

    def __init__(self, folder: Path, name: str = "bed-ca") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            _builder(name, self._name, self._key, now - 400 * DAY, now + 400 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def server(
        self,
        name: str,
        hosts: Sequence[str],
        *,
        valid_for: datetime.timedelta = 30 * DAY,
        begins_in: datetime.timedelta = -30 * DAY,
    ) -> KeyPair:
        """A certificate for a server reached at `hosts` (addresses or names); usable as a client's too.

        etcd's own gateway presents its server certificate as a client, hence both usages.
        """
        names = [_general_name(host) for host in hosts]
        return self._issue(name, begins_in, valid_for, x509.SubjectAlternativeName(names))

    def client(self, common_name: str, *, valid_for: datetime.timedelta = 30 * DAY) -> KeyPair:
        """A certificate for a client. etcd with authentication takes `common_name` as the user."""
        return self._issue(common_name, -30 * DAY, valid_for, None)

    def expired_server(self, name: str, hosts: Sequence[str]) -> KeyPair:
        """As server(), but it ran out yesterday."""
        return self.server(name, hosts, valid_for=-DAY)

    def early_server(self, name: str, hosts: Sequence[str]) -> KeyPair:
        """As server(), but it begins to be valid tomorrow."""
        return self.server(name, hosts, begins_in=DAY)

    def expired_client(self, common_name: str) -> KeyPair:
        """As client(), but it ran out yesterday."""
        return self.client(common_name, valid_for=-DAY)

    def _issue(
        self,
        name: str,
        begins_in: datetime.timedelta,
        valid_for: datetime.timedelta,
        alternatives: x509.SubjectAlternativeName | None,
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        builder = _builder(name, self._name, key, now + begins_in, now + valid_for).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        if alternatives is not None:
            builder = builder.add_extension(alternatives, critical=False)
        pair = KeyPair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        signed = builder.sign(self._key, hashes.SHA256())
        pair.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        _write_key(pair.key, key)
        return pair


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@dataclass(frozen=True)
class Tls:
    """What a TLS server of the bed needs.

    `authority` signs the servers' certificates and is what servers trust. With `client_certificates` clients
    must show one. `expired` gives the servers certificates that ran out.
    """

    authority: Authority
    client_certificates: bool = False
    expired: bool = False

    def for_server(self, name: str, hosts: Sequence[str]) -> KeyPair:
        """The key pair of one server."""
        issue = self.authority.expired_server if self.expired else self.authority.server
        return issue(name, hosts)
