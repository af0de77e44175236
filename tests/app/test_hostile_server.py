"""A client whose server misbehaves loses that session, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from asyncssh.packet import SSHPacket, String, UInt32

from tests.support.hostility import held
from tests.support.ssh_peers import until
from tests.support.ssh_rogues import (
    MSG_CLOSE,
    MSG_DATA,
    MSG_EOF,
    MSG_OPEN,
    MSG_OPEN_CONFIRMATION,
    MSG_OPEN_FAILURE,
    MSG_WINDOW_ADJUST,
    WIDE_WINDOW,
    Message,
    rogue_serving,
)
from wraith.opening import OpenFailed
from wraith.ssh.budget import FIRST_WINDOW
from wraith.ssh.channel import PACKETS_A_TURN, SMALLEST_PACKET, open_direct_tcpip
from wraith_transports.testing.recorder import Recorder

Run = Callable[..., Any]
MIB = 1 << 20
NOWHERE = ("127.0.0.1", 1)
HIGH_WATER = 512 << 10


@pytest.mark.parametrize(
    ("kind", "rest"),
    [
        (b"session", b""),
        (b"direct-tcpip", String("127.0.0.1") + UInt32(22) + String("x") + UInt32(1)),
        (b"forwarded-tcpip", String("127.0.0.1") + UInt32(22) + String("x") + UInt32(1)),
        (b"forwarded-streamlocal@openssh.com", String("/x") + String("")),
        (b"x11", String("127.0.0.1") + UInt32(6000)),
        (b"auth-agent@openssh.com", b""),
        (b"tun@openssh.com", UInt32(1) + UInt32(0)),
    ],
)
def test_a_server_cannot_open_anything_at_a_client(run: Run, kind: bytes, rest: bytes) -> None:
    async def scenario() -> None:
        async with rogue_serving() as (client, rogue):
            rogue.send(MSG_OPEN, String(kind), UInt32(0), UInt32(1 << 20), UInt32(1 << 15), rest)
            await until(lambda: rogue.count(MSG_OPEN_FAILURE) or rogue.lost)
            assert rogue.count(MSG_OPEN_CONFIRMATION) == 0
            assert not client._channels

    run(scenario())


async def asked(rogue: Any, count: int = 1) -> list[int]:
    """Wait until the client asks for channels; the client's numbers for them."""
    await until(lambda: rogue.count(MSG_OPEN) >= count, "open")
    numbers = []
    for message in rogue.messages:
        if message.kind == MSG_OPEN:
            packet = SSHPacket(message.body)
            packet.get_string()
            numbers.append(packet.get_uint32())
    return numbers


@pytest.mark.parametrize("packet", [1, SMALLEST_PACKET - 1])
def test_a_server_with_a_tiny_maximum_packet_fails_that_channel(run: Run, packet: int) -> None:
    async def scenario() -> None:
        async with rogue_serving() as (client, rogue):
            opening = asyncio.ensure_future(open_direct_tcpip(client, "target", 80, NOWHERE))
            [number] = await asked(rogue)
            rogue.send(MSG_OPEN_CONFIRMATION, UInt32(number), UInt32(5), UInt32(WIDE_WINDOW), UInt32(packet))
            with pytest.raises(OpenFailed):
                await opening
            await until(lambda: rogue.count(MSG_CLOSE))
            rogue.send(MSG_CLOSE, UInt32(number))
            await until(lambda: not client._channels)
            assert client.bounds.budget.granted == 0
            assert not client.is_closed()

    run(scenario())


@pytest.mark.parametrize("kind", [MSG_DATA, MSG_EOF, MSG_CLOSE, MSG_WINDOW_ADJUST])
def test_a_server_that_talks_before_it_agrees_ends_the_session(run: Run, kind: int) -> None:
    async def scenario() -> None:
        async with rogue_serving() as (client, rogue):
            opening = asyncio.ensure_future(open_direct_tcpip(client, "target", 80, NOWHERE))
            [number] = await asked(rogue)
            parts = {MSG_DATA: [String(b"x")], MSG_WINDOW_ADJUST: [UInt32(1)]}
            rogue.send(kind, UInt32(number), *parts.get(kind, []))
            with pytest.raises(OpenFailed):
                await opening
            await until(client.is_closed)
            assert client.bounds.budget.granted == 0

    run(scenario())


def test_a_server_that_agrees_twice_ends_the_session(run: Run) -> None:
    async def scenario() -> None:
        async with rogue_serving() as (client, rogue):
            opening = asyncio.ensure_future(open_direct_tcpip(client, "target", 80, NOWHERE))
            [number] = await asked(rogue)
            for _ in range(2):
                rogue.send(MSG_OPEN_CONFIRMATION, UInt32(number), UInt32(5), UInt32(WIDE_WINDOW), UInt32(1 << 15))
            (await opening).abort()
            await until(client.is_closed)

    run(scenario())


def test_a_server_that_sends_more_than_the_client_granted_ends_the_session(run: Run) -> None:
    async def scenario() -> None:
        async with rogue_serving() as (client, rogue):
            opening = asyncio.ensure_future(open_direct_tcpip(client, "target", 80, NOWHERE))
            [number] = await asked(rogue)
            rogue.send(MSG_OPEN_CONFIRMATION, UInt32(number), UInt32(5), UInt32(WIDE_WINDOW), UInt32(1 << 15))
            channel = await opening
            near = Recorder(on_made=lambda stream: stream.pause_reading())
            channel.attach(near)
            while not client.is_closed():
                if not rogue.lost:
                    rogue.data(number, bytes(32 << 10))
                assert channel._inbox.held <= FIRST_WINDOW
                await asyncio.sleep(0)
            channel.resume_reading()
            await until(lambda: near.losses)
            assert client.bounds.budget.granted == 0

    run(scenario())


def test_a_server_that_begins_a_key_exchange_and_never_goes_on_is_left(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wraith.ssh.connection.REKEY_TIMEOUT_S", 0.3)

    async def scenario() -> None:
        async with rogue_serving() as (client, rogue):
            opening = asyncio.ensure_future(open_direct_tcpip(client, "target", 80, NOWHERE))
            [number] = await asked(rogue)
            rogue.send(MSG_OPEN_CONFIRMATION, UInt32(number), UInt32(5), UInt32(WIDE_WINDOW), UInt32(1 << 15))
            near = Recorder()
            (await opening).attach(near)
            rogue.keep = lambda _: None
            rogue.begin_exchange()
            peak = 0
            link: Any = client.bounds.link
            while not client.is_closed():
                if not near.writing_paused:
                    near.stream.write(bytes(64 << 10))
                peak = max(peak, held(client, link._stream))
                await asyncio.sleep(0)
            assert peak < 2 * MIB
            await until(lambda: near.losses)

    run(scenario())


def test_one_large_write_sends_no_more_than_a_turn_at_once(run: Run) -> None:
    """A small maximum packet turns it into thousands, and other channels wait meanwhile."""

    async def scenario() -> None:
        async with rogue_serving() as (client, rogue):
            opening = asyncio.ensure_future(open_direct_tcpip(client, "target", 80, NOWHERE))
            [number] = await asked(rogue)
            rogue.send(MSG_OPEN_CONFIRMATION, UInt32(number), UInt32(5), UInt32(WIDE_WINDOW), UInt32(SMALLEST_PACKET))
            channel = await opening
            channel.attach(Recorder())
            channel.write(bytes(8 * MIB))
            assert 8 * MIB - channel.get_write_buffer_size() == PACKETS_A_TURN * SMALLEST_PACKET
            received = [0]

            def take(message: Message) -> None:
                received[0] += len(message.body) - 4

            rogue.keep = take
            await until(lambda: received[0] + rogue.count(MSG_DATA) * SMALLEST_PACKET == 8 * MIB, "all of it")

    run(scenario())
