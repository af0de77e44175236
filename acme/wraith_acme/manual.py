"""The certificate and key a user gives, from files or as bytes."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from .certificate import Certificate, parse_certificate
from .errors import CertificateError
from .files import read_file


def load_manual(certificate: Path | bytes, key: Path | bytes, *, now: datetime) -> Certificate:
    """Read a chain and its key in PEM, and check everything that would keep a server from using them.

    Raises CertificateError: unreadable, not PEM, encrypted, a key others can read, not each other's, out of
    order, not valid now.
    """
    chain_origin, chain = _read(certificate, "--tls-cert")
    key_origin, key_bytes = _read(key, "--tls-key", private=True)
    loaded = parse_certificate(chain, key_bytes, chain_origin=chain_origin, key_origin=key_origin)
    if loaded.not_after <= now:
        raise CertificateError(f"{chain_origin}: the certificate has expired on {loaded.not_after:%Y-%m-%d}")
    if loaded.not_before > now:
        raise CertificateError(
            f"{chain_origin}: the certificate is not valid before {loaded.not_before:%Y-%m-%d %H:%M} UTC"
        )
    return loaded


def _read(source: Path | bytes, option: str, *, private: bool = False) -> tuple[str, bytes]:
    if isinstance(source, bytes):
        return option, source
    origin = f"{option} {source}"
    return origin, read_file(source, origin=origin, private=private)
