"""Who may log in: an offer judged by authorized_keys, authorities and revoked keys as they stand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from .authorized_keys import AuthorizedKey
from .certificates import Certificate
from .grant import Grant
from .key_options import NO_OPTIONS, KeyOptions
from .offer import Offer
from .revoked_keys import is_revoked


class Refusal(Enum):
    """Why an offer was refused, in the words of the log."""

    UNKNOWN_KEY = "unknown-key"
    UNKNOWN_AUTHORITY = "unknown-authority"  # of a certificate
    BAD_KEY = "bad-key"  # malformed, or of a type or size that is not accepted
    BAD_CERTIFICATE = "bad-certificate"  # malformed, for a host, without principals, or with what is not supported
    BAD_SIGNATURE = "bad-signature"
    NO_SIGNATURE = "no-signature"  # asked about a key that may log in, and left it at that
    REVOKED = "revoked"
    REVOCATIONS_UNREADABLE = "revocations-unreadable"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    FROM = "from"
    SOURCE_ADDRESS = "source-address"
    PRINCIPAL = "principal"


@dataclass(frozen=True, slots=True)
class LoginRules:
    """All that decides who may log in, at one moment."""

    lines: tuple[AuthorizedKey, ...] = ()  # of authorized_keys
    authorities: tuple[AuthorizedKey, ...] = ()  # trusted for everybody
    principals: frozenset[str] = frozenset()  # that those authorities' certificates need one of; none: the user's name
    revoked: frozenset[str] = frozenset()  # fingerprints
    _by_blob: dict[bytes, tuple[AuthorizedKey, ...]] = field(init=False, repr=False, compare=False)
    _authorities_by_blob: dict[bytes, tuple[AuthorizedKey, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_blob", _index(self.lines))
        object.__setattr__(self, "_authorities_by_blob", _index(self.authorities))

    def judge(self, offer: Offer, user: str, address: str, now: float) -> Grant | Refusal:
        """Judge what is offered for a user by a peer at an address.

        The first line that lets it in decides, as in sshd; where none does, the first one's reason
        is given.
        """
        if is_revoked(self.revoked, offer):
            return Refusal.REVOKED
        certificate = offer.certificate
        refusal: Refusal | None = None
        key = offer.key_blob if certificate is None else certificate.authority_blob
        for line in self._by_blob.get(key, ()):
            options = line.options
            if options.cert_authority is not (certificate is not None):
                continue
            reason = _why_not(options, address, now)
            if reason is None and certificate is not None:
                reason = judge_certificate(certificate, options.principals or frozenset({user}), address, now)
            if reason is None:
                return _grant(offer, user, address, line, options)
            refusal = refusal or reason
        if certificate is None:
            return refusal or Refusal.UNKNOWN_KEY
        for line in self._authorities_by_blob.get(key, ()):
            reason = judge_certificate(certificate, self.principals or frozenset({user}), address, now)
            if reason is None:
                return _grant(offer, user, address, line, NO_OPTIONS)
            refusal = refusal or reason
        return refusal or Refusal.UNKNOWN_AUTHORITY


def judge_certificate(certificate: Certificate, principals: frozenset[str], address: str, now: float) -> Refusal | None:
    """Judge a certificate whose authority is trusted: it has to name one of `principals`."""
    if not certificate.principals:
        return Refusal.BAD_CERTIFICATE  # it would be anyone's
    if now < certificate.valid_after:
        return Refusal.NOT_YET_VALID
    if now >= certificate.valid_before:
        return Refusal.EXPIRED
    if not certificate.principals & principals:
        return Refusal.PRINCIPAL
    if certificate.source_addresses is not None and not certificate.source_addresses.matches(address):
        return Refusal.SOURCE_ADDRESS
    return None


def _why_not(options: KeyOptions, address: str, now: float) -> Refusal | None:
    # Through the whole last second, as sshd, which compares seconds.
    if options.expires_at is not None and int(now) > options.expires_at:
        return Refusal.EXPIRED
    if options.come_from is not None and not options.come_from.matches(address):
        return Refusal.FROM
    return None


def _grant(offer: Offer, user: str, address: str, line: AuthorizedKey, options: KeyOptions) -> Grant:
    forwarding = offer.certificate is None or offer.certificate.port_forwarding
    return Grant(
        offer=offer,
        user=user,
        address=address,
        ground=line.where,
        port_forwarding=options.port_forwarding and forwarding,
        permit_open=options.permit_open,
        permit_listen=options.permit_listen,
    )


def _index(lines: Iterable[AuthorizedKey]) -> dict[bytes, tuple[AuthorizedKey, ...]]:
    found: dict[bytes, list[AuthorizedKey]] = {}
    for line in lines:
        found.setdefault(line.public_data, []).append(line)
    return {blob: tuple(each) for blob, each in found.items()}
