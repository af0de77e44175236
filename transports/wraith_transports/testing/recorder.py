"""A protocol that writes down what a stream tells it, and what it should not have been told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from hashlib import shake_256
from typing import cast

from ..stream import READ_CHUNK, DuplexStream

# A prime, so that a block lost or repeated at any power of two shifts what follows.
_PERIOD = 65_521
_BLOCK = shake_256(b"every byte once and in order").digest(_PERIOD)


def pattern(start: int, length: int) -> bytes:
    """Give `length` bytes of an endless sequence in which every position can be told apart."""
    offset = start % _PERIOD
    return (_BLOCK * ((offset + length) // _PERIOD + 1))[offset : offset + length]


def pattern_fault(received: bytes | bytearray, start: int = 0) -> int | None:
    """Say at which index `received` first differs from the pattern, or None."""
    window = 1 << 20
    view = memoryview(received)
    for at in range(0, len(view), window):
        piece = view[at : at + window]
        wanted = pattern(start + at, len(piece))
        if piece != wanted:
            return at + next(i for i, byte in enumerate(wanted) if piece[i] != byte)
    return None


class Heard(Enum):
    """What a protocol can be told; runs of data count once."""

    MADE = "connection_made"
    DATA = "data"
    EOF = "eof_received"
    LOST = "connection_lost"
    PAUSE = "pause_writing"
    RESUME = "resume_writing"


class Notes:
    """The memory all recorders share, and the rules of order that hold for every protocol.

    A hook runs inside the callback it is named after, once the fact is noted; what it raises goes
    to the stream, as a protocol's error would.
    """

    def __init__(
        self,
        *,
        on_made: Callable[[DuplexStream], None] | None = None,
        on_data: Callable[[bytes], None] | None = None,
        on_eof: Callable[[], None] | None = None,
        on_lost: Callable[[], None] | None = None,
        eof_answer: bool | None = None,
    ) -> None:
        self.received = bytearray()
        self.heard: list[Heard] = []
        self.losses: list[Exception | None] = []
        self.complaints: list[str] = []
        self.writing_paused = False
        self.made_with: DuplexStream | None = None
        self.retired = False
        self._ended_by_us = False
        self._on_made = on_made
        self._on_data = on_data
        self._on_eof = on_eof
        self._on_lost = on_lost
        self._eof_answer = eof_answer

    @property
    def stream(self) -> DuplexStream:
        """The stream this protocol was given."""
        assert self.made_with is not None, "not attached"
        return self.made_with

    @property
    def ended(self) -> bool:
        """Whether the peer's end was heard, in either form."""
        return Heard.EOF in self.heard or Heard.LOST in self.heard

    def retire(self) -> None:
        """Note that the stream goes to another protocol: from here on any callback is a fault."""
        self.retired = True

    def close(self) -> None:
        """Close the stream: from here on data is a fault."""
        self._ended_by_us = True
        self.stream.close()

    def abort(self) -> None:
        """Abort the stream: from here on data is a fault."""
        self._ended_by_us = True
        self.stream.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the stream."""
        if self.heard:
            self.complaints.append("connection_made was not the first call")
        self._note(Heard.MADE)
        self.made_with = cast(DuplexStream, transport)
        if self._on_made is not None:
            self._on_made(self.made_with)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        self._note(Heard.LOST)
        self.losses.append(exc)
        if self._on_lost is not None:
            self._on_lost()

    def eof_received(self) -> bool | None:
        """Note that the peer ended its half."""
        if Heard.EOF in self.heard:
            self.complaints.append("eof_received came twice")
        self._note(Heard.EOF)
        if self._on_eof is not None:
            self._on_eof()
        return self._eof_answer

    def pause_writing(self) -> None:
        """Note that the write buffer is above its high mark."""
        if self.writing_paused:
            self.complaints.append("pause_writing came twice without resume_writing")
        self._note(Heard.PAUSE)
        self.writing_paused = True

    def resume_writing(self) -> None:
        """Note that the write buffer is down to its low mark."""
        if not self.writing_paused:
            self.complaints.append("resume_writing came without pause_writing")
        self._note(Heard.RESUME)
        self.writing_paused = False

    def _take(self, data: bytes) -> None:
        if not data:
            self.complaints.append("data without a byte was delivered")
        if Heard.EOF in self.heard:
            self.complaints.append(f"{len(data)} bytes came after eof_received")
        if self._ended_by_us:
            self.complaints.append(f"{len(data)} bytes came after close or abort")
        self._note(Heard.DATA)
        self.received += data
        if self._on_data is not None:
            self._on_data(data)

    def _note(self, what: Heard) -> None:
        if self.retired:
            self.complaints.append(f"{what.value} came after the stream was handed over")
        elif Heard.LOST in self.heard:
            self.complaints.append(f"{what.value} came after connection_lost")
        elif what is not Heard.MADE and Heard.MADE not in self.heard:
            self.complaints.append(f"{what.value} came before connection_made")
        if what is not Heard.DATA or self.heard[-1:] != [Heard.DATA]:
            self.heard.append(what)


class Recorder(Notes, asyncio.Protocol):
    """Notes what a stream tells an asyncio.Protocol."""

    def data_received(self, data: bytes) -> None:
        """Take the bytes."""
        self._take(bytes(data))


class BufferedRecorder(Notes, asyncio.BufferedProtocol):
    """Notes what a stream tells an asyncio.BufferedProtocol whose buffer has `room` bytes."""

    def __init__(
        self,
        *,
        room: int = READ_CHUNK,
        on_made: Callable[[DuplexStream], None] | None = None,
        on_data: Callable[[bytes], None] | None = None,
    ) -> None:
        super().__init__(on_made=on_made, on_data=on_data)
        self._room = bytearray(room)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the protocol chooses; the hint is only that
        """Offer the whole buffer, whatever was asked for."""
        return memoryview(self._room)

    def buffer_updated(self, nbytes: int) -> None:
        """Take what the stream put into the buffer."""
        if nbytes > len(self._room):
            self.complaints.append(f"buffer_updated({nbytes}) with a buffer of {len(self._room)}")
        data = bytes(self._room[:nbytes])
        # Bytes read twice, or not written at all, must not look right.
        self._room[:nbytes] = bytes(nbytes)
        self._take(data)


class AmbidextrousRecorder(BufferedRecorder, asyncio.Protocol):
    """Is both kinds of protocol; a stream treats it as the buffered one."""

    def data_received(self, data: bytes) -> None:
        """Complain: the buffered half is the one to use."""
        self.complaints.append("data_received was called on a protocol that is also a BufferedProtocol")
        self._take(bytes(data))
