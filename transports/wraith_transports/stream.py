"""The contract every transport yields: one duplex byte stream on the event loop's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

READ_CHUNK = 64 << 10  # bytes a read asks for; above 128 KiB glibc maps and page-faults every buffer
HOLD_LIMIT = 64 << 10  # bytes kept for a stream that has no protocol yet, or whose protocol paused
UNATTACHED_TIMEOUT_S = 30.0  # a stream nobody attaches to is a leak
CLOSE_FLUSH_TIMEOUT_S = 30.0  # without progress, unsent bytes are given up
CLOSE_DRAIN_TIMEOUT_S = 5.0  # how long close() reads and drops, so that no reset eats the tail
DEFAULT_HIGH_WATER = 512 << 10  # at asyncio's 64 KiB bulk transfers thrash between paused and not
DEFAULT_LOW_WATER = 128 << 10

Buffer = bytes | bytearray | memoryview
StreamProtocol = asyncio.Protocol | asyncio.BufferedProtocol


class DuplexStream(Protocol):
    """An ordered, reliable stream of bytes in both directions.

    All calls are made on the loop's thread, and none of them waits. Once the peer is gone nothing
    here raises: writes after the end are dropped in silence, and the protocol learns of the end
    from `connection_lost`, which it hears exactly once and as the last thing.
    """

    def attach(self, protocol: StreamProtocol, unread: bytes = b"") -> None:
        """Hand the stream to a Protocol or BufferedProtocol.

        `connection_made(stream)` is called before this returns; then the protocol gets `unread`
        (bytes a previous owner took and did not use), then what was held, then live bytes; none
        of these while it has paused reading. Attaching again hands the stream over: the previous
        protocol hears nothing more, not even `connection_lost`, and a pause it made is lifted.
        A new protocol hears `pause_writing` at once if the write buffer is above its high mark.

        The end of the peer's half is told by `eof_received`, whose answer is not looked at: a stream
        closes when it is told to.

        Attached after the end, the protocol gets `unread`, what was held, `eof_received` if the peer ended
        its half, and then `connection_lost`.

        Before the first attach at most HOLD_LIMIT bytes are held, then reading pauses; a stream
        that stays unattached for UNATTACHED_TIMEOUT_S is aborted.
        """

    def hold(self, unread: bytes = b"") -> None:
        """Take the stream back from its protocol, which hears nothing more, and keep what arrives.

        As before the first attach, whose rules hold again; whoever attaches next gets `unread` first.
        For one who has spoken the opening words on a stream and returns it to a caller.
        """

    def write(self, data: Buffer) -> None:
        """Send `data`, after everything written before it.

        The stream may keep a reference to it: a caller that reuses a buffer does so only when
        `get_write_buffer_size()` is 0. Dropped in silence after `write_eof`, `close` or the end.
        """

    def writelines(self, parts: Iterable[Buffer]) -> None:
        """Send the parts in order, with one system call where the carrier can."""

    def can_write_eof(self) -> bool:
        """Whether `write_eof` reaches the peer: TCP, memory and QUIC streams can, TLS cannot."""
        ...

    def write_eof(self) -> None:
        """Flush, then end our half; the peer may go on sending. A no-op where it cannot, or twice."""

    def pause_reading(self) -> None:
        """Stop `data_received`; idempotent. What is in flight, at most HOLD_LIMIT, may still arrive."""

    def resume_reading(self) -> None:
        """Undo `pause_reading`; idempotent."""

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        """Set when the protocol hears `pause_writing` (above high) and `resume_writing` (at or below low)."""

    def get_write_buffer_size(self) -> int:
        """Bytes taken by write and not yet given to the kernel or the carrier."""
        ...

    def close(self) -> None:
        """End in order: flush, end our half, read and drop until the peer ends, then `connection_lost(None)`.

        Flushing without progress for CLOSE_FLUSH_TIMEOUT_S aborts; reading and dropping is given
        CLOSE_DRAIN_TIMEOUT_S. After this the protocol gets no data. Idempotent.
        """

    def abort(self) -> None:
        """Drop what is buffered in both directions and reset; `connection_lost` on the loop's next turn."""

    def is_closing(self) -> bool:
        """Whether `close` or `abort` was called or the stream has ended."""
        ...

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Look up what is known of the connection.

        `peername` is always there, as (ip, port). Carriers add `sockname`, `socket`, `ssl_object`.
        """
        ...


@runtime_checkable
class SupportsPath(Protocol):
    """A stream that can tell, and announce changes of, the network path it takes."""

    def current_path(self) -> str:
        """Describe the path in use now, for people and logs."""
        ...


@runtime_checkable
class SupportsTrust(Protocol):
    """A stream whose carrier behaves differently once the application has authenticated the peer."""

    def trust(self) -> None:
        """Tell the carrier that the peer is authenticated."""


@runtime_checkable
class SupportsLiveness(Protocol):
    """A stream whose carrier finds out by itself that the peer is dead; SSH keepalive is then off."""

    def detects_dead_peer(self) -> bool:
        """Whether that is so now."""
        ...
