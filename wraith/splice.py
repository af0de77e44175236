"""Joins two duplex streams until both directions have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from wraith_transports import DuplexStream


class Splice:
    """Copies both ways between two streams, without a task or a buffer of its own.

    Each stream reports any byte it could not pass on at once (write marks of 0), and the other is
    then not read until it could: a stopped reader holds one read, and an SSH channel on the other
    side gives no credit for it. A half-close passes through; a stream that is reset resets the
    other; when both directions have ended both streams are closed.
    """

    def __init__(
        self,
        one: DuplexStream,
        other: DuplexStream,
        *,
        unread: bytes = b"",
        done: Callable[[], None] | None = None,
    ) -> None:
        """Start copying. `unread` was already taken from `one`; `done` is called when both are gone."""
        self._done = done
        self._left = 2
        self.fault: Exception | None = None  # the first that ended a stream before its time
        first, second = _Side(self, one, other), _Side(self, other, one)
        for stream in (one, other):
            stream.set_write_buffer_limits(0, 0)
        other.attach(second)
        one.attach(first, unread)
        for side in (first, second):
            # An attach lifts pauses, also the one that the other stream's unsent bytes ask for.
            if side.sink.get_write_buffer_size():
                side.source.pause_reading()
        self._sides = (first, second)

    def abort(self) -> None:
        """Reset both streams."""
        for side in self._sides:
            side.source.abort()

    def side_ended(self) -> None:
        """Close both once neither has more to say."""
        if all(side.ended for side in self._sides):
            for side in self._sides:
                side.source.close()

    def side_lost(self, fault: Exception | None) -> None:
        """Count the streams that are gone."""
        self.fault = self.fault or fault
        self._left -= 1
        if not self._left and self._done is not None:
            self._done()


class _Side(asyncio.Protocol):
    """Passes on what one stream brings."""

    def __init__(self, splice: Splice, source: DuplexStream, sink: DuplexStream) -> None:
        self._splice = splice
        self.source = source
        self.sink = sink
        self.ended = False

    def data_received(self, data: bytes) -> None:
        self.sink.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        self.sink.write_eof()
        self._splice.side_ended()
        return True

    def pause_writing(self) -> None:
        self.sink.pause_reading()

    def resume_writing(self) -> None:
        self.sink.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        if exc is None:
            self.sink.close()
        else:
            self.sink.abort()
        self._splice.side_lost(exc)


async def splice(one: DuplexStream, other: DuplexStream, *, unread: bytes = b"") -> Exception | None:
    """Copy both ways between two streams; returns when both are gone, with what cut one off, if anything did.

    `unread` are bytes already taken from `one`, and go to `other` first. Cancelling resets both.
    """
    gone = asyncio.get_running_loop().create_future()
    joined = Splice(one, other, unread=unread, done=lambda: None if gone.done() else gone.set_result(None))
    try:
        await gone
    except asyncio.CancelledError:
        joined.abort()
        raise
    return joined.fault
