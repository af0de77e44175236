"""OpenSSH certificates (PROTOCOL.certkeys): decoded, their signature verified, and judged by every rule in them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import asyncssh

from ..errors import UnusableFile
from .address_patterns import BadAddressList, SourceAddresses, parse_source_addresses
from .algorithms import KEY_TYPES, certificate_name, verifying_key, why_unacceptable
from .key_files import MAX_KEY_FILE, Guard, fingerprint_of, read_file

MAX_PRINCIPALS = 256  # as OpenSSH

# How many fields stand for the key itself, between nonce and serial.
_KEY_FIELDS = {
    "ssh-ed25519": 1,
    "ssh-rsa": 2,
    "ecdsa-sha2-nistp256": 2,
    "sk-ssh-ed25519@openssh.com": 2,
    "sk-ecdsa-sha2-nistp256@openssh.com": 3,
}
_TYPES = {certificate_name(key_type).encode("ascii"): key_type for key_type in KEY_TYPES}
_PORT_FORWARDING = b"permit-port-forwarding"
_FLAG_EXTENSIONS = frozenset(
    {
        _PORT_FORWARDING,
        b"permit-X11-forwarding",
        b"permit-agent-forwarding",
        b"permit-pty",
        b"permit-user-rc",
        b"no-touch-required",  # counts in sshd only together with the same word in authorized_keys
    }
)


class BadCertificate(ValueError):
    """A certificate that nobody may use; the text says why."""


class Holder(Enum):
    """Whom a certificate is for."""

    USER = 1
    HOST = 2


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate whose signature is its authority's. What it allows is for `judge_certificate` to say."""

    holder: Holder
    key_blob: bytes  # RFC 4253 6.6 encoding of the key it is about
    authority_blob: bytes
    serial: int
    key_id: str
    principals: frozenset[str]
    valid_after: int  # seconds since 1970, inclusive
    valid_before: int  # exclusive
    source_addresses: SourceAddresses | None
    port_forwarding: bool

    @property
    def authority(self) -> str:
        """The fingerprint of the key that signed it."""
        return fingerprint_of(self.authority_blob)


def is_certificate(blob: bytes) -> bool:
    """Whether an encoded key is a certificate of a kind that is read here."""
    return _algorithm(blob) in _TYPES


def parse_certificate(blob: bytes) -> Certificate:
    """Decode a certificate and verify its authority's signature. Raises BadCertificate."""
    fields = _decode(blob)
    for what, each in (("key", fields.key_blob), ("authority", fields.authority_blob)):
        reason = why_unacceptable(each)
        if reason is not None:
            raise BadCertificate(f"has a bad {what}: it {reason}")
    try:
        signed_by_it = verifying_key(fields.authority_blob).verify(fields.signed, fields.signature)
    except ValueError as error:
        raise BadCertificate("has a damaged authority") from error
    if not signed_by_it:
        raise BadCertificate("is not signed by the authority it names, or by an algorithm that is not accepted")
    principals = _strings(fields.principals)
    if len(principals) > MAX_PRINCIPALS:
        raise BadCertificate(f"has more than {MAX_PRINCIPALS} principals")
    return Certificate(
        holder=fields.holder,
        key_blob=fields.key_blob,
        authority_blob=fields.authority_blob,
        serial=fields.serial,
        key_id=_text(fields.key_id),
        principals=frozenset(_text(each) for each in principals),
        valid_after=fields.valid_after,
        valid_before=fields.valid_before,
        source_addresses=_source_addresses(_options(fields.critical)),
        port_forwarding=_port_forwarding(_options(fields.extensions)),
    )


def read_host_certificate(source: Path | bytes, host_key: asyncssh.SSHKey) -> tuple[bytes, Certificate]:
    """Read the certificate of this host key; also give it as it was encoded. Raises UnusableFile."""
    name, blob = read_certificate_file(source)
    try:
        certificate = parse_certificate(blob)
    except BadCertificate as error:
        raise UnusableFile(f"{name} {error}") from error
    if certificate.holder is not Holder.HOST:
        raise UnusableFile(f"{name} is for a user; a host's is made with: ssh-keygen -s CA -h")
    if certificate.key_blob != host_key.public_data:
        raise UnusableFile(f"{name} is for another key ({fingerprint_of(certificate.key_blob)})")
    return blob, certificate


def read_user_certificate(source: Path | bytes) -> tuple[str, asyncssh.SSHCertificate]:
    """Read a certificate to offer to a server, with its name for messages.

    What stands in it is for the server to judge, which may know options that are unknown here.
    Raises UnusableFile; `__cause__` is a FileNotFoundError when there is no such file.
    """
    name, blob = read_certificate_file(source)
    try:
        fields = _decode(blob)
        key = verifying_key(fields.key_blob)
    except ValueError as error:  # BadCertificate is one
        raise UnusableFile(f"{name} is damaged") from error
    if fields.holder is not Holder.USER:
        raise UnusableFile(f"{name} is for a host")
    reason = why_unacceptable(fields.key_blob)
    if reason is not None:
        raise UnusableFile(f"{name} has a bad key: it {reason}")
    algorithm = _algorithm(blob)
    return name, asyncssh.SSHCertificate(algorithm, key.sig_algorithms, (algorithm,), key, blob, None)


def read_certificate_file(source: Path | bytes) -> tuple[str, bytes]:
    """Read a certificate file, or its content: its name for messages, and its encoding.

    Raises UnusableFile; `__cause__` is a FileNotFoundError when there is no such file.
    """
    if isinstance(source, bytes):
        name, data = "certificate given as bytes", source
    else:
        name, data = f"certificate {source}", read_file(source, "certificate", Guard.NOTHING, MAX_KEY_FILE)
    words = data.split()
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (IndexError, ValueError):
        blob = b""
    if not is_certificate(blob):
        raise UnusableFile(f"{name} is not an OpenSSH certificate: name the -cert.pub that ssh-keygen -s made")
    return name, blob


@dataclass(frozen=True, slots=True)
class _Fields:
    """A certificate as it was encoded, with nothing verified."""

    key_blob: bytes
    serial: int
    holder: Holder
    key_id: bytes
    principals: bytes
    valid_after: int
    valid_before: int
    critical: bytes
    extensions: bytes
    authority_blob: bytes
    signed: bytes
    signature: bytes


def _decode(blob: bytes) -> _Fields:
    reader = _Reader(blob)
    key_type = _TYPES.get(reader.string())
    if key_type is None:
        raise BadCertificate("is not a certificate of a type that is accepted")
    reader.string()  # nonce
    key_fields = [key_type.encode("ascii"), *(reader.string() for _ in range(_KEY_FIELDS[key_type]))]
    serial, holder = reader.number(8), reader.number(4)
    if holder not in (Holder.USER.value, Holder.HOST.value):
        raise BadCertificate("is neither for a user nor for a host")
    key_id, principals = reader.string(), reader.string()
    valid_after, valid_before = reader.number(8), reader.number(8)
    critical, extensions = reader.string(), reader.string()
    reader.string()  # reserved
    authority_blob = reader.string()
    signed = reader.taken
    signature = reader.string()
    reader.end()
    return _Fields(
        key_blob=b"".join(len(each).to_bytes(4, "big") + each for each in key_fields),
        serial=serial,
        holder=Holder(holder),
        key_id=key_id,
        principals=principals,
        valid_after=valid_after,
        valid_before=valid_before,
        critical=critical,
        extensions=extensions,
        authority_blob=authority_blob,
        signed=signed,
        signature=signature,
    )


def _source_addresses(critical: list[tuple[bytes, bytes]]) -> SourceAddresses | None:
    """Judge the critical options: whoever does not know one must refuse the certificate."""
    found: SourceAddresses | None = None
    for name, data in critical:
        if name != b"source-address":
            raise BadCertificate(f"has the critical option {_text(name)[:64]!a}, which is not supported")
        if found is not None:
            raise BadCertificate("has two lists of source addresses")
        reader = _Reader(data)
        text = _text(reader.string())
        reader.end()
        try:
            found = parse_source_addresses(text)
        except BadAddressList as error:
            raise BadCertificate(f"has a bad list of source addresses: {error}") from error
    return found


def _port_forwarding(extensions: list[tuple[bytes, bytes]]) -> bool:
    """Look for the one extension that means something here; an unknown one is ignored, as the format has it."""
    for name, data in extensions:
        if data and name in _FLAG_EXTENSIONS:
            raise BadCertificate(f"has a value where {_text(name)} has none")
    return any(name == _PORT_FORWARDING for name, _ in extensions)


def _algorithm(blob: bytes) -> bytes:
    return blob[4 : 4 + int.from_bytes(blob[:4], "big")]


def _strings(data: bytes) -> list[bytes]:
    reader, found = _Reader(data), []
    while reader.left:
        found.append(reader.string())
    return found


def _options(data: bytes) -> list[tuple[bytes, bytes]]:
    reader, found = _Reader(data), []
    while reader.left:
        found.append((reader.string(), reader.string()))
    return found


def _text(data: bytes) -> str:
    # Different bytes stay different: names are compared.
    return data.decode("utf-8", "surrogateescape")


class _Reader:
    """Takes fields off the front of a message. Raises BadCertificate where it ends too early or too late."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def taken(self) -> bytes:
        return self._data[: self._at]

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def bytes_of(self, count: int) -> bytes:
        if count > self.left:
            raise BadCertificate("is cut short")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.bytes_of(size), "big")

    def string(self) -> bytes:
        return self.bytes_of(self.number(4))

    def end(self) -> None:
        if self.left:
            raise BadCertificate("has more in it than there should be")
