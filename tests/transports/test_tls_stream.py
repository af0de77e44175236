"""The TLS driver: how it ends, what it holds, and what it does with what it did not ask for."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.certificates import LOCALHOST
from wraith_transports import (
    HOLD_LIMIT,
    READ_CHUNK,
    DuplexStream,
    SupportsLiveness,
    SupportsPath,
    SupportsTrust,
    TcpStream,
    memory_pair,
)
from wraith_transports.memory import MemoryStream
from wraith_transports.testing.case import arrives, comes, hears_loss, pour, quiet
from wraith_transports.testing.recorder import BufferedRecorder, Heard, Recorder, pattern
from wraith_transports.tls import TlsStream, Verification, client_context
from wraith_transports.tls.stream import MAX_UNASKED_REPLIES, RECORD

Run = Callable[..., Any]

SERVER = LOCALHOST.server_context().ssl_context
CLIENT = client_context(Verification(insecure=True))
OVERHEAD = 1024  # of records, for 64 KiB of plaintext


class HandDriven(Recorder):
    """A TLS client whose every byte the test decides about, on the far end of a memory pair."""

    def __init__(self, inner: DuplexStream, context: ssl.SSLContext = CLIENT) -> None:
        super().__init__()
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        inner.attach(self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.incoming.write(data)

    def say(self, data: bytes) -> None:
        self.tls.write(data)
        self.stream.write(self.outgoing.read())

    def say_goodbye(self) -> None:
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.stream.write(self.outgoing.read())

    def hear(self) -> bytes:
        """Decrypt what has arrived, up to the other's close_notify."""
        heard = b""
        while True:
            try:
                piece = self.tls.read(RECORD)
            except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                return heard
            if not piece:
                return heard
            heard += piece

    async def handshake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.stream.write(self.outgoing.read())
                assert await comes(lambda: self.incoming.pending > 0)
            else:
                self.stream.write(self.outgoing.read())
                return

    @property
    def said_goodbye(self) -> bool:
        """Whether the other's close_notify was among what `hear` read."""
        try:
            return not self.tls.read(1)
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLWantReadError:
            return False


async def served_by_hand(context: ssl.SSLContext = CLIENT) -> tuple[HandDriven, TlsStream, MemoryStream]:
    """Give a client driven by hand, the server's TlsStream, and the memory stream below that."""
    near, far = memory_pair()
    peer, served = HandDriven(near, context), TlsStream(far, SERVER, server_side=True)
    await asyncio.gather(peer.handshake(), served.handshake())
    return peer, served, far


def attached(stream: DuplexStream, recorder: Recorder | None = None) -> Recorder:
    recorder = recorder or Recorder()
    stream.attach(recorder)
    return recorder


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


def test_renegotiation_is_refused_and_leaves_the_connection_alone() -> None:
    assert SERVER.options & ssl.OP_NO_RENEGOTIATION
    assert CLIENT.options & ssl.OP_NO_RENEGOTIATION


def test_tls_1_2_works_as_well(run: Run) -> None:
    async def check() -> None:
        old = client_context(Verification(insecure=True))
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        peer, served, _ = await served_by_hand(old)
        assert served.get_extra_info("ssl_object").version() == "TLSv1.2"
        protocol = attached(served)
        peer.say(pattern(0, 100_000))
        peer.say_goodbye()
        assert await comes(lambda: Heard.EOF in peer.heard)
        assert protocol.received == pattern(0, 100_000)
        assert peer.said_goodbye
        peer.stream.close()
        await hears_loss(protocol)

    run(check())


def test_bytes_taken_from_the_stream_before_are_part_of_the_handshake(run: Run) -> None:
    async def check() -> None:
        near, far = memory_pair()
        peer = HandDriven(near)
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        hello = peer.outgoing.read()
        peer.stream.write(hello[100:])
        served = TlsStream(far, SERVER, server_side=True, unread=hello[:100])
        await asyncio.gather(peer.handshake(), served.handshake())
        assert served.get_extra_info("peername") == far.get_extra_info("peername")
        served.abort()

    run(check())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_peer_that_leaves_ends_the_handshake(run: Run, how: str) -> None:
    async def check() -> None:
        near, far = memory_pair()
        served = TlsStream(far, SERVER, server_side=True)
        near.attach(Recorder())
        getattr(near, how)()
        with pytest.raises(ConnectionError):
            await served.handshake()
        assert served.is_closing()
        assert await comes(far.is_closing)

    run(check())


def test_a_handshake_openssl_refuses_ends_with_its_alert(run: Run) -> None:
    async def check() -> None:
        near, far = memory_pair()
        peer = attached(near)
        served = TlsStream(far, SERVER, server_side=True)
        near.write(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00")
        with pytest.raises(ssl.SSLError):
            await served.handshake()
        assert await comes(lambda: Heard.EOF in peer.heard)
        assert peer.received[:3] == b"\x15\x03\x03" or peer.received[:3] == b"\x15\x03\x01"
        assert peer.received[5] == 2  # fatal
        near.close()

    run(check())


def test_a_cancelled_handshake_leaves_nothing_open(run: Run) -> None:
    async def check() -> None:
        near, far = memory_pair()
        peer = attached(near)
        served = TlsStream(far, SERVER, server_side=True)
        task = asyncio.create_task(served.handshake())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await hears_loss(peer)
        assert far.is_closing()

    run(check())


def test_the_powers_of_the_carrier_are_forwarded(run: Run) -> None:
    class Capable(MemoryStream):
        trusted = False

        def current_path(self) -> str:
            return "by the sea"

        def trust(self) -> None:
            self.trusted = True

    async def check() -> None:
        plain = TlsStream(memory_pair()[0], CLIENT, server_side=False)
        assert not isinstance(plain, SupportsPath | SupportsTrust | SupportsLiveness)
        carrier = Capable(("127.0.0.1", 1), ("127.0.0.1", 2))
        capable = TlsStream(carrier, CLIENT, server_side=False)
        assert isinstance(capable, SupportsPath)
        assert capable.current_path() == "by the sea"
        assert isinstance(capable, SupportsTrust)
        capable.trust()
        assert carrier.trusted
        assert not isinstance(capable, SupportsLiveness)
        for stream in (plain, capable):
            stream.abort()

    run(check())


class HashingSink(BufferedRecorder):
    """Keeps the digest and the length instead of the bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.digest = hashlib.sha256()
        self.length = 0

    def buffer_updated(self, nbytes: int) -> None:
        self.digest.update(memoryview(self._room)[:nbytes])
        self.length += nbytes


def test_200_mib_arrive_unharmed_in_both_directions_at_once(run: Run) -> None:
    total = 200 << 20

    async def check() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
        near, far = [await TcpStream.from_socket(each) for each in (client, server)]
        one, other = TlsStream(near, CLIENT, server_side=False), TlsStream(far, SERVER, server_side=True)
        await asyncio.gather(one.handshake(), other.handshake())
        sinks = [HashingSink(), HashingSink()]
        one.attach(sinks[0])
        other.attach(sinks[1])
        expected = hashlib.sha256()
        for at in range(0, total, READ_CHUNK):
            expected.update(pattern(at, READ_CHUNK))
        await asyncio.gather(pour(sinks[0], total), pour(sinks[1], total))
        assert await comes(lambda: all(sink.length == total for sink in sinks), 30)
        assert [sink.digest.digest() for sink in sinks] == [expected.digest()] * 2
        one.close()
        await hears_loss(sinks[1])
        await hears_loss(sinks[0])

    run(check())
