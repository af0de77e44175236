"""TLS passes the public suite over the memory pair, whichever end serves, and over TCP, on every loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.certificates import LOCALHOST
from wraith_transports import (
    DirectDialer,
    DuplexStream,
    TcpAcceptor,
    TcpStream,
    Transport,
    TransportAcceptor,
    memory_pair,
)
from wraith_transports.testing import (
    STREAM_CASES,
    TRANSPORT_CASES,
    Pair,
    Patience,
    Spoiler,
    StreamCase,
    StreamSetup,
    TransportCase,
    TransportSetup,
    swapped,
)
from wraith_transports.tls import TlsAcceptor, TlsStream, TlsTransport, Verification, client_context

Run = Callable[..., Any]

CLIENT = client_context(Verification(insecure=True))
SERVER = LOCALHOST.server_context()


async def over(near: DuplexStream, far: DuplexStream, patience: Patience) -> Pair:
    """Put TLS on both ends of a connected pair."""
    client_side, server_side = (
        TlsStream(
            inner,
            context,
            server_side=serves,
            unattached_timeout_s=patience.unattached_s,
            flush_timeout_s=patience.flush_s,
            drain_timeout_s=patience.drain_s,
        )
        for inner, context, serves in (
            (near, CLIENT, False),
            (far, SERVER.ssl_context, True),
        )
    )
    await asyncio.gather(client_side.handshake(), server_side.handshake())
    return client_side, server_side


@asynccontextmanager
async def open_over_memory(patience: Patience) -> AsyncIterator[Pair]:
    near, far = memory_pair(flush_timeout_s=patience.flush_s, drain_timeout_s=patience.drain_s)
    yield await over(near, far, patience)


@asynccontextmanager
async def open_over_tcp(patience: Patience) -> AsyncIterator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname()[:2])
        server, _ = listener.accept()
    near, far = [await TcpStream.from_socket(sock) for sock in (client, server)]
    for stream in (near, far):
        stream._flush_timeout_s = patience.flush_s
        stream._drain_timeout_s = patience.drain_s
    yield await over(near, far, patience)


MEMORY = StreamSetup(open=open_over_memory, half_close=False, carrier_buffer=1 << 20)
TCP = StreamSetup(open=open_over_tcp, half_close=False, carrier_buffer=16 << 20)

STREAMS = {
    "memory-client": MEMORY,
    "memory-server": swapped(MEMORY),
    "tcp-server": swapped(TCP),  # the other way round adds a quarter of the time and nothing the memory pair lacks
}


def listener(port: int) -> TlsAcceptor:
    return TlsAcceptor(TcpAcceptor("127.0.0.1", port), lambda _hello: SERVER)


def port_of(acceptor: TransportAcceptor) -> int:
    return int(acceptor.addresses()[0].rpartition(":")[2])


def says(opening: bytes) -> Spoiler:
    """Connect, say something that is no handshake, and stay."""

    @asynccontextmanager
    async def spoil(acceptor: TransportAcceptor) -> AsyncIterator[None]:
        stream = await DirectDialer().dial("127.0.0.1", port_of(acceptor))
        stream.attach(asyncio.Protocol())
        stream.write(opening)
        yield
        stream.abort()

    return spoil


@asynccontextmanager
async def hangs_up(acceptor: TransportAcceptor) -> AsyncIterator[None]:
    stream = await DirectDialer().dial("127.0.0.1", port_of(acceptor))
    stream.abort()
    yield


@asynccontextmanager
async def open_transport() -> AsyncIterator[tuple[Transport, TransportAcceptor]]:
    acceptor = listener(0)
    await acceptor.start()
    transport = TlsTransport(DirectDialer(), "127.0.0.1", port_of(acceptor), Verification(pins=(LOCALHOST.pin,)))
    yield transport, acceptor
    await transport.aclose()
    await acceptor.aclose()


TRANSPORTS = {
    "tls": TransportSetup(
        open=open_transport,
        rival=lambda taken: listener(port_of(taken)),
        spoilers=(
            says(b""),
            says(b"\x16\x03\x01\x02\x00\x01"),
            says(b"\x16\x03\x01\x00\x02\xff\xff"),
            says(b"GET / HTTP/1.1\r\n\r\n"),
            hangs_up,
        ),
    )
}


def _applicable(cases: Any, setups: dict[str, Any]) -> list[Any]:
    return [
        pytest.param(case, setup, id=f"{name}-{case.name}")
        for name, setup in setups.items()
        for case in cases
        if case.applies_to(setup)
    ]


@pytest.mark.parametrize(("case", "setup"), _applicable(STREAM_CASES, STREAMS))
def test_tls_streams_conform(run: Run, case: StreamCase, setup: StreamSetup) -> None:
    run(case.run(setup))


@pytest.mark.parametrize(("case", "setup"), _applicable(TRANSPORT_CASES, TRANSPORTS))
def test_tls_transport_conforms(run: Run, case: TransportCase, setup: TransportSetup) -> None:
    run(case.run(setup))
