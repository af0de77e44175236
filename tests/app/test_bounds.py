"""Hostile SSH peers: whatever one sends or leaves unsaid, what it costs is bounded and nobody else pays."""

from __future__ import annotations

import asyncio
import os
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from asyncssh.packet import Boolean, SSHPacket, String, UInt32

from tests.support.ssh_peers import (
    MSG_CLOSE,
    MSG_DATA,
    MSG_DISCONNECT,
    MSG_EOF,
    MSG_EXTENDED_DATA,
    MSG_KEXINIT,
    MSG_OPEN,
    MSG_OPEN_CONFIRMATION,
    MSG_OPEN_FAILURE,
    MSG_REQUEST,
    MSG_SUCCESS,
    MSG_WINDOW_ADJUST,
    WIDE_WINDOW,
    Message,
    RogueClient,
    Served,
    Service,
    logged,
    rogue_at_login,
    rogue_serving,
    rogue_session,
    serving,
    session,
    turns,
    until,
)
from wraith.opening import OpenFailed
from wraith.ssh.budget import FIRST_WINDOW, SESSION_CREDIT, SMALLEST_WINDOW
from wraith.ssh.channel import SMALLEST_PACKET, ChannelStream, open_direct_tcpip
from wraith.ssh.connection import MAX_DEFERRED, MAX_RECEIVED_PACKET, BoundedConnection
from wraith.ssh.link import UNREAD_ANSWERS_LIMIT
from wraith_transports import DuplexStream, memory_pair
from wraith_transports.testing.recorder import Recorder, pattern, pattern_fault

Run = Callable[..., Any]
MIB = 1 << 20
NOWHERE = ("127.0.0.1", 1)
HIGH_WATER = 512 << 10


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


# Key exchange


def test_an_unfinished_key_exchange_holds_no_data_back_and_ends(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wraith.ssh.connection.REKEY_TIMEOUT_S", 0.3)

    async def scenario() -> None:
        async with attacked() as (service, rogue, served):
            rogue.keep = lambda _: None
            for number in range(8):
                rogue.open(number)
            await until(lambda: len(service.targets.streams) >= 8)
            service.targets.streams[0].attach(Pourer())
            await turns(20)
            rogue.begin_exchange()
            for stream in service.targets.streams[1:]:
                stream.attach(Pourer())
            peak = 0
            while not served.over:
                peak = max(peak, held(served.connection, served.stream))
                await asyncio.sleep(0)
            # A read for each channel waits, and what was written before the exchange began.
            assert peak <= 8 * (64 << 10) + 2 * HIGH_WATER
            assert rogue.count(MSG_KEXINIT) == 1
            assert served.budget.granted == 0

    run(scenario())


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(lambda rogue, _: rogue.request(b"keepalive@openssh.com"), id="keepalives"),
        pytest.param(lambda rogue, _: rogue.request(b"no-such-request"), id="unknown-requests"),
        pytest.param(lambda rogue, number: rogue.open(100 + number), id="opens"),
        pytest.param(lambda rogue, number: rogue.open(100 + number, host="refuse"), id="refused-opens"),
        pytest.param(lambda rogue, number: rogue.open_session(100 + number), id="sessions"),
        pytest.param(lambda rogue, _: rogue.send(MSG_OPEN, String(b"x"), *[UInt32(9)] * 3), id="unknown-opens"),
        pytest.param(
            lambda rogue, _: rogue.send(MSG_REQUEST, UInt32(0), String(b"env"), Boolean(True)), id="channel-requests"
        ),
        pytest.param(lambda rogue, _: rogue.send(2, String(bytes(30_000))), id="ignored"),
        pytest.param(lambda rogue, _: rogue.send(199), id="unknown-packets"),
    ],
)
def test_a_flood_during_an_unfinished_key_exchange_is_bounded_and_ends(
    run: Run, monkeypatch: pytest.MonkeyPatch, flood: Callable[[RogueClient, int], None]
) -> None:
    monkeypatch.setattr("wraith.ssh.connection.REKEY_TIMEOUT_S", 1.0)

    async def scenario() -> None:
        async with attacked() as (_service, rogue, served):
            rogue.keep = lambda _: None
            await rogue_opens(rogue, served, 1)
            rogue.begin_exchange()
            peak = number = 0
            while not served.over:
                for _ in range(64):
                    if not rogue.lost:
                        flood(rogue, number)
                        number += 1
                await until(lambda: rogue.lost or not backlog(rogue))
                peak = max(peak, held(served.connection, served.stream))
                assert len(served.connection._deferred_packets) <= MAX_DEFERRED + 64 * 40
                assert len(served.channels) <= 1024
                await asyncio.sleep(0)
            assert peak < 4 * MIB
            assert served.budget.granted == 0

    run(scenario())


async def rogue_opens(rogue: RogueClient, served: Served, count: int) -> None:
    """Open that many channels without keeping what is answered."""
    for number in range(count):
        rogue.open(number)
    await until(lambda: len(served.channels) == count and all(each._opening is None for each in served.channels))


def test_a_key_exchange_that_ends_in_time_goes_on_and_data_with_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wraith.ssh.connection.REKEY_TIMEOUT_S", 0.2)

    async def scenario() -> None:
        async with serving() as service, session(service) as (client, served):
            near, far = Recorder(), Recorder()
            (await open_direct_tcpip(client, "target", 80, NOWHERE)).attach(near)
            service.targets.streams[0].attach(far)
            for round_number in range(3):
                client._rekey_bytes_sent = client._rekey_bytes
                near.stream.write(pattern(round_number * 100_000, 100_000))
                await until(lambda n=round_number: len(far.received) == (n + 1) * 100_000)
                await until(lambda: client._kex_complete and served.connection._kex_complete)
            await asyncio.sleep(0.25)  # longer than the limit, which must not be running any more
            assert not served.over
            assert pattern_fault(far.received) is None

    run(scenario())


@pytest.mark.parametrize(
    "first_bytes",
    [b"", b"SSH-2.0-slow\r\n", b"SSH-2.0-slow\r\n\x00\x00\x00\x0c", b"S" * 200, b"GET / HTTP/1.1\r\n"],
    ids=["nothing", "version", "half-packet", "no-line", "http"],
)
def test_a_client_that_does_not_come_to_its_keys_is_dropped(
    run: Run, monkeypatch: pytest.MonkeyPatch, first_bytes: bytes
) -> None:
    monkeypatch.setattr("wraith.ssh.attach.VERSION_TIMEOUT_S", 0.1)
    monkeypatch.setattr("wraith.ssh.attach.KEY_EXCHANGE_TIMEOUT_S", 0.2)

    async def scenario() -> None:
        async with logged() as lines, serving() as service:
            near, far = memory_pair()
            served = service.accept(far)
            peer = Recorder()
            near.attach(peer)
            near.write(first_bytes)
            began = time.monotonic()
            await until(lambda: peer.ended)
            near.close()
            await until(lambda: served.over)
            assert time.monotonic() - began < 2
        assert len(lines.of("connection closed")) == 1

    run(scenario())


def test_a_client_that_sends_one_byte_at_a_time_is_dropped_in_the_same_time(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wraith.ssh.attach.VERSION_TIMEOUT_S", 0.2)

    async def scenario() -> None:
        async with serving() as service:
            near, far = memory_pair()
            served = service.accept(far)
            peer = Recorder()
            near.attach(peer)
            began = time.monotonic()
            while not peer.ended:
                near.write(b"S")
                await asyncio.sleep(0.01)
                assert time.monotonic() - began < 2
            near.close()
            await until(lambda: served.over)

    run(scenario())


def test_a_key_exchange_that_is_never_finished_before_the_login_is_dropped(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends its version and KEXINIT again and again, and never NEWKEYS."""
    monkeypatch.setattr("wraith.ssh.attach.KEY_EXCHANGE_TIMEOUT_S", 0.3)

    async def scenario() -> None:
        async with serving() as service, session(service):
            near, far = memory_pair()
            served = service.accept(far)
            peer = Recorder()
            near.attach(peer)
            near.write(b"SSH-2.0-flood\r\n")
            ignored = b"\x02" + String(bytes(100))
            padding = 8 - (len(ignored) + 5) % 8 + 8
            packet = UInt32(len(ignored) + padding + 1) + bytes([padding]) + ignored + bytes(padding)
            while not served.over:
                near.write(packet * 50)
                await until(lambda: peer.ended or not near.get_write_buffer_size())
                assert held(served.connection, far) < MIB
                if peer.ended:
                    near.close()
                await asyncio.sleep(0)

    run(scenario())


def test_a_login_that_is_never_finished_is_dropped(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wraith.ssh.attach.LOGIN_TIMEOUT_S", 0.3)

    async def scenario() -> None:
        async with serving() as service, rogue_at_login(service) as (rogue, served):
            while not served.over:
                if not rogue.lost:
                    rogue.send(2, String(b"still here"))
                await asyncio.sleep(0.005)

    run(scenario())


@pytest.mark.parametrize("kind", [MSG_OPEN, 80, MSG_DATA, 99])
def test_nothing_is_served_before_the_login(run: Run, kind: int) -> None:
    async def scenario() -> None:
        async with serving() as service, rogue_at_login(service) as (rogue, served):
            rogue.send(kind, String(b"session"), UInt32(0), UInt32(1 << 20), UInt32(1 << 15))
            await until(lambda: served.over, "end of the session")
            assert not service.targets.dialled

    run(scenario())


# Packets


def test_single_byte_packets_to_a_stopped_reader_cost_what_they_hold(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as service, rogue_session(service) as (rogue, served):
            channel = await rogue.opened(0)
            for _ in range(8):  # the target's stream holds its share
                rogue.data(channel.number, bytes(channel.packet))
            await until(lambda: served.channels[0]._inbox.held)
            await turns(200)
            before = served.channels[0]._inbox.held
            count = 20_000
            with grows_less_than(2 * MIB):
                for _ in range(count // 200):
                    for _ in range(200):
                        rogue.data(channel.number, b"x")
                    await until(lambda: not backlog(rogue))
                await until(lambda: served.channels[0]._inbox.held == before + count)
            assert sys.getsizeof(served.channels[0]._inbox._held) < 2 * (before + count)

    run(scenario())


@pytest.mark.long
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
            assert sys.getsizeof(served.channels[0]._inbox._held) < 3 * MIB

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


# Channels out of order


def _close_twice(rogue: RogueClient, number: int) -> None:
    rogue.send(MSG_CLOSE, UInt32(number))
    rogue.send(MSG_CLOSE, UInt32(number))


def _after(first: int, *then: bytes) -> Callable[[RogueClient, int], None]:
    def send(rogue: RogueClient, number: int) -> None:
        rogue.send(first, UInt32(number))
        rogue.send(then[0][0], UInt32(number), *then[1:])

    return send


def _on(kind: int, *parts: bytes, offset: int = 0) -> Callable[[RogueClient, int], None]:
    return lambda rogue, number: rogue.send(kind, UInt32(number + offset), *parts)


MISTAKES: dict[str, Callable[[RogueClient, int], None]] = {
    "data-after-eof": _after(MSG_EOF, bytes([MSG_DATA]), String(b"x")),
    "data-after-close": _after(MSG_CLOSE, bytes([MSG_DATA]), String(b"x")),
    "close-twice": _close_twice,
    "adjust-after-close": _after(MSG_CLOSE, bytes([MSG_WINDOW_ADJUST]), UInt32(1)),
    "eof-after-close": _after(MSG_CLOSE, bytes([MSG_EOF])),
    "data-for-nobody": _on(MSG_DATA, String(b"x"), offset=1000),
    "adjust-for-nobody": _on(MSG_WINDOW_ADJUST, UInt32(1), offset=1000),
    "close-for-nobody": _on(MSG_CLOSE, offset=1000),
    "eof-for-nobody": _on(MSG_EOF, offset=1000),
    "request-for-nobody": _on(MSG_REQUEST, String(b"env"), Boolean(True), offset=1000),
    "confirmation-unasked": _on(MSG_OPEN_CONFIRMATION, UInt32(0), UInt32(1), UInt32(1 << 15)),
    "confirmation-for-nobody": _on(MSG_OPEN_CONFIRMATION, UInt32(0), UInt32(1), UInt32(1 << 15), offset=1000),
    "failure-unasked": _on(MSG_OPEN_FAILURE, UInt32(1), String(b"no"), String(b"")),
    "success-unasked": _on(MSG_SUCCESS),
    "data-cut-short": _on(MSG_DATA, UInt32(100), b"x"),
    "data-with-a-tail": _on(MSG_DATA, String(b"x"), b"tail"),
    "adjust-cut-short": _on(MSG_WINDOW_ADJUST, b"\0"),
    "request-cut-short": _on(MSG_REQUEST, UInt32(50)),
    "no-channel-number": lambda rogue, _: rogue.send(MSG_DATA),
    "open-cut-short": lambda rogue, _: rogue.send(MSG_OPEN, String(b"direct-tcpip"), UInt32(7)),
    "open-of-no-text": lambda rogue, _: rogue.send(MSG_OPEN, String(b"\xff"), *[UInt32(1 << 15)] * 3),
    "target-of-no-text": lambda rogue, _: rogue.send(
        MSG_OPEN,
        String(b"direct-tcpip"),
        *[UInt32(1 << 15)] * 3,
        String(b"\xff"),
        UInt32(1),
        String(b""),
        UInt32(1),
    ),
    "answer-unasked": lambda rogue, _: rogue.send(81),
    "request-of-no-text": lambda rogue, _: rogue.request(b"\xff\xfe"),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_message_out_of_order_ends_that_session_alone(run: Run, mistake: Callable[[RogueClient, int], None]) -> None:
    async def scenario() -> None:
        async with attacked() as (service, rogue, served):
            channel = await rogue.opened(0)
            service.targets.streams[0].attach(Recorder())
            mistake(rogue, channel.number)
            await protocol_error(rogue, served, service)

    run(scenario())


@pytest.mark.parametrize("kind", [MSG_DATA, MSG_EOF, MSG_CLOSE, MSG_WINDOW_ADJUST, MSG_REQUEST])
def test_a_message_for_a_channel_still_being_dialled_ends_the_session_and_the_dial(run: Run, kind: int) -> None:
    async def scenario() -> None:
        async with attacked() as (service, rogue, served):
            rogue.open(0, host="hang")
            await until(lambda: service.targets.hanging == 1)
            parts = {MSG_DATA: [String(b"x")], MSG_WINDOW_ADJUST: [UInt32(1)], MSG_REQUEST: [String(b"e"), b"\0"]}
            rogue.send(kind, UInt32(0), *parts.get(kind, []))
            await protocol_error(rogue, served, service)
            await until(lambda: service.targets.hanging == 0, "end of the dial")

    run(scenario())


def test_an_end_said_twice_is_said_once(run: Run) -> None:
    async def scenario() -> None:
        async with attacked() as (service, rogue, served):
            channel = await rogue.opened(0)
            far = Recorder()
            service.targets.streams[0].attach(far)
            rogue.send(MSG_EOF, UInt32(channel.number))
            rogue.send(MSG_EOF, UInt32(channel.number))
            await until(lambda: far.ended or served.over)
            await turns()
            assert not far.complaints

    run(scenario())


def test_a_channel_whose_close_is_never_answered_counts_and_gives_no_data(run: Run) -> None:
    async def scenario() -> None:
        async with serving(max_channels=20) as service, rogue_session(service) as (rogue, served):
            for number in range(20):
                await rogue.opened(number)
                service.targets.streams[number].abort()
            await until(lambda: rogue.count(MSG_CLOSE) == 20)
            rogue.open(20)
            await until(lambda: rogue.count(MSG_OPEN_FAILURE) == 1)
            for channel in served.channels:
                assert channel._inbox.held == channel._queued == 0
            first = (await rogue.answered(0)).number
            rogue.data(first, bytes(1000))  # crossed with our CLOSE: no mistake
            rogue.send(MSG_CLOSE, UInt32(first))
            await rogue.opened(21)

    run(scenario())


# Numbers


@pytest.mark.parametrize("burst", [3000, pytest.param(10_000, marks=pytest.mark.long)])
def test_a_burst_of_channels_stops_at_the_limit_and_all_are_released(run: Run, burst: int) -> None:
    async def scenario() -> None:
        async with attacked() as (service, rogue, served):
            answers = {MSG_OPEN_CONFIRMATION: 0, MSG_OPEN_FAILURE: 0}
            codes = set()

            def take(message: Message) -> None:
                if message.kind in answers:
                    answers[message.kind] += 1
                if message.kind == MSG_OPEN_FAILURE:
                    codes.add(message.body[4:8])

            rogue.keep = take
            for number in range(burst):
                rogue.open(number)
                if number % 500 == 0:
                    await asyncio.sleep(0)
            await until(lambda: sum(answers.values()) == burst, "answer to every open")
            assert answers[MSG_OPEN_CONFIRMATION] == 1024
            assert len(served.channels) == len(service.targets.streams) == 1024
            assert codes == {UInt32(4)}, "resource shortage"
            rogue.abort()
            await until(lambda: served.over)
            await until(lambda: all(stream._gone for stream in service.targets.streams), "end of every target")  # type: ignore[attr-defined]
            assert served.budget.granted == 0
            assert not served.connection._channels

    run(scenario())


def test_dials_count_as_channels_and_end_with_the_session(run: Run) -> None:
    async def scenario() -> None:
        async with serving(max_channels=50) as service, rogue_session(service) as (rogue, served):
            for number in range(200):
                rogue.open(number, host="hang")
            await until(lambda: rogue.count(MSG_OPEN_FAILURE) == 150)
            await until(lambda: service.targets.hanging == 50)
            rogue.abort()
            await until(lambda: service.targets.hanging == 0, "end of every dial")
            assert served.budget.granted == 0

    run(scenario())


@pytest.mark.parametrize("name", [b"keepalive@openssh.com", b"no-such-request", b"tcpip-forward"])
def test_answers_that_are_never_read_are_bounded_and_end_the_session(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    monkeypatch.setattr("wraith.ssh.link.UNREAD_ANSWERS_TIMEOUT_S", 0.3)

    async def scenario() -> None:
        async with attacked() as (_service, rogue, served):
            rogue._transport.pause_reading("test")
            extra = String(b"") + UInt32(0) if name == b"tcpip-forward" else b""
            peak = sent = 0
            while not served.over and not rogue.lost and sent < 200_000:
                for _ in range(500):
                    rogue.send(80, String(name), Boolean(True), extra)
                sent += 500
                await asyncio.sleep(0)
                while backlog(rogue) > MIB and not served.over:
                    peak = max(peak, held(served.connection, served.stream))
                    await asyncio.sleep(0.001)
                peak = max(peak, held(served.connection, served.stream))
            assert UNREAD_ANSWERS_LIMIT <= peak < 2 * UNREAD_ANSWERS_LIMIT
            await until(lambda: served.over, "end of the session")

    run(scenario())


def test_a_flood_of_channel_requests_is_answered_and_held_nowhere(run: Run) -> None:
    async def scenario() -> None:
        async with attacked() as (_service, rogue, served):
            rogue.open_session(0)
            channel = await rogue.answered(0)
            answered = [0]

            def take(_: Message) -> None:
                answered[0] += 1

            rogue.keep = take
            for turn in range(20):
                for number in range(200):
                    rogue.send(
                        MSG_REQUEST,
                        UInt32(channel.number),
                        String(b"env"),
                        Boolean(True),
                        String(f"NAME{number}"),
                        String(bytes(500)),
                    )
                await until(lambda turn=turn: answered[0] == (turn + 1) * 200)
            assert held(served.connection, served.stream) < MIB

    run(scenario())


def test_a_flood_of_channel_requests_whose_answers_are_not_read_ends_the_session(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wraith.ssh.link.UNREAD_ANSWERS_TIMEOUT_S", 0.3)

    async def scenario() -> None:
        async with attacked() as (_service, rogue, served):
            rogue.open_session(0)
            channel = await rogue.answered(0)
            rogue._transport.pause_reading("test")
            peak = 0
            while not served.over and not rogue.lost:
                for _ in range(500):
                    rogue.send(MSG_REQUEST, UInt32(channel.number), String(b"env"), Boolean(True))
                await asyncio.sleep(0)
                while backlog(rogue) > MIB and not served.over:
                    await asyncio.sleep(0.001)
                peak = max(peak, held(served.connection, served.stream))
            assert peak < 2 * UNREAD_ANSWERS_LIMIT

    run(scenario())


def test_channels_opened_and_closed_by_one_that_reads_no_answer_are_bounded(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wraith.ssh.link.UNREAD_ANSWERS_TIMEOUT_S", 0.3)

    async def scenario() -> None:
        async with attacked() as (service, rogue, served):
            service.targets.attach = lambda stream: stream.attach(Pourer())
            rogue._transport.pause_reading("test")
            number = 0
            while not served.over and not rogue.lost:
                rogue.open(number)
                await turns(6)
                # It guesses the server's numbers, which count from 0.
                rogue.send(MSG_CLOSE, UInt32(number))
                number += 1
                if number == 600:
                    break
                assert len(served.connection.bounds.line) <= 600
                assert held(served.connection, served.stream) < 2 * UNREAD_ANSWERS_LIMIT
            service.targets.attach = None
            rogue.abort()
            await until(lambda: served.over)
            assert served.budget.granted == 0

    run(scenario())


# Faults of our own


class Faulty:
    """A target's stream of which one call raises."""

    def __init__(self, stream: DuplexStream, call: str) -> None:
        self._stream = stream
        self._call = call

    def __getattr__(self, name: str) -> Any:
        if name == self._call:

            def fail(*_: object) -> None:
                raise ZeroDivisionError(f"a fault in {name}")

            return fail
        return getattr(self._stream, name)


@pytest.mark.parametrize(
    "call", ["attach", "write", "write_eof", "close", "pause_reading", "resume_reading", "set_write_buffer_limits"]
)
def test_a_target_that_raises_costs_its_channel_and_not_the_session(loop_name: str, call: str) -> None:
    async def scenario() -> None:
        told: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        handler = loop.get_exception_handler()
        loop.set_exception_handler(lambda _, context: told.append(context))
        async with serving() as service, rogue_session(service) as (rogue, served):
            service.targets.wrap = lambda stream: Faulty(stream, call)  # type: ignore[assignment,return-value]
            rogue.open(0, window=100_000)
            await until(lambda: rogue.count(MSG_OPEN_CONFIRMATION, MSG_OPEN_FAILURE) or rogue.lost)
            await turns()
            far = service.targets.streams[0]
            far.attach(Recorder())
            if not rogue.lost and rogue.count(MSG_OPEN_CONFIRMATION):
                number = (await rogue.answered(0)).number
                far.write(bytes(MIB))
                rogue.data(number, b"x")
                await turns()
                if any(each._number == number for each in served.channels) and not rogue.count(MSG_CLOSE):
                    rogue.send(MSG_WINDOW_ADJUST, UInt32(number), UInt32(4 * MIB))
                    await turns()
                if any(each._number == number for each in served.channels) and not rogue.count(MSG_CLOSE):
                    rogue.send(MSG_EOF, UInt32(number))
                    far.write_eof()
                    await turns()
            assert not rogue.lost, "the session went with it"
            service.targets.wrap = lambda stream: stream
            await rogue.opened(1)
        loop.set_exception_handler(handler)

    from tests.support import loops

    loops.run(scenario(), loop=loop_name)


class Raising(asyncio.Protocol):
    """A user's protocol that fails in one callback."""

    def __init__(self, callback: str) -> None:
        def fail(*_: object) -> None:
            raise ZeroDivisionError(f"a fault in {callback}")

        setattr(self, callback, fail)


@pytest.mark.parametrize(
    "callback",
    ["connection_made", "data_received", "eof_received", "pause_writing", "resume_writing", "connection_lost"],
)
def test_a_protocol_that_raises_costs_its_channel_and_not_the_session(loop_name: str, callback: str) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        async with serving() as service, session(service) as (client, served):
            channel = await open_direct_tcpip(client, "target", 80, NOWHERE)
            target = service.targets.streams[0]
            far = Recorder()
            target.attach(far)
            target.pause_reading()
            channel.attach(Raising(callback))
            try:
                channel.write(bytes(8 * MIB))  # the caller of write() is told what its own protocol raised
            except ZeroDivisionError:
                assert callback == "pause_writing"
            await turns(100)
            target.resume_reading()
            await until(lambda: not channel._queued or client.is_closed())
            target.write(b"x")
            target.write_eof()
            await turns(100)
            target.abort()
            await turns(100)
            assert not client.is_closed()
            assert not served.over
            (await open_direct_tcpip(client, "another", 80, NOWHERE)).abort()

    from tests.support import loops

    loops.run(scenario(), loop=loop_name)


# A hostile server


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
