"""The TLS driver's handshakes, versions and large transfers."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.tls_ends import CLIENT, SERVER, HandDriven, attached, served_by_hand
from wraith_transports import (
    READ_CHUNK,
    SupportsLiveness,
    SupportsPath,
    SupportsTrust,
    TcpStream,
    memory_pair,
)
from wraith_transports.memory import MemoryStream
from wraith_transports.testing.case import comes, hears_loss, pour
from wraith_transports.testing.recorder import BufferedRecorder, Heard, Recorder, pattern
from wraith_transports.tls import TlsStream, Verification, client_context

Run = Callable[..., Any]


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
