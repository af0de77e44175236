"""A certificate chain with its key, read from PEM and checked to belong together."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from .errors import CertificateError

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

_CERTIFICATE_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")
# Other blocks may stand beside it: `openssl ecparam` writes EC PARAMETERS first, some files hold the chain too.
_KEY_BLOCK = re.compile(rb"-----BEGIN (?P<kind>[A-Z ]*PRIVATE KEY)-----.+?-----END (?P=kind)-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a TLS server needs, and what a person wants to know of it."""

    chain_pem: bytes  # the leaf first
    key_pem: bytes = field(repr=False)  # unencrypted
    names: tuple[str, ...]  # DNS names and addresses the leaf is for
    not_before: datetime
    not_after: datetime
    pin: str  # "sha256//BASE64" of the public key, as curl writes it


def parse_certificate(chain: bytes, key: bytes, *, chain_origin: str, key_origin: str) -> Certificate:
    """Read a chain and a key, each of which may stand among other PEM blocks, and check that they fit.

    The origins name the sources in errors. Whether it is valid now is not judged. Raises CertificateError.
    """
    certificates = _read_chain(chain, chain_origin)
    key_pem = _find_key(key, key_origin)
    public = public_key_der(_load_key(key_pem, key_origin))
    leaf = certificates[0]
    if _public_key_of(leaf) != public:
        if any(_public_key_of(other) == public for other in certificates[1:]):
            raise CertificateError(f"{chain_origin}: the server's own certificate must come first, then its issuers'")
        raise CertificateError(f"{key_origin} is not the key of the certificate in {chain_origin}")
    for issued, issuer in pairwise(certificates):
        if issued.issuer != issuer.subject:
            raise CertificateError(f"{chain_origin}: out of order: each certificate must be followed by its issuer's")
    return Certificate(
        chain_pem=b"".join(each.public_bytes(Encoding.PEM) for each in certificates),
        key_pem=key_pem,
        names=_names(leaf, chain_origin),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        pin=_pin(public),
    )


def parse_key(key: bytes, *, origin: str) -> PrivateKey:
    """Read an unencrypted private key from PEM. Raises CertificateError."""
    return _load_key(_find_key(key, origin), origin)


def public_key_der(key: PrivateKey) -> bytes:
    """Encode the public half as SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _read_chain(chain: bytes, origin: str) -> list[x509.Certificate]:
    blocks = _CERTIFICATE_BLOCK.findall(chain)
    if not blocks:
        if _KEY_BLOCK.search(chain):
            raise CertificateError(f"{origin} holds a key and no certificate")
        raise CertificateError(f"{origin} holds no certificate in PEM")
    try:
        return [x509.load_pem_x509_certificate(block) for block in blocks]
    except ValueError as error:
        raise CertificateError(f"{origin}: a certificate in it cannot be read") from error


def _find_key(key: bytes, origin: str) -> bytes:
    found = _KEY_BLOCK.search(key)
    if found is None:
        if _CERTIFICATE_BLOCK.search(key):
            raise CertificateError(f"{origin} holds a certificate and no private key")
        raise CertificateError(f"{origin} holds no private key in PEM")
    if found["kind"] == b"OPENSSH PRIVATE KEY":
        raise CertificateError(f"{origin} is an SSH key; a TLS certificate's key is PEM of another kind")
    return found[0] + b"\n"


def _load_key(key_pem: bytes, origin: str) -> PrivateKey:
    try:
        key = load_pem_private_key(key_pem, password=None)
    except TypeError as error:
        # What cryptography raises for a key that wants a passphrase.
        raise CertificateError(f"{origin} is encrypted; decrypt it with: openssl pkey -in FILE -out NEWFILE") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{origin}: the private key cannot be read") from error
    if not isinstance(key, PrivateKey):
        raise CertificateError(f"{origin}: a key of a kind that TLS does not use")
    return key


def _public_key_of(certificate: x509.Certificate) -> bytes:
    try:
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        return b""  # belongs to no key of ours


def _names(certificate: x509.Certificate, origin: str) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise CertificateError(f"{origin}: the names in the certificate cannot be read") from error
    return tuple(str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress))


def _pin(spki: bytes) -> str:
    return "sha256//" + base64.b64encode(hashlib.sha256(spki).digest()).decode("ascii")
