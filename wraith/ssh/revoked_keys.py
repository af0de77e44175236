"""The revoked keys: keys and fingerprints, one a line, that nobody logs in with."""

from __future__ import annotations

import base64
import re

from ..errors import UnusableFile
from .algorithms import blob_fields
from .key_files import fingerprint_of
from .offer import Offer

MAX_FILE = 16 << 20  # bytes; some 160,000 keys

_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_KRL = "SSHKRL"  # PROTOCOL.krl of OpenSSH: the first bytes of a binary list


def parse_revoked_line(line: str, number: int, source: str) -> str | None:
    """Read one line: the fingerprint it revokes, or None for a blank line or a comment. Raises UnusableFile."""
    where = f"{source}:{number}"
    if line.startswith(_KRL):
        raise UnusableFile(f"{where}: a binary list (KRL) is not read here: write keys or fingerprints, one a line")
    words = line.split()
    if not words or words[0].startswith("#"):
        return None
    if words[0].startswith("SHA256:"):
        fingerprint = words[0].rstrip("=")
        if not _FINGERPRINT.fullmatch(fingerprint):
            raise UnusableFile(f"{where}: {words[0][:64]!a} is not a fingerprint")
        return fingerprint
    if "-cert-" in words[0]:
        raise UnusableFile(f"{where}: a certificate is revoked by its key or by its authority: write one of these")
    blob = _blob(words)
    if blob is None:
        raise UnusableFile(f"{where}: neither a public key nor a fingerprint: write SHA256:… or ssh-ed25519 AAAA…")
    return fingerprint_of(blob)


def is_revoked(revoked: frozenset[str], offer: Offer) -> bool:
    """Whether a key is, or a certificate's key or authority."""
    return offer.fingerprint in revoked or (offer.certificate is not None and offer.certificate.authority in revoked)


def _blob(words: list[str]) -> bytes | None:
    """Decode a public key of whatever type: one that nobody could log in with may stand here too."""
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (IndexError, ValueError):
        return None
    fields = blob_fields(blob)
    return blob if fields and fields[0] == words[0].encode() else None
