"""An SSH channel is a duplex stream like any other: it passes the public suite, on both of its ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.ssh_peers import Served, Service, log_in, serving, session, turns, until
from wraith.opening import OpenFailed, OpenFailure
from wraith.ssh.budget import FIRST_WINDOW, SMALLEST_WINDOW, CreditBudget
from wraith.ssh.channel import ChannelStream, open_direct_tcpip
from wraith.ssh.connection import BoundedClientConnection
from wraith_transports import DuplexStream, memory_pair
from wraith_transports.testing import STREAM_CASES, Pair, Patience, StreamCase, StreamSetup, swapped
from wraith_transports.testing.recorder import Recorder, pattern, pattern_fault

Run = Callable[..., Any]
NOWHERE = ("127.0.0.1", 1)


async def channel_pair(
    client: BoundedClientConnection, served: Served, host: str = "127.0.0.1"
) -> tuple[ChannelStream, ChannelStream]:
    """Open a channel; both ends of it, neither attached to anything."""
    taken: list[ChannelStream] = []

    async def dial() -> Callable[[ChannelStream], None]:
        return taken.append

    def requested(*_: object) -> Any:
        return ChannelStream(served.connection, ("127.0.0.1", 80)), dial()

    owner: Any = served.connection.get_owner()
    owner.connection_requested = requested
    near = await open_direct_tcpip(client, host, 80, NOWHERE)
    return near, taken[0]


@asynccontextmanager
async def open_channel(patience: Patience) -> AsyncIterator[Pair]:
    async with serving() as service, session(service) as (client, served):
        near, far = await channel_pair(client, served)
        for stream in (near, far):
            stream._flush_timeout_s = patience.flush_s
            stream._drain_timeout_s = patience.drain_s
            stream._unattached_timeout_s = patience.unattached_s
            if stream._timer is not None:
                stream._timer.cancel()
                stream._timer = asyncio.get_running_loop().call_later(patience.unattached_s, stream.abort)
        yield near, far
        for stream in (near, far):
            stream.abort()
        await until(lambda: not served.channels and not client._channels, "end of both channels")
        assert (served.budget.granted, client.bounds.budget.granted) == (0, 0)
        assert (served.connection.bounds.line, client.bounds.line) == (type(client.bounds.line)(),) * 2


# A reader that has not begun holds its first window; the session's own stream is read meanwhile.
SETUP = StreamSetup(open=open_channel, carrier_buffer=FIRST_WINDOW)
SETUPS = {"client": SETUP, "server": swapped(SETUP)}


@pytest.mark.parametrize(
    ("case", "setup"),
    [
        pytest.param(case, setup, id=f"{name}-{case.name}")
        for name, setup in SETUPS.items()
        for case in STREAM_CASES
        if case.applies_to(setup)
    ],
)
def test_channels_conform(run: Run, case: StreamCase, setup: StreamSetup) -> None:
    run(case.run(setup))


# Opening


@asynccontextmanager
async def served_session() -> AsyncIterator[tuple[Service, BoundedClientConnection, Served]]:
    async with serving() as service, session(service) as (client, served):
        yield service, client, served


def test_a_channel_reaches_the_target_it_names(run: Run) -> None:
    async def scenario() -> None:
        async with served_session() as (service, client, _):
            near = await open_direct_tcpip(client, "db.internal", 5432, NOWHERE)
            assert service.targets.dialled == [("db.internal", 5432)]
            assert near.get_extra_info("peername") == ("db.internal", 5432)
            here, there = Recorder(), Recorder()
            near.attach(here)
            service.targets.streams[0].attach(there)
            near.write(pattern(0, 1000))
            await until(lambda: len(there.received) == 1000)
            assert pattern_fault(there.received) is None

    run(scenario())


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("refuse.example", OpenFailure.REFUSED),
        ("raise.example", OpenFailure.OTHER),
        ("wraith-control", OpenFailure.NOT_ALLOWED),
        ("WRAITH-anything.", OpenFailure.NOT_ALLOWED),
    ],
)
def test_a_refused_channel_says_why_and_harms_nothing(run: Run, host: str, reason: OpenFailure) -> None:
    async def scenario() -> None:
        async with served_session() as (_, client, served):
            with pytest.raises(OpenFailed) as refused:
                await open_direct_tcpip(client, host, 80, NOWHERE)
            assert refused.value.reason is reason
            assert host not in str(refused.value)
            assert (served.budget.granted, client.bounds.budget.granted) == (0, 0)
            assert not served.channels
            (await open_direct_tcpip(client, "fine", 80, NOWHERE)).abort()

    run(scenario())


def test_a_cancelled_open_leaves_nothing(run: Run) -> None:
    async def scenario() -> None:
        async with served_session() as (service, client, served):
            for wait in range(8):
                opening = asyncio.ensure_future(open_direct_tcpip(client, "target", 80, NOWHERE))
                await turns(wait)
                if opening.cancel():
                    with pytest.raises(asyncio.CancelledError):
                        await opening
                else:
                    opening.result().abort()
            await until(lambda: not served.channels and not client._channels, "end of the channels")
            assert (served.budget.granted, client.bounds.budget.granted) == (0, 0)
            for stream in service.targets.streams:
                far = Recorder()
                stream.attach(far)
                await until(lambda far=far: far.ended)
                stream.abort()

    run(scenario())


def test_an_open_that_is_never_answered_times_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wraith.ssh.channel.OPEN_TIMEOUT_S", 0.05)

    async def scenario() -> None:
        async with served_session() as (service, client, _):
            with pytest.raises(OpenFailed) as failed:
                await open_direct_tcpip(client, "hang", 80, NOWHERE)
            assert failed.value.reason is OpenFailure.TIMED_OUT
            assert service.targets.hanging == 1
            (await open_direct_tcpip(client, "fine", 80, NOWHERE)).abort()

    run(scenario())


def test_a_session_that_ends_fails_what_is_being_opened_and_cancels_the_dial(run: Run) -> None:
    async def scenario() -> None:
        async with served_session() as (service, client, served):
            opening = asyncio.ensure_future(open_direct_tcpip(client, "hang", 80, NOWHERE))
            await until(lambda: service.targets.hanging == 1)
            served.connection.abort()
            with pytest.raises(OpenFailed) as failed:
                await opening
            assert failed.value.reason is OpenFailure.SESSION_DOWN
            await until(lambda: service.targets.hanging == 0, "end of the dial")
            with pytest.raises(OpenFailed) as failed:
                await open_direct_tcpip(client, "late", 80, NOWHERE)
            assert failed.value.reason is OpenFailure.SESSION_DOWN

    run(scenario())


def test_a_session_that_ends_resets_its_channels_at_both_ends(run: Run) -> None:
    async def scenario() -> None:
        async with served_session() as (service, client, served):
            near = Recorder()
            (await open_direct_tcpip(client, "target", 80, NOWHERE)).attach(near)
            far = Recorder()
            service.targets.streams[0].attach(far)
            served.stream.abort()
            await until(lambda: near.losses and far.losses)
            assert isinstance(near.losses[0], OSError)
            assert isinstance(far.losses[0], OSError)
            assert (served.budget.granted, client.bounds.budget.granted) == (0, 0)

    run(scenario())


def test_what_a_stopped_reader_holds_is_let_go_after_the_session_ended(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with served_session() as (service, client, served):
            near = await open_direct_tcpip(client, "target", 80, NOWHERE)
            near.attach(Recorder())
            near.write(bytes(FIRST_WINDOW))
            await until(lambda: served.channels and served.channels[0]._inbox.held > FIRST_WINDOW // 2)
            channel = served.channels[0]
            channel._flush_timeout_s = 0.05
            served.stream.abort()
            await until(lambda: served.over)
            await until(lambda: not channel._inbox.held, "release of what nobody reads")
            assert served.budget.granted == 0
            assert service.total.granted == 0

    run(scenario())


def test_a_channel_closed_by_its_peer_counts_until_its_bytes_are_read(run: Run) -> None:
    async def scenario() -> None:
        async with served_session() as (service, client, served):
            near = await open_direct_tcpip(client, "target", 80, NOWHERE)
            near.attach(Recorder())
            near.write(pattern(0, FIRST_WINDOW // 2))
            near.close()
            await until(lambda: not near.get_write_buffer_size())
            await turns(200)
            assert served.budget.granted == FIRST_WINDOW
            far = Recorder()
            service.targets.streams[0].attach(far)
            await until(lambda: far.ended)
            assert len(far.received) == FIRST_WINDOW // 2
            assert pattern_fault(far.received) is None
            service.targets.streams[0].close()
            await until(lambda: not served.channels)
            assert served.budget.granted == 0

    run(scenario())


def test_a_hand_over_by_a_paused_reader_does_not_lose_its_credit(run: Run) -> None:
    """One read may be the whole of a smallest window: the next protocol must get the credit for it."""

    async def scenario() -> None:
        async with serving(total=0) as service:
            near, far = memory_pair()
            served = service.accept(far)
            client = await log_in(near)
            client.bounds.budget = CreditBudget(0)
            one, other = await channel_pair(client, served)
            assert one._window.size == other._window.size == SMALLEST_WINDOW
            one.attach(Recorder())
            first = Recorder(on_data=lambda _: other.pause_reading())
            other.attach(first)
            one.write(pattern(0, SMALLEST_WINDOW))
            await until(lambda: len(first.received) == SMALLEST_WINDOW)
            first.retire()
            second = Recorder()
            other.attach(second)
            one.write(pattern(SMALLEST_WINDOW, SMALLEST_WINDOW))
            await until(lambda: len(second.received) == SMALLEST_WINDOW, "bytes for the next protocol", 2)
            client.abort()

    run(scenario())


def test_many_channels_share_the_line_fairly(run: Run) -> None:
    """A channel that opens beside bulk ones is served within a few turns of theirs."""

    async def scenario() -> None:
        async with served_session() as (service, client, _):
            received = {"bulk": 0}

            class Drain(asyncio.Protocol):
                def data_received(self, data: bytes) -> None:
                    received["bulk"] += len(data)

            for _ in range(4):
                bulk = await open_direct_tcpip(client, "bulk", 80, NOWHERE)
                bulk.attach(Drain())
            for stream in list(service.targets.streams):
                stream.attach(Pourer(1 << 30))
            await until(lambda: received["bulk"] > 1 << 20)
            near = await open_direct_tcpip(client, "small", 80, NOWHERE)
            before = received["bulk"]
            here = Recorder()
            near.attach(here)
            service.targets.streams[-1].attach(Recorder())
            service.targets.streams[-1].write(b"hello")
            await until(lambda: here.received == b"hello")
            assert received["bulk"] - before < 8 << 20

    run(scenario())


class Pourer(asyncio.Protocol):
    """Writes as much as it may."""

    def __init__(self, total: int) -> None:
        self.left = total
        self._paused = False
        self._stream: DuplexStream | None = None

    def connection_made(self, transport: Any) -> None:
        self._stream = transport
        self._go()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._go()

    def _go(self) -> None:
        assert self._stream is not None
        block = bytes(64 << 10)
        while self.left > 0 and not self._paused and not self._stream.is_closing():
            self._stream.write(block)
            self.left -= len(block)


def test_a_rekey_in_mid_transfer_loses_nothing(run: Run) -> None:
    async def scenario() -> None:
        async with served_session() as (service, client, served):
            near = Recorder()
            (await open_direct_tcpip(client, "target", 80, NOWHERE)).attach(near)
            far = Recorder()
            service.targets.streams[0].attach(far)
            total, sent = 6 << 20, 0
            while sent < total:
                near.stream.write(pattern(sent, 64 << 10))
                far.stream.write(pattern(sent, 64 << 10))
                sent += 64 << 10
                if sent % (1 << 20) == 0:
                    side = client if sent % (2 << 20) else served.connection
                    side._rekey_bytes_sent = side._rekey_bytes
                    await until(lambda: not near.writing_paused and not far.writing_paused)
                await asyncio.sleep(0)
            await until(lambda: len(near.received) == len(far.received) == total, "all of it")
            assert pattern_fault(near.received) is None
            assert pattern_fault(far.received) is None

    run(scenario())
