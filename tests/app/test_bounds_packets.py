"""Odd packets and windows: whatever a peer sends, what it makes us hold is what it was granted."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from asyncssh.packet import SSHPacket, String, UInt32

from tests.support.hostility import Pourer, attacked, backlog, grows_less_than, held, protocol_error
from tests.support.ssh_peers import serving, session, turns, until
from tests.support.ssh_rogues import (
    MSG_CLOSE,
    MSG_DATA,
    MSG_EXTENDED_DATA,
    MSG_OPEN_CONFIRMATION,
    MSG_OPEN_FAILURE,
    MSG_WINDOW_ADJUST,
    Message,
    rogue_session,
)
from wraith.ssh.budget import FIRST_WINDOW, SESSION_CREDIT, SMALLEST_WINDOW
from wraith.ssh.channel import SMALLEST_PACKET
from wraith.ssh.connection import MAX_RECEIVED_PACKET
from wraith_transports import memory_pair
from wraith_transports.held import HeldBytes
from wraith_transports.testing.recorder import Recorder, pattern

Run = Callable[..., Any]
MIB = 1 << 20
NOWHERE = ("127.0.0.1", 1)
HIGH_WATER = 512 << 10


# Packets


def memory_of(held: HeldBytes) -> int:
    return sum(sys.getsizeof(block) for block in held._blocks)


def test_single_byte_packets_to_a_stopped_reader_cost_what_they_hold(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as service, rogue_session(service) as (rogue, served):
            channel = await rogue.opened(0)
            for _ in range(8):  # the target's stream holds its share
                rogue.data(channel.number, bytes(channel.packet))
            await until(lambda: served.channels[0]._inbox.held)
            await turns(200)
            before = served.channels[0]._inbox.held
            count = 10_000
            with grows_less_than(1 * MIB):
                for _ in range(count // 200):
                    for _ in range(200):
                        rogue.data(channel.number, b"x")
                    await until(lambda: not backlog(rogue))
                await until(lambda: served.channels[0]._inbox.held == before + count)
            assert memory_of(served.channels[0]._inbox._held) < 2 * (before + count)

    run(scenario())


@pytest.mark.long
@pytest.mark.timeout(400)
def test_two_mebibytes_in_single_byte_packets_cost_what_they_hold(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as service, rogue_session(service) as (rogue, served):
            channel = await rogue.opened(0)
            sent = 0
            while sent < channel.window:
                for _ in range(500):
                    rogue.data(channel.number, b"x")
                sent += 500
                await until(lambda: not backlog(rogue))
                if rogue.lost:
                    break
                if sent + 500 > channel.window:
                    break
            assert memory_of(served.channels[0]._inbox._held) < 3 * MIB

    run(scenario(), timeout_s=400)


@pytest.mark.parametrize("packet", [1, 2, 255, SMALLEST_PACKET - 1])
def test_a_tiny_maximum_packet_is_refused(run: Run, packet: int) -> None:
    async def scenario() -> None:
        async with attacked() as (service, rogue, served):
            rogue.open(0, packet=packet)
            rogue.open_session(1, packet=packet)
            await until(lambda: rogue.count(MSG_OPEN_FAILURE) == 2)
            assert not served.channels
            assert served.budget.granted == 0
            assert service.targets.streams == []

    run(scenario())


def test_a_maximum_packet_of_zero_is_a_protocol_error(run: Run) -> None:
    async def scenario() -> None:
        async with attacked() as (service, rogue, served):
            rogue.open(0, packet=0)
            await protocol_error(rogue, served, service)

    run(scenario())


def test_the_smallest_maximum_packet_works_and_lets_others_have_their_turn(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as service, session(service) as (honest, _), rogue_session(service) as (rogue, _):
            received = [0]
            largest = [0]

            def take(message: Message) -> None:
                if message.kind == MSG_DATA:
                    received[0] += len(message.body) - 4
                    largest[0] = max(largest[0], len(message.body) - 4)
                else:
                    rogue.messages.append(message)

            rogue.keep = take
            rogue.open(0, packet=SMALLEST_PACKET)
            await until(lambda: rogue.count(MSG_OPEN_CONFIRMATION))
            service.targets.streams[0].attach(Pourer(8 * MIB))
            slowest = 0.0
            while received[0] < 8 * MIB:
                began = time.monotonic()
                await honest._make_global_request(b"keepalive@openssh.com")
                slowest = max(slowest, time.monotonic() - began)
            assert largest[0] == SMALLEST_PACKET
            assert received[0] == 8 * MIB
            # 65,536 packets in one callback took 6 s; 64 of them take milliseconds, four turns each way.
            assert slowest < 0.5

    run(scenario())


@pytest.mark.parametrize("length", [MAX_RECEIVED_PACKET + 1, 256 << 10, 1 << 24, 0xFFFFFFFF])
def test_a_packet_that_says_it_is_too_long_is_not_waited_for(run: Run, length: int) -> None:
    """Before the keys the length is in the clear; afterwards a wrong one is garbage, which is next."""

    async def scenario() -> None:
        async with serving() as service:
            near, far = memory_pair()
            served = service.accept(far)
            peer = Recorder()
            near.attach(peer)
            near.write(b"SSH-2.0-x\r\n" + UInt32(length) + bytes(12))
            await until(lambda: peer.ended)
            near.close()
            await until(lambda: served.over)

    run(scenario())


@pytest.mark.parametrize("length", [16, 1000, 200_000])
def test_garbage_after_the_key_exchange_ends_the_session(run: Run, length: int) -> None:
    async def scenario() -> None:
        async with attacked() as (_service, rogue, served):
            await rogue.opened(0)
            rogue.send_raw(UInt32(28) + os.urandom(length + 40))
            await until(lambda: served.over, "end of the session")
            assert served.budget.granted == 0

    run(scenario())


def test_an_unknown_kind_of_packet_is_answered_and_harms_nothing(run: Run) -> None:
    async def scenario() -> None:
        async with attacked() as (_service, rogue, served):
            channel = await rogue.opened(0)
            for kind in (119, 127, 150, 192, 255):
                rogue.send(kind, UInt32(channel.number), b"whatever")
            await until(lambda: rogue.count(3) == 5)
            assert not served.over

    run(scenario())


def test_extended_data_is_dropped_and_its_credit_comes_back(run: Run) -> None:
    async def scenario() -> None:
        async with attacked() as (service, rogue, served):
            channel = await rogue.opened(0)
            far = Recorder()
            service.targets.streams[0].attach(far)
            sent = credit = 0
            while sent < 3 * channel.window:
                credit = sum(SSHPacket(m.body).get_uint32() for m in rogue.messages if m.kind == MSG_WINDOW_ADJUST)
                if sent + (32 << 10) > channel.window + credit:
                    await asyncio.sleep(0)
                    continue
                rogue.send(MSG_EXTENDED_DATA, UInt32(channel.number), UInt32(1), String(bytes(32 << 10)))
                sent += 32 << 10
            rogue.data(channel.number, b"the stream itself")
            await until(lambda: far.received == b"the stream itself")
            assert served.channels[0]._inbox.held == 0

    run(scenario())


# Windows


def test_a_window_of_zero_for_ever_holds_one_read(run: Run) -> None:
    async def scenario() -> None:
        async with attacked() as (service, rogue, served):
            for number in range(10):
                await rogue.opened(number, window=0)
            for stream in list(service.targets.streams):
                stream.attach(Pourer())
            await turns(300)
            assert rogue.count(MSG_DATA) == 0
            assert held(served.connection, served.stream) <= 10 * (64 << 10)
            assert not served.connection.bounds.line

    run(scenario())


def test_a_window_given_byte_by_byte_is_used_byte_by_byte(run: Run) -> None:
    async def scenario() -> None:
        async with attacked() as (service, rogue, served):
            channel = await rogue.opened(0, window=0)
            service.targets.streams[0].attach(Recorder())
            service.targets.streams[0].write(pattern(0, 300))
            for _ in range(300):
                rogue.send(MSG_WINDOW_ADJUST, UInt32(channel.number), UInt32(1))
            await until(lambda: rogue.count(MSG_DATA) == 300)
            bodies = [SSHPacket(m.body).get_string() for m in rogue.messages if m.kind == MSG_DATA]
            assert b"".join(bodies) == pattern(0, 300)
            assert served.channels[0]._queued == 0

    run(scenario())


@pytest.mark.parametrize(("window", "adjusts"), [(1, [0xFFFFFFFF]), (0xFFFFFFFF, [1]), (0, [1 << 31, 1 << 31])])
def test_a_window_past_its_maximum_is_a_protocol_error(run: Run, window: int, adjusts: list[int]) -> None:
    async def scenario() -> None:
        async with attacked() as (service, rogue, served):
            channel = await rogue.opened(0, window=window)
            for adjust in adjusts:
                rogue.send(MSG_WINDOW_ADJUST, UInt32(channel.number), UInt32(adjust))
            await protocol_error(rogue, served, service)

    run(scenario())


def test_the_largest_window_is_none(run: Run) -> None:
    async def scenario() -> None:
        async with attacked() as (_service, rogue, served):
            channel = await rogue.opened(0, window=0)
            rogue.send(MSG_WINDOW_ADJUST, UInt32(channel.number), UInt32(0xFFFFFFFF))
            rogue.send(MSG_WINDOW_ADJUST, UInt32(channel.number), UInt32(0))
            await turns()
            assert not served.over

    run(scenario())


@pytest.mark.parametrize("kind", [MSG_DATA, MSG_EXTENDED_DATA])
def test_data_beyond_the_window_is_a_protocol_error(run: Run, kind: int) -> None:
    async def scenario() -> None:
        async with attacked() as (service, rogue, served):
            channel = await rogue.opened(0)
            for _ in range(channel.window // channel.packet):
                rogue.data(channel.number, bytes(channel.packet))
            await turns(100)
            assert not served.over
            extra = [UInt32(1)] if kind == MSG_EXTENDED_DATA else []
            rogue.send(kind, UInt32(channel.number), *extra, String(b"x"))
            rogue.send(kind, UInt32(channel.number), *extra, String(bytes(1000)))
            await protocol_error(rogue, served, service)

    run(scenario())


@pytest.mark.parametrize("channels", [1, 1024])
def test_what_a_peer_may_make_us_hold_is_what_the_budget_says(run: Run, channels: int) -> None:
    async def scenario() -> None:
        async with attacked() as (service, rogue, served):
            for number in range(channels):
                rogue.open(number)
            await until(lambda: rogue.count(MSG_OPEN_CONFIRMATION) == channels)
            granted = [await rogue.answered(number) for number in range(min(channels, 100))]
            assert granted[0].window == FIRST_WINDOW
            assert served.budget.granted <= SESSION_CREDIT + channels * SMALLEST_WINDOW
            for each in granted[-3:]:
                for _ in range(each.window // each.packet):
                    rogue.data(each.number, bytes(each.packet))
            await turns(200)
            assert held(served.connection, served.stream) <= sum(each.window for each in granted[-3:])
            rogue.abort()
            await until(lambda: served.over)
            for stream in service.targets.streams:
                stream.abort()
            await until(lambda: served.budget.granted == 0, "release of the credit")

    run(scenario())


def test_bytes_of_a_closed_channel_that_nobody_reads_still_count(run: Run) -> None:
    """Else a peer fills a window, closes, and fills the next."""

    async def scenario() -> None:
        async with serving() as service, rogue_session(service) as (rogue, served):
            for number in range(60):
                channel = await rogue.opened(number)
                for _ in range(channel.window // channel.packet):
                    rogue.data(channel.number, bytes(channel.packet))
                rogue.send(MSG_CLOSE, UInt32(channel.number))
                await until(lambda: not backlog(rogue))
                rogue.messages.clear()
            await turns(100)
            assert held(served.connection, served.stream) <= SESSION_CREDIT + 60 * SMALLEST_WINDOW
            assert len(served.channels) >= SESSION_CREDIT // FIRST_WINDOW
            assert served.budget.granted == sum(channel._window.size for channel in served.channels)
            for stream in service.targets.streams:
                stream.attach(Recorder())
                stream.close()
            await until(lambda: not served.channels)
            assert served.budget.granted == 0

    run(scenario())
