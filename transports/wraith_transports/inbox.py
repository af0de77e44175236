"""The incoming half of a stream: delivers bytes to the attached protocol and holds them while it may not read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from .held import HeldBytes
from .stream import HOLD_LIMIT, Buffer, DuplexStream, StreamProtocol

Fault = Callable[[Exception], None]


class Inbox:
    """Order, holding and hand-over of received bytes, for one stream.

    The stream feeds it what the carrier brings (`feed`, `feed_eof`, `lost`) and asks `full` whether
    the carrier should pause. Held bytes are delivered from the loop, never from inside a call of
    the protocol's own, so a protocol may pause, resume or hand over wherever it likes.
    """

    __slots__ = (
        "_delivered",
        "_discarding",
        "_ended",
        "_eof",
        "_eof_told",
        "_error",
        "_fault",
        "_held",
        "_loop",
        "_lost_told",
        "_paused",
        "_protocol",
        "_reader",
        "_rest",
        "_scheduled",
        "_stream",
        "_want_more",
    )

    def __init__(
        self,
        stream: DuplexStream,
        *,
        want_more: Callable[[], None],
        fault: Fault,
        delivered: Callable[[int], None] | None = None,
    ) -> None:
        """Tie the inbox to its stream.

        `want_more` is called when it is no longer full; `fault` when the protocol raised;
        `delivered` with the number of bytes after each piece the protocol was given.
        """
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._want_more = want_more
        self._fault = fault
        self._delivered = delivered
        self._protocol: StreamProtocol | None = None
        self._reader: asyncio.BufferedProtocol | None = None  # the protocol, if it brings its own buffer
        self._held = HeldBytes()
        self._rest: memoryview | None = None  # of the piece that a BufferedProtocol is being given
        self._paused = False
        self._scheduled = False
        self._discarding = False
        self._eof = False
        self._eof_told = False
        self._ended = False
        self._error: Exception | None = None
        self._lost_told = False

    @property
    def protocol(self) -> StreamProtocol | None:
        """Who is attached."""
        return self._protocol

    @property
    def reader(self) -> asyncio.BufferedProtocol | None:
        """The attached BufferedProtocol, if bytes may be read straight into its buffer now."""
        return self._reader if self._may_pass else None

    @property
    def paused(self) -> bool:
        """Whether the protocol does not want bytes now."""
        return self._paused

    @property
    def held(self) -> int:
        """Bytes received and not delivered."""
        return len(self._held)

    @property
    def full(self) -> bool:
        """Whether the carrier should stop reading."""
        if self._discarding:
            return False
        return self._paused or len(self._held) >= HOLD_LIMIT

    @property
    def _may_pass(self) -> bool:
        return (
            self._protocol is not None
            and not self._paused
            and not self._held
            and not self._scheduled
            and not self._discarding
        )

    def attach(self, protocol: StreamProtocol, unread: bytes) -> None:
        """Make `protocol` the receiver; see DuplexStream.attach."""
        self._protocol = protocol
        self._reader = protocol if isinstance(protocol, asyncio.BufferedProtocol) else None
        self._paused = False
        self._eof_told = self._lost_told = False
        if self._ended:
            self._discarding = False  # nothing more can come; `unread` is the caller's own
        if not self._discarding:
            self._put_before_the_rest(unread)
        try:
            protocol.connection_made(cast(asyncio.BaseTransport, self._stream))
        except Exception as error:
            self._fault(error)
        self._schedule()

    def hold(self, unread: bytes) -> None:
        """Have no receiver again; see DuplexStream.hold."""
        self._protocol = self._reader = None
        self._paused = self._eof_told = self._lost_told = False
        if not self._discarding:
            self._put_before_the_rest(unread)
        self._schedule()

    def pause(self) -> None:
        """Hold what arrives from here on."""
        self._paused = True

    def resume(self) -> None:
        """Deliver again, starting with what is held."""
        if self._paused:
            self._paused = False
            self._schedule()

    def feed(self, data: Buffer) -> None:
        """Take bytes from the carrier. They are copied if they cannot be passed on at once."""
        if self._discarding or self._ended:
            return
        if self._may_pass:
            self._pass(data)
        else:
            self._held.append(data)

    def passed(self, count: int) -> None:
        """Say that `count` bytes were read straight into the buffer of `reader`."""
        reader = self._reader
        if reader is None:
            return
        try:
            reader.buffer_updated(count)
        except Exception as error:
            self._fault(error)
        if self._delivered is not None:
            self._delivered(count)

    def feed_eof(self) -> None:
        """Take the end of the peer's half."""
        if not self._eof:
            self._eof = True
            if not self._scheduled:
                self._deliver()

    def lost(self, error: Exception | None) -> None:
        """Take the end of the carrier; the protocol hears of it after what is held."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._schedule()

    def discard(self) -> None:
        """Drop what is held and whatever still comes; only connection_lost remains to be told."""
        self._discarding = True
        self._held.clear()
        self._paused = False
        if self._ended and not self._lost_told:
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run_scheduled)

    def _run_scheduled(self) -> None:
        self._scheduled = False
        self._deliver()
        if not self.full and not self._ended:
            self._want_more()

    def _deliver(self) -> None:
        """Give the protocol everything it may have now, in order."""
        while self._held and self._protocol is not None and not self._paused and not self._discarding:
            self._pass(self._held.take())
        protocol = self._protocol
        if protocol is None or self._scheduled:
            return
        waiting = bool(self._held) or (self._paused and not self._ended)
        if self._eof and not self._eof_told and not self._discarding and not waiting:
            self._eof_told = True
            try:
                protocol.eof_received()
            except Exception as error:
                self._fault(error)
            protocol = self._protocol
        if self._ended and not self._held and not self._lost_told and not self._scheduled and protocol is not None:
            self._lost_told = True
            protocol.connection_lost(self._error)
            self._protocol = self._reader = None

    def _pass(self, data: Buffer) -> None:
        protocol = self._protocol
        try:
            if self._reader is not None:
                self._fill(self._reader, memoryview(data))
            elif protocol is not None:
                cast(asyncio.Protocol, protocol).data_received(data if isinstance(data, bytes) else bytes(data))
        except Exception as error:
            self._rest = None
            self._fault(error)
        if self._delivered is not None:
            self._delivered(len(data))

    def _fill(self, reader: asyncio.BufferedProtocol, view: memoryview) -> None:
        """Copy into the protocol's buffers; what it leaves when it pauses or hands over is held first in line."""
        while view and not self._discarding:
            if self._paused:
                self._take_back(view)
                return
            buffer = memoryview(reader.get_buffer(len(view))).cast("B")
            count = min(len(buffer), len(view))
            if not count:
                raise RuntimeError("get_buffer() returned an empty buffer")
            buffer[:count] = view[:count]
            view = view[count:]
            if not self._tell(reader, count, view):
                return  # handed over: attach() has held the rest

    def _tell(self, reader: asyncio.BufferedProtocol, count: int, rest: memoryview) -> bool:
        """Say that `count` bytes are in the reader's buffer; False if it handed the stream over upon that."""
        self._rest = rest
        reader.buffer_updated(count)
        told, self._rest = self._rest, None
        return told is not None

    def _put_before_the_rest(self, unread: bytes) -> None:
        """Hold what an owner leaves: its unread bytes, then the rest of the piece it was being given."""
        if self._rest is not None:
            self._take_back(self._rest)
            self._rest = None
        self._held.put_back(unread)

    def _take_back(self, view: memoryview) -> None:
        self._held.put_back(view)
        if self._delivered is not None:
            self._delivered(-len(view))
