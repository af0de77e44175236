"""The TLS driver: how it ends, what it holds, and what it does with what it did not ask for."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.tls_ends import CLIENT, OVERHEAD, SERVER, HandDriven, attached, served_by_hand
from wraith_transports import (
    HOLD_LIMIT,
    READ_CHUNK,
    memory_pair,
)
from wraith_transports.testing.case import arrives, comes, hears_loss, quiet
from wraith_transports.testing.recorder import BufferedRecorder, Heard, Recorder, pattern
from wraith_transports.tls import TlsStream
from wraith_transports.tls.stream import MAX_UNASKED_REPLIES, RECORD

Run = Callable[..., Any]


def test_closing_sends_close_notify_and_fin_at_once(run: Run) -> None:
    async def check() -> None:
        peer, served, _ = await served_by_hand()
        protocol = attached(served)
        served.write(b"last words")
        served.close()
        assert await comes(lambda: Heard.EOF in peer.heard)
        assert peer.hear() == b"last words"
        assert peer.said_goodbye
        assert not protocol.losses  # it reads and drops until the peer ends
        peer.stream.close()
        await hears_loss(protocol)
        assert protocol.losses == [None]

    run(check())


def test_closing_reads_and_drops_for_a_bounded_time_only(run: Run) -> None:
    async def check() -> None:
        near, far = memory_pair(drain_timeout_s=0.05)
        peer, served = HandDriven(near), TlsStream(far, SERVER, server_side=True)
        await asyncio.gather(peer.handshake(), served.handshake())
        protocol = attached(served)
        served.close()
        peer.say(b"not heard any more")
        await hears_loss(protocol)
        assert protocol.losses == [None]
        assert not protocol.received

    run(check())


def test_the_peers_close_notify_is_answered_by_what_was_written_then_close_notify_and_fin(run: Run) -> None:
    async def check() -> None:
        peer, served, _ = await served_by_hand()
        protocol = attached(served)
        peer.say(b"bye")
        served.write(b"so long")
        peer.say_goodbye()
        assert await comes(lambda: Heard.EOF in peer.heard)
        assert peer.hear() == b"so long"
        assert peer.said_goodbye
        peer.stream.close()
        await hears_loss(protocol)
        assert protocol.received == b"bye"
        assert protocol.heard == [Heard.MADE, Heard.DATA, Heard.EOF, Heard.LOST]
        assert protocol.losses == [None]
        served.write(b"into the void")

    run(check())


@pytest.mark.parametrize("first", ["we", "peer"])
def test_what_was_written_before_the_end_arrives_when_the_peer_has_half_closed(run: Run, first: str) -> None:
    async def check() -> None:
        peer, served, _ = await served_by_hand()
        protocol = attached(served)
        peer.stream.pause_reading()
        served.write(pattern(0, 1 << 20))
        if first == "we":
            served.close()
        peer.stream.write_eof()
        await quiet(served.get_write_buffer_size)
        peer.stream.resume_reading()
        assert await comes(lambda: Heard.EOF in peer.heard)
        assert peer.hear() == pattern(0, 1 << 20)
        assert peer.said_goodbye
        peer.stream.close()
        await hears_loss(protocol)
        assert protocol.losses == [None]

    run(check())


def test_an_end_without_close_notify_is_an_end_without_noise_and_without_eof(run: Run) -> None:
    async def check() -> None:
        peer, served, _ = await served_by_hand()
        protocol = attached(served)
        peer.say(b"cut o")
        peer.stream.write_eof()
        await hears_loss(protocol)
        assert protocol.received == b"cut o"
        assert protocol.heard == [Heard.MADE, Heard.DATA, Heard.LOST]
        assert protocol.losses == [None]

    run(check())


def test_an_end_within_a_record_is_an_end_too(run: Run) -> None:
    async def check() -> None:
        peer, served, _ = await served_by_hand()
        protocol = attached(served)
        peer.tls.write(b"never complete")
        peer.stream.write(peer.outgoing.read()[:-1])
        peer.stream.close()
        await hears_loss(protocol)
        assert not protocol.received
        assert protocol.losses == [None]

    run(check())


def test_a_reset_is_told_as_one(run: Run) -> None:
    async def check() -> None:
        peer, served, _ = await served_by_hand()
        protocol = attached(served)
        peer.stream.abort()
        await hears_loss(protocol)
        assert isinstance(protocol.losses[0], ConnectionResetError)

    run(check())


def test_a_forged_record_is_answered_by_an_alert_before_fin(run: Run) -> None:
    async def check() -> None:
        peer, served, _ = await served_by_hand()
        protocol = attached(served)
        peer.say(b"good")
        peer.stream.write(b"\x17\x03\x03\x00\x20" + bytes(32))
        await hears_loss(protocol)
        assert protocol.received == b"good"
        assert isinstance(protocol.losses[0], ConnectionAbortedError)
        assert await comes(lambda: Heard.EOF in peer.heard)
        with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
            peer.hear()

    run(check())


def test_held_bytes_come_before_the_end(run: Run) -> None:
    async def check() -> None:
        peer, served, _ = await served_by_hand()
        peer.say(pattern(0, 50_000))
        peer.say_goodbye()
        peer.stream.close()
        assert await comes(served.is_closing)
        protocol = attached(served)
        await hears_loss(protocol)
        assert protocol.received == pattern(0, 50_000)
        assert protocol.heard[-2:] == [Heard.EOF, Heard.LOST]

    run(check())


def test_what_openssl_has_already_decrypted_is_delivered_on_resume(run: Run) -> None:
    async def check() -> None:
        peer, served, _ = await served_by_hand()
        protocol = Recorder(on_data=lambda _: served.pause_reading())
        attached(served, protocol)
        peer.say(pattern(0, 40_000))  # three records in one piece, and nothing after them
        for _ in range(50):
            before = len(protocol.received)
            served.resume_reading()
            await comes(lambda before=before: len(protocol.received) > before, 0.05)  # type: ignore[misc]
            if len(protocol.received) == 40_000:
                break
        assert protocol.received == pattern(0, 40_000)
        served.abort()

    run(check())


def test_a_buffer_smaller_than_a_record_gets_the_rest_of_it(run: Run) -> None:
    async def check() -> None:
        peer, served, _ = await served_by_hand()
        protocol = BufferedRecorder(room=1000)
        served.attach(protocol)
        peer.say(pattern(0, 10_500))
        await arrives(protocol, 10_500)
        assert protocol.received == pattern(0, 10_500)
        served.abort()

    run(check())


def test_a_stopped_reader_holds_a_bounded_amount_at_either_end(run: Run) -> None:
    async def check() -> None:
        near, far = memory_pair()
        writer, reader = TlsStream(near, CLIENT, server_side=False), TlsStream(far, SERVER, server_side=True)
        await asyncio.gather(writer.handshake(), reader.handshake())
        source, sink = attached(writer), attached(reader, Recorder(on_made=lambda stream: stream.pause_reading()))
        block = bytes(READ_CHUNK)
        for _ in range(1000):
            if source.writing_paused:
                break
            writer.write(block)
            await asyncio.sleep(0)
        assert await comes(lambda: source.writing_paused)
        await quiet(writer.get_write_buffer_size)

        assert writer.get_write_buffer_size() <= (512 << 10) + READ_CHUNK + OVERHEAD
        assert writer._outgoing.pending == 0
        assert near.get_write_buffer_size() <= READ_CHUNK + OVERHEAD
        assert reader._inbox.held + reader._incoming.pending + far._inbox.held <= 2 * HOLD_LIMIT + OVERHEAD

        reader.resume_reading()
        assert await comes(lambda: writer.get_write_buffer_size() == 0)
        assert not source.writing_paused
        writer.close()
        await hears_loss(sink)
        assert len(sink.received) % READ_CHUNK == 0
        assert Heard.EOF in sink.heard

    run(check())


def test_an_unattached_stream_holds_a_bounded_amount(run: Run) -> None:
    async def check() -> None:
        peer, served, below = await served_by_hand()
        for _ in range(40):
            peer.say(bytes(RECORD))
        await quiet(lambda: served._inbox.held)
        assert served._inbox.held <= HOLD_LIMIT + RECORD
        assert served._incoming.pending + below._inbox.held <= 2 * HOLD_LIMIT
        assert peer.stream.get_write_buffer_size() > 0
        protocol = attached(served)
        await arrives(protocol, 40 * RECORD)
        served.abort()

    run(check())


def test_a_peer_that_makes_us_answer_and_does_not_read_is_not_read_from(run: Run) -> None:
    async def check() -> None:
        peer, served, below = await served_by_hand()
        protocol = attached(served)
        peer.stream.pause_reading()
        served.write(bytes(READ_CHUNK))
        served._outgoing.write(bytes(MAX_UNASKED_REPLIES + 1))  # as renegotiation attempts would leave behind
        peer.say(b"one")
        peer.say(b"two")
        await quiet(lambda: len(protocol.received))
        assert not protocol.received
        assert await comes(lambda: below._inbox.paused)
        peer.stream.resume_reading()
        await arrives(protocol, 6)
        assert await comes(lambda: not below._inbox.paused)
        served.abort()

    run(check())
