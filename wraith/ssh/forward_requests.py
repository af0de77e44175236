"""The requests by which a client has the server listen, and the opens that follow (RFC 4254, 7.1; PROTOCOL, 2.4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import asyncssh
from asyncssh.constants import OPEN_ADMINISTRATIVELY_PROHIBITED, OPEN_RESOURCE_SHORTAGE
from asyncssh.packet import SSHPacket, UInt32

from ..specs import TcpBind, UnixBind
from .channel import ChannelStream, Opened

if TYPE_CHECKING:
    from .connection import BoundedConnection

MAX_PORT = 65535
MAX_CLIENT_CHANNELS = 1024  # above it a server's opens are refused: each costs a dial and a descriptor here

ListenAddress = TcpBind | UnixBind


@dataclass(frozen=True, slots=True)
class ForwardedOpen:
    """A connection that came to an address the server listens on for us."""

    listener: ListenAddress
    origin: tuple[str, int]


ForwardedHandler = Callable[[ForwardedOpen], Awaitable[Opened]]


class ListenRules(Protocol):
    """Who decides for a server whether, and does listen for a client."""

    async def listen(self, bind: ListenAddress) -> int | None:
        """Listen; the real port (0 for a unix socket), or None when refused. Never raises."""
        ...

    def stop_listening(self, bind: ListenAddress) -> bool:
        """Stop; False if this client has no such listener."""
        ...

    def instance_named(self, instance: bytes) -> bool:
        """Note which process the client is; False if what it sent is none."""
        ...


class ServerForwardRequests:
    """The server's handlers, which asyncssh finds by their names."""

    def _process_tcpip_forward_global_request(self, packet: SSHPacket) -> None:
        bind = _tcp_bind(packet)
        self._answer_later(bind, port_asked=bind.port)

    def _process_cancel_tcpip_forward_global_request(self, packet: SSHPacket) -> None:
        self._answer(self._rules.stop_listening(_tcp_bind(packet)))

    def _process_streamlocal_forward_at_openssh_dot_com_global_request(self, packet: SSHPacket) -> None:
        self._answer_later(_unix_bind(packet), port_asked=None)

    def _process_cancel_streamlocal_forward_at_openssh_dot_com_global_request(self, packet: SSHPacket) -> None:
        self._answer(self._rules.stop_listening(_unix_bind(packet)))

    def _process_instance_at_wraith_global_request(self, packet: SSHPacket) -> None:
        instance = packet.get_string()
        packet.check_end()
        self._answer(self._rules.instance_named(instance))

    @property
    def _rules(self) -> ListenRules:
        return cast(ListenRules, cast("BoundedConnection", self).get_owner())

    def _answer(self, result: bool | bytes) -> None:
        cast("BoundedConnection", self).report_global_response(result)

    def _answer_later(self, bind: ListenAddress, *, port_asked: int | None) -> None:
        rules = self._rules  # not to be found any more once the connection has ended

        async def decide() -> None:
            port = await rules.listen(bind)
            if port is None:
                self._answer(False)
            else:
                # RFC 4254, 7.1: the port is told only to whoever asked for any.
                self._answer(UInt32(port) if port_asked == 0 else True)

        cast("BoundedConnection", self).create_task(decide())


class ClientForwardRequests:
    """The client's handlers of opens."""

    def _process_forwarded_tcpip_open(self, packet: SSHPacket) -> Any:
        bind = _tcp_bind(packet, check_end=False)
        origin_host = _text(packet.get_string())
        origin = (origin_host, packet.get_uint32())
        packet.check_end()
        return self._forwarded(ForwardedOpen(bind, origin))

    def _process_forwarded_streamlocal_at_openssh_dot_com_open(self, packet: SSHPacket) -> Any:
        path = _text(packet.get_string())
        packet.get_string()  # reserved
        packet.check_end()
        return self._forwarded(ForwardedOpen(UnixBind(path), ("", 0)))

    def _forwarded(self, request: ForwardedOpen) -> tuple[ChannelStream, Awaitable[Opened]]:
        connection = cast("BoundedConnection", self)
        handler = connection.bounds.forwarded
        if handler is None:
            raise asyncssh.ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, "nothing was asked for")
        if len(connection.channels) >= MAX_CLIENT_CHANNELS:
            raise asyncssh.ChannelOpenError(OPEN_RESOURCE_SHORTAGE, "too many channels")
        return ChannelStream(connection, request.origin), handler(request)


def _tcp_bind(packet: SSHPacket, *, check_end: bool = True) -> TcpBind:
    host = _text(packet.get_string())
    port = packet.get_uint32()
    if check_end:
        packet.check_end()
    if port > MAX_PORT:
        raise asyncssh.ProtocolError("no such port")
    return TcpBind(host, port)


def _unix_bind(packet: SSHPacket) -> UnixBind:
    path = _text(packet.get_string())
    packet.check_end()
    return UnixBind(path)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise asyncssh.ProtocolError("a name that is not UTF-8") from error
