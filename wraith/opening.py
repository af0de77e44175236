"""The seam between what accepts local connections and the session that carries them."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from wraith_transports import Dialer, DialError, DialFailure, DuplexStream
from wraith_transports.tcp import dial_unix

from .errors import WraithError
from .specs import ForwardTarget, UnixTarget

LOOPBACK_ORIGIN = ("127.0.0.1", 0)


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

    async def open_connection(self, host: str, port: int, *, origin: tuple[str, int] = LOOPBACK_ORIGIN) -> DuplexStream:
        """Connect to host and port from the other side; host is sent as it is, never resolved here.

        `origin` is the address of whoever asked, told to the server as SSH does. The stream is not
        attached to anything yet. Cancelling leaves nothing open. Raises OpenFailed.
        """
        ...

    async def open_unix_connection(self, path: str) -> DuplexStream:
        """Connect to a unix socket on the other side, as open_connection does. Raises OpenFailed."""
        ...


async def open_target(opener: Opener, target: ForwardTarget, *, origin: tuple[str, int]) -> DuplexStream:
    """Open either kind of target. Raises OpenFailed."""
    if isinstance(target, UnixTarget):
        return await opener.open_unix_connection(target.path)
    return await opener.open_connection(target.host, target.port, origin=origin)


SAME_FAILURES = {
    DialFailure.REFUSED: OpenFailure.REFUSED,
    DialFailure.HOST_UNREACHABLE: OpenFailure.HOST_UNREACHABLE,
    DialFailure.NETWORK_UNREACHABLE: OpenFailure.NETWORK_UNREACHABLE,
    DialFailure.NOT_FOUND: OpenFailure.NOT_FOUND,
    DialFailure.TIMED_OUT: OpenFailure.TIMED_OUT,
    DialFailure.NOT_ALLOWED: OpenFailure.NOT_ALLOWED,
    DialFailure.OTHER: OpenFailure.OTHER,
}


class DialingOpener:
    """Opens targets from this side, for what a remote forward brings."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer

    async def open_connection(self, host: str, port: int, *, origin: tuple[str, int] = LOOPBACK_ORIGIN) -> DuplexStream:
        """Dial host and port. Raises OpenFailed."""
        del origin
        try:
            return await self._dialer.dial(host, port)
        except DialError as error:
            raise OpenFailed(str(error), SAME_FAILURES[error.reason]) from error

    async def open_unix_connection(self, path: str) -> DuplexStream:
        """Dial a unix socket. Raises OpenFailed."""
        try:
            return await dial_unix(path)
        except DialError as error:
            raise OpenFailed(str(error), SAME_FAILURES[error.reason]) from error
