"""What one session has the server listen on, and how connections there become channels."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from wraith_transports import DuplexStream

from ..errors import AddressUnavailable
from ..local_listener import LocalListener
from ..opening import LOOPBACK_ORIGIN, OpenFailed, OpenFailure
from ..specs import ALL_ADDRESSES, LOCALHOST, PermitListen, TcpBind, TcpTarget, UnixBind, parse_target
from ..waiting import WaitingStream
from .channel import ChannelStream, open_forwarded_streamlocal, open_forwarded_tcpip
from .connection import BoundedConnection
from .port_registry import LOOPBACK, Claim, Place, PortRegistry

MAX_LISTENERS = 64  # of one session; each costs descriptors whether anybody connects or not

logger = logging.getLogger(__name__)

_EVERY_ADDRESS = ("", "*", "0.0.0.0", "::")  # noqa: S104 - to recognise, not to bind


class RemoteListeners:
    """The listeners of one session. Everything is judged here before a socket is made."""

    def __init__(
        self,
        connection: BoundedConnection,
        registry: PortRegistry,
        permit: PermitListen,
        *,
        gateway_ports: bool,
        max_channels: int,
    ) -> None:
        self._connection = connection
        self._registry = registry
        self._permit = permit
        self._gateway_ports = gateway_ports
        self._max_channels = max_channels
        self._listeners: dict[Place, _RemoteListener] = {}
        self._closed = False
        self._binding = asyncio.Lock()  # whoever ends the session for its port waits for a socket in the making

    async def listen(self, asked: Place, claim: Claim) -> int | None:
        """Listen for the client; the real port, 0 for a unix socket, or None when that is refused.

        Raises PortHeld when another session has the place and keeps it.
        """
        place = self._place(asked)
        if place is None or len(self._listeners) >= MAX_LISTENERS or self.is_closed() or asked in self._listeners:
            return None
        any_port = isinstance(place, TcpBind) and place.port == 0
        if not any_port:
            await self._registry.claim(place, claim)
        try:
            async with self._binding:
                port = None if self.is_closed() else await self._bind(asked, place, claim)
        except BaseException:
            self._registry.release(place, claim.session)
            raise
        if port is None:
            self._registry.release(place, claim.session)
        elif self.is_closed():  # the session ended meanwhile
            await self.aclose(claim)
            return None
        return port

    async def _bind(self, asked: Place, place: Place, claim: Claim) -> int | None:
        listener = _RemoteListener(self._connection, asked, place, self._max_channels)
        try:
            port = await listener.start()
        except AddressUnavailable:
            return None
        if isinstance(place, TcpBind) and place.port == 0:
            # Nobody else can hold what was just bound.
            await self._registry.claim(listener.place, claim)
        self._listeners[listener.asked] = listener
        return port

    def is_closed(self) -> bool:
        """Whether no more is listened on for this session."""
        return self._closed

    def stop(self, asked: Place, claim: Claim) -> bool:
        """Close one, connections that came by it living on; False if there is none."""
        listener = self._listeners.pop(asked, None)
        if listener is None:
            return False
        listener.stop()
        self._registry.release(listener.place, claim.session)
        return True

    async def aclose(self, claim: Claim) -> None:
        """Close all, with the connections that came by them. Never raises."""
        self._closed = True
        async with self._binding:
            while self._listeners:
                _, listener = self._listeners.popitem()
                await listener.aclose()
                self._registry.release(listener.place, claim.session)

    def _place(self, asked: Place) -> Place | None:
        """Judge a request: what to bind, or None when it is refused."""
        if isinstance(asked, UnixBind):
            return asked if self._permit.allows_path(asked.path) else None
        if not self._permit.allows(asked.host, asked.port):
            return None
        host = asked.host.lower()
        if host == LOCALHOST:
            return TcpBind(LOCALHOST, asked.port)
        if self._gateway_ports:
            return TcpBind(ALL_ADDRESSES if host in _EVERY_ADDRESS else asked.host, asked.port)
        # As sshd without GatewayPorts "every address" becomes loopback. A particular other one is
        # refused, where sshd would bind loopback and not say so.
        if host in _EVERY_ADDRESS:
            return TcpBind(LOCALHOST, asked.port)
        return asked if host in LOOPBACK else None


class _RemoteListener:
    """One address: each connection there becomes a channel to the client."""

    def __init__(self, connection: BoundedConnection, asked: Place, place: Place, max_channels: int) -> None:
        self._connection = connection
        self._max_channels = max_channels
        self.asked = asked
        self.place = place
        self._listener = LocalListener(place, self._serve, label="remote forward")

    async def start(self) -> int:
        """Bind and accept; the port, which is known now if any was asked for. Raises AddressUnavailable."""
        await self._listener.bind()
        port = 0
        if isinstance(self.asked, TcpBind) and isinstance(self.place, TcpBind):
            port = parse_target(self._listener.addresses()[0]).port or 0
            self.asked, self.place = replace(self.asked, port=port), replace(self.place, port=port)
        self._listener.begin()
        return port

    def stop(self) -> None:
        """Stop listening; connections live on."""
        self._listener.stop()

    async def aclose(self) -> None:
        """Stop, and end every connection."""
        await self._listener.aclose()

    async def _serve(self, stream: DuplexStream) -> None:
        waiting = WaitingStream(stream)
        try:
            channel = await waiting.open(self, TcpTarget("", 0))
        except OpenFailed as error:
            logger.debug("a forwarded connection was not taken: %s", error.reason.value)
            await waiting.abort()
            return
        if channel is None:
            await waiting.close()
        else:
            await waiting.join(channel)

    # Opener: whatever is asked for, the client's end of this forward is what there is.

    async def open_connection(
        self, host: str, port: int, *, origin: tuple[str, int] = LOOPBACK_ORIGIN
    ) -> ChannelStream:
        """Open the channel."""
        del host, port
        if len(self._connection.channels) >= self._max_channels:
            raise OpenFailed("too many channels", OpenFailure.OTHER)
        if isinstance(self.asked, UnixBind):
            return await open_forwarded_streamlocal(self._connection, self.asked.path)
        return await open_forwarded_tcpip(self._connection, self.asked.host, self.asked.port, origin)

    async def open_unix_connection(self, path: str) -> ChannelStream:
        """Open the channel."""
        return await self.open_connection(path, 0)
