"""The transport that is a bare TCP connection."""

from __future__ import annotations

from ..addresses import format_address
from ..stream import DuplexStream
from ..transport import Dialer, TransportInfo


class TcpTransport:
    """Dials one host and port, and adds nothing."""

    def __init__(self, dialer: Dialer, host: str, port: int) -> None:
        self._dialer = dialer
        self._host = host
        self._port = port

    async def connect(self) -> tuple[DuplexStream, TransportInfo]:
        """Dial."""
        stream = await self._dialer.dial(self._host, self._port)
        return stream, TransportInfo("tcp", stream.get_extra_info("peername"))

    def describe(self) -> str:
        """Name the server."""
        return f"tcp://{format_address(self._host, self._port)}"

    async def aclose(self) -> None:
        """Do nothing: no state is shared."""
