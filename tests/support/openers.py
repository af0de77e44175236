"""Openers and a target for tests of what listens on this machine, without a session in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Self

from wraith.opening import DialingOpener
from wraith_transports import DuplexStream
from wraith_transports.tcp import DirectDialer

PATIENCE_S = 10.0

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Origin = tuple[str, int]
Asked = tuple[str, int, Origin]

NOWHERE: Origin = ("127.0.0.1", 0)


class DirectOpener:
    """Dials the target itself, as a server would, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []

    async def open_connection(
        self, host: str, port: int, *, origin: tuple[str, int] = ("127.0.0.1", 0)
    ) -> DuplexStream:
        self.asked.append((host, port, origin))
        return await DialingOpener(DirectDialer()).open_connection(host, port)

    async def open_unix_connection(self, path: str) -> DuplexStream:
        self.asked.append((path, 0, NOWHERE))
        return await DialingOpener(DirectDialer()).open_unix_connection(path)


class FailingOpener:
    """Raises the given error for every target."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def open_connection(
        self, host: str, port: int, *, origin: tuple[str, int] = ("127.0.0.1", 0)
    ) -> DuplexStream:
        raise self.error

    async def open_unix_connection(self, path: str) -> DuplexStream:
        return await self.open_connection(path, 0)


class HangingOpener:
    """Opens nothing until it is cancelled, and counts how often that was."""

    def __init__(self) -> None:
        self.opening = 0
        self.cancelled = 0

    async def open_connection(
        self, host: str, port: int, *, origin: tuple[str, int] = ("127.0.0.1", 0)
    ) -> DuplexStream:
        self.opening += 1
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        raise AssertionError("unreachable")

    async def open_unix_connection(self, path: str) -> DuplexStream:
        return await self.open_connection(path, 0)


async def until(condition: Callable[[], object]) -> None:
    """Poll for a condition that somebody else brings about; TimeoutError when nobody does."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.002)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back everything, then end."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say nothing until the client has ended its half; then how much came."""
    data = await reader.read()
    writer.write(b"got %d" % len(data))
    writer.write_eof()


@asynccontextmanager
async def target(talk: Talk = echo) -> AsyncIterator[int]:
    """Serve on a loopback port, which is yielded."""
    talks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            await talk(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # asyncio's write_eof() after a reset is ENOTCONN, which is no ConnectionError
        finally:
            writer.close()
            talks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(talks):
            task.cancel()
        await until(lambda: not talks)


class Client:
    """A plain connection to a local port, closed with its block."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def __aenter__(self) -> Self:
        if self.address.startswith("/"):
            self.reader, self.writer = await asyncio.open_unix_connection(self.address)
        else:
            host, _, port = self.address.rpartition(":")
            self.reader, self.writer = await asyncio.open_connection(host.strip("[]"), int(port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def receive(self, count: int) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readexactly(count)

    async def rest(self) -> bytes:
        """Everything up to the end of the stream; ConnectionResetError when it was reset."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read()

    def reset(self) -> None:
        """Vanish, as a killed program with unread input does."""
        self.writer.transport.abort()
