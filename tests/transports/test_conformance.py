"""Every stream and transport we ship passes the public suite, and the suite can fail.

To add an implementation: write an opener (an async context manager that yields two connected,
unattached streams) and give it a line in STREAMS; a transport and its started acceptor get a line
in TRANSPORTS. Where the two ends differ, as with TLS, add `swapped(...)` as a second line. Capability
flags say what the carrier lacks (TLS: half_close=False); spoilers say how a handshake can go wrong.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from wraith_transports import (
    DirectDialer,
    MemoryAcceptor,
    MemoryTransport,
    StreamBase,
    TcpAcceptor,
    TcpStream,
    TcpTransport,
    Transport,
    TransportAcceptor,
    memory_pair,
)
from wraith_transports.testing import (
    STREAM_CASES,
    TRANSPORT_CASES,
    Pair,
    Patience,
    StreamCase,
    StreamSetup,
    TransportCase,
    TransportSetup,
)

Run = Callable[..., Any]


def _kernel_buffer() -> int:
    """Say how much a loopback connection may hold: the most a send and a receive buffer grow to."""
    total = 0
    for name in ("tcp_wmem", "tcp_rmem"):
        try:
            total += int(Path(f"/proc/sys/net/ipv4/{name}").read_text().split()[2])
        except (OSError, IndexError):
            total += 8 << 20
    return total


@asynccontextmanager
async def open_memory(patience: Patience) -> AsyncIterator[Pair]:
    yield memory_pair(
        unattached_timeout_s=patience.unattached_s,
        flush_timeout_s=patience.flush_s,
        drain_timeout_s=patience.drain_s,
    )


def _tcp_opener(host: str) -> Callable[[Patience], Any]:
    @asynccontextmanager
    async def open_tcp(patience: Patience) -> AsyncIterator[Pair]:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, 0), family=family) as listener:
            client = socket.create_connection(listener.getsockname()[:2])
            server, _ = listener.accept()
        near, far = [
            await TcpStream.from_socket(sock, unattached_timeout_s=patience.unattached_s) for sock in (client, server)
        ]
        for stream in (near, far):
            stream._flush_timeout_s = patience.flush_s
            stream._drain_timeout_s = patience.drain_s
        yield near, far

    return open_tcp


STREAMS: dict[str, StreamSetup] = {
    "memory": StreamSetup(open=open_memory),
    "tcp-ipv4": StreamSetup(open=_tcp_opener("127.0.0.1"), carrier_buffer=_kernel_buffer()),
    "tcp-ipv6": StreamSetup(open=_tcp_opener("::1"), carrier_buffer=_kernel_buffer()),
}


@asynccontextmanager
async def open_memory_transport() -> AsyncIterator[tuple[Transport, TransportAcceptor]]:
    acceptor = MemoryAcceptor()
    await acceptor.start()
    transport = MemoryTransport(acceptor)
    yield transport, acceptor
    await transport.aclose()
    await acceptor.aclose()


def _tcp_transport_opener(bound: str, dialled: str) -> Callable[[], Any]:
    @asynccontextmanager
    async def open_tcp_transport() -> AsyncIterator[tuple[Transport, TransportAcceptor]]:
        acceptor = TcpAcceptor(bound, 0)
        await acceptor.start()
        transport = TcpTransport(DirectDialer(), dialled, _port(acceptor))
        yield transport, acceptor
        await transport.aclose()
        await acceptor.aclose()

    return open_tcp_transport


def _port(acceptor: TransportAcceptor) -> int:
    return int(acceptor.addresses()[0].rpartition(":")[2])


TRANSPORTS: dict[str, TransportSetup] = {
    "memory": TransportSetup(open=open_memory_transport),
    "tcp-ipv4": TransportSetup(
        open=_tcp_transport_opener("127.0.0.1", "127.0.0.1"),
        rival=lambda taken: TcpAcceptor("127.0.0.1", _port(taken)),
    ),
    "tcp-ipv6": TransportSetup(
        open=_tcp_transport_opener("::1", "::1"),
        rival=lambda taken: TcpAcceptor("::1", _port(taken)),
    ),
    "tcp-name": TransportSetup(
        open=_tcp_transport_opener("localhost", "localhost"),
        rival=lambda taken: TcpAcceptor("localhost", _port(taken)),
    ),
}


def _applicable(cases: Any, setups: dict[str, Any]) -> list[Any]:
    return [
        pytest.param(case, setup, id=f"{name}-{case.name}")
        for name, setup in setups.items()
        for case in cases
        if case.applies_to(setup)
    ]


@pytest.mark.parametrize(("case", "setup"), _applicable(STREAM_CASES, STREAMS))
def test_streams_conform(run: Run, case: StreamCase, setup: StreamSetup) -> None:
    run(case.run(setup))


@pytest.mark.parametrize(("case", "setup"), _applicable(TRANSPORT_CASES, TRANSPORTS))
def test_transports_conform(run: Run, case: TransportCase, setup: TransportSetup) -> None:
    run(case.run(setup))


def test_every_case_has_a_name_of_its_own_and_a_claim() -> None:
    cases = [*STREAM_CASES, *TRANSPORT_CASES]
    assert len({case.name for case in cases}) == len(cases)
    assert [case.name for case in cases if not case.claim.endswith((".", ":"))] == []
