"""What the front parsers find in the bytes of a client."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class FrontProtocol(Enum):
    """The protocols that share the port, told apart by their first byte."""

    SOCKS5 = "socks5"
    SOCKS4 = "socks4"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class Send:
    """Send this to the client and go on reading."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """The client asks for a connection; nothing of what follows is for the parser.

    `unread` came after the request and belongs to the target. The host is ASCII: a name, or an
    address without brackets; it has not been resolved.
    """

    protocol: FrontProtocol
    host: str
    port: int
    unread: bytes = b""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Send this, which may be nothing, then close; nothing after it is read."""

    data: bytes
    why: str  # for logs; never holds what the client sent


Event = Send | Request | Refuse


class Parser(Protocol):
    """One protocol's half of the conversation."""

    def advance(self, buffer: bytearray) -> Event | None:
        """Take what is complete from the front of buffer; None when that needs more bytes.

        What it finds does not depend on how the bytes were split.
        """
