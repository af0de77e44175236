"""What a client offers to log in with: a public key, or a user certificate."""

from __future__ import annotations

from dataclasses import dataclass

import asyncssh

from .algorithms import verifying_key, why_unacceptable
from .certificates import BadCertificate, Certificate, Holder, is_certificate, parse_certificate
from .key_files import fingerprint_of


class BadOffer(ValueError):
    """A key or certificate that no rule could let in; the text says why."""

    def __init__(self, reason: str, *, certificate: bool) -> None:
        super().__init__(reason)
        self.certificate = certificate


@dataclass(frozen=True, slots=True)
class Credential:
    """Who logged in, for what belongs to them: a remote port goes to the same credential again, and to no other.

    Never the user name, which any holder of a key chooses.
    """

    fingerprint: str  # of the key; for a certificate of its authority
    serial: int | None = None  # of a certificate
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """A well-formed key, with its certificate if it came in one. Who holds it is not proven by it."""

    key_blob: bytes  # RFC 4253 6.6 encoding of the key that has to sign
    certificate: Certificate | None = None

    @property
    def fingerprint(self) -> str:
        """The `SHA256:…` of the key that has to sign."""
        return fingerprint_of(self.key_blob)

    @property
    def credential(self) -> Credential:
        """What is the same each time this is offered."""
        if self.certificate is None:
            return Credential(self.fingerprint)
        return Credential(self.certificate.authority, self.certificate.serial, self.certificate.key_id)

    def verifying_key(self) -> asyncssh.SSHKey:
        """Give the key that checks the signature of whoever offers this."""
        return verifying_key(self.key_blob)


def read_offer(blob: bytes) -> Offer:
    """Decode what a client sent; a certificate's own signature is verified. Raises BadOffer."""
    certificate: Certificate | None = None
    if is_certificate(blob):
        try:
            certificate = parse_certificate(blob)
        except BadCertificate as error:
            raise BadOffer(str(error), certificate=True) from error
        if certificate.holder is not Holder.USER:
            raise BadOffer("is a host's certificate", certificate=True)
        blob = certificate.key_blob
    reason = why_unacceptable(blob)
    if reason is not None:
        raise BadOffer(reason, certificate=False)
    try:
        verifying_key(blob)
    except ValueError as error:
        raise BadOffer("is damaged", certificate=certificate is not None) from error
    return Offer(blob, certificate)
