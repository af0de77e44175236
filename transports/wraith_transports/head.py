"""Reads the first bytes of a stream, up to where a parser says that its head ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from .stream import DuplexStream

Head = TypeVar("Head")
HeadParser = Callable[[bytes], tuple[Head, int] | None]


class HeadError(Exception):
    """The stream ended, stalled or went past the limit before its head was complete."""


async def read_head(
    stream: DuplexStream, parser: HeadParser[Head], *, limit: int, timeout_s: float
) -> tuple[Head, bytes]:
    """Collect bytes until `parser` understands them; return its head and the unread rest.

    `parser` is given everything received so far and returns (head, length) or None for more; what
    it raises passes through. On return reading is paused and the stream still attached: the caller
    hands it on with `attach(protocol, unread)`. Raises HeadError. The stream is never closed here.
    """
    reader = _HeadReader(stream, parser, limit)
    stream.attach(reader)
    try:
        async with asyncio.timeout(timeout_s):
            head, length = await reader.head
    except TimeoutError as error:
        raise HeadError(f"no complete head within {timeout_s:g} s") from error
    return head, bytes(memoryview(reader.received)[length:])


class _HeadReader(asyncio.Protocol):
    def __init__(self, stream: DuplexStream, parser: HeadParser[Head], limit: int) -> None:
        self._stream = stream
        self._parser = parser
        self._limit = limit
        self.received = bytearray()
        self.head = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.head.done():
            return
        try:
            found = self._parser(bytes(self.received))
        except Exception as error:
            self._settle(error)
            return
        if found is not None:
            self._stream.pause_reading()
            self.head.set_result(found)
        elif len(self.received) > self._limit:
            self._settle(HeadError(f"more than {self._limit} bytes without a complete head"))

    def eof_received(self) -> bool:
        self._settle(HeadError("the stream ended before its head was complete"))
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle(HeadError(f"the stream was lost before its head was complete: {exc or 'closed'}"))

    def _settle(self, error: Exception) -> None:
        if not self.head.done():
            self._stream.pause_reading()
            self.head.set_exception(error)
            self.head.exception()  # whoever waits gets it; nobody waiting is no error of its own
