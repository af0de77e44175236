"""Ways to obtain one duplex byte stream; nothing here knows of SSH."""

from __future__ import annotations

from .addresses import format_address, is_numeric, is_public, site_of, unmapped
from .base import StreamBase
from .errors import (
    AcceptorClosed,
    AddressUnavailable,
    DialError,
    DialFailure,
    FailureKind,
    ProxyFailed,
    ProxyFailure,
    ProxySchemeUnknown,
    ProxyUrlInvalid,
    TransportError,
)
from .head import HeadError, read_head
from .memory import MemoryAcceptor, MemoryTransport, memory_pair
from .queued import QueuedStream
from .scratch import read_buffer
from .stream import (
    DEFAULT_HIGH_WATER,
    DEFAULT_LOW_WATER,
    HOLD_LIMIT,
    READ_CHUNK,
    Buffer,
    DuplexStream,
    StreamProtocol,
    SupportsLiveness,
    SupportsPath,
    SupportsTrust,
)
from .tcp import DirectDialer, Family, TcpAcceptor, TcpStream, TcpTransport
from .transport import Dialer, Transport, TransportAcceptor, TransportInfo

__all__ = [
    "DEFAULT_HIGH_WATER",
    "DEFAULT_LOW_WATER",
    "HOLD_LIMIT",
    "READ_CHUNK",
    "AcceptorClosed",
    "AddressUnavailable",
    "Buffer",
    "DialError",
    "DialFailure",
    "Dialer",
    "DirectDialer",
    "DuplexStream",
    "FailureKind",
    "Family",
    "HeadError",
    "MemoryAcceptor",
    "MemoryTransport",
    "ProxyFailed",
    "ProxyFailure",
    "ProxySchemeUnknown",
    "ProxyUrlInvalid",
    "QueuedStream",
    "StreamBase",
    "StreamProtocol",
    "SupportsLiveness",
    "SupportsPath",
    "SupportsTrust",
    "TcpAcceptor",
    "TcpStream",
    "TcpTransport",
    "Transport",
    "TransportAcceptor",
    "TransportError",
    "TransportInfo",
    "format_address",
    "is_numeric",
    "is_public",
    "memory_pair",
    "read_buffer",
    "read_head",
    "site_of",
    "unmapped",
]
