"""Messages that no channel is waiting for end the session they came in, and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from asyncssh.packet import Boolean, String, UInt32

from tests.support.hostility import attacked, protocol_error
from tests.support.ssh_peers import serving, turns, until
from tests.support.ssh_rogues import (
    MSG_CLOSE,
    MSG_DATA,
    MSG_EOF,
    MSG_OPEN,
    MSG_OPEN_CONFIRMATION,
    MSG_OPEN_FAILURE,
    MSG_REQUEST,
    MSG_SUCCESS,
    MSG_WINDOW_ADJUST,
    RogueClient,
    rogue_session,
)
from wraith_transports.testing.recorder import Recorder

Run = Callable[..., Any]
MIB = 1 << 20
NOWHERE = ("127.0.0.1", 1)
HIGH_WATER = 512 << 10


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
