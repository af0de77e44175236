"""The server's half of a SOCKS4 or SOCKS4a request."""

from __future__ import annotations

import socket

from wraith.specs import is_host

from .events import Event, FrontProtocol, Refuse, Request
from .replies import socks4_reply

FIELD_LIMIT = 255  # the user ID, which nobody looks at, and the name; neither has a length of its own
_HEAD = 8  # version, command, port, address
_CONNECT = 0x01
_REJECTED = socks4_reply(granted=False)


class Socks4Parser:
    """Reads one request. The protocol has no password, so a port that asks for one refuses it."""

    def __init__(self, *, login_required: bool) -> None:
        self._login_required = login_required

    def advance(self, buffer: bytearray) -> Event | None:
        """Take the request from buffer."""
        if self._login_required:
            return Refuse(_REJECTED, "SOCKS4 cannot send a password, and one is required")
        if len(buffer) < _HEAD:
            return None
        if buffer[1] != _CONNECT:
            return Refuse(_REJECTED, "a command other than CONNECT")
        user_end = _end_of_field(buffer, _HEAD)
        if user_end is None:
            return _overlong(buffer, _HEAD)
        address = bytes(buffer[4:8])
        # SOCKS4a: an address of 0.0.0.x, x not 0, says that a name follows.
        if address[:3] != bytes(3) or address[3] == 0:
            return _finish(buffer, socket.inet_ntop(socket.AF_INET, address), user_end)
        name_end = _end_of_field(buffer, user_end + 1)
        if name_end is None:
            return _overlong(buffer, user_end + 1)
        return _finish(buffer, buffer[user_end + 1 : name_end].decode("latin-1"), name_end)


def _end_of_field(buffer: bytearray, start: int) -> int | None:
    """Return where the NUL is that ends the field at start, or None when it is not there within the limit."""
    end = buffer.find(0, start, start + FIELD_LIMIT + 1)
    return None if end < 0 else end


def _overlong(buffer: bytearray, start: int) -> Refuse | None:
    return Refuse(_REJECTED, "an overlong field") if len(buffer) > start + FIELD_LIMIT else None


def _finish(buffer: bytearray, host: str, end: int) -> Event:
    port = int.from_bytes(buffer[2:4], "big")
    del buffer[: end + 1]
    if not is_host(host) or port == 0:
        return Refuse(_REJECTED, "not a host name and port")
    return Request(FrontProtocol.SOCKS4, host, port, bytes(buffer))
