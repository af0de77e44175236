"""The read buffer that all streams of a thread share."""

from __future__ import annotations

import threading

from .stream import READ_CHUNK


class ReadBuffer(threading.local):
    """64 KiB for one read at a time.

    A read and the handling of what it brought happen within one callback, so the next read may
    use the same memory: a thousand idle streams own one buffer between them, not 64 MiB. Whoever
    passes a view of it to something that keeps it calls `give_up()`.
    """

    def __init__(self) -> None:
        self._view = memoryview(bytearray(READ_CHUNK))

    def take(self) -> memoryview:
        """Get the buffer, READ_CHUNK bytes."""
        return self._view

    def give_up(self) -> None:
        """Leave the buffer to whoever still refers to it, and use another from now on."""
        self._view = memoryview(bytearray(READ_CHUNK))


read_buffer = ReadBuffer()
