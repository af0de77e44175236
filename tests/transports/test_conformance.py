"""Every stream and transport we ship passes the public suite, and the suite can fail.

To add an implementation: write an opener (an async context manager that yields two connected,
unattached streams) and give it a line in STREAMS; a transport and its started acceptor get a line
in TRANSPORTS. Where the two ends differ, as with TLS, add `swapped(...)` as a second line. Capability
flags say what the carrier lacks (TLS: half_close=False); spoilers say how a handshake can go wrong.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import wraith_transports.testing.case as testing_case
from tests.conftest import Run
from tests.support import loops
from wraith_transports import (
    READ_CHUNK,
    Buffer,
    DirectDialer,
    DuplexStream,
    MemoryAcceptor,
    MemoryTransport,
    StreamProtocol,
    TcpAcceptor,
    TcpStream,
    TcpTransport,
    Transport,
    TransportAcceptor,
    TransportInfo,
)
from wraith_transports.memory import CLIENT_ADDRESS, SERVER_ADDRESS, Address, MemoryStream
from wraith_transports.testing import (
    STREAM_CASES,
    TRANSPORT_CASES,
    ConformanceFailure,
    Pair,
    PairFactory,
    Patience,
    StreamCase,
    StreamSetup,
    TransportCase,
    TransportSetup,
)

Reached = tuple[Transport, TransportAcceptor]

SMALL_BUFFER = 16 << 10


def _kernel_buffer() -> int:
    """Say how much a loopback connection may hold: the most a send and a receive buffer grow to."""
    total = 0
    for name in ("tcp_wmem", "tcp_rmem"):
        try:
            total += int(Path(f"/proc/sys/net/ipv4/{name}").read_text().split()[2])
        except (OSError, IndexError):
            total += 8 << 20
    return total


def _memory_opener(kind: type[MemoryStream]) -> PairFactory:
    @asynccontextmanager
    async def open_memory(patience: Patience) -> AsyncIterator[Pair]:
        near, far = [
            kind(
                sockname,
                peername,
                unattached_timeout_s=patience.unattached_s,
                flush_timeout_s=patience.flush_s,
                drain_timeout_s=patience.drain_s,
            )
            for sockname, peername in ((CLIENT_ADDRESS, SERVER_ADDRESS), (SERVER_ADDRESS, CLIENT_ADDRESS))
        ]
        near._join(far)
        far._join(near)
        yield near, far

    return open_memory


def _tcp_opener(host: str, buffer: int | None = None) -> PairFactory:
    @asynccontextmanager
    async def open_tcp(patience: Patience) -> AsyncIterator[Pair]:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        client = socket.socket(family)
        with socket.create_server((host, 0), family=family) as listener:
            for sock in (listener, client):
                # Before the handshake, which settles how far the window can grow; accepted sockets inherit it.
                if buffer is not None:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            client.connect(listener.getsockname())
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
    "memory": StreamSetup(open=_memory_opener(MemoryStream)),
    "tcp-ipv4": StreamSetup(open=_tcp_opener("127.0.0.1"), carrier_buffer=_kernel_buffer()),
    # Small buffers: partial writes and residues everywhere. The kernel doubles what it is asked for.
    "tcp-ipv6-small": StreamSetup(open=_tcp_opener("::1", SMALL_BUFFER), carrier_buffer=4 * SMALL_BUFFER),
}


def _memory_transport_opener(kind: type[MemoryAcceptor]) -> Callable[[], AbstractAsyncContextManager[Reached]]:
    @asynccontextmanager
    async def open_memory_transport() -> AsyncIterator[Reached]:
        acceptor = kind()
        await acceptor.start()
        transport = MemoryTransport(acceptor)
        yield transport, acceptor
        await transport.aclose()
        await acceptor.aclose()

    return open_memory_transport


def _tcp_transport_opener(bound: str, dialled: str) -> Callable[[], AbstractAsyncContextManager[Reached]]:
    @asynccontextmanager
    async def open_tcp_transport() -> AsyncIterator[Reached]:
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
    "memory": TransportSetup(open=_memory_transport_opener(MemoryAcceptor)),
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


@pytest.mark.parametrize(
    ("case", "setup"),
    [
        pytest.param(case, setup, id=f"{name}-{case.name}")
        for name, setup in STREAMS.items()
        for case in STREAM_CASES
        if case.applies_to(setup)
    ],
)
def test_streams_conform(run: Run, case: StreamCase, setup: StreamSetup) -> None:
    run(case.run(setup))


@pytest.mark.parametrize(
    ("case", "setup"),
    [
        pytest.param(case, setup, id=f"{name}-{case.name}")
        for name, setup in TRANSPORTS.items()
        for case in TRANSPORT_CASES
        if case.applies_to(setup)
    ],
)
def test_transports_conform(run: Run, case: TransportCase, setup: TransportSetup) -> None:
    run(case.run(setup))


def test_every_case_has_a_name_of_its_own_and_a_claim() -> None:
    cases: list[StreamCase | TransportCase] = [*STREAM_CASES, *TRANSPORT_CASES]
    assert len({case.name for case in cases}) == len(cases)
    assert [case.name for case in cases if not case.claim.endswith(".")] == []


class ForgetsUnread(MemoryStream):
    def attach(self, protocol: StreamProtocol, unread: bytes = b"") -> None:
        super().attach(protocol)


class DropsWhatItHeld(MemoryStream):
    def attach(self, protocol: StreamProtocol, unread: bytes = b"") -> None:
        self._inbox._held.clear()
        super().attach(protocol, unread)


class TellsTheOldOwnerOfItsLoss(MemoryStream):
    def attach(self, protocol: StreamProtocol, unread: bytes = b"") -> None:
        old = self._inbox.protocol
        super().attach(protocol, unread)
        if old is not None:
            old.connection_lost(None)


class TellsTheEndTwice(MemoryStream):
    def _carrier_lost(self, error: Exception | None) -> None:
        protocol = self._inbox.protocol
        if protocol is not None and not self._gone:
            self._loop.call_later(0.01, protocol.connection_lost, None)
        super()._carrier_lost(error)


class TellsTheEndInsideAbort(MemoryStream):
    def abort(self) -> None:
        protocol = self._inbox.protocol
        if protocol is not None and not self._gone:
            protocol.connection_lost(None)
        super().abort()


class IgnoresPauses(MemoryStream):
    def pause_reading(self) -> None:
        pass


class CountsPauses(MemoryStream):
    pauses = 0

    def pause_reading(self) -> None:
        self.pauses += 1
        super().pause_reading()

    def resume_reading(self) -> None:
        self.pauses = max(0, self.pauses - 1)
        if not self.pauses:
            super().resume_reading()


class NeverPausesItsWriter(MemoryStream):
    def _check_high(self) -> None:
        pass


class NeverResumesItsWriter(MemoryStream):
    def _check_low(self) -> None:
        pass


class ClosesWithoutFlushing(MemoryStream):
    def close(self) -> None:
        self._drop_queue()
        super().close()


class ClosesAtTheEndOfThePeer(MemoryStream):
    def _peer_ended(self) -> None:
        super()._peer_ended()
        self.close()


class RaisesAfterTheEnd(MemoryStream):
    def write(self, data: Buffer) -> None:
        if self._gone:
            raise RuntimeError("the stream has ended")
        super().write(data)


class LogsAfterTheEnd(MemoryStream):
    def write(self, data: Buffer) -> None:
        if self._gone:
            logging.getLogger("asyncio").warning("socket.send() raised exception.")
        super().write(data)


class ResetsInOrder(MemoryStream):
    def _carrier_reset(self) -> None:
        self._drop_queue()
        self._carrier_end()


class ReversesLines(MemoryStream):
    def writelines(self, parts: Iterable[Buffer]) -> None:
        super().writelines(list(parts)[::-1])


class LosesAByte(MemoryStream):
    def _received(self, data: Buffer) -> None:
        super()._received(data[:-1] if len(data) == READ_CHUNK else data)


class RepeatsAByte(MemoryStream):
    def write(self, data: Buffer) -> None:
        super().write(data)
        if len(data) > READ_CHUNK:
            super().write(data[-1:])


class SaysAtOnceThatAllIsSent(MemoryStream):
    def get_write_buffer_size(self) -> int:
        return 0


class DeliversEmptyWrites(MemoryStream):
    def write(self, data: Buffer) -> None:
        super().write(data)
        if not len(data) and self._other is not None:
            self._other._received(data)


class PrefersThePlainKind(MemoryStream):
    def attach(self, protocol: StreamProtocol, unread: bytes = b"") -> None:
        super().attach(protocol, unread)
        self._inbox._reader = None


class WaitsForEver(MemoryStream):
    def __init__(self, sockname: Address, peername: Address, **_: float) -> None:
        super().__init__(sockname, peername)


class SwallowsErrors(MemoryStream):
    def _protocol_failed(self, error: Exception) -> None:
        pass


class NamesItsPeer(MemoryStream):
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return "localhost:22" if name == "peername" else super().get_extra_info(name, default)


class LeavesATask(MemoryStream):
    def abort(self) -> None:
        self.left = asyncio.get_running_loop().create_task(asyncio.sleep(2))
        super().abort()


BROKEN_STREAMS = [
    (ForgetsUnread, "unread_comes_before_held_and_live_bytes"),
    (DropsWhatItHeld, "held_bytes_reach_a_late_protocol"),
    (TellsTheOldOwnerOfItsLoss, "hand_over_lifts_a_pause"),
    (TellsTheEndTwice, "both_ends_can_close_at_once"),
    (TellsTheEndInsideAbort, "abort_ends_on_the_next_turn"),
    (IgnoresPauses, "a_pause_made_inside_connection_made_is_honoured"),
    (IgnoresPauses, "a_pause_inside_data_received_is_honoured"),
    (CountsPauses, "pausing_and_resuming_twice_is_once"),
    (NeverPausesItsWriter, "a_stopped_reader_stops_the_writer"),
    (NeverPausesItsWriter, "limits_of_zero_pause_on_any_residue"),
    (NeverResumesItsWriter, "both_directions_flow_at_once"),
    (NeverPausesItsWriter, "a_new_owner_hears_that_writing_is_paused"),
    (ClosesWithoutFlushing, "close_flushes"),
    (ClosesAtTheEndOfThePeer, "either_half_can_end_first"),
    (RaisesAfterTheEnd, "nothing_raises_after_the_end"),
    (LogsAfterTheEnd, "writes_after_abort_are_dropped"),
    (ResetsInOrder, "a_reset_is_not_an_orderly_end"),
    (ReversesLines, "writelines_keeps_the_order"),
    (LosesAByte, "bytes_survive_any_split"),
    (RepeatsAByte, "bytes_survive_any_split"),
    (SaysAtOnceThatAllIsSent, "a_buffer_may_be_used_again_when_nothing_is_buffered"),
    (DeliversEmptyWrites, "empty_writes_are_nothing"),
    (PrefersThePlainKind, "a_protocol_of_both_kinds_is_a_buffered_one"),
    (WaitsForEver, "a_stream_nobody_wants_is_aborted"),
    (WaitsForEver, "a_peer_that_never_reads_is_not_waited_for"),
    (SwallowsErrors, "an_error_in_data_received_ends_the_stream"),
    (NamesItsPeer, "peername_is_always_there"),
    (LeavesATask, "abort_works_unattached"),
]


@pytest.mark.parametrize(("kind", "name"), BROKEN_STREAMS)
def test_a_broken_stream_fails_its_case(monkeypatch: pytest.MonkeyPatch, kind: type[MemoryStream], name: str) -> None:
    monkeypatch.setattr(testing_case, "WAIT_S", 0.3)
    case = next(case for case in STREAM_CASES if case.name == name)
    with pytest.raises(ConformanceFailure):
        loops.run(case.run(StreamSetup(open=_memory_opener(kind))))


class NeverWakesAccept(MemoryAcceptor):
    def stop(self) -> None:
        if self._queue is not None:
            self._queue.closed = True


class LosesStreamsOfCancelledAccepts(MemoryAcceptor):
    async def accept(self) -> tuple[DuplexStream, TransportInfo]:
        obtained = await super().accept()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return obtained


class EndsWhatItHandedOut(MemoryAcceptor):
    handed: DuplexStream | None = None

    async def accept(self) -> tuple[DuplexStream, TransportInfo]:
        obtained = await super().accept()
        self.handed = obtained[0]
        return obtained

    def stop(self) -> None:
        super().stop()
        if self.handed is not None:
            self.handed.abort()


class ForgetsStreamsNobodyAccepted(MemoryAcceptor):
    def stop(self) -> None:
        if self._queue is not None:
            self._queue._streams.clear()
        super().stop()


class StillListens(MemoryAcceptor):
    def offer(self, stream: DuplexStream) -> bool:
        super().offer(stream)
        return True


BROKEN_ACCEPTORS = [
    (NeverWakesAccept, "accept_ends_when_the_acceptor_stops"),
    (LosesStreamsOfCancelledAccepts, "a_cancelled_accept_loses_no_stream"),
    (EndsWhatItHandedOut, "streams_handed_out_outlive_their_acceptor"),
    (ForgetsStreamsNobodyAccepted, "closing_ends_streams_nobody_accepted"),
    (StillListens, "connecting_to_nobody_may_be_tried_again"),
]


@pytest.mark.parametrize(("kind", "name"), BROKEN_ACCEPTORS)
def test_a_broken_acceptor_fails_its_case(
    monkeypatch: pytest.MonkeyPatch, kind: type[MemoryAcceptor], name: str
) -> None:
    monkeypatch.setattr(testing_case, "WAIT_S", 0.3)
    case = next(case for case in TRANSPORT_CASES if case.name == name)
    with pytest.raises(ConformanceFailure):
        loops.run(case.run(TransportSetup(open=_memory_transport_opener(kind))))
