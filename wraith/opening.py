"""The seam between what accepts local connections and the session that carries them."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from wraith_transports import DuplexStream

from .errors import WraithError


class OpenFailure(Enum):
    """Why a target could not be reached, as far as the other side told."""

    REFUSED = "connection refused"
    HOST_UNREACHABLE = "host unreachable"
    NETWORK_UNREACHABLE = "network unreachable"
    NOT_FOUND = "name not found"
    TIMED_OUT = "timed out"
    NOT_ALLOWED = "not allowed"
    SESSION_DOWN = "session down"
    OTHER = "failed"


class OpenFailed(WraithError):
    """A connection to a target could not be opened; the session itself is unharmed."""

    def __init__(self, message: str, reason: OpenFailure) -> None:
        super().__init__(message)
        self.reason = reason


class Opener(Protocol):
    """Opens streams to targets as the other side of the session sees them."""

    async def open_connection(
        self, host: str, port: int, *, origin: tuple[str, int] = ("127.0.0.1", 0)
    ) -> DuplexStream:
        """Connect to host and port from the other side; host is sent as it is, never resolved here.

        `origin` is the address of whoever asked, told to the server as SSH does. The stream is not
        attached to anything yet. Cancelling leaves nothing open. Raises OpenFailed.
        """
        ...
