"""A local connection that waits for the connection to its target."""

from __future__ import annotations

import asyncio

from wraith_transports import HOLD_LIMIT, DuplexStream

from .opening import Opener, open_target
from .specs import ForwardTarget
from .splice import splice

UNKNOWN_ORIGIN = ("127.0.0.1", 0)  # told to the server for a unix socket, which has no address


class WaitingStream(asyncio.Protocol):
    """Holds what the local peer sends, and notices when it leaves, until it is joined to its target.

    Reading goes on meanwhile, because a peer that has gone can be noticed in no other way; past
    HOLD_LIMIT bytes it pauses.
    """

    def __init__(self, stream: DuplexStream, *, leaves_at_end: bool = False) -> None:
        """Attach to `stream`.

        With `leaves_at_end` a peer that ends its half while nothing of its is held counts as gone:
        a program that was interrupted looks like that.
        """
        self.stream = stream
        self._leaves_at_end = leaves_at_end
        self._held = bytearray()
        self._left = False
        self._opening: asyncio.Timeout | None = None
        self._loop = asyncio.get_running_loop()
        self._lost = self._loop.create_future()
        stream.attach(self)

    @property
    def origin(self) -> tuple[str, int]:
        """The peer's address, as the server is told it."""
        host, port = self.stream.get_extra_info("peername")
        return (host, port) if host else UNKNOWN_ORIGIN

    async def open(self, opener: Opener, target: ForwardTarget) -> DuplexStream | None:
        """Open the connection to the target; None, and nothing left open, once the peer has left.

        Raises OpenFailed.
        """
        if self._left:
            return None
        scope = self._opening = asyncio.timeout(None)
        try:
            async with scope:
                return await open_target(opener, target, origin=self.origin)
        except TimeoutError:
            # Leaving ends the scope (below); any other timeout is the opener's own failure.
            if scope.expired():
                return None
            raise
        finally:
            self._opening = None

    async def join(self, remote: DuplexStream) -> None:
        """Join the peer to its target, held bytes first, until both have ended."""
        if self._left:
            remote.abort()
            await self.close()
            return
        await splice(self.stream, remote, unread=bytes(self._held))

    async def close(self) -> None:
        """End the connection in order, and wait until it has ended."""
        self.stream.close()
        await self._lost

    async def abort(self) -> None:
        """Reset the connection, and wait until it has ended."""
        self.stream.abort()
        await self._lost

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Hold data."""
        self._held += data
        if len(self._held) >= HOLD_LIMIT:
            self.stream.pause_reading()

    def eof_received(self) -> bool:
        """Keep our half open; whoever the stream is handed to hears of the end again."""
        if self._leaves_at_end and not self._held:
            self._leave()
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - gone is gone
        """Give up an open that nobody waits for."""
        self._leave()
        if not self._lost.done():
            self._lost.set_result(None)

    def _leave(self) -> None:
        if not self._left:
            self._left = True
            if self._opening is not None:
                self._opening.reschedule(self._loop.time())
