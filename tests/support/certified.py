"""Certificates built field by field, also such as no ssh-keygen would make."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass

import asyncssh

USER, HOST = 1, 2
FOREVER = 2**64 - 1


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def pairs(options: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(string(name) + string(value) for name, value in options)


@dataclass(frozen=True, slots=True)
class Draft:
    """A certificate before it is signed (PROTOCOL.certkeys). Extensions and options as they are encoded."""

    holder: int = USER
    serial: int = 7
    key_id: bytes = b"me"
    principals: tuple[bytes, ...] = (b"wraith",)
    valid_after: int = 0
    valid_before: int = FOREVER
    critical: tuple[tuple[bytes, bytes], ...] = ()
    extensions: tuple[tuple[bytes, bytes], ...] = ((b"permit-port-forwarding", b""),)
    tail: bytes = b""  # after the signature

    def signed(self, key: asyncssh.SSHKey, authority: asyncssh.SSHKey, algorithm: bytes | None = None) -> bytes:
        """Give the certificate as it is encoded."""
        kind, fields = _split(key.public_data)
        body = (
            string(kind.removesuffix(b"@openssh.com") + b"-cert-v01@openssh.com")
            + string(b"nonce")
            + fields
            + struct.pack(">QI", self.serial, self.holder)
            + string(self.key_id)
            + string(b"".join(map(string, self.principals)))
            + struct.pack(">QQ", self.valid_after, self.valid_before)
            + string(pairs(list(self.critical)))
            + string(pairs(list(self.extensions)))
            + string(b"")
            + string(authority.public_data)
        )
        chosen = algorithm or authority.sig_algorithms[0]
        return body + string(authority.sign(body, chosen)) + self.tail


def public_line(blob: bytes) -> bytes:
    return b"%s %s me\n" % (_split(blob)[0], base64.b64encode(blob))


def certified_pair(key: asyncssh.SSHKey, blob: bytes) -> asyncssh.SSHKeyPair:
    """Give a pair that logs in with the certificate, whatever is in it."""
    certificate = asyncssh.SSHCertificate(_split(blob)[0], key.sig_algorithms, (), key, blob, None)
    pair = asyncssh.load_keypairs([key])[0]
    pair.set_certificate(certificate)
    return pair


def _split(blob: bytes) -> tuple[bytes, bytes]:
    end = 4 + int.from_bytes(blob[:4], "big")
    return blob[4:end], blob[end:]
