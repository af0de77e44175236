"""The server's half of a SOCKS5 handshake (RFC 1928, RFC 1929)."""

from __future__ import annotations

import socket
from collections.abc import Callable

from wraith.specs import is_host

from .credentials import Credentials
from .events import Event, FrontProtocol, Refuse, Request, Send
from .replies import SOCKS5_ADDRESS_TYPE, SOCKS5_COMMAND, SOCKS5_FAILURE, socks5_reply

_VERSION = 0x05
_LOGIN_VERSION = 0x01
_NO_AUTHENTICATION = 0x00
_USER_PASSWORD = 0x02
_CONNECT = 0x01
_IPV4, _NAME, _IPV6 = 0x01, 0x03, 0x04
_FIXED_LENGTHS = {_IPV4: 4, _IPV6: 16}

_NO_METHOD = b"\x05\xff"
_LOGIN_GRANTED = b"\x01\x00"
_LOGIN_REFUSED = b"\x01\x01"


class Socks5Parser:
    """Reads greeting, login and request; every length is one byte, so a field has at most 255 bytes."""

    def __init__(self, credentials: Credentials | None) -> None:
        self._credentials = credentials
        self._step: Callable[[bytearray], Event | None] = self._greeting

    def advance(self, buffer: bytearray) -> Event | None:
        """Take the next message from buffer."""
        return self._step(buffer)

    def _greeting(self, buffer: bytearray) -> Event | None:
        if len(buffer) < 2 or len(buffer) < 2 + buffer[1]:
            return None
        methods = buffer[2 : 2 + buffer[1]]
        del buffer[: 2 + len(methods)]
        # Exactly one method is ours to choose: a client that has none to show never gets past a
        # password, and one that insists on a password is not told that any will do.
        wanted = _NO_AUTHENTICATION if self._credentials is None else _USER_PASSWORD
        if wanted not in methods:
            return Refuse(_NO_METHOD, "none of the offered ways to authenticate is accepted")
        self._step = self._request if self._credentials is None else self._login
        return Send(bytes((_VERSION, wanted)))

    def _login(self, buffer: bytearray) -> Event | None:
        if not buffer:
            return None
        if buffer[0] != _LOGIN_VERSION:
            return Refuse(_LOGIN_REFUSED, "unknown version of the login message")
        user = _counted(buffer, 1)
        password = None if user is None else _counted(buffer, 2 + len(user))
        if user is None or password is None:
            return None
        del buffer[: 3 + len(user) + len(password)]
        # RFC 1929 gives both fields at least one byte; no stored pair has an empty one either.
        if not user or not password or self._credentials is None or not self._credentials.accepts(user, password):
            return Refuse(_LOGIN_REFUSED, "wrong user or password")
        self._step = self._request
        return Send(_LOGIN_GRANTED)

    def _request(self, buffer: bytearray) -> Event | None:
        if len(buffer) < 4:
            return None
        # The third byte is reserved; its value is not judged, as everywhere else.
        version, command, _, kind = buffer[:4]
        if version != _VERSION:
            return Refuse(socks5_reply(SOCKS5_FAILURE), "unknown version of the request")
        if command != _CONNECT:
            return Refuse(socks5_reply(SOCKS5_COMMAND), "a command other than CONNECT")
        if kind in _FIXED_LENGTHS:
            return _finish(buffer, 4, _FIXED_LENGTHS[kind])
        if kind == _NAME:
            return None if len(buffer) < 5 else _finish(buffer, 5, buffer[4])
        return Refuse(socks5_reply(SOCKS5_ADDRESS_TYPE), "unknown type of address")


def _counted(buffer: bytearray, start: int) -> bytes | None:
    """Return the field whose length byte is at start, or None while it is incomplete."""
    if len(buffer) <= start or len(buffer) <= start + buffer[start]:
        return None
    return bytes(buffer[start + 1 : start + 1 + buffer[start]])


def _finish(buffer: bytearray, start: int, length: int) -> Event | None:
    end = start + length + 2
    if len(buffer) < end:
        return None
    kind, address = buffer[3], bytes(buffer[start : start + length])
    port = int.from_bytes(buffer[end - 2 : end], "big")
    del buffer[:end]
    host = _host(kind, address)
    if host is None:
        return Refuse(socks5_reply(SOCKS5_FAILURE), "not a host name")
    if port == 0:
        return Refuse(socks5_reply(SOCKS5_FAILURE), "port 0 cannot be connected to")
    return Request(FrontProtocol.SOCKS5, host, port, bytes(buffer))


def _host(kind: int, address: bytes) -> str | None:
    if kind == _IPV4:
        return socket.inet_ntop(socket.AF_INET, address)
    if kind == _IPV6:
        return socket.inet_ntop(socket.AF_INET6, address)
    name = address.decode("latin-1")
    return name if is_host(name) else None
