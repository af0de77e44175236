"""TLS ports in the test's own process, and what comes to them."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.certificates import LOCALHOST
from wraith_transports import DirectDialer, TcpAcceptor, TransportInfo
from wraith_transports.testing.case import arrives, hears_loss
from wraith_transports.testing.recorder import Recorder
from wraith_transports.tls import ContextSource, TlsAcceptor, TlsTransport, Verification

CONTEXT = LOCALHOST.server_context()
CLOCK = 1_780_386_282.0  # 2026-06-02 07:44:42 UTC


@asynccontextmanager
async def listening(
    contexts: ContextSource = lambda _: CONTEXT, **options: Any
) -> AsyncIterator[tuple[TlsAcceptor, int]]:
    acceptor = TlsAcceptor(TcpAcceptor("127.0.0.1", 0), contexts, clock=lambda: CLOCK, **options)
    await acceptor.start()
    try:
        yield acceptor, int(acceptor.addresses()[0].rpartition(":")[2])
    finally:
        await acceptor.aclose()


async def good_client(acceptor: TlsAcceptor, port: int) -> TransportInfo:
    """Connect, exchange a byte each way, leave; and say what the acceptor knew."""
    transport = TlsTransport(DirectDialer(), "127.0.0.1", port, Verification(insecure=True, server_name="localhost"))
    (near, _), (far, info) = await asyncio.gather(transport.connect(), acceptor.accept())
    client, server = Recorder(), Recorder()
    near.attach(client)
    far.attach(server)
    near.write(b"?")
    await arrives(server, 1)
    far.write(b"!")
    await arrives(client, 1)
    near.close()
    await hears_loss(server)
    await hears_loss(client)
    return info


async def answer_to(port: int, *pieces: bytes, end: bool = False) -> bytes:
    """Send bytes without TLS, and return all that comes back up to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.closing(writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if end:
            writer.write_eof()
        return await reader.read()


def hello_of(context: ssl.SSLContext | None = None, name: str | None = "localhost") -> bytes:
    if context is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def with_alpn(*names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(names)
    return context
