"""Stands between a duplex stream and an asyncssh connection: a protocol to the one, a transport to the other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, cast

from wraith_transports import Buffer, DuplexStream, read_buffer

if TYPE_CHECKING:
    from collections.abc import Iterable

# Channel data stops at the stream's high mark; what goes beyond are answers to the peer's own
# packets. A peer that asks and does not read the answers is not read either, and then ended.
UNREAD_ANSWERS_LIMIT = 2 << 20
UNREAD_ANSWERS_TIMEOUT_S = 30.0
SHOWN_BYTES = 16


class Connection(Protocol):
    """What the link needs of an SSH connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start, with the link as transport."""

    def data_received(self, data: bytes) -> None:
        """Take at most READ_CHUNK bytes."""

    def eof_received(self) -> None:
        """Take the end of the peer's half."""

    def connection_lost(self, exc: Exception | None = None) -> None:
        """Take the end of the stream."""

    def pause_writing(self) -> None:
        """Close the gate: the stream's buffer is above its high mark."""

    def resume_writing(self) -> None:
        """Open the gate."""


class SSHLink(asyncio.BufferedProtocol):
    """Carries bytes between one stream and one connection, at most READ_CHUNK at a time."""

    def __init__(self, stream: DuplexStream, connection: Connection, unread: bytes = b"") -> None:
        """Attach to the stream; the connection is made before this returns."""
        self._stream = stream
        self._connection: Connection | None = connection
        self._view = memoryview(b"")
        self._holders: set[str] = set()
        self.first_bytes = b""  # of the peer, to tell what it is when it is not SSH
        self._timer: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # the stream is gone
        stream.attach(self, unread)

    # Towards the stream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce the link to the connection as its transport."""
        del transport
        if self._connection is not None:
            self._connection.connection_made(cast(asyncio.BaseTransport, self))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the thread's read buffer."""
        del sizehint
        self._view = read_buffer.take()
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what was read."""
        if len(self.first_bytes) < SHOWN_BYTES:
            self.first_bytes += bytes(self._view[: min(nbytes, SHOWN_BYTES)])
        if self._connection is not None:
            self._connection.data_received(bytes(self._view[:nbytes]))

    def eof_received(self) -> bool:
        """Pass on the end of the peer's half; SSH has no half-close, so the connection ends."""
        if self._connection is not None:
            self._connection.eof_received()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on the end."""
        connection, self._connection = self._connection, None
        self._cancel_timer()
        if not self.ended.done():
            self.ended.set_result(None)
        if connection is not None:
            connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """Close the gate."""
        if self._connection is not None:
            self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Open the gate, and read again if the peer had left too many answers unread."""
        self._cancel_timer()
        self.resume_reading("answers")
        if self._connection is not None:
            self._connection.resume_writing()

    # Towards asyncssh

    def write(self, data: Buffer) -> None:
        """Send."""
        self._stream.write(data)
        if self._timer is None and self._stream.get_write_buffer_size() > UNREAD_ANSWERS_LIMIT:
            self.pause_reading("answers")
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(UNREAD_ANSWERS_TIMEOUT_S, self._stream.abort)

    def writelines(self, parts: Iterable[Buffer]) -> None:
        """Send the parts in order."""
        self.write(b"".join(parts))

    def pause_reading(self, reason: str) -> None:
        """Stop reading for as long as any reason holds."""
        self._holders.add(reason)
        self._stream.pause_reading()

    def resume_reading(self, reason: str) -> None:
        """Withdraw a reason."""
        if reason in self._holders:
            self._holders.remove(reason)
            if not self._holders:
                self._stream.resume_reading()

    async def wait_ended(self, timeout_s: float) -> None:
        """Wait until the stream is gone, which it is at the latest after `timeout_s`."""
        await asyncio.wait([self.ended], timeout=timeout_s)
        if not self.ended.done():
            self._connection = None
            self._stream.abort()
            await self.ended
        await asyncio.sleep(0)  # the loop lets go of its own transport on its next turn

    def reset(self) -> None:
        """End at once, and tell the connection that it is lost."""
        self._stream.abort()

    def abort(self) -> None:
        """End in order: asyncssh calls this for every close, also right after a last message."""
        self._connection = None
        self._stream.close()

    close = abort

    def is_closing(self) -> bool:
        """Whether the stream is ending."""
        return self._stream.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Look up what the stream knows, but not its socket: asyncssh would set options on it."""
        return default if name == "socket" else self._stream.get_extra_info(name, default)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
