"""Certificates for tests: an authority of our own, and what it issues, good and bad."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from wraith_transports.tls import ServerContext, server_context, spki_pin

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate, its key and its chain, in PEM."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    issuers: tuple[x509.Certificate, ...] = ()

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def chain_pem(self) -> bytes:
        return b"".join(each.public_bytes(Encoding.PEM) for each in (self.certificate, *self.issuers))

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def pin(self) -> str:
        return spki_pin(self.certificate.public_bytes(Encoding.DER))

    def server_context(self) -> ServerContext:
        return server_context(self.chain_pem, self.key_pem)


def issue(
    names: Sequence[str] = ("localhost", "127.0.0.1", "::1"),
    *,
    by: Issued | None = None,
    key: ec.EllipticCurvePrivateKey | None = None,
    ca: bool = False,
    common_name: str | None = None,
    starts: datetime | None = None,
    ends: datetime | None = None,
) -> Issued:
    """Make a certificate signed by `by`, or by itself."""
    now = datetime.now(UTC)
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name or (names[0] if names else "nobody"))])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(starts or now - DAY)
        .not_valid_after(ends or now + 30 * DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
    signed = builder.sign(by.key if by else key, hashes.SHA256())
    return Issued(signed, key, (by.certificate, *by.issuers) if by else ())


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


AUTHORITY = issue((), ca=True, common_name="Test Authority")
LOCALHOST = issue(by=AUTHORITY)
