"""A stream whose outgoing bytes wait in a queue of ours: the base for memory, TLS, QUIC and later layers."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterable

from .base import StreamBase
from .stream import (
    CLOSE_DRAIN_TIMEOUT_S,
    CLOSE_FLUSH_TIMEOUT_S,
    DEFAULT_HIGH_WATER,
    DEFAULT_LOW_WATER,
    UNATTACHED_TIMEOUT_S,
    Buffer,
)

COALESCE_BELOW = 4 << 10  # smaller writes that have to wait share one buffer: a view of one byte costs 200


class QueuedStream(StreamBase):
    """Queue and watermarks; a subclass implements `_flush` and the `_carrier_*` methods.

    `_flush` gives the carrier as much as it takes, by `_take`, and may do nothing when the carrier
    is full; the carrier's owner calls `_flush` again when there is room.
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
        self._queue: deque[memoryview] = deque()
        self._tail = bytearray()  # small writes behind the queue
        self._queued = 0
        self._high = DEFAULT_HIGH_WATER
        self._low = DEFAULT_LOW_WATER
        self._writer_paused = False

    @abstractmethod
    def _flush(self) -> None:
        """Move queued bytes to the carrier, as far as it takes them."""

    def can_write_eof(self) -> bool:
        """Whether our half alone can be ended."""
        return True

    def write(self, data: Buffer) -> None:
        """Queue data and flush what the carrier takes."""
        if self._write_ended or not len(data):
            return
        self._append(data)
        self._flush()
        self._check_high()

    def writelines(self, parts: Iterable[Buffer]) -> None:
        """Queue all parts, then flush once."""
        if self._write_ended:
            return
        for part in parts:
            if len(part):
                self._append(part)
        if self._queued:
            self._flush()
            self._check_high()

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        """Set the watermarks."""
        if not 0 <= low <= high:
            raise ValueError(f"low ({low}) must be between 0 and high ({high})")
        self._high = high
        self._low = low
        self._check_high()
        self._check_low()

    def get_write_buffer_size(self) -> int:
        """Bytes queued."""
        return self._queued

    def _take(self, limit: int) -> list[memoryview]:
        """Remove up to `limit` bytes from the head of the queue; call `_taken` once they are sent."""
        parts: list[memoryview] = []
        while limit > 0 and self._queued:
            if not self._queue:
                self._seal_tail()
            part = self._queue[0]
            if len(part) <= limit:
                self._queue.popleft()
            else:
                self._queue[0] = part[limit:]
                part = part[:limit]
            parts.append(part)
            limit -= len(part)
            self._queued -= len(part)
        return parts

    def _taken(self) -> None:
        """React to a shorter queue: resume the writer, and go on ending if that was asked for."""
        self._check_low()
        if not self._queued:
            self._flushed()

    def _append(self, data: Buffer) -> None:
        if self._queue and len(data) < COALESCE_BELOW:
            self._tail += data
        else:
            self._seal_tail()
            self._queue.append(memoryview(data).cast("B"))
        self._queued += len(data)

    def _seal_tail(self) -> None:
        if self._tail:
            self._queue.append(memoryview(self._tail))
            self._tail = bytearray()

    def _drop_queue(self) -> None:
        self._queue.clear()
        self._tail = bytearray()
        self._queued = 0

    def _announce_write_state(self) -> None:
        self._writer_paused = False
        self._check_high()

    def _check_high(self) -> None:
        if not self._writer_paused and self._queued > self._high and not self._gone:
            self._writer_paused = True
            self._ask_to_pause()

    def _check_low(self) -> None:
        if self._writer_paused and self._queued <= self._low and not self._gone:
            self._writer_paused = False
            self._let_resume()
