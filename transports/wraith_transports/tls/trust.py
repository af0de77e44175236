"""What makes a server's certificate the expected one, and how to say why it is not."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_PIN_PREFIX = "sha256//"
_SHOWN_NAMES = 6  # of a certificate in an error; some have a hundred
_SHOWN_LENGTH = 100  # of one of them

# X509_verify_cert's results, openssl/x509_vfy.h.
_NOT_YET_VALID = 9
_EXPIRED = 10
_SELF_SIGNED = 18
_SELF_SIGNED_IN_CHAIN = 19
_UNKNOWN_ISSUER = (2, 20, 21)
_WRONG_NAME = (62, 64)


@dataclass(frozen=True, slots=True)
class Verification:
    """How a client checks the server: by system roots and name unless something here says otherwise.

    Pins replace the checks of chain and name; `insecure` drops all of them.
    """

    ca: Path | bytes | None = None  # PEM, roots to use instead of the system's
    pins: tuple[str, ...] = ()  # "sha256//BASE64", any of which will do
    insecure: bool = False
    server_name: str | None = None  # instead of the host that is dialled, for SNI and the name check

    @property
    def by_chain(self) -> bool:
        """Whether the chain and the name are checked."""
        return not self.pins and not self.insecure


SYSTEM_ROOTS = Verification()


def spki_pin(der_certificate: bytes) -> str:
    """Compute the pin of a certificate's public key, as curl's --pinnedpubkey writes it.

    Raises ValueError for what is not a certificate.
    """
    certificate = x509.load_der_x509_certificate(der_certificate)
    try:
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except UnsupportedAlgorithm as error:
        raise ValueError("a public key of an unknown kind") from error
    return _PIN_PREFIX + base64.b64encode(hashlib.sha256(spki).digest()).decode("ascii")


def checked_name(host: str) -> str:
    """Reduce a host to the form certificates are checked against: no zone, no trailing dot."""
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return host.removesuffix(".")


def explain_pin_mismatch(where: str, certificate: bytes) -> str:
    """Say which key was shown where another was pinned; `certificate` is DER."""
    seen = _read(certificate)
    key = seen.pin if seen else "of an unknown kind"
    return f"{where} shows the public key {key}, and --tls-pin names another: find out which is right before going on"


def explain_untrusted(
    where: str, name: str, code: int, reason: str, certificate: bytes | None, *, now: datetime
) -> str:
    """Say in one line why a certificate was not accepted and what can be done.

    `code` and `reason` are OpenSSL's; `certificate` is what the server showed (DER), if that is known.
    """
    seen = _read(certificate)
    problem, remedy = _diagnose(name, code, reason, seen, now)
    pin = f"use --tls-pin {seen.pin} if that is the server's own key" if seen else "pin the server's key with --tls-pin"
    return f"{where}: {problem}; {remedy}{', or ' if remedy else ''}{pin}"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a person may want to know of a certificate."""

    pin: str
    names: tuple[str, ...]
    issuer: str
    not_before: datetime
    not_after: datetime


def _read(certificate: bytes | None) -> _Seen | None:
    """Parse what a stranger sent; None when that cannot be done."""
    if certificate is None:
        return None
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        return _Seen(
            pin=spki_pin(certificate),
            names=tuple(_names(parsed)),
            issuer=_printable(parsed.issuer.rfc4514_string()),
            not_before=parsed.not_valid_before_utc,
            not_after=parsed.not_valid_after_utc,
        )
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return None


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [_printable(str(name.value)) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]


def _diagnose(name: str, code: int, reason: str, seen: _Seen | None, now: datetime) -> tuple[str, str]:
    """Return what is wrong, and what to do besides pinning."""
    if code in _WRONG_NAME:
        return (
            f"the certificate is not for {name}" + (f" but for {_listed(seen.names)}" if seen else ""),
            "name what it should be for with --tls-server-name",
        )
    if code in (_EXPIRED, _NOT_YET_VALID):
        return f"the certificate {_period(code, seen, now)}", "check the clock here and renew it there"
    if code == _SELF_SIGNED:
        return "the certificate is self-signed", ""
    if code == _SELF_SIGNED_IN_CHAIN or code in _UNKNOWN_ISSUER:
        issuer = f" ({seen.issuer})" if seen and seen.issuer else ""
        return (
            f"the certificate is from a CA that is not trusted here{issuer}",
            "name a file with the CA's certificate with --tls-ca",
        )
    return f"the certificate is not accepted ({_printable(reason)})", ""


def _period(code: int, seen: _Seen | None, now: datetime) -> str:
    if code == _EXPIRED:
        return "has expired" + (f" on {seen.not_after:%Y-%m-%d}" if seen and seen.not_after < now else "")
    return "is not valid yet" + (f", until {seen.not_before:%Y-%m-%d}" if seen and seen.not_before > now else "")


def _listed(names: tuple[str, ...]) -> str:
    if not names:
        return "no name at all"
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more


def _printable(text: str) -> str:
    """Keep a stranger's text from reaching a terminal as anything but characters, and from filling it."""
    shown = text if text.isascii() and text.isprintable() else ascii(text)[1:-1]
    return shown if len(shown) <= _SHOWN_LENGTH else shown[:_SHOWN_LENGTH] + "…"
