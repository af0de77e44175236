"""Claims about those who have logged in and then take what they can: others go on, and it all comes back."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import loops
from tests.support.crowds import MIB, Footprint, Wellbehaved, many_descriptors
from tests.support.processes import WraithClient, WraithServer
from tests.support.ssh_peers import USER_KEY, until
from tests.support.ssh_rogues import (
    MSG_OPEN_CONFIRMATION,
    MSG_OPEN_FAILURE,
    MSG_WINDOW_ADJUST,
    Message,
    RogueClient,
    rogue_client,
)
from wraith.ssh.key_files import public_line
from wraith_transports import DirectDialer

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc")

Record = Callable[[str, object], None]
Mischief = Callable[[int], Awaitable[None]]

CHANNELS = 64
WIDEST = 0xFFFFFFFF  # 4 GiB
BLOCK = bytes(64 << 10)
STEP_S = 1.0  # that each game is played for


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    with many_descriptors(4096):
        yield


@contextlib.contextmanager
def besieged(tmp_path: Path, record: Record, what: str, limit: int) -> Iterator[WraithServer]:
    """Run a server that `USER_KEY` may log in to; a good client works through all that happens."""
    with (
        WraithServer(tmp_path) as server,
        WraithClient(server) as client,
        Wellbehaved(client) as good,
    ):
        with server.authorized_keys.open("a") as file:
            file.write(public_line(USER_KEY) + "\n")
        before = Footprint(server)
        good.keeps_working(record, f"before {what}")
        yield server
        good.keeps_working(record, what)
        before.grew_by_less_than(limit, record, what)
        before.is_released()


@asynccontextmanager
async def rogue_at(port: int) -> AsyncIterator[RogueClient]:
    """Log in over TCP, to misbehave."""
    stream = await DirectDialer().dial("127.0.0.1", port)
    rogue = await rogue_client(stream)
    link: Any = rogue._transport
    try:
        yield rogue
    finally:
        stream.abort()  # and no orderly close, which would wait for a peer that has much to send
        await link.ended
        await asyncio.sleep(0)


@asynccontextmanager
async def target(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[int]:
    """Listen for what a rogue has the server dial; all that reads or writes is to have ended at the end."""
    tasks: set[asyncio.Task[None]] = set()

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await serve(reader, writer)
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        finally:
            tasks.discard(task)

    listener = await asyncio.start_server(guarded, "127.0.0.1", 0, backlog=1024)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        if serve is never_read:
            for task in tasks:
                task.cancel()
        await until(lambda: not tasks, "end of every target")
        await listener.wait_closed()


async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send for ever."""
    while True:
        writer.write(BLOCK)
        await writer.drain()


async def never_read(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read nothing, for longer than the server waits; it gives that up when the test does."""
    transport: Any = writer.transport
    transport.pause_reading()
    await asyncio.get_running_loop().create_future()


async def hold(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Wait for the end."""
    await reader.read()


def test_10000_channel_opens_in_one_session(tmp_path: Path, record_property: Record) -> None:
    async def flood(port: int) -> None:
        answers: Counter[int] = Counter()
        async with target(hold) as target_port, rogue_at(port) as rogue:

            def keep(message: Message) -> None:
                answers[message.kind] += 1

            rogue.keep = keep
            for number in range(10_000):
                rogue.open(number, host="127.0.0.1", port=target_port)
                if number % 100 == 0:
                    await asyncio.sleep(0)
            kinds = (MSG_OPEN_CONFIRMATION, MSG_OPEN_FAILURE)
            await until(lambda: sum(answers[kind] for kind in kinds) == 10_000, "answer to every open", 50)
            assert answers[MSG_OPEN_CONFIRMATION] == 1024
            assert not rogue.lost

    with besieged(tmp_path, record_property, "10,000 opens", 96 * MIB) as server:
        loops.run(flood(server.port), "uvloop")


async def four_gib_windows(rogue: RogueClient, port: int) -> None:
    """Let every channel send 4 GiB, and read nothing."""
    for number in range(CHANNELS):
        rogue.open(number, host="127.0.0.1", port=port, window=WIDEST)
    await until(lambda: rogue.count(MSG_OPEN_CONFIRMATION) == CHANNELS, "open channels", 30)
    link: Any = rogue._transport
    link.pause_reading("a game")
    await asyncio.sleep(STEP_S)


async def zero_windows(rogue: RogueClient, port: int) -> None:
    """Let no channel send anything."""
    for number in range(CHANNELS):
        rogue.open(number, host="127.0.0.1", port=port, window=0)
    await until(lambda: rogue.count(MSG_OPEN_CONFIRMATION) == CHANNELS, "open channels", 30)
    await asyncio.sleep(STEP_S)
    assert not rogue.lost


async def byte_by_byte(rogue: RogueClient, port: int) -> None:
    """Let every channel send a byte, again and again."""
    granted = [await rogue.opened(number, host="127.0.0.1", port=port, window=0) for number in range(CHANNELS)]
    rogue.keep = lambda message: None
    for _ in range(200):
        for each in granted:
            rogue.send(MSG_WINDOW_ADJUST, struct.pack("!II", each.number, 1))
        await asyncio.sleep(0)
    await asyncio.sleep(STEP_S)
    assert not rogue.lost


async def overflowing_windows(rogue: RogueClient, port: int) -> None:
    """Let a channel send more than can be written down."""
    granted = await rogue.opened(0, host="127.0.0.1", port=port, window=WIDEST)
    for _ in range(4):
        rogue.send(MSG_WINDOW_ADJUST, struct.pack("!II", granted.number, WIDEST))
    await until(lambda: rogue.lost, "end of the session")


async def beyond_the_window(rogue: RogueClient, port: int) -> None:
    """Send for ever, whatever was granted."""
    granted = await rogue.opened(0, host="127.0.0.1", port=port)
    for _ in range(64 << 20 >> 15):
        if rogue.lost:
            return
        rogue.data(granted.number, bytes(32 << 10))
        await asyncio.sleep(0)
    await until(lambda: rogue.lost, "end of the session")


async def oversized_data(rogue: RogueClient, port: int) -> None:
    """Send packets of 200 KiB."""
    granted = await rogue.opened(0, host="127.0.0.1", port=port)
    for _ in range(20):
        if rogue.lost:
            return
        rogue.data(granted.number, bytes(200 << 10))
        await asyncio.sleep(0)
    await until(lambda: rogue.lost, "end of the session")


GAMES = [four_gib_windows, zero_windows, byte_by_byte, overflowing_windows, beyond_the_window, oversized_data]


def test_window_games(tmp_path: Path, record_property: Record) -> None:
    async def play(game: Callable[[RogueClient, int], Awaitable[None]], port: int) -> None:
        serve = never_read if game in (beyond_the_window, oversized_data) else pour
        async with target(serve) as target_port, rogue_at(port) as rogue:
            await game(rogue, target_port)

    with besieged(tmp_path, record_property, "window games", 96 * MIB) as server:
        for game in GAMES:
            print(f"{game.__name__}...")
            loops.run(play(game, server.port), "uvloop")
