"""Ways to obtain one duplex byte stream; nothing here knows of SSH."""

from __future__ import annotations

from .errors import AcceptorClosed, AddressUnavailable, DialError, DialFailure, FailureKind, TransportError
from .stream import (
    HOLD_LIMIT,
    READ_CHUNK,
    Buffer,
    DuplexStream,
    StreamProtocol,
    SupportsLiveness,
    SupportsPath,
    SupportsTrust,
)
from .transport import Dialer, Transport, TransportAcceptor, TransportInfo

__all__ = [
    "HOLD_LIMIT",
    "READ_CHUNK",
    "AcceptorClosed",
    "AddressUnavailable",
    "Buffer",
    "DialError",
    "DialFailure",
    "Dialer",
    "DuplexStream",
    "FailureKind",
    "StreamProtocol",
    "SupportsLiveness",
    "SupportsPath",
    "SupportsTrust",
    "Transport",
    "TransportAcceptor",
    "TransportError",
    "TransportInfo",
]
