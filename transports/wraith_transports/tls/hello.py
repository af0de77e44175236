"""Reads a TLS ClientHello from the first bytes of a connection.

Nothing here waits or touches a socket, and no input raises. The parser answers what has to be known
before OpenSSL sees a byte (is this TLS, for which name, speaking what inside); OpenSSL afterwards
judges the same bytes for itself, so a hello that is refused here still gets OpenSSL's own alert.
References: RFC 8446 sections 4.1.2, 4.2 and 5.1; RFC 6066 section 3; RFC 7301.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from ..stream import Buffer

MAX_HELLO = 16 << 10  # records and all; browsers with post-quantum shares send 2 KiB
_RECORD_HEADER = 5
_HANDSHAKE_HEADER = 4
_HANDSHAKE_RECORD = 0x16
_CLIENT_HELLO = 1
_SSLV2_BIT = 0x80  # the first byte of an SSLv2 record, which OpenSSL still reads a hello from
_HOST_NAME = 0
_SERVER_NAME_EXTENSION = 0
_ALPN_EXTENSION = 16
_VERSIONS_EXTENSION = 43

# What a host name can be made of. Anything else goes into no log and matches no route.
_HOST_NAME_FORM = re.compile(rb"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9_])?\Z")


class HelloProgress(Enum):
    """The state of a hello that cannot be judged yet."""

    NEED_MORE = "need-more"


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a client asks for, and the bytes it asked with."""

    server_name: str | None  # SNI in lower case; None when absent or not a host name
    alpn: tuple[bytes, ...]  # in the client's order; empty when the extension is absent
    versions: tuple[int, ...]  # 0x0303 is TLS 1.2, 0x0304 TLS 1.3; the legacy version when no list was sent
    raw: bytes  # all that was fed, for OpenSSL


@dataclass(frozen=True, slots=True)
class NotTls:
    """The first byte belongs to no TLS record; `first` is what has arrived."""

    first: bytes


@dataclass(frozen=True, slots=True)
class Malformed:
    """A TLS record that holds no ClientHello we can read; `raw` is all that was fed."""

    reason: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class TooLong:
    """A hello that would end behind MAX_HELLO."""


Hello = ClientHello | NotTls | Malformed | TooLong


class HelloReader:
    """Collects the first bytes of a connection until they can be judged.

    At most MAX_HELLO bytes and one read beyond are ever kept. Once a verdict is given, feeding more is an
    error of the caller.
    """

    def __init__(self) -> None:
        self._raw = bytearray()
        self._record = 0  # where the next record header starts in _raw
        self._message = bytearray()  # the handshake message, without record headers

    def feed(self, data: Buffer) -> Hello | HelloProgress:
        """Take the next bytes and say what they are, as soon as that is certain."""
        self._raw += data
        if not self._raw:
            return HelloProgress.NEED_MORE
        first = self._raw[0]
        if first & _SSLV2_BIT:
            return self._malformed("an SSLv2 hello")
        if first != _HANDSHAKE_RECORD:
            return NotTls(bytes(self._raw))
        try:
            return self._collect()
        except _HelloError as error:
            return self._malformed(str(error))

    def _malformed(self, reason: str) -> Malformed:
        return Malformed(reason, bytes(self._raw))

    def _collect(self) -> ClientHello | TooLong | HelloProgress:
        raw = self._raw
        while len(raw) - self._record >= _RECORD_HEADER:
            start = self._record
            if raw[start] != _HANDSHAKE_RECORD:
                raise _HelloError(f"a record of type {raw[start]} inside the hello")
            if raw[start + 1] != 3:
                raise _HelloError(f"record version {raw[start + 1]}.{raw[start + 2]}")
            end = start + _RECORD_HEADER + int.from_bytes(raw[start + 3 : start + 5], "big")
            if end > MAX_HELLO:
                return TooLong()
            if len(raw) < end:
                break
            self._message += raw[start + _RECORD_HEADER : end]
            self._record = end
            body = self._complete_body()
            if isinstance(body, TooLong):
                return body
            if body is not None:
                return _parse_body(body, bytes(raw))
        return HelloProgress.NEED_MORE

    def _complete_body(self) -> bytes | TooLong | None:
        message = self._message
        if message and message[0] != _CLIENT_HELLO:
            raise _HelloError(f"handshake message {message[0]} instead of a hello")
        if len(message) < _HANDSHAKE_HEADER:
            return None
        end = _HANDSHAKE_HEADER + int.from_bytes(message[1:4], "big")
        if end > MAX_HELLO:
            return TooLong()
        if len(message) < end:
            return None
        return bytes(message[_HANDSHAKE_HEADER:end])


class _HelloError(Exception):
    """A field of the hello does not fit its surroundings."""


class _Fields:
    """A cursor over length-prefixed fields that never reads past its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise _HelloError("a field runs past its end")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, length_size: int) -> bytes:
        return self.take(self.number(length_size))


def _parse_body(body: bytes, raw: bytes) -> ClientHello:
    fields = _Fields(body)
    legacy_version = fields.number(2)
    fields.take(32)  # random
    fields.vector(1)  # session id
    fields.vector(2)  # cipher suites
    fields.vector(1)  # compression methods
    extensions = _extensions(fields.vector(2)) if fields else {}
    if fields:
        raise _HelloError("bytes after the extensions")
    return ClientHello(
        server_name=_server_name(extensions.get(_SERVER_NAME_EXTENSION)),
        alpn=_alpn(extensions.get(_ALPN_EXTENSION)),
        versions=_versions(extensions.get(_VERSIONS_EXTENSION), legacy_version),
        raw=raw,
    )


def _extensions(block: bytes) -> dict[int, bytes]:
    fields = _Fields(block)
    found: dict[int, bytes] = {}
    while fields:
        kind = fields.number(2)
        if kind in found:
            raise _HelloError(f"extension {kind} twice")
        found[kind] = fields.vector(2)
    return found


def _only_vector(data: bytes, length_size: int) -> _Fields:
    outer = _Fields(data)
    inner = _Fields(outer.vector(length_size))
    if outer or not inner:
        raise _HelloError("an extension of the wrong length")
    return inner


def _server_name(data: bytes | None) -> str | None:
    if data is None:
        return None
    # RFC 6066 allows a list of names of several kinds; no other kind exists, and OpenSSL too refuses a second name.
    names = _only_vector(data, 2)
    kind, name = names.number(1), names.vector(2)
    if names or kind != _HOST_NAME:
        raise _HelloError("a server name that is not one host name")
    return name.decode("ascii").lower() if _HOST_NAME_FORM.match(name) else None


def _alpn(data: bytes | None) -> tuple[bytes, ...]:
    if data is None:
        return ()
    fields = _only_vector(data, 2)
    names: list[bytes] = []
    while fields:
        name = fields.vector(1)
        if not name:
            raise _HelloError("an empty protocol name")
        names.append(name)
    return tuple(names)


def _versions(data: bytes | None, legacy_version: int) -> tuple[int, ...]:
    if data is None:
        return (legacy_version,)
    fields = _only_vector(data, 1)
    versions: list[int] = []
    while fields:
        versions.append(fields.number(2))
    return tuple(versions)
