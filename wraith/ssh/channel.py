"""An SSH channel as a duplex stream (RFC 4254, sections 5 and 7)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import asyncssh
from asyncssh.constants import OPEN_CONNECT_FAILED, OPEN_RESOURCE_SHORTAGE
from asyncssh.packet import SSHPacket, SSHPacketHandler, String, UInt32

from wraith_transports import QueuedStream, StreamProtocol

from ..opening import OpenFailed, OpenFailure
from .budget import ReceiveWindow
from .open_failure import open_failed

if TYPE_CHECKING:
    from asyncssh.channel import SSHChannel

    from .connection import BoundedConnection

MSG_OPEN = 90
MSG_WINDOW_ADJUST = 93
MSG_DATA = 94
MSG_EXTENDED_DATA = 95
MSG_EOF = 96
MSG_CLOSE = 97
MSG_REQUEST = 98
MSG_SUCCESS = 99
MSG_FAILURE = 100

MAX_PACKET = 32 << 10  # bytes of data a packet of ours may carry; what RFC 4253, 6.1 asks everyone to take
SMALLEST_PACKET = 1 << 10  # a peer's lower maximum turns each read into thousands of packets: refused
PACKETS_A_TURN = 64  # sent in one callback, then others have their turn
MAX_WINDOW = 0xFFFFFFFF  # RFC 4254, 5.2
OPEN_PROBE_S = 5.0  # an open unanswered for so long may mean that nobody is there: a keepalive asks
OPEN_TIMEOUT_S = 30.0  # the other side gives up dialling after 10; a server that never answers is not waited for

Opened = Callable[["ChannelStream"], None]

logger = logging.getLogger(__name__)


class ChannelStream(QueuedStream, SSHPacketHandler):
    """One channel, of ours or of the peer's.

    Bytes wait for the peer's window and for the connection's gate in the queue of QueuedStream.
    What the peer sends is bounded by a ReceiveWindow; its credit goes back when the attached
    protocol has taken the bytes: those it was given while it paused count only once it resumes.
    """

    def __init__(self, connection: BoundedConnection, peername: tuple[str, int]) -> None:
        """Register with the connection. Raises asyncssh.ChannelOpenError if that has ended."""
        super().__init__()
        self._connection = connection
        self._number = connection.add_channel(cast("SSHChannel[bytes]", self))
        self._window = ReceiveWindow(connection.bounds.budget, self._loop.time())
        self._peername = peername
        self._peer_number: int | None = None
        self._peer_window = 0
        self._peer_packet = 0
        self._untaken = 0  # delivered while paused: not the reader's yet
        self._in_line = False  # waiting for the gate
        self._cut = False  # closed without an end of file
        self._close_sent = False
        self._close_received = False
        self._abandoned = False  # nobody waits for the open any more
        self._confirmation: asyncio.Future[None] | None = None
        self._opening: asyncio.Task[None] | None = None
        self._cancel_timer()  # while it is being opened nobody can attach

    # Opening

    async def open(self, kind: bytes, *arguments: bytes) -> None:
        """Ask the peer to open the channel. Raises OpenFailed; cancelling closes it when it opens."""
        self._confirmation = self._loop.create_future()
        self._connection.send_packet(
            MSG_OPEN,
            String(kind),
            UInt32(self._number),
            UInt32(self._window.size),
            UInt32(MAX_PACKET),
            *arguments,
            handler=self,
        )
        probe = self._loop.call_later(OPEN_PROBE_S, self._connection.probe)
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await self._confirmation
        except TimeoutError as error:
            self._abandoned = True
            raise OpenFailed(f"the server did not answer within {OPEN_TIMEOUT_S:g} s", OpenFailure.TIMED_OUT) from error
        except BaseException:
            self._abandoned = True
            if self._peer_number is not None:
                self.abort()
            raise
        finally:
            probe.cancel()
        self._watch_unattached()

    def process_open(self, number: int, window: int, packet: int, opening: Awaitable[Opened]) -> None:
        """Take the peer's request to open (asyncssh calls this); `opening` dials and says what to do then."""
        self._peer_number, self._peer_window, self._peer_packet = number, window, packet
        self._opening = self._connection.create_task(self._finish_opening(opening))

    def set_inbound_peer_names(self, *names: str | int) -> None:
        """Take the names of the request (asyncssh calls this); they are known already."""

    def process_open_confirmation(self, number: int, window: int, packet: int, rest: SSHPacket) -> None:
        """Take the peer's agreement (asyncssh calls this)."""
        rest.check_end()
        if self._confirmation is None or self._peer_number is not None:
            raise asyncssh.ProtocolError("channel not being opened")
        self._peer_number, self._peer_window, self._peer_packet = number, window, packet
        if self._abandoned:
            self.abort()
        elif packet < SMALLEST_PACKET:
            self._confirmation.set_exception(OpenFailed("the server's maximum packet is too small", OpenFailure.OTHER))
            self.abort()
        elif not self._confirmation.done():
            self._confirmation.set_result(None)

    def process_open_failure(self, code: int, reason: str, lang: str) -> None:
        """Take the peer's refusal (asyncssh calls this)."""
        del lang
        if self._confirmation is None or self._peer_number is not None:
            raise asyncssh.ProtocolError("channel not being opened")
        if not self._confirmation.done():
            self._confirmation.set_exception(open_failed(code, reason))
        self._forget()

    async def _finish_opening(self, opening: Awaitable[Opened]) -> None:
        # The refusals below come after an await at least: asyncssh names the channel only after process_open.
        try:
            if self._peer_packet < SMALLEST_PACKET:
                getattr(opening, "close", lambda: None)()
                raise asyncssh.ChannelOpenError(OPEN_RESOURCE_SHORTAGE, f"maximum packet below {SMALLEST_PACKET}")
            opened = await opening
        except asyncssh.ChannelOpenError as error:
            self._refuse(error)
            return
        except asyncio.CancelledError:
            self._forget()
            raise
        except Exception:
            logger.exception("opening a channel failed")
            self._refuse(asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, "internal error"))
            return
        finally:
            self._opening = None
        self._connection.send_channel_open_confirmation(
            self._peer_number or 0, self._number, self._window.size, MAX_PACKET
        )
        self._watch_unattached()
        try:
            opened(self)
        except Exception as error:  # contained here: this channel, not the session
            self._protocol_failed(error)

    def _refuse(self, error: asyncssh.ChannelOpenError) -> None:
        if not self._gone:
            self._connection.send_channel_open_failure(self._peer_number or 0, error.code, error.reason, error.lang)
        self._forget()

    def _watch_unattached(self) -> None:
        if not self._attached and self._timer is None:
            self._timer = self._loop.call_later(self._unattached_timeout_s, self.abort)

    # What the peer sends

    def log_received_packet(self, *args: object, **kwargs: object) -> None:
        """Say nothing: this is called for every packet."""

    log_sent_packet = log_received_packet

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> bool:
        """Take a channel message (asyncssh calls this). Raises asyncssh.ProtocolError for a misbehaving peer."""
        del pktid
        if self._peer_number is None or self._opening is not None or self._close_received:
            raise asyncssh.ProtocolError("channel not open")
        if pkttype == MSG_DATA:
            self._process_data(packet.get_string())
        elif pkttype == MSG_WINDOW_ADJUST:
            self._process_adjust(packet.get_uint32())
        elif pkttype == MSG_EXTENDED_DATA:
            packet.get_uint32()
            self._process_extended(packet.get_string())
        elif pkttype == MSG_EOF:
            self._peer_ended()
        elif pkttype == MSG_CLOSE:
            self._process_close()
        elif pkttype == MSG_REQUEST:
            packet.get_string()
            if packet.get_boolean() and not self._close_sent:
                self._send(MSG_FAILURE)
            return True
        elif pkttype not in (MSG_SUCCESS, MSG_FAILURE):
            return False
        else:
            raise asyncssh.ProtocolError("unexpected channel response")
        packet.check_end()
        return True

    def process_connection_close(self, exc: Exception | None) -> None:
        """Take the end of the connection (asyncssh calls this); what is held may still be read for a while."""
        del exc
        self._close_sent = self._close_received = True
        if self._opening is not None:
            self._opening.cancel()
        if self._confirmation is not None and not self._confirmation.done():
            self._confirmation.set_exception(OpenFailed("the session ended", OpenFailure.SESSION_DOWN))
            self._confirmation.exception()
        self._leave_connection()
        self._carrier_lost(ConnectionResetError("the session ended"))
        if self._inbox.held:
            self._timer = self._loop.call_later(self._flush_timeout_s, self.abort)
        self._forget_when_read()

    def _count_received(self, count: int) -> None:
        if self._peer_has_ended:
            raise asyncssh.ProtocolError("data after end of file")
        keeping_up = not self._inbox.held and not self._inbox.paused
        if not self._window.receive(count, keeping_up=keeping_up, now=self._loop.time()):
            raise asyncssh.ProtocolError("window exceeded")

    def _process_data(self, data: bytes) -> None:
        self._count_received(len(data))
        if self._closing:
            self._give_credit(len(data))
        else:
            self._inbox.feed(data)

    def _process_extended(self, data: bytes) -> None:
        """Drop what is not the stream: a forwarded connection has no stderr."""
        self._count_received(len(data))
        self._give_credit(len(data))

    def _process_adjust(self, count: int) -> None:
        if self._peer_window + count > MAX_WINDOW:
            raise asyncssh.ProtocolError("window adjusted past its maximum")
        self._peer_window += count
        self._flush()

    def _process_close(self) -> None:
        self._close_received = True
        whole = self._peer_has_ended or self._close_sent
        self._drop_queue()
        # OpenSSH and wraith say EOF before CLOSE unless something was cut off.
        self._carrier_lost(None if whole else ConnectionResetError("the other side cut the connection off"))
        self._forget_when_read()

    def _delivered(self, count: int) -> None:
        self._untaken += count
        if not self._inbox.paused:
            self._give_taken()
        self._forget_when_read()

    def attach(self, protocol: StreamProtocol, unread: bytes = b"") -> None:
        """Hand the stream to `protocol`; what the one before was given counts as taken."""
        super().attach(protocol, unread)
        self._give_taken()

    def hold(self, unread: bytes = b"") -> None:
        """Take the stream back; what its protocol was given counts as taken."""
        super().hold(unread)
        self._give_taken()

    def resume_reading(self) -> None:
        """Deliver again; what was delivered before the pause is taken now."""
        super().resume_reading()
        self._give_taken()

    def cut_off(self) -> None:
        """Flush and close without saying that this was all, unless `write_eof` said so before.

        For a session that ends under its channels: neither side shall take a part for the whole.
        """
        if not self._write_ended and not self._closing:
            self._cut = True
            self._fault_seen = ConnectionAbortedError("the session ended")
        self.close()

    def close(self) -> None:
        """End in order."""
        super().close()
        self._forget_when_read()

    def abort(self) -> None:
        """Drop everything and reset."""
        super().abort()
        self._forget_when_read()

    def _give_taken(self) -> None:
        count, self._untaken = self._untaken, 0
        if count > 0:
            self._give_credit(count)

    def _give_credit(self, count: int) -> None:
        credit = self._window.consume(count, self._loop.time())
        if credit and not self._close_sent:
            self._send(MSG_WINDOW_ADJUST, UInt32(credit))

    # What we send

    def _send(self, kind: int, *parts: bytes) -> None:
        self._connection.send_packet(kind, UInt32(self._peer_number or 0), *parts, handler=self)

    def _flush(self) -> None:
        """Send what gate and window allow now, unless others are in line before us."""
        if self._connection.bounds.line or not self._connection.gate_open:
            self._stand_in_line()
        else:
            self.send_turn(PACKETS_A_TURN)

    def send_turn(self, packets: int) -> int:
        """Send up to `packets` packets; return how many. What is left waits in line or for the window."""
        sent = 0
        while self._queued and self._peer_window and not self._close_sent and self._peer_number is not None:
            if sent == packets or not self._connection.gate_open:
                self._stand_in_line()
                break
            before = self._queued
            data = b"".join(self._take(min(self._peer_window, self._peer_packet, MAX_PACKET)))
            self._peer_window -= before - self._queued
            self._send(MSG_DATA, String(data))
            sent += 1
        self._taken()
        return sent

    def _stand_in_line(self) -> None:
        if self._queued and self._peer_window and not self._in_line and not self._close_sent:
            self._in_line = True
            self._connection.stand_in_line(self)

    def turn_came(self, packets: int) -> int:
        """Take our turn in the line."""
        self._in_line = False
        return self.send_turn(packets)

    # The carrier

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Look up `peername`: the target as it was asked for."""
        return self._peername if name == "peername" else default

    def _carrier_pause(self) -> None:
        """Do nothing: credit is what stops the peer."""

    def _carrier_resume(self) -> None:
        """Do nothing: credit is what stops the peer."""

    def _carrier_end(self) -> None:
        if not self._close_sent and self._peer_number is not None and not self._cut:
            self._send(MSG_EOF)
        if self._closing:
            # Unlike a socket, a channel loses nothing by closing before the peer's end is read.
            self._carrier_close()

    def _carrier_close(self) -> None:
        self._send_close()
        self._loop.call_soon(self._carrier_lost, None)

    def _carrier_reset(self) -> None:
        self._drop_queue()
        self._send_close()

    def _send_close(self) -> None:
        if not self._close_sent and self._peer_number is not None:
            self._close_sent = True
            self._send(MSG_CLOSE)

    def _forget_when_read(self) -> None:
        """Agree to the peer's CLOSE once nothing is held: until then the channel counts, and its credit is out.

        Otherwise a peer could fill a window, close, and fill the next, with a reader that has stopped.
        """
        if self._close_received and not self._inbox.held:
            self._send_close()
            self._forget()

    def _forget(self) -> None:
        """Give up the channel number and the window; nothing more will come for them."""
        self._window.release()
        self._cancel_timer()
        self._leave_connection()

    def _leave_connection(self) -> None:
        if self._number >= 0:
            self._connection.remove_channel(self._number)
            self._number = -1

    @property
    def logger(self) -> Any:
        """The connection's logger, as asyncssh expects of a packet handler."""
        return self._connection.logger


async def open_direct_tcpip(
    connection: BoundedConnection, host: str, port: int, origin: tuple[str, int]
) -> ChannelStream:
    """Open a channel to host and port as the server sees them (RFC 4254, 7.2). Raises OpenFailed."""
    return await _open(connection, (host, port), b"direct-tcpip", _host_port(host, port) + _host_port(*origin))


async def open_direct_streamlocal(connection: BoundedConnection, path: str) -> ChannelStream:
    """Open a channel to a unix socket of the server's (PROTOCOL of OpenSSH, 2.4). Raises OpenFailed."""
    # The two reserved fields at the end are an originator that OpenSSH sends empty.
    return await _open(connection, (path, 0), b"direct-streamlocal@openssh.com", String(path) + _host_port("", 0))


async def open_forwarded_tcpip(
    connection: BoundedConnection, host: str, port: int, origin: tuple[str, int]
) -> ChannelStream:
    """Open a channel for a connection that came to a port we listen on for the client. Raises OpenFailed."""
    return await _open(connection, origin, b"forwarded-tcpip", _host_port(host, port) + _host_port(*origin))


async def open_forwarded_streamlocal(connection: BoundedConnection, path: str) -> ChannelStream:
    """Open a channel for a connection that came to a unix socket we listen on. Raises OpenFailed."""
    return await _open(connection, ("", 0), b"forwarded-streamlocal@openssh.com", String(path) + String(""))


async def _open(
    connection: BoundedConnection, peername: tuple[str, int], kind: bytes, arguments: bytes
) -> ChannelStream:
    try:
        channel = ChannelStream(connection, peername)
    except asyncssh.ChannelOpenError as error:
        raise OpenFailed("the session has ended", OpenFailure.SESSION_DOWN) from error
    await channel.open(kind, arguments)
    return channel


def _host_port(host: str, port: int) -> bytes:
    return String(host) + UInt32(port)
