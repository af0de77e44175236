"""One connection's attempts to log in: each offer judged, all of them told in one line of the log."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import asyncssh

from .grant import Grant
from .key_files import fingerprint_of
from .key_ring import KeyRing
from .login_rules import Refusal
from .offer import BadOffer, Offer, read_offer

REQUESTS_A_KEY = 4  # a client asks without one, about it, signs with it, and may repeat that under another name


@dataclass(frozen=True, slots=True)
class Attempt:
    """A key or certificate as it was offered, and what became of it."""

    fingerprint: str  # of the key, also where it came in a certificate
    verdict: Grant | Refusal
    detail: str = ""  # what is wrong with a bad one


class Login:
    """Judges what a peer offers, counts it, and keeps what the log wants to know."""

    def __init__(self, keys: KeyRing, address: str, max_attempts: int, clock: Callable[[], float] = time.time) -> None:
        """Prepare for a peer at an address; `clock` gives the seconds since 1970."""
        self._keys = keys
        self._address = address
        self._max_attempts = max_attempts
        self._clock = clock
        self._attempts: dict[bytes, Attempt] = {}  # by what was offered, the last one last
        self._requests = 0
        self.user = ""
        self.grant: Grant | None = None  # once somebody is logged in

    @property
    def tried(self) -> int:
        """How many keys and certificates were offered."""
        return len(self._attempts)

    @property
    def failed(self) -> bool:
        """Whether somebody tried to get in and did not: by keys, or by methods there are not (`none` is a question)."""
        return self.grant is None and (self.tried > 0 or self._requests > 1)

    def asked(self) -> None:
        """Count a request of any kind, also one that offers nothing. Raises asyncssh.PermissionDenied at the limit."""
        self._requests += 1
        if self._requests > self._max_attempts * REQUESTS_A_KEY:
            raise asyncssh.PermissionDenied("Too many authentication requests")

    def offered(self, user: str, blob: bytes) -> tuple[Attempt, asyncssh.SSHKey | None]:
        """Judge an offer; the key its signature has to fit, if it may log in.

        Raises asyncssh.PermissionDenied when there have been too many.
        """
        self.user = user
        if blob not in self._attempts and len(self._attempts) >= self._max_attempts:
            raise asyncssh.PermissionDenied("Too many authentication failures")
        self._attempts.pop(blob, None)
        attempt, offer = self._judge(user, blob)
        self._attempts[blob] = attempt
        return attempt, offer.verifying_key() if offer is not None and isinstance(attempt.verdict, Grant) else None

    def proven(self, blob: bytes) -> None:
        """Note that the peer holds the key it offered last, so that it is logged in."""
        verdict = self._attempts[blob].verdict
        assert isinstance(verdict, Grant)
        self.grant = verdict

    def not_proven(self, blob: bytes) -> None:
        """Note that a signature was wrong."""
        self._attempts[blob] = Attempt(self._attempts[blob].fingerprint, Refusal.BAD_SIGNATURE)

    def judge_again(self) -> Refusal | None:
        """Judge the session by the rules as they are now, and let it have what they give; why it has to end."""
        if self.grant is None:
            return None
        verdict = self._keys.judge_again(self.grant, self._clock())
        if isinstance(verdict, Refusal):
            return verdict
        self.grant = verdict
        return None

    def fields(self) -> dict[str, object]:
        """Give what the one line of the log says, accepted or not."""
        if self.grant is not None:
            certificate = self.grant.offer.certificate
            told: dict[str, object] = {"key_fingerprint": self.grant.offer.fingerprint, "result": "accept"}
            if certificate is not None:
                told |= {
                    "ca_fingerprint": certificate.authority,
                    "serial": certificate.serial,
                    "key_id": certificate.key_id,
                }
            return {"user": self.user, **told, "keys_tried": self.tried}
        worst = _most_telling(list(self._attempts.values()))
        return {
            "user": self.user,
            "key_fingerprint": worst.fingerprint if worst is not None else None,
            "result": "reject",
            "keys_tried": self.tried,
            "reason": _reason(worst).value if worst is not None else "no-key",
        }

    def _judge(self, user: str, blob: bytes) -> tuple[Attempt, Offer | None]:
        try:
            offer = read_offer(blob)
        except BadOffer as error:
            refusal = Refusal.BAD_CERTIFICATE if error.certificate else Refusal.BAD_KEY
            return Attempt(fingerprint_of(blob), refusal, str(error)), None
        verdict = self._keys.judge(offer, user, self._address, self._clock())
        return Attempt(offer.fingerprint, verdict), offer


def _most_telling(attempts: list[Attempt]) -> Attempt | None:
    """Choose the last one that was more than unknown: an agent offers many keys, and one was meant."""
    known = [attempt for attempt in attempts if attempt.verdict is not Refusal.UNKNOWN_KEY]
    chosen = known or attempts
    return chosen[-1] if chosen else None


def _reason(attempt: Attempt) -> Refusal:
    return attempt.verdict if isinstance(attempt.verdict, Refusal) else Refusal.NO_SIGNATURE
