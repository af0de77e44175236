"""The SSH algorithms wraith speaks, and the keys they accept."""

from __future__ import annotations

import base64
import functools
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import asyncssh
from asyncssh.encryption import get_encryption_algs
from asyncssh.kex import get_kex_algs
from asyncssh.mac import get_mac_algs
from asyncssh.public_key import get_certificate_algs, get_public_key_algs

from .._version import __version__
from ..logs import event

POST_QUANTUM = "mlkem768x25519-sha256"
KEY_EXCHANGES = (
    POST_QUANTUM,
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group18-sha512",
)
CHACHA20 = "chacha20-poly1305@openssh.com"
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", CHACHA20, "aes256-ctr", "aes128-ctr")
MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")  # for the -ctr ciphers only
SIGNATURES = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
    "ecdsa-sha2-nistp256",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)

# What stands in a key file or a known_hosts line. A key's type is not its signature's name: RSA has one
# type and two signatures we take (RFC 8332).
KEY_TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
RSA_SIGNATURES = ("rsa-sha2-512", "rsa-sha2-256")
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 16384  # as OpenSSH; beyond it one check of a signature takes a noticeable time

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Algorithms:
    """The names offered, each list in order of preference, under asyncssh's argument names."""

    kex_algs: tuple[str, ...]
    encryption_algs: tuple[str, ...]
    mac_algs: tuple[str, ...]
    signature_algs: tuple[str, ...]
    missing: tuple[str, ...] = ()  # wanted, and not in this build of asyncssh and cryptography

    def arguments(self) -> dict[str, tuple[str, ...] | None]:
        """Give the keyword arguments that `asyncssh.connect` and `asyncssh.listen` share."""
        return {
            "kex_algs": self.kex_algs,
            "encryption_algs": self.encryption_algs,
            "mac_algs": self.mac_algs,
            "signature_algs": self.signature_algs,
            "compression_algs": None,
        }


def select(available: Collection[str], *, aes_first: bool) -> Algorithms:
    """Choose from the names a build has; what it lacks is left out and named in `missing`."""
    ciphers = CIPHERS if aes_first else (CHACHA20, *(name for name in CIPHERS if name != CHACHA20))

    def present(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name in available)

    wanted = (*KEY_EXCHANGES, *CIPHERS, *MACS, *SIGNATURES)
    return Algorithms(
        kex_algs=present(KEY_EXCHANGES),
        encryption_algs=present(ciphers),
        mac_algs=present(MACS),
        signature_algs=present(SIGNATURES),
        missing=tuple(name for name in wanted if name not in available),
    )


@functools.cache
def installed() -> Algorithms:
    """Give the lists for this build and this CPU; the first call logs what is missing."""
    groups = (get_kex_algs(), get_encryption_algs(), get_mac_algs(), get_public_key_algs())
    algorithms = select({name.decode("ascii") for group in groups for name in group}, aes_first=cpu_has_aes())
    report_missing(algorithms)
    return algorithms


def report_missing(algorithms: Algorithms) -> None:
    """Log one INFO with the missing names, and one WARN when the post-quantum exchange is among them."""
    others = [name for name in algorithms.missing if name != POST_QUANTUM]
    if others:
        event(_log, logging.INFO, "algorithms not in this build", missing=",".join(others))
    if POST_QUANTUM in algorithms.missing:
        event(_log, logging.WARNING, "no post-quantum key exchange in this build", missing=POST_QUANTUM)


def host_key_algorithms(known_types: Collection[str] = (), *, certificates: bool = False) -> tuple[str, ...]:
    """Order the host key algorithms a client asks for (asyncssh's `server_host_key_algs`).

    Types recorded for the host come first: a server with several keys then shows the one we can
    check, and not one we would have to call changed. Certificates are asked for only where a
    `@cert-authority` line can judge them, because a server that has one sends it instead of its key.
    """
    plain = installed().signature_algs
    ordered = sorted(plain, key=lambda name: key_type_of(name) not in known_types)  # stable
    if not certificates:
        return tuple(ordered)
    available = {name.decode("ascii") for name in get_certificate_algs()}
    return (*(name for name in map(certificate_name, plain) if name in available), *ordered)


def key_type_of(signature: str) -> str:
    """Name the key type that makes this signature."""
    return "ssh-rsa" if signature in RSA_SIGNATURES else signature


def refuse_old_signatures(key: asyncssh.SSHKey) -> None:
    """Make `key` verify only signatures of SIGNATURES.

    Without this asyncssh takes any signature its key class knows, SHA-1 for RSA included,
    whatever `signature_algs` and the negotiation said. Call it where asyncssh shows a peer's key:
    `validate_host_public_key` on the client, `validate_public_key` on the server.
    """
    key.all_sig_algorithms = {name.encode("ascii") for name in SIGNATURES if name.encode("ascii") in key.sig_algorithms}


def verifying_key(blob: bytes) -> asyncssh.SSHKey:
    """Make the key that checks a peer's signatures, of SIGNATURES only, and with a touch if it is a security key.

    `blob` is in RFC 4253 6.6 encoding. Raises ValueError.
    """
    fields = blob_fields(blob)
    if not fields:
        raise ValueError("not a public key")
    key = asyncssh.import_public_key(b"%s %s" % (fields[0], base64.b64encode(blob)))
    if key.public_data != blob:
        raise ValueError("another encoding of the key than its own")
    refuse_old_signatures(key)
    key.set_touch_required(True)
    return key


def refuse_old_host_key_algorithms(pair: asyncssh.SSHKeyPair) -> None:
    """Make a server's host key pair offer only algorithms of SIGNATURES: asyncssh adds those with SHA-1 for RSA."""
    offered = tuple(name.encode("ascii") for name in (*map(certificate_name, SIGNATURES), *SIGNATURES))
    pair.host_key_algorithms = tuple(name for name in offered if name in pair.host_key_algorithms)


def why_unacceptable(blob: bytes) -> str | None:
    """Say why a public key (RFC 4253 6.6 encoding) is not accepted, or None when it is."""
    fields = blob_fields(blob)
    if not fields:
        return "is not a public key"
    key_type = fields[0].decode("ascii", "replace")
    if key_type not in KEY_TYPES:
        return f"has the type {key_type[:64]!r}, which is not accepted"
    if key_type == "ssh-rsa":
        bits = int.from_bytes(fields[2], "big").bit_length() if len(fields) == 3 else 0  # type, e, n
        if bits < MIN_RSA_BITS:
            return f"is an RSA key of {bits} bits, and {MIN_RSA_BITS} is the least that is accepted"
        if bits > MAX_RSA_BITS:
            return f"is an RSA key of {bits} bits, and {MAX_RSA_BITS} is the most that is accepted"
    return None


def blob_fields(blob: bytes) -> tuple[bytes, ...]:
    """Split a public key into its length-prefixed fields; empty when it does not split evenly."""
    fields, at = [], 0
    while at < len(blob):
        length = int.from_bytes(blob[at : at + 4], "big")
        if at + 4 + length > len(blob):
            return ()
        fields.append(blob[at + 4 : at + 4 + length])
        at += 4 + length
    return tuple(fields)


def version_string() -> str:
    """Give what follows `SSH-2.0-`: name, major and minor version; a peer needs no more to work around us."""
    return "wraith_" + ".".join(__version__.split(".")[:2])


def cpu_has_aes(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has AES instructions; assumed where nobody says, as nearly all have them."""
    try:
        return lists_aes(cpuinfo.read_text("ascii", "replace"))
    except OSError:
        return True


def lists_aes(cpuinfo: str) -> bool:
    """Judge the text of /proc/cpuinfo: `flags` on x86, `Features` on Arm; without either, yes."""
    lists = [line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith(("flags", "Features"))]
    return not lists or any("aes" in names for names in lists)


def certificate_name(name: str) -> str:
    """Name the certificate of a key type, or the certificate algorithm of a signature (PROTOCOL.certkeys).

    The suffix replaces the vendor part of a name that has one.
    """
    return name.removesuffix("@openssh.com") + "-cert-v01@openssh.com"
