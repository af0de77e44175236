"""What stands between a stream and asyncssh: pieces, pauses, ends, and a peer that leaves its answers unread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.ssh_peers import turns, until
from wraith.ssh.link import SHOWN_BYTES, UNREAD_ANSWERS_LIMIT, SSHLink
from wraith_transports import READ_CHUNK, memory_pair
from wraith_transports.memory import MemoryStream
from wraith_transports.testing.recorder import Heard, Recorder, pattern

Run = Callable[..., Any]
MIB = 1 << 20


class FakeConnection:
    """Notes what a link tells an SSH connection."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.pieces: list[bytes] = []
        self.eof = 0
        self.lost: list[Exception | None] = []
        self.paused: list[bool] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)

    def eof_received(self) -> None:
        self.eof += 1

    def connection_lost(self, exc: Exception | None = None) -> None:
        self.lost.append(exc)

    def pause_writing(self) -> None:
        self.paused.append(True)

    def resume_writing(self) -> None:
        self.paused.append(False)

    @property
    def received(self) -> bytes:
        return b"".join(self.pieces)


def linked(unread: bytes = b"") -> tuple[FakeConnection, SSHLink, MemoryStream, Recorder]:
    """Make a link over one end of a pair, with a recorder at the other."""
    near, far = memory_pair()
    connection = FakeConnection()
    link = SSHLink(near, connection, unread)
    peer = Recorder()
    far.attach(peer)
    return connection, link, near, peer


def test_the_connection_is_made_with_the_link_as_its_transport(run: Run) -> None:
    async def scenario() -> None:
        connection, link, near, _ = linked()
        assert connection.transport is link
        assert link.get_extra_info("peername") == ("127.0.0.1", 22)
        assert link.get_extra_info("socket", "none") == "none"
        near.abort()

    run(scenario())


def test_bytes_come_in_pieces_of_at_most_one_read(run: Run) -> None:
    async def scenario() -> None:
        connection, _, near, peer = linked(unread=b"before ")
        peer.stream.write(pattern(0, 3 * MIB))
        await until(lambda: len(connection.received) == 7 + 3 * MIB)
        assert connection.received == b"before " + pattern(0, 3 * MIB)
        assert max(map(len, connection.pieces)) <= READ_CHUNK
        near.abort()

    run(scenario())


def test_the_first_bytes_are_kept_to_tell_what_the_peer_is(run: Run) -> None:
    async def scenario() -> None:
        connection, link, near, peer = linked()
        for byte in b"HTTP/1.1 400 Bad Request\r\n":
            peer.stream.write(bytes([byte]))
            await turns(3)
        await until(lambda: connection.received.endswith(b"\r\n"))
        assert link.first_bytes.startswith(b"HTTP/1.1 400 Bad"[:SHOWN_BYTES])
        assert len(link.first_bytes) < 2 * SHOWN_BYTES
        near.abort()

    run(scenario())


def test_abort_is_an_orderly_close_and_the_last_message_arrives(run: Run) -> None:
    async def scenario() -> None:
        connection, link, near, peer = linked()
        link.write(b"disconnect")
        link.abort()
        assert near.is_closing()
        assert link.is_closing()
        await until(lambda: peer.ended)
        assert peer.received == b"disconnect"
        peer.stream.write(b"too late")
        peer.stream.close()
        await turns()
        assert not connection.received
        assert connection.lost == []

    run(scenario())


@pytest.mark.parametrize("ending", ["close", "write_eof"])
def test_the_peers_end_is_told(run: Run, ending: str) -> None:
    async def scenario() -> None:
        connection, _, near, peer = linked()
        getattr(peer.stream, ending)()
        await until(lambda: connection.eof)
        near.abort()

    run(scenario())


def test_a_reset_is_told_once(run: Run) -> None:
    async def scenario() -> None:
        connection, link, near, peer = linked()
        peer.stream.abort()
        await until(lambda: connection.lost)
        assert isinstance(connection.lost[0], ConnectionResetError)
        link.write(b"to nobody")
        link.pause_reading("test")
        link.resume_reading("test")
        link.abort()
        await turns()
        assert len(connection.lost) == 1
        assert near.get_write_buffer_size() == 0

    run(scenario())


def test_the_gate_follows_the_streams_marks(run: Run) -> None:
    async def scenario() -> None:
        connection, link, near, peer = linked()
        peer.stream.pause_reading()
        while not connection.paused:
            link.write(bytes(READ_CHUNK))
        assert 512 << 10 < near.get_write_buffer_size() <= (512 << 10) + READ_CHUNK
        peer.stream.resume_reading()
        await until(lambda: connection.paused == [True, False])
        near.abort()

    run(scenario())


def test_reading_stops_while_any_reason_holds(run: Run) -> None:
    async def scenario() -> None:
        connection, link, near, peer = linked()
        link.pause_reading("one")
        link.pause_reading("one")
        link.pause_reading("other")
        peer.stream.write(b"wait")
        await turns()
        link.resume_reading("one")
        link.resume_reading("unknown")
        await turns()
        assert not connection.received
        link.resume_reading("other")
        await until(lambda: connection.received == b"wait")
        near.abort()

    run(scenario())


def test_a_peer_that_leaves_its_answers_unread_is_not_read_and_then_reset(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wraith.ssh.link.UNREAD_ANSWERS_TIMEOUT_S", 0.05)

    async def scenario() -> None:
        connection, link, near, peer = linked()
        peer.stream.pause_reading()
        while near.get_write_buffer_size() <= UNREAD_ANSWERS_LIMIT:
            link.write(bytes(READ_CHUNK))
        peer.stream.write(b"and another request")
        await turns()
        assert not connection.received
        await until(lambda: connection.lost)
        assert near.get_write_buffer_size() == 0
        peer.stream.resume_reading()
        await until(lambda: peer.losses)
        assert isinstance(peer.losses[0], OSError)

    run(scenario())


def test_a_peer_that_reads_its_answers_in_time_is_read_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wraith.ssh.link.UNREAD_ANSWERS_TIMEOUT_S", 0.2)

    async def scenario() -> None:
        connection, link, near, peer = linked()
        for turn in range(3):
            peer.stream.pause_reading()
            while near.get_write_buffer_size() <= UNREAD_ANSWERS_LIMIT:
                link.write(bytes(READ_CHUNK))
            peer.stream.write(b"next")
            await turns()
            assert len(connection.received) == 4 * turn
            peer.stream.resume_reading()
            await until(lambda turn=turn: len(connection.received) == 4 * (turn + 1))
        await asyncio.sleep(0.25)  # longer than the limit: it must not still be running
        assert not connection.lost
        assert Heard.LOST not in peer.heard
        near.abort()

    run(scenario())


def test_writelines_is_one_write_in_order(run: Run) -> None:
    async def scenario() -> None:
        _, link, near, peer = linked()
        link.writelines([b"a", bytearray(b"b"), memoryview(b"c")])
        await until(lambda: peer.received == b"abc")
        near.abort()

    run(scenario())
