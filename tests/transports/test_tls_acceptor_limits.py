"""The TLS acceptor under peers that dawdle, leave or crowd in: nobody can keep others out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.certificates import LOCALHOST, issue
from tests.support.crowds import Crowd
from tests.support.tls_ports import CONTEXT, answer_to, good_client, hello_of, listening, with_alpn
from wraith_transports import (
    AcceptorClosed,
    DirectDialer,
    MemoryAcceptor,
    MemoryTransport,
    memory_pair,
)
from wraith_transports.testing.case import arrives, comes, hears_loss
from wraith_transports.testing.recorder import Heard, Recorder
from wraith_transports.tls import (
    ClientHello,
    ServerContext,
    TlsAcceptor,
    TlsTransport,
    Verification,
    server_context,
)
from wraith_transports.tls.acceptor import _Opening

Run = Callable[..., Any]


def test_a_hello_may_come_byte_by_byte(run: Run) -> None:
    async def check() -> None:
        hello = hello_of()
        async with listening() as (acceptor, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for at in range(len(hello)):
                writer.write(hello[at : at + 1])
                await asyncio.sleep(0)
            assert (await reader.readexactly(6))[5] == 2  # a ServerHello
            writer.close()
            await good_client(acceptor, port)

    run(check())


@pytest.mark.parametrize(
    "sent", [b"", b"\x16", hello_of()[:100], hello_of()], ids=["nothing", "a byte", "half", "hello"]
)
def test_a_stalled_handshake_is_dropped_at_the_deadline_and_nobody_waits_for_it(run: Run, sent: bytes) -> None:
    async def check() -> None:
        async with listening(handshake_timeout_s=0.5) as (acceptor, port):
            stalled = asyncio.create_task(answer_to(port, sent))
            await good_client(acceptor, port)
            assert not stalled.done()
            try:
                answer = await asyncio.wait_for(stalled, 10)
            except ConnectionResetError:
                answer = b""
            assert b"HTTP" not in answer
            assert await comes(lambda: not acceptor._slots)

    run(check())


def test_300_half_open_connections_do_not_keep_a_good_client_out(run: Run) -> None:
    async def check() -> None:
        async with listening() as (acceptor, port):
            half_open = []
            try:
                for number in range(300):
                    connection = await asyncio.open_connection("127.0.0.1", port)
                    half_open.append(connection)
                    if number % 2:
                        connection[1].write(b"\x16\x03\x01")
                assert await comes(lambda: len(acceptor._slots) >= 250)
                await good_client(acceptor, port)
                assert len(acceptor._slots) <= 256
            finally:
                for _, writer in half_open:
                    writer.transport.abort()
            assert await comes(lambda: not acceptor._slots)

    run(check())


def test_the_longest_silent_connection_makes_room(run: Run) -> None:
    async def check() -> None:
        async with listening(max_handshakes=2) as (acceptor, port):
            busy_reader, busy = await asyncio.open_connection("127.0.0.1", port)
            assert await comes(lambda: len(acceptor._slots) == 1)
            silent_reader, silent = await asyncio.open_connection("127.0.0.1", port)
            assert await comes(lambda: len(acceptor._slots) == 2)
            first = next(iter(acceptor._slots))
            busy.write(b"\x16")
            assert await comes(lambda: next(iter(acceptor._slots)) is not first)
            third_reader, third = await asyncio.open_connection("127.0.0.1", port)
            with pytest.raises(ConnectionResetError):
                await silent_reader.readexactly(1)
            for each in (busy_reader, third_reader):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(each.read(1), 0.02)
            for writer in (busy, silent, third):
                writer.transport.abort()

    run(check())


def test_one_address_cannot_take_the_room_of_the_others(run: Run) -> None:
    """Even where its connections are the ones that say something."""

    async def check() -> None:
        async with listening(max_handshakes=8) as (acceptor, port):
            with Crowd(port, ["127.0.0.2"]) as crowd, Crowd(port, ["127.0.0.3"]) as others:
                others.join(2)
                assert await comes(lambda: len(acceptor._slots) == 2)
                for _ in range(30):
                    crowd.join(1, b"\x16")
                    crowd.say(b"\x03")
                    await asyncio.sleep(0.005)
                assert await comes(lambda: crowd.left() == 6)
                assert others.left() == 2
                await good_client(acceptor, port)
                assert others.left() == 2
            assert await comes(lambda: not acceptor._slots)

    run(check())


def test_what_is_in_flight_when_the_hello_is_judged_is_not_lost(run: Run) -> None:
    async def check() -> None:
        stream = memory_pair()[1]
        opening = _Opening(stream, lambda: None)
        judging = asyncio.create_task(opening.verdict())
        await asyncio.sleep(0)
        for piece in (hello_of(), b"in ", b"flight"):
            opening.get_buffer(-1)[: len(piece)] = piece
            opening.buffer_updated(len(piece))
        assert isinstance(await judging, ClientHello)
        assert opening.late == b"in flight"
        stream.abort()

    run(check())


def test_the_context_is_chosen_by_the_hello(run: Run) -> None:
    other = issue(["other.test"])
    contexts = {"other.test": other.server_context()}
    seen: list[ClientHello | None] = []

    def choose(hello: ClientHello | None) -> ServerContext:
        seen.append(hello)
        return contexts.get(hello.server_name or "", CONTEXT) if hello else CONTEXT

    async def shown(port: int, name: str) -> bytes | None:
        context = with_alpn("http/1.1")
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
        certificate: bytes | None = writer.get_extra_info("ssl_object").getpeercert(True)
        writer.transport.abort()
        return certificate

    async def check() -> None:
        async with listening(choose) as (acceptor, port):
            for name, expected in (("other.test", other), ("localhost", LOCALHOST)):
                certificate = await shown(port, name)
                assert certificate is not None
                assert ssl.DER_cert_to_PEM_cert(certificate).encode() == expected.certificate_pem
            assert [hello.server_name for hello in seen if hello] == ["other.test", "localhost"]
            await answer_to(port, b"\x16\x03\x01\x00\x01\xff", end=True)
            assert seen[-1] is None
            assert not acceptor._queue or not acceptor._queue.closed

    run(check())


def test_a_context_source_that_raises_costs_only_its_connection(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    def choose(hello: ClientHello | None) -> ServerContext:
        if hello is None or hello.server_name != "localhost":
            raise KeyError("no certificate for it")
        return CONTEXT

    async def check() -> None:
        async with listening(choose) as (acceptor, port):
            with pytest.raises(ConnectionResetError):
                await answer_to(port, hello_of(name="other.test"))
            await good_client(acceptor, port)

    with caplog.at_level(logging.ERROR):
        run(check())
    assert "could not be served" in caplog.text


def test_a_cancelled_accept_loses_no_stream(run: Run) -> None:
    async def check() -> None:
        async with listening() as (acceptor, port):
            for _ in range(3):
                waiting = asyncio.create_task(acceptor.accept())
                await asyncio.sleep(0)
                waiting.cancel()
            await good_client(acceptor, port)

    run(check())


def test_stopping_ends_accept_and_what_was_not_handed_out_and_nothing_else(run: Run) -> None:
    async def check() -> None:
        async with listening() as (acceptor, port):
            transport = TlsTransport(DirectDialer(), "127.0.0.1", port, Verification(insecure=True))
            (near, _), (far, _) = await asyncio.gather(transport.connect(), acceptor.accept())
            waiting = asyncio.create_task(acceptor.accept())
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await comes(lambda: bool(acceptor._slots))
            acceptor.stop()
            acceptor.stop()
            with pytest.raises(AcceptorClosed):
                await waiting
            with pytest.raises(AcceptorClosed):
                await acceptor.accept()
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
            writer.transport.abort()
            with pytest.raises(OSError):  # noqa: PT011 - refused, whatever the loop calls it
                await asyncio.open_connection("127.0.0.1", port)
            client, server = Recorder(), Recorder()
            near.attach(client)
            far.attach(server)
            near.write(b"still here")
            await arrives(server, 10)
            near.close()
            await hears_loss(client)
            await hears_loss(server)
            await acceptor.aclose()

    run(check())


def test_half_a_handshake_and_an_end_leave_nothing(run: Run) -> None:
    async def check() -> None:
        async with listening() as (acceptor, port):
            for sent in (b"", b"\x16\x03", hello_of()[:50], hello_of()):
                with contextlib.suppress(ConnectionResetError):
                    await answer_to(port, sent, end=True)
            assert await comes(lambda: not acceptor._slots)
            await good_client(acceptor, port)

    run(check())


def test_a_peer_that_does_not_finish_reading_the_page_cannot_hold_a_slot_for_ever(run: Run) -> None:
    async def check() -> None:
        inner = MemoryAcceptor()
        acceptor = TlsAcceptor(inner, lambda _: CONTEXT)
        await acceptor.start()
        near, _ = await MemoryTransport(inner).connect()
        peer = Recorder()
        near.attach(peer)
        near.write(b"GET / HTTP/1.0\r\n\r\n")
        assert await comes(lambda: Heard.EOF in peer.heard)
        assert len(acceptor._slots) == 1
        near.close()
        assert await comes(lambda: not acceptor._slots)
        await acceptor.aclose()

    run(check())


def test_a_key_that_does_not_fit_its_certificate_is_an_error() -> None:
    from wraith_transports import TransportError

    with pytest.raises(TransportError, match="cannot be used") as caught:
        server_context(LOCALHOST.chain_pem, issue().key_pem)
    assert caught.value.permanent


def test_an_encrypted_key_never_asks_the_terminal() -> None:
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    from wraith_transports import TransportError

    encrypted = LOCALHOST.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    with pytest.raises(TransportError, match="cannot be used"):
        server_context(LOCALHOST.chain_pem, encrypted)


def test_the_server_context_is_the_face_that_was_measured() -> None:
    context = CONTEXT.ssl_context
    assert not context.options & ssl.OP_CIPHER_SERVER_PREFERENCE
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.sni_callback is not None
    reference = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    reference.set_ciphers("HIGH:!aNULL:!MD5")
    assert [c["name"] for c in context.get_ciphers()] == [c["name"] for c in reference.get_ciphers()]


def test_sockets_are_released(run: Run) -> None:
    async def check() -> None:
        async with listening() as (_, port):
            pass
        socket.create_server(("127.0.0.1", port)).close()

    run(check())
