"""The queue between whatever completes a handshake and whoever calls accept()."""

from __future__ import annotations

import asyncio
from collections import deque

from .errors import AcceptorClosed
from .stream import DuplexStream
from .transport import TransportInfo

MAX_WAITING = 128  # streams nobody has accepted yet; as deep as a listening socket's backlog

Accepted = tuple[DuplexStream, TransportInfo]


class AcceptQueue:
    """Bounded, safe to cancel, and closed at once for everybody who waits."""

    def __init__(self, limit: int = MAX_WAITING) -> None:
        self._limit = limit
        self._streams: deque[Accepted] = deque()
        self._getters: deque[asyncio.Future[None]] = deque()
        self._room = asyncio.Event()
        self._room.set()
        self.closed = False

    def offer(self, stream: DuplexStream, info: TransportInfo) -> bool:
        """Add a stream; False when the queue is full or closed, and the stream is still the caller's."""
        if self.closed or len(self._streams) >= self._limit:
            return False
        self._streams.append((stream, info))
        if len(self._streams) >= self._limit:
            self._room.clear()
        self._wake()
        return True

    async def room(self) -> None:
        """Wait until a stream can be offered, or the queue is closed."""
        await self._room.wait()

    async def get(self) -> Accepted:
        """Take the oldest stream that is still alive. Raises AcceptorClosed once closed."""
        while True:
            while self._streams and not self.closed:
                accepted = self._streams.popleft()
                self._room.set()
                if not accepted[0].is_closing():
                    return accepted
            if self.closed:
                raise AcceptorClosed
            getter = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            try:
                await getter
            except asyncio.CancelledError:
                # The wake-up that was ours goes to the next in line.
                if getter.done() and not getter.cancelled():
                    self._wake()
                raise
            finally:
                if getter in self._getters:
                    self._getters.remove(getter)

    def close(self) -> None:
        """Abort what nobody accepted, and end every get()."""
        self.closed = True
        self._room.set()
        while self._streams:
            self._streams.popleft()[0].abort()
        while self._getters:
            self._wake()

    def _wake(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return
