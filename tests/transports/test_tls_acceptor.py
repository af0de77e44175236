"""The TLS acceptor: what it answers to whom, and that nobody can keep others out."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.certificates import LOCALHOST
from tests.support.tls_ports import CLOCK, CONTEXT, answer_to, good_client, hello_of, listening, with_alpn
from wraith_transports import (
    MemoryAcceptor,
    MemoryTransport,
    TransportInfo,
)
from wraith_transports.memory import SERVER_ADDRESS
from wraith_transports.tls import (
    TlsAcceptor,
    TlsTransport,
    Verification,
)
from wraith_transports.tls.acceptor import NO_ALPN_ALERT, TOO_LONG_ALERT
from wraith_transports.tls.face import plain_http_answer

Run = Callable[..., Any]


def test_a_stream_is_accepted_with_the_name_it_was_asked_for(run: Run) -> None:
    async def check() -> None:
        async with listening() as (acceptor, port):
            assert acceptor.addresses() == [f"tls://127.0.0.1:{port}"]
            info = await good_client(acceptor, port)
            assert info.kind == "tls"
            assert info.server_name == "localhost"
            assert info.remote_address[0] == "127.0.0.1"

    run(check())


def test_it_works_over_any_acceptor(run: Run) -> None:
    class MemoryDialer:
        def __init__(self, transport: MemoryTransport) -> None:
            self._transport = transport

        async def dial(self, host: str, port: int) -> Any:
            return (await self._transport.connect())[0]

        def describe(self) -> str:
            return "memory"

    async def check() -> None:
        inner = MemoryAcceptor()
        acceptor = TlsAcceptor(inner, lambda _: CONTEXT)
        await acceptor.start()
        transport = TlsTransport(
            MemoryDialer(MemoryTransport(inner)), "localhost", 22, Verification(ca=LOCALHOST.certificate_pem)
        )
        (near, client_info), (far, server_info) = await asyncio.gather(transport.connect(), acceptor.accept())
        assert client_info == TransportInfo("tls", SERVER_ADDRESS, server_name="localhost")
        assert server_info.server_name == "localhost"
        near.abort()
        far.abort()
        await acceptor.aclose()

    run(check())


@pytest.mark.parametrize("bytes_", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"SSH-2.0-x\r\n", b"\x00\x01\x02", b"\x15"])
def test_what_is_not_tls_gets_the_plain_text_page(run: Run, bytes_: bytes) -> None:
    async def check() -> None:
        async with listening() as (acceptor, port):
            answer = await answer_to(port, bytes_)
            assert answer == plain_http_answer(CLOCK)
            await good_client(acceptor, port)

    run(check())


def test_the_plain_text_page_is_a_complete_http_answer() -> None:
    head, _, body = plain_http_answer(CLOCK).partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 400 Bad Request",
        b"Server: nginx",
        b"Date: Tue, 02 Jun 2026 07:44:42 GMT",
        b"Content-Type: text/html",
        b"Content-Length: %d" % len(body),
        b"Connection: close",
    ]
    assert b"The plain HTTP request was sent to HTTPS port" in body
    assert body.count(b"\n") == body.count(b"\r\n") == 8


def test_no_protocol_in_common_is_alert_120(run: Run) -> None:
    async def check() -> None:
        async with listening() as (acceptor, port):
            assert await answer_to(port, hello_of(with_alpn("h2", "spdy/3"))) == NO_ALPN_ALERT
            assert NO_ALPN_ALERT.hex(" ") == "15 03 03 00 02 02 78"
            with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol|ALERT"):
                await asyncio.open_connection("127.0.0.1", port, ssl=with_alpn("h2"))
            await good_client(acceptor, port)

    run(check())


@pytest.mark.parametrize("name", ["http/1.1", "http/1.0", "http/0.9"])
def test_a_protocol_in_common_is_chosen(run: Run, name: str) -> None:
    async def check() -> None:
        async with listening() as (acceptor, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=with_alpn("h2", name))
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == name
            stream, _ = await acceptor.accept()
            stream.abort()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    run(check())


def test_a_broken_hello_gets_openssls_alert(run: Run) -> None:
    async def check() -> None:
        async with listening() as (acceptor, port):
            answer = await answer_to(port, b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", end=True)
            assert answer[0] == 0x15
            assert answer[5] == 2
            await good_client(acceptor, port)

    run(check())


def test_a_hello_without_end_gets_an_alert(run: Run) -> None:
    async def check() -> None:
        async with listening() as (acceptor, port):
            assert await answer_to(port, b"\x16\x03\x01\xff\xff" + bytes(100)) == TOO_LONG_ALERT
            await good_client(acceptor, port)

    run(check())


def test_an_old_version_gets_openssls_alert(run: Run) -> None:
    async def check() -> None:
        body = b"\x03\x01" + bytes(32) + b"\x00" + b"\x00\x02\xc0\x13" + b"\x01\x00"
        message = b"\x01" + len(body).to_bytes(3, "big") + body
        async with listening() as (acceptor, port):
            answer = await answer_to(port, b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message)
            assert answer[0] == 0x15
            assert answer[-2:] == b"\x02\x46"  # fatal protocol_version
            await good_client(acceptor, port)

    run(check())
