"""Key exchanges and logins that are never finished are dropped in time, and hold next to nothing until then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from asyncssh.packet import Boolean, String, UInt32

from tests.support.hostility import Pourer, attacked, backlog, held
from tests.support.ssh_peers import Served, logged, serving, session, turns, until
from tests.support.ssh_rogues import (
    MSG_DATA,
    MSG_KEXINIT,
    MSG_OPEN,
    MSG_REQUEST,
    RogueClient,
    rogue_at_login,
)
from wraith.ssh.channel import open_direct_tcpip
from wraith.ssh.connection import MAX_DEFERRED
from wraith_transports import memory_pair
from wraith_transports.testing.recorder import Recorder, pattern, pattern_fault

Run = Callable[..., Any]
MIB = 1 << 20
NOWHERE = ("127.0.0.1", 1)
HIGH_WATER = 512 << 10


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
    monkeypatch.setattr("wraith.ssh.connection.REKEY_TIMEOUT_S", 0.5)

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
