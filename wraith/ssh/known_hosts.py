"""The known_hosts file: which host key belongs to which server, in OpenSSH's format."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import ipaddress
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ..errors import UnusableFile
from ..logs import event
from .algorithms import blob_fields
from .key_files import Guard, fingerprint_of, read_file
from .wildcards import matches_wildcard

SSH_PORT = 22  # the port that a record does not name
MAX_FILE = 16 << 20  # bytes; a fleet's generated file has some 100,000 lines
MAX_LINE = 16 << 10  # bytes; longer ones are skipped: no key needs them, and matching takes time by its length
MAX_SHOWN_PROBLEMS = 5  # of a file's broken lines, one WARN each

_log = logging.getLogger(__name__)


class HostKey(Enum):
    """How a host key stands to the records."""

    KNOWN = "known"
    UNKNOWN = "unknown"  # no record for the host
    CHANGED = "changed"  # records for the host, and all with other keys
    REVOKED = "revoked"


class Marker(Enum):
    """What a record says of its key."""

    NONE = ""  # it is the host's
    AUTHORITY = "@cert-authority"  # it signs the host's certificates
    REVOKED = "@revoked"  # nobody may use it


@dataclass(frozen=True, slots=True)
class HostRecord:
    """One line."""

    line: int  # counted from 1
    marker: Marker
    hosts: str  # patterns with commas, or one hash
    key_type: str
    blob: bytes  # RFC 4253 6.6 encoding

    @property
    def fingerprint(self) -> str:
        """The key's `SHA256:…`."""
        return fingerprint_of(self.blob)

    def names(self, host: str) -> bool:
        """Whether the record is for a host, given as `host_name()` writes it."""
        if self.hosts.startswith("|"):
            return _hash_matches(self.hosts, host)
        return _patterns_match(self.hosts, host)


@dataclass(frozen=True, slots=True)
class Problem:
    """A line that was skipped, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the records say of a key, and which record says it."""

    host_key: HostKey
    record: HostRecord | None = None  # of KNOWN and REVOKED the match, of CHANGED the first other key


@dataclass(frozen=True, slots=True)
class KnownHosts:
    """The records of one file."""

    source: str
    records: tuple[HostRecord, ...] = ()
    problems: tuple[Problem, ...] = ()

    def judge(self, host: str, port: int, address: str | None, key: bytes) -> Judgement:
        """Judge the key (RFC 4253 6.6 encoding) a server showed.

        A record of another key type counts as CHANGED too: otherwise whoever sits between shows a
        type that is not recorded and is asked about as a stranger. `address` is what the name led
        to; it matters for revocations only, as names move between addresses and addresses between
        hosts. A host on another port than 22 that has no record of its own is known by a record
        of the bare name with the same key, as ssh has it.
        """
        here = host_name(host, port)
        bare = host_name(host, SSH_PORT)
        addresses = (host_name(address, port), host_name(address, SSH_PORT)) if address else ()
        for record in self._records(Marker.REVOKED, here, bare, *addresses):
            if record.blob == key:
                return Judgement(HostKey.REVOKED, record)
        other: HostRecord | None = None
        for record in self._records(Marker.NONE, here):
            if record.blob == key:
                return Judgement(HostKey.KNOWN, record)
            other = other or record
        if other is not None:
            return Judgement(HostKey.CHANGED, other)
        for record in self._records(Marker.NONE, bare):
            if record.blob == key:
                return Judgement(HostKey.KNOWN, record)
        return Judgement(HostKey.UNKNOWN)

    def key_types(self, host: str, port: int) -> frozenset[str]:
        """Name the key types recorded for the host: what to ask the server for first."""
        own = frozenset(record.key_type for record in self._records(Marker.NONE, host_name(host, port)))
        return own or frozenset(record.key_type for record in self._records(Marker.NONE, host_name(host, SSH_PORT)))

    def authorities(self, host: str, port: int) -> tuple[bytes, ...]:
        """Give the keys that may sign this host's certificate."""
        return tuple(record.blob for record in self._records(Marker.AUTHORITY, host_name(host, port)))

    def revoked(self, host: str, port: int) -> tuple[bytes, ...]:
        """Give the keys that this host's certificate may neither hold nor be signed by."""
        names = host_name(host, port), host_name(host, SSH_PORT)
        return tuple(record.blob for record in self._records(Marker.REVOKED, *names))

    def _records(self, marker: Marker, *hosts: str) -> Iterator[HostRecord]:
        for record in self.records:
            if record.marker is marker and any(record.names(host) for host in hosts):
                yield record


def load_known_hosts(source: Path | bytes) -> KnownHosts:
    """Read and parse the file, or its content; a file that does not exist is empty.

    Broken lines are skipped, with a WARN each.

    Raises UnusableFile when it exists and cannot be read.
    """
    name = source_name(source)
    try:
        data = source if isinstance(source, bytes) else read_file(source, "known_hosts", Guard.NOTHING, MAX_FILE)
    except UnusableFile as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return KnownHosts(name)
        raise
    known = parse_known_hosts(data.decode("utf-8-sig", "replace"), name)
    for problem in known.problems[:MAX_SHOWN_PROBLEMS]:
        event(_log, logging.WARNING, "known_hosts line skipped", file=name, line=problem.line, reason=problem.reason)
    rest = len(known.problems) - MAX_SHOWN_PROBLEMS
    if rest > 0:
        event(_log, logging.WARNING, "more known_hosts lines skipped", file=name, lines=rest)
    return known


def record_host_key(path: Path, host: str, port: int, key: bytes) -> Judgement:
    """Add a record for an unknown host, and give the judgement under which that was decided.

    The file is judged once more under its lock: two processes that meet the same host at once
    write one line, and of two that were shown different keys the second hears CHANGED. A record
    is written whole or not at all. Raises UnusableFile.
    """
    if str(path) == os.devnull:
        return Judgement(HostKey.UNKNOWN)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # O_APPEND: what other programs append, without our lock, is not overwritten.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags, 0o600)
        try:
            _lock(descriptor)
            data = _read_all(descriptor)
            known = parse_known_hosts(data.decode("utf-8-sig", "replace"), str(path))
            judgement = known.judge(host, port, None, key)
            if judgement.host_key is HostKey.UNKNOWN:
                line = format_record(host, port, key) + "\n"
                # A file whose last line has no end would swallow ours.
                _append(descriptor, len(data), line if not data or data.endswith(b"\n") else "\n" + line)
        finally:
            os.close(descriptor)  # and with it the lock
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        raise UnusableFile(f"known_hosts {path} cannot be written: {reason}") from error
    return judgement


def parse_known_hosts(text: str, source: str) -> KnownHosts:
    """Parse a whole file. Never raises: a broken line becomes a Problem and matches nothing."""
    records: list[HostRecord] = []
    problems: list[Problem] = []
    # Line feeds only, as in authorized_keys: str.splitlines() knows ten more line ends.
    for number, line in enumerate(text.split("\n"), 1):
        try:
            record = _parse_line(line, number)
        except ValueError as error:
            problems.append(Problem(number, str(error)))
            continue
        if record is not None:
            records.append(record)
    return KnownHosts(source, tuple(records), tuple(problems))


def source_name(source: Path | bytes) -> str:
    """Name the file in messages."""
    return "known_hosts given as bytes" if isinstance(source, bytes) else str(source)


def format_record(host: str, port: int, key: bytes) -> str:
    """Give the line for a host's key, without a line end. Raises ValueError for a host that no line can hold."""
    name = host_name(host, port)
    # A blank or comma would end the name, the others would make it a pattern, a hash, a marker or a comment.
    if not name or not name.isprintable() or name[0] in "|@#!" or any(character in " ,*?" for character in name):
        raise ValueError(f"{host!a} is not a host's name")
    return f"{name} {blob_fields(key)[0].decode('ascii')} {base64.b64encode(key).decode('ascii')}"


def host_name(host: str, port: int) -> str:
    """Write a host as records do: in lower case, as `[host]:port` unless the port is 22."""
    host = host.lower()
    with contextlib.suppress(ValueError):
        host = str(ipaddress.ip_address(host))  # one way to write each IPv6 address
    return host if port == SSH_PORT else f"[{host}]:{port}"


def _parse_line(line: str, number: int) -> HostRecord | None:
    """Parse `[marker] hosts type base64 [comment]`; None for a line without a record. Raises ValueError."""
    if len(line) > MAX_LINE:
        raise ValueError("longer than any key")
    line = line.removesuffix("\r").strip(" \t")
    if not line or line.startswith("#"):
        return None
    fields = line.replace("\t", " ").split(" ")
    words = [word for word in fields if word]
    marker = Marker.NONE
    if words[0].startswith("@"):
        try:
            marker = Marker(words.pop(0))
        except ValueError:
            raise ValueError("an unknown marker") from None
    if len(words) < 3:
        raise ValueError("not host, key type and key")
    hosts, key_type, encoded = words[:3]
    if key_type.isdigit():
        return None  # a key of SSH's version 1: bits, exponent, modulus
    try:
        blob = base64.b64decode(encoded, validate=True)
    except ValueError:
        raise ValueError("the key is not base64") from None
    inside = blob_fields(blob)
    if not inside or inside[0] != key_type.encode("utf-8", "replace"):
        raise ValueError("the key is not of the type the line says")
    if hosts.startswith("|"):
        _salt_and_hash(hosts)
    return HostRecord(number, marker, hosts, key_type, blob)


def _salt_and_hash(hosts: str) -> tuple[bytes, bytes]:
    parts = hosts.split("|")
    if len(parts) != 4 or parts[1] != "1":  # HMAC-SHA1, the only kind there is
        raise ValueError("an unknown kind of hashed host")
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in parts[2:])
    except ValueError:
        raise ValueError("the hashed host is not base64") from None
    return salt, digest


def _hash_matches(hosts: str, host: str) -> bool:
    salt, digest = _salt_and_hash(hosts)
    return hmac.compare_digest(hmac.new(salt, host.encode("utf-8", "replace"), hashlib.sha1).digest(), digest)


def _patterns_match(patterns: str, host: str) -> bool:
    """Whether one pattern matches and no `!pattern` does."""
    matched = False
    for pattern in patterns.lower().split(","):
        if pattern.startswith("!"):
            if matches_wildcard(pattern[1:], host):
                return False
        elif not matched:
            matched = matches_wildcard(pattern, host)
    return matched


def _lock(descriptor: int) -> None:
    """Wait for the file's lock; held for a read and a write. Not on Windows: there the last one wins."""
    if os.name != "nt":
        import fcntl  # noqa: PLC0415 - not on Windows

        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _read_all(descriptor: int) -> bytes:
    data = bytearray()
    while chunk := os.read(descriptor, 1 << 16):
        data += chunk
    return bytes(data)


def _append(descriptor: int, size: int, text: str) -> None:
    encoded = text.encode()
    written = os.write(descriptor, encoded)
    if written != len(encoded):
        os.ftruncate(descriptor, size)  # half a record would spoil the next one
        raise OSError("the disk is full")
    os.fsync(descriptor)
