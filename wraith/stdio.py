"""Standard input and output as a duplex stream, for `-W`."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Any

from wraith_transports import READ_CHUNK, QueuedStream

from .opening import LOOPBACK_ORIGIN


def occupy_standard_descriptors() -> None:
    """Open the null device where standard input, output or error is closed.

    Else the first socket gets the number, and what is meant for the standard output goes into it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            _put_null_device_at(descriptor)


class StdioStream(QueuedStream):
    """Two descriptors, read and written by a thread each.

    Threads, because standard input may be a file, which no loop can wait for, and because making it
    non-blocking would do the same to the terminal of whoever started us. The threads are daemons:
    one that is stuck in a read does not hold the process.
    """

    def __init__(self, read_descriptor: int = 0, write_descriptor: int = 1) -> None:
        """Read and write these descriptors, which stay the caller's to close."""
        # Whoever writes our input is not waited for: nothing is lost that anybody would still read.
        super().__init__(drain_timeout_s=0)
        self._read_descriptor = read_descriptor
        self._write_descriptor = write_descriptor
        self._may_read = threading.Event()
        self._may_read.set()
        self._writing = False
        self._to_write: list[bytes] = []
        self._wake_writer = threading.Semaphore(0)
        for work in (self._read_all, self._write_all):
            threading.Thread(target=work, daemon=True, name=f"wraith-{work.__name__.strip('_')}").start()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Look up `peername`: there is none, so loopback stands for it."""
        return LOOPBACK_ORIGIN if name == "peername" else default

    # The reading thread

    def _read_all(self) -> None:
        while True:
            self._may_read.wait()
            try:
                data = os.read(self._read_descriptor, READ_CHUNK)
            except OSError:
                data = b""
            if not data:
                self._tell(self._peer_ended)
                return
            # One read at a time: the next waits until this one was taken.
            self._may_read.clear()
            self._tell(self._came, data)

    def _came(self, data: bytes) -> None:
        if not self._gone:
            self._received(data)
            if not self._inbox.full:
                self._may_read.set()

    # The writing thread

    def _write_all(self) -> None:
        while True:
            self._wake_writer.acquire()
            if not self._to_write:
                return
            data = memoryview(self._to_write.pop())
            try:
                while data:
                    data = data[os.write(self._write_descriptor, data) :]
            except OSError as error:
                self._tell(self._carrier_lost, error)
                return
            self._tell(self._wrote)

    def _wrote(self) -> None:
        self._writing = False
        self._taken()
        self._flush()

    def _flush(self) -> None:
        if not self._writing and self._queued and not self._gone:
            self._writing = True
            self._to_write.append(b"".join(self._take(READ_CHUNK)))
            self._wake_writer.release()

    def get_write_buffer_size(self) -> int:
        """Bytes queued; what a thread is writing counts until it is written."""
        return self._queued + (1 if self._writing else 0)

    def _taken(self) -> None:
        if not self._writing:
            super()._taken()

    # The carrier

    def _carrier_pause(self) -> None:
        self._may_read.clear()

    def _carrier_resume(self) -> None:
        self._may_read.set()

    def _carrier_end(self) -> None:
        # Whoever reads our output must see its end while our input may still go on. The number stays
        # taken: the next file or socket that is opened would be the standard output of this process.
        with contextlib.suppress(OSError):
            _put_null_device_at(self._write_descriptor)

    def _carrier_close(self) -> None:
        self._wake_writer.release()
        self._loop.call_soon(self._carrier_lost, None)

    def _carrier_reset(self) -> None:
        self._drop_queue()
        self._wake_writer.release()

    def _tell(self, what: Any, *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(what, *arguments)


def _put_null_device_at(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
