"""The contract of a transport: a way to obtain, or to accept, one duplex stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .stream import DuplexStream


@dataclass(frozen=True, slots=True)
class TransportInfo:
    """What is known of a stream's other end, and what of that was proven."""

    kind: str  # the preset's name: "tcp", "tls", …
    remote_address: tuple[str, int]  # numeric; a v4-mapped address is given as IPv4
    server_name: str | None = None  # the name a certificate proved (client side) or SNI asked for (server side)
    endpoint_id: str | None = None  # the key a peer transport proved


class Transport(Protocol):
    """Opens streams to one server. Holds configuration, not connections."""

    async def connect(self) -> tuple[DuplexStream, TransportInfo]:
        """Open a new stream.

        Cancelling leaves nothing open. Raises TransportError, whose `permanent` says whether
        trying again can help.
        """
        ...

    def describe(self) -> str:
        """Name the server and the way to it, for people and logs; no secrets."""
        ...

    async def aclose(self) -> None:
        """End what the streams share (an endpoint), if anything; idempotent; never raises."""


class TransportAcceptor(Protocol):
    """Accepts streams on one or more addresses."""

    async def start(self) -> None:
        """Bind and listen. Raises AddressUnavailable, and then nothing stays bound."""

    def addresses(self) -> Sequence[str]:
        """Where it listens, as `scheme://host:port` with the real ports."""
        ...

    async def accept(self) -> tuple[DuplexStream, TransportInfo]:
        """Wait for the next stream whose handshake is complete.

        A handshake that fails costs only its own connection: accept neither raises for it nor
        waits for it. Safe to cancel: no stream is lost. Raises AcceptorClosed after stop().
        """
        ...

    def stop(self) -> None:
        """Stop listening; streams that were handed out live on. Idempotent."""

    async def aclose(self) -> None:
        """Stop, and end handshakes and streams that nobody accepted; idempotent; never raises."""


class Dialer(Protocol):
    """Makes the TCP connection that a transport, a relay link or a forward's target needs."""

    async def dial(self, host: str, port: int) -> DuplexStream:
        """Connect to host (a name or a numeric address) and port.

        Cancelling leaves nothing open. Raises DialError.
        """
        ...

    def describe(self) -> str:
        """Say how connections are made ("direct", "through socks5://proxy:1080"); no secrets."""
        ...
