"""The in-memory twin of a network: a pair of streams, and a transport that reaches an acceptor."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from .accepting import AcceptQueue
from .errors import TransportError
from .queued import QueuedStream
from .stream import CLOSE_DRAIN_TIMEOUT_S, CLOSE_FLUSH_TIMEOUT_S, READ_CHUNK, UNATTACHED_TIMEOUT_S, DuplexStream
from .transport import TransportInfo

Address = tuple[str, int]

CLIENT_ADDRESS: Address = ("127.0.0.1", 40000)
SERVER_ADDRESS: Address = ("127.0.0.1", 22)


class MemoryStream(QueuedStream):
    """One end of a pair; bytes cross to the other end on the loop's next turn."""

    def __init__(
        self,
        sockname: Address,
        peername: Address,
        *,
        unattached_timeout_s: float = UNATTACHED_TIMEOUT_S,
        flush_timeout_s: float = CLOSE_FLUSH_TIMEOUT_S,
        drain_timeout_s: float = CLOSE_DRAIN_TIMEOUT_S,
    ) -> None:
        super().__init__(
            unattached_timeout_s=unattached_timeout_s,
            flush_timeout_s=flush_timeout_s,
            drain_timeout_s=drain_timeout_s,
        )
        self._names = {"sockname": sockname, "peername": peername}
        self._other: MemoryStream | None = None
        self._reading = True
        self._crossing = False

    def _join(self, other: MemoryStream) -> None:
        self._other = other

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Look up `peername` or `sockname`."""
        return self._names.get(name, default)

    def _flush(self) -> None:
        if not self._crossing and self._queued:
            self._crossing = True
            self._loop.call_soon(self._cross)

    def _cross(self) -> None:
        self._crossing = False
        other = self._other
        while self._queued and other is not None and other._reading and not self._gone:
            other._received(b"".join(self._take(READ_CHUNK)))
        self._taken()

    def _carrier_pause(self) -> None:
        self._reading = False

    def _carrier_resume(self) -> None:
        self._reading = True
        if self._other is not None:
            self._other._flush()

    def _carrier_end(self) -> None:
        if self._other is not None:
            self._loop.call_soon(self._other._peer_ended)

    def _carrier_close(self) -> None:
        other, self._other = self._other, None
        self._loop.call_soon(self._carrier_lost, None)
        if other is not None:
            self._loop.call_soon(other._left, None)

    def _carrier_reset(self) -> None:
        self._drop_queue()
        other, self._other = self._other, None
        if other is not None:
            self._loop.call_soon(other._left, ConnectionResetError("the peer reset the stream"))

    def _left(self, error: Exception | None) -> None:
        """Learn that the other end has let go."""
        self._other = None
        if self._gone:
            return
        self._drop_queue()
        if error is None:
            self._peer_ended()
        self._carrier_lost(error)


def memory_pair(
    *,
    client_address: Address = CLIENT_ADDRESS,
    server_address: Address = SERVER_ADDRESS,
    unattached_timeout_s: float = UNATTACHED_TIMEOUT_S,
    flush_timeout_s: float = CLOSE_FLUSH_TIMEOUT_S,
    drain_timeout_s: float = CLOSE_DRAIN_TIMEOUT_S,
) -> tuple[MemoryStream, MemoryStream]:
    """Make two connected streams, the client's end first."""

    def end(sockname: Address, peername: Address) -> MemoryStream:
        return MemoryStream(
            sockname,
            peername,
            unattached_timeout_s=unattached_timeout_s,
            flush_timeout_s=flush_timeout_s,
            drain_timeout_s=drain_timeout_s,
        )

    client = end(client_address, server_address)
    server = end(server_address, client_address)
    client._join(server)
    server._join(client)
    return client, server


class MemoryAcceptor:
    """Accepts what MemoryTransports of the same process open."""

    def __init__(self) -> None:
        self._queue: AcceptQueue | None = None

    async def start(self) -> None:
        """Begin to accept."""
        self._queue = AcceptQueue()

    def addresses(self) -> Sequence[str]:
        """Name the one place it listens at."""
        return [f"memory://{SERVER_ADDRESS[0]}:{SERVER_ADDRESS[1]}"]

    async def accept(self) -> tuple[DuplexStream, TransportInfo]:
        """Wait for the next stream."""
        if self._queue is None:
            raise RuntimeError("accept() before start()")
        return await self._queue.get()

    def offer(self, stream: DuplexStream) -> bool:
        """Take the server's end of a new pair; False when not listening."""
        if self._queue is None or self._queue.closed:
            return False
        return self._queue.offer(stream, TransportInfo("memory", stream.get_extra_info("peername")))

    def stop(self) -> None:
        """Accept no more."""
        if self._queue is not None:
            self._queue.close()

    async def aclose(self) -> None:
        """Stop."""
        self.stop()


class MemoryTransport:
    """Opens streams to one MemoryAcceptor."""

    def __init__(self, acceptor: MemoryAcceptor) -> None:
        self._acceptor = acceptor

    async def connect(self) -> tuple[DuplexStream, TransportInfo]:
        """Open a pair and hand its other end to the acceptor."""
        await asyncio.sleep(0)
        client, server = memory_pair()
        if not self._acceptor.offer(server):
            client.abort()
            server.abort()
            raise TransportError("nothing is listening on the memory transport")
        return client, TransportInfo("memory", SERVER_ADDRESS)

    def describe(self) -> str:
        """Name the transport."""
        return "memory"

    async def aclose(self) -> None:
        """Do nothing: no state is shared."""
