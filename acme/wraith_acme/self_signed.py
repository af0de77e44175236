"""The certificate that is made when no other is given, and the key that outlives it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .certificate import Certificate, PrivateKey, parse_certificate, parse_key
from .errors import CertificateError
from .store import Store

CERTIFICATE_FILE = "self-signed.crt"
KEY_FILE = "self-signed.key"
DEFAULT_NAMES = ("localhost",)  # whoever pins the key checks no name

# Clients pin the key, which no date limits; a short life would only add days on which a start may go wrong.
LIFETIME = timedelta(days=3650)
RENEW_BEFORE = timedelta(days=30)
BACKDATED = timedelta(days=1)  # for clients whose clock is behind
_MAX_COMMON_NAME = 64  # RFC 5280, appendix A.1: ub-common-name


def load_or_make_self_signed(folder: Path, *, names: Sequence[str] = DEFAULT_NAMES, now: datetime) -> Certificate:
    """Return the stored certificate, or make one and store it.

    It is made anew, with the same key and so the same pin, when it is about to expire, is not for all of
    `names`, or cannot be read; a new key is made only when there is none or it cannot be read. Files that
    cannot be read are set aside. Raises CertificateError when the folder cannot be used.
    """
    store = Store(folder)
    key_pem, key = _stored_key(store)
    if key is None:
        key = ec.generate_private_key(ec.SECP256R1())
        key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        store.write(KEY_FILE, key_pem)
    else:
        stored = _stored_certificate(store, key_pem)
        if stored is not None and _still_good(stored, names, now):
            return stored
    chain_pem = make_self_signed(key, names, now=now)
    store.write(CERTIFICATE_FILE, chain_pem)
    return _pair(store, chain_pem, key_pem)


def make_self_signed(key: PrivateKey, names: Sequence[str], *, now: datetime) -> bytes:
    """Issue a certificate of `key` for itself, for DNS names and addresses; PEM."""
    common_name = next((name for name in names if len(name) <= _MAX_COMMON_NAME), DEFAULT_NAMES[0])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    public_key = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


def _stored_key(store: Store) -> tuple[bytes, PrivateKey | None]:
    content = store.read(KEY_FILE, private=True)
    if content is None:
        return b"", None
    try:
        return content, parse_key(content, origin=str(store.path(KEY_FILE)))
    except CertificateError as error:
        store.set_aside(KEY_FILE, f"{error}; a new key is made, and clients need its new pin")
        return b"", None


def _stored_certificate(store: Store, key_pem: bytes) -> Certificate | None:
    content = store.read(CERTIFICATE_FILE)
    if content is None:
        return None
    try:
        return _pair(store, content, key_pem)
    except CertificateError as error:
        store.set_aside(CERTIFICATE_FILE, f"{error}; a new certificate is made with the same key")
        return None


def _pair(store: Store, chain_pem: bytes, key_pem: bytes) -> Certificate:
    return parse_certificate(
        chain_pem,
        key_pem,
        chain_origin=str(store.path(CERTIFICATE_FILE)),
        key_origin=str(store.path(KEY_FILE)),
    )


def _still_good(stored: Certificate, names: Sequence[str], now: datetime) -> bool:
    wanted = {str(_general_name(name).value) for name in names}
    return stored.not_before <= now < stored.not_after - RENEW_BEFORE and wanted <= set(stored.names)


def _general_name(name: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
