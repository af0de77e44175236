"""Numbers without end and faults of our own: limits hold, and what fails is one channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from asyncssh.packet import Boolean, String, UInt32

from tests.support.hostility import Pourer, attacked, backlog, held
from tests.support.ssh_peers import serving, session, turns, until
from tests.support.ssh_rogues import (
    MSG_CLOSE,
    MSG_EOF,
    MSG_OPEN_CONFIRMATION,
    MSG_OPEN_FAILURE,
    MSG_REQUEST,
    MSG_WINDOW_ADJUST,
    Message,
    rogue_session,
)
from wraith.ssh.channel import open_direct_tcpip
from wraith.ssh.link import UNREAD_ANSWERS_LIMIT
from wraith_transports import DuplexStream
from wraith_transports.testing.recorder import Recorder

Run = Callable[..., Any]
MIB = 1 << 20
NOWHERE = ("127.0.0.1", 1)
HIGH_WATER = 512 << 10


# Numbers


def test_a_burst_of_channels_stops_at_the_limit_and_all_are_released(run: Run) -> None:
    burst = 10_000

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


@pytest.mark.parametrize("name", [b"keepalive@openssh.com", b"tcpip-forward"])
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
