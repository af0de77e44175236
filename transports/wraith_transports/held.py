"""Received bytes that wait: many small pieces or a few large ones, at the cost of their length."""

from __future__ import annotations

from collections import deque

from .stream import READ_CHUNK, Buffer


class HeldBytes:
    """A queue of bytes in blocks of READ_CHUNK.

    Not one bytearray: to grow one whose front was taken away copies all of it, so that 32 MiB held
    take 61 for a moment. Not the pieces as they came: an object for a single byte takes a hundred.
    """

    __slots__ = ("_blocks", "_size")

    def __init__(self) -> None:
        self._blocks: deque[bytearray] = deque()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, data: Buffer) -> None:
        """Add bytes at the end; they are copied."""
        view = memoryview(data).cast("B")
        self._size += len(view)
        while view:
            if not self._blocks or len(self._blocks[-1]) >= READ_CHUNK:
                self._blocks.append(bytearray())
            last = self._blocks[-1]
            room = READ_CHUNK - len(last)
            last += view[:room]
            view = view[room:]

    def put_back(self, data: Buffer) -> None:
        """Add bytes in front; they are copied."""
        if len(data):
            self._blocks.appendleft(bytearray(data))
            self._size += len(data)

    def take(self) -> bytes:
        """Remove and return up to READ_CHUNK bytes from the front."""
        first = self._blocks.popleft()
        if len(first) > READ_CHUNK:  # put back in one piece
            self._blocks.appendleft(first[READ_CHUNK:])
            del first[READ_CHUNK:]
        self._size -= len(first)
        return bytes(first)

    def clear(self) -> None:
        """Drop everything."""
        self._blocks.clear()
        self._size = 0
