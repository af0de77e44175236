"""The far end of `wraith demo`: a web server on loopback that streams bytes whose hash is known."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Self

CHUNK = 64 << 10
MAX_REQUEST = 8 << 10  # bytes of the head; curl sends a hundred


class DemoTarget:
    """Answers any GET with the same `size` bytes. Use as `async with`; then `port` is where it listens."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.port = 0
        self._pattern = os.urandom(CHUNK)
        self._server: asyncio.Server | None = None

    def sha256(self) -> str:
        """Give the SHA-256 of what is sent, in hex."""
        digest = hashlib.sha256()
        for chunk in self._chunks():
            digest.update(chunk)
        return digest.hexdigest()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0, limit=MAX_REQUEST)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whoever asks may leave at any time, and that is theirs to do.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
                b"Content-Length: %d\r\nConnection: close\r\n\r\n" % self.size
            )
            for chunk in self._chunks():
                writer.write(chunk)
                await writer.drain()
            writer.write_eof()
            await reader.read()  # until the peer has ended too: closing at once could cut the tail
        writer.close()

    def _chunks(self) -> Iterator[bytes]:
        # Each chunk has a number, so that one lost, doubled or out of order changes the hash.
        for number, start in enumerate(range(0, self.size, CHUNK)):
            yield (number.to_bytes(8, "big") + self._pattern[8:])[: self.size - start]
