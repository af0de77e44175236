"""What every stream of ours has in common: the inbox, and the way a stream ends."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from .inbox import Inbox
from .stream import (
    CLOSE_DRAIN_TIMEOUT_S,
    CLOSE_FLUSH_TIMEOUT_S,
    UNATTACHED_TIMEOUT_S,
    Buffer,
    StreamProtocol,
)


class StreamBase(ABC):
    """A DuplexStream without its carrier.

    A subclass moves bytes: it calls `_inbox.feed`, `_peer_ended` and `_carrier_lost` for what the
    carrier brings, `_flushed` whenever nothing is left to send, and implements the `_carrier_*`
    methods. This class keeps the order of the ending: flush, end our half, drain, lost.
    """

    def __init__(
        self,
        *,
        unattached_timeout_s: float = UNATTACHED_TIMEOUT_S,
        flush_timeout_s: float = CLOSE_FLUSH_TIMEOUT_S,
        drain_timeout_s: float = CLOSE_DRAIN_TIMEOUT_S,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._inbox = Inbox(self, want_more=self._want_more, fault=self._protocol_failed, delivered=self._delivered)
        self._flush_timeout_s = flush_timeout_s
        self._drain_timeout_s = drain_timeout_s
        self._write_ended = False  # we take no more bytes from our user
        self._half_ended = False  # the carrier was told that our half has ended
        self._peer_has_ended = False
        self._closing = False
        self._draining = False  # everything is said, and the peer's end is waited for
        self._aborted = False
        self._gone = False
        self._fault_seen: Exception | None = None
        self._unattached_timeout_s = unattached_timeout_s
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(unattached_timeout_s, self.abort)
        self._attached = False

    # What a carrier does

    @abstractmethod
    def get_write_buffer_size(self) -> int:
        """Bytes taken and not yet given to the carrier."""

    @abstractmethod
    def can_write_eof(self) -> bool:
        """Whether our half alone can be ended."""

    @abstractmethod
    def write(self, data: Buffer) -> None:
        """Send data."""

    @abstractmethod
    def set_write_buffer_limits(self, high: int, low: int) -> None:
        """Set the watermarks of the write buffer."""

    @abstractmethod
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Look up what is known of the connection."""

    @abstractmethod
    def _carrier_pause(self) -> None:
        """Stop reading; called repeatedly."""

    @abstractmethod
    def _carrier_resume(self) -> None:
        """Read again; called repeatedly."""

    @abstractmethod
    def _carrier_end(self) -> None:
        """End our half; called once, with nothing left to send."""

    @abstractmethod
    def _carrier_close(self) -> None:
        """Release the carrier, everything being said; leads to _carrier_lost."""

    @abstractmethod
    def _carrier_reset(self) -> None:
        """Drop what is queued and reset; _carrier_lost may be called, and need not be."""

    @abstractmethod
    def _announce_write_state(self) -> None:
        """Tell a newly attached protocol to pause writing if the buffer is above its mark."""

    def _delivered(self, count: int) -> None:  # noqa: B027 - most carriers do not count
        """Count bytes that the protocol was given (negative: some were taken back)."""

    # DuplexStream

    def attach(self, protocol: StreamProtocol, unread: bytes = b"") -> None:
        """Hand the stream to `protocol`."""
        if not self._attached:
            self._attached = True
            if not self._closing:
                self._cancel_timer()
        self._inbox.attach(protocol, unread)
        if not self._gone:
            self._announce_write_state()

    def hold(self, unread: bytes = b"") -> None:
        """Take the stream back from its protocol."""
        if self._attached:
            self._attached = False
            if not self.is_closing():
                self._timer = self._loop.call_later(self._unattached_timeout_s, self.abort)
        self._inbox.hold(unread)

    def writelines(self, parts: Iterable[Buffer]) -> None:
        """Send the parts in order."""
        self.write(b"".join(parts))

    def write_eof(self) -> None:
        """Flush, then end our half."""
        if self._write_ended or not self.can_write_eof():
            return
        self._write_ended = True
        if not self.get_write_buffer_size():
            self._flushed()

    def pause_reading(self) -> None:
        """Stop delivering."""
        if not self._closing:
            self._inbox.pause()
            self._carrier_pause()

    def resume_reading(self) -> None:
        """Deliver again."""
        if not self._closing:
            self._inbox.resume()

    def close(self) -> None:
        """End in order."""
        if self._closing:
            return
        self._closing = self._write_ended = True
        self._inbox.discard()
        if self._gone:
            return
        self._carrier_resume()
        self._cancel_timer()
        if self._half_ended or not self.get_write_buffer_size():
            self._half_flushed()
        else:
            self._watch_flush(self.get_write_buffer_size())

    def abort(self) -> None:
        """Drop everything and reset."""
        if self._aborted:
            return
        self._aborted = self._closing = self._write_ended = True
        self._cancel_timer()
        self._inbox.discard()
        if not self._gone:
            self._carrier_reset()
            self._carrier_lost(self._fault_seen)

    def is_closing(self) -> bool:
        """Whether it is ending or has ended."""
        return self._closing or self._gone

    # For subclasses

    def _want_more(self) -> None:
        if not self._gone:
            self._carrier_resume()

    def _received(self, data: Buffer) -> None:
        """Take bytes from the carrier and pause it when that is enough."""
        self._inbox.feed(data)
        if self._inbox.full:
            self._carrier_pause()

    def _flushed(self) -> None:
        """React to an empty write buffer."""
        if self._write_ended:
            self._half_flushed()

    def _peer_ended(self) -> None:
        """Take the end of the peer's half."""
        if self._peer_has_ended:
            return
        self._peer_has_ended = True
        self._inbox.feed_eof()
        if self._closing and self._half_ended and not self._gone:
            self._carrier_close()

    def _carrier_lost(self, error: Exception | None) -> None:
        """Take the end of the carrier."""
        if self._gone:
            return
        self._gone = self._write_ended = True
        if self._attached or self._closing:
            self._cancel_timer()
        if self._closing:
            error = self._fault_seen
        self._inbox.lost(error)

    # The ending

    def _half_flushed(self) -> None:
        if self._gone:
            return
        if not self._half_ended:
            self._half_ended = True
            self._carrier_end()
        if self._closing and not self._gone and not self._draining:
            self._draining = True
            self._cancel_timer()
            if self._peer_has_ended:
                self._carrier_close()
            else:
                self._timer = self._loop.call_later(self._drain_timeout_s, self._drain_expired)

    def _watch_flush(self, before: int) -> None:
        self._timer = self._loop.call_later(self._flush_timeout_s, self._flush_expired, before)

    def _flush_expired(self, before: int) -> None:
        now = self.get_write_buffer_size()
        if now >= before:
            self.abort()
        else:
            self._watch_flush(now)

    def _drain_expired(self) -> None:
        self._timer = None
        if not self._gone:
            self._carrier_reset()
            self._carrier_lost(None)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ask_to_pause(self) -> None:
        """Have the protocol stop writing."""
        if self._inbox.protocol is not None:
            try:
                self._inbox.protocol.pause_writing()
            except Exception as error:
                self._protocol_failed(error)

    def _let_resume(self) -> None:
        """Let the protocol write again."""
        if self._inbox.protocol is not None:
            try:
                self._inbox.protocol.resume_writing()
            except Exception as error:
                self._protocol_failed(error)

    def _protocol_failed(self, error: Exception) -> None:
        """Contain what the attached protocol raised: this stream ends, nothing else does."""
        self._loop.call_exception_handler(
            {"message": "a stream's protocol raised; the stream is aborted", "exception": error}
        )
        self._fault_seen = error
        self.abort()
