"""A DuplexStream around the event loop's own socket transport (TCP or a unix socket)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterable
from typing import Any, cast

from ..addresses import socket_address
from ..base import StreamBase
from ..scratch import read_buffer
from ..stream import (
    CLOSE_DRAIN_TIMEOUT_S,
    CLOSE_FLUSH_TIMEOUT_S,
    DEFAULT_HIGH_WATER,
    DEFAULT_LOW_WATER,
    READ_CHUNK,
    UNATTACHED_TIMEOUT_S,
    Buffer,
)

# SO_LINGER on with 0 seconds: close() sends RST instead of FIN.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class TcpStream(StreamBase):
    """One connected socket.

    The loops' transports differ in what they do at the edges (a pause made too early, an end after
    a reset, an exception from a callback); this object answers for both of them alike.
    """

    def __init__(
        self,
        *,
        unattached_timeout_s: float = UNATTACHED_TIMEOUT_S,
        flush_timeout_s: float = CLOSE_FLUSH_TIMEOUT_S,
        drain_timeout_s: float = CLOSE_DRAIN_TIMEOUT_S,
    ) -> None:
        super().__init__(
            unattached_timeout_s=unattached_timeout_s,
            flush_timeout_s=flush_timeout_s,
            drain_timeout_s=drain_timeout_s,
        )
        self._wire = _Wire(self)
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None  # the transports' own view of it lacks shutdown() on uvloop
        self._peername = ("", 0)
        self._sockname = ("", 0)
        self._limits = (DEFAULT_HIGH_WATER, DEFAULT_LOW_WATER)
        self._writer_paused = False

    @classmethod
    async def from_socket(cls, sock: socket.socket, *, unattached_timeout_s: float = UNATTACHED_TIMEOUT_S) -> TcpStream:
        """Wrap a connected socket, and own it from here on. Raises OSError, the socket being closed."""
        sock.setblocking(False)
        if sock.type == socket.SOCK_STREAM and sock.family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = cls(unattached_timeout_s=unattached_timeout_s)
        stream._socket = sock
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: stream._wire, sock)
        except BaseException:
            stream.abort()
            sock.close()
            raise
        return stream

    # DuplexStream

    def write(self, data: Buffer) -> None:
        """Hand data to the loop's transport."""
        if self._write_ended or self._transport is None or not len(data):
            return
        self._transport.write(data)

    def writelines(self, parts: Iterable[Buffer]) -> None:
        """Hand all parts to the loop's transport at once."""
        if not self._write_ended and self._transport is not None:
            self._transport.writelines(parts)

    def can_write_eof(self) -> bool:
        """Whether our half alone can be ended: always."""
        return True

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        """Set the watermarks."""
        if not 0 <= low <= high:
            raise ValueError(f"low ({low}) must be between 0 and high ({high})")
        self._limits = (high, low)
        if self._transport is not None and not self._write_ended:
            self._transport.set_write_buffer_limits(high=high, low=low)
            if self._writer_paused and self.get_write_buffer_size() <= low:
                # The loops look at a lower mark only when the next byte leaves.
                self._resumed_writing()

    def get_write_buffer_size(self) -> int:
        """Bytes the kernel has not taken."""
        if self._transport is None or self._gone:
            return 0  # uvloop goes on counting what an abort has dropped
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Look up `peername`, `sockname` or `socket`."""
        if name == "peername":
            return self._peername
        if name == "sockname":
            return self._sockname
        return default if self._transport is None else self._transport.get_extra_info(name, default)

    def write_eof(self) -> None:
        """Flush, then shut our half down."""
        if not self._write_ended:
            super().write_eof()
            self._hear_of_empty_buffer()

    def close(self) -> None:
        """End in order."""
        super().close()
        self._hear_of_empty_buffer()

    # The carrier

    def _connected(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._peername = socket_address(transport.get_extra_info("peername"))
        self._sockname = socket_address(transport.get_extra_info("sockname"))
        transport.set_write_buffer_limits(high=self._limits[0], low=self._limits[1])

    def _hear_of_empty_buffer(self) -> None:
        """Have resume_writing called when nothing is left, now that the marks serve nobody else."""
        if self._write_ended and not self._half_ended and self._transport is not None and not self._gone:
            self._transport.set_write_buffer_limits(high=0, low=0)

    def _paused_writing(self) -> None:
        self._writer_paused = True
        if not self._write_ended:
            self._ask_to_pause()

    def _resumed_writing(self) -> None:
        self._writer_paused = False
        if not self._write_ended:
            self._let_resume()
        if self._write_ended and not self.get_write_buffer_size():
            self._flushed()

    def _announce_write_state(self) -> None:
        if self._writer_paused and not self._write_ended:
            self._ask_to_pause()

    def _carrier_pause(self) -> None:
        if self._transport is not None and not self._gone:
            self._transport.pause_reading()

    def _carrier_resume(self) -> None:
        if self._transport is not None and not self._gone and not self._peer_has_ended:
            self._transport.resume_reading()

    def _carrier_end(self) -> None:
        # Not transport.write_eof(): after a reset it raises, or leaves the exception to a callback.
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def _carrier_close(self) -> None:
        # Not from within a callback of the transport's own: asyncio would then lose the connection twice.
        self._loop.call_soon(self._close_transport)

    def _close_transport(self) -> None:
        if self._transport is not None and not self._gone:
            self._transport.close()

    def _carrier_reset(self) -> None:
        if self._transport is None:
            return
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._transport.abort()


class _Wire(asyncio.BufferedProtocol):
    """What the loop talks to. Only a BufferedProtocol: uvloop reads into no buffer of a class that is both."""

    def __init__(self, stream: TcpStream) -> None:
        self._stream = stream
        self._lent: asyncio.BufferedProtocol | None = None
        self._view = memoryview(b"")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._stream._connected(cast(asyncio.Transport, transport))

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - READ_CHUNK is what is measured to be best
        reader = self._lent = self._stream._inbox.reader
        if reader is None:
            self._view = read_buffer.take()
        else:
            self._view = memoryview(reader.get_buffer(READ_CHUNK)).cast("B")
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        stream, view = self._stream, self._view
        self._view = memoryview(b"")
        if self._lent is not None and self._lent is stream._inbox.reader:
            stream._inbox.passed(nbytes)
            if stream._inbox.full:
                stream._carrier_pause()
        else:
            stream._received(view[:nbytes])

    def eof_received(self) -> bool:
        self._stream._peer_ended()
        return True

    def pause_writing(self) -> None:
        self._stream._paused_writing()

    def resume_writing(self) -> None:
        self._stream._resumed_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream._carrier_lost(exc)
