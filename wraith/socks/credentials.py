"""Who may use a SOCKS port that asks for a password."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from wraith.errors import UnusableFile

FIELD_LIMIT = 255  # RFC 1929: one byte for each length
FILE_LIMIT = 64 << 10  # every line is compared at each login
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Credentials:
    """The users and passwords that a SOCKS port accepts. Shows neither."""

    def __init__(self, users: dict[bytes, bytes]) -> None:
        # Digests under a key of this object: equal lengths for the comparison, and no password kept.
        self._key = secrets.token_bytes(32)
        self._digests = tuple(self._digest(user, password) for user, password in users.items())

    def accepts(self, user: bytes, password: bytes) -> bool:
        """Whether this is one of the pairs; takes as long for an unknown user as for a wrong password."""
        offered = self._digest(user, password)
        found = False
        for digest in self._digests:
            found |= hmac.compare_digest(digest, offered)
        return found

    def _digest(self, user: bytes, password: bytes) -> bytes:
        # The length keeps ("a", "bc") apart from ("ab", "c").
        return hmac.digest(self._key, len(user).to_bytes(8, "big") + user + password, hashlib.sha256)


def parse_credentials(data: bytes, source: str) -> Credentials:
    """Read lines of `user:password`; empty lines and lines that begin with # are left out.

    `source` names the file in errors, which never repeat a line. Raises UnusableFile.
    """
    users: dict[bytes, bytes] = {}
    for number, raw in enumerate(data.split(b"\n"), 1):
        line = raw.removesuffix(b"\r")
        if not line or line.startswith(b"#"):
            continue
        user, colon, password = line.partition(b":")
        if not colon:
            raise UnusableFile(f"{source}, line {number}: no colon; write user:password")
        for name, field in (("user", user), ("password", password)):
            if not 1 <= len(field) <= FIELD_LIMIT:
                raise UnusableFile(f"{source}, line {number}: the {name} must have 1 to {FIELD_LIMIT} bytes")
            if any(byte < 0x20 or byte == 0x7F for byte in field):
                raise UnusableFile(f"{source}, line {number}: the {name} holds a control character")
        if user in users:
            raise UnusableFile(f"{source}, line {number}: this user has a line already; leave one")
        users[user] = password
    if not users:
        raise UnusableFile(f"{source}: no user in it; write lines of user:password")
    return Credentials(users)


def read_credentials(path: Path) -> Credentials:
    """Read a file of `user:password` lines that nobody else may read. Raises UnusableFile."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            # Windows has no such bits; there the user's folder keeps others out.
            if os.name == "posix" and mode & _OTHERS:
                raise UnusableFile(f"{path}: others can read it or write it; run: chmod 600 {path}")
            data = file.read(FILE_LIMIT + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UnusableFile(f"{path}: {reason or error}") from error
    if len(data) > FILE_LIMIT:
        raise UnusableFile(f"{path}: larger than {FILE_LIMIT >> 10} KiB, which no list of users needs")
    return parse_credentials(data, str(path))
