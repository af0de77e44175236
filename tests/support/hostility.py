"""An attack on a server in which others are being served, and what it may cost."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from asyncssh.packet import UInt32

from tests.support.ssh_peers import Served, Service, serving, session, until
from tests.support.ssh_rogues import (
    MSG_DISCONNECT,
    RogueClient,
    rogue_session,
)
from wraith.ssh.channel import ChannelStream, open_direct_tcpip
from wraith.ssh.connection import BoundedConnection
from wraith_transports import DuplexStream
from wraith_transports.testing.recorder import Recorder, pattern, pattern_fault

NOWHERE = ("127.0.0.1", 1)


class Pourer(asyncio.Protocol):
    """A target that sends as much as it may."""

    def __init__(self, total: int = 1 << 40) -> None:
        self.left = total
        self._paused = False

    def connection_made(self, transport: Any) -> None:
        self._stream: DuplexStream = transport
        self._go()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._go()

    def _go(self) -> None:
        block = bytes(64 << 10)
        while self.left > 0 and not self._paused and not self._stream.is_closing():
            self._stream.write(block)
            self.left -= len(block)


def held(connection: BoundedConnection, stream: DuplexStream) -> int:
    """Count the bytes a session holds: for its peer, from its peer, and in between."""
    channels = [each for each in connection._channels.values() if isinstance(each, ChannelStream)]
    return (
        stream.get_write_buffer_size()
        + sum(each._queued + each._inbox.held for each in channels)
        + sum(100 + sum(map(len, arguments)) for _, arguments in connection._deferred_packets)
        + len(connection._inpbuf)
    )


@contextmanager
def grows_less_than(limit: int) -> Iterator[None]:
    """See that the peak of what Python allocates in the block stays below that."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak} bytes were allocated at the peak"


@asynccontextmanager
async def attacked() -> AsyncIterator[tuple[Service, RogueClient, Served]]:
    """Run a server with a rogue in it and, beside it, an honest session that must go on working."""
    async with serving() as service, session(service) as (honest, _), rogue_session(service) as (rogue, served):
        yield service, rogue, served
        attach, service.targets.attach = service.targets.attach, None
        near = Recorder()
        channel = await open_direct_tcpip(honest, "honest", 80, NOWHERE)
        channel.attach(near)
        far = Recorder()
        service.targets.streams[-1].attach(far)
        channel.write(pattern(0, 200_000))
        await until(lambda: len(far.received) == 200_000, "bytes of the honest session")
        assert pattern_fault(far.received) is None
        channel.abort()
        service.targets.attach = attach


def backlog(rogue: RogueClient) -> int:
    """Say how much the rogue has sent that the server has not read."""
    link: Any = rogue._transport
    return 0 if link is None else int(link._stream.get_write_buffer_size())


async def protocol_error(rogue: RogueClient, served: Served, service: Service) -> None:
    """Wait for the end of the session, which the server must give a protocol error as the reason of."""
    await until(lambda: served.over, "end of the session")
    await until(lambda: rogue.lost, "end at the rogue")
    messages = [message for message in rogue.messages if message.kind == MSG_DISCONNECT]
    assert [message.body[:4] for message in messages] == [UInt32(2)], "SSH_DISCONNECT_PROTOCOL_ERROR"
    for stream in service.targets.streams:
        stream.abort()
    await until(lambda: served.budget.granted == 0, "release of the credit")
