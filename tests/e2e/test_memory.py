"""Claims about memory: a reader that stops costs what the bounds say, on both sides, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import wraith
import wraith_transports
from tests.support.loops import LOOPS
from tests.support.memory import MIB, LongPath, Resident
from tests.support.polling import eventually
from tests.support.processes import WraithClient, WraithServer
from tests.support.socks_client import exactly, through_socks5
from tests.support.targets import Target, echo
from tests.support.tunnel import TRANSPORTS
from wraith.specs import Scheme, parse_listen
from wraith.splice import Splice
from wraith.ssh.channel import ChannelStream
from wraith.ssh.key_files import load_private_key
from wraith_transports.testing.recorder import pattern

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc")

OFFERED = 1 << 30
FLUENT = 96 * MIB  # read at full speed before the reader stops, so that windows grow if they ever do
ONE_STOPPED = 48 * MIB
MANY_STOPPED = 160 * MIB
MANY = 200
QUIET_POLLS = 15
BLOCK = bytes(256 << 10)


class Counted:
    """Sends or receives on a socket of its own thread, and counts."""

    def __init__(self) -> None:
        self.moved = 0
        self.leave = threading.Event()
        self._lock = threading.Lock()

    def pour(self, connection: socket.socket) -> None:
        """Offer 1 GiB."""
        for _ in range(OFFERED // len(BLOCK)):
            connection.sendall(BLOCK)
            self._count(len(BLOCK))

    def take(self, connection: socket.socket) -> None:
        """Read at full speed, then stop."""
        while self.moved < FLUENT:
            data = connection.recv(len(BLOCK))
            if not data:
                return
            self._count(len(data))
        self.leave.wait()

    def hold(self, connection: socket.socket) -> None:
        """Read nothing."""
        self.leave.wait()

    def _count(self, size: int) -> None:
        with self._lock:
            self.moved += size

    def settle(self, offered: int = OFFERED) -> None:
        """Wait until nothing moves any more, which must be before all that is offered has."""
        still = 0
        last = -1

        def quiet() -> bool:
            nonlocal still, last
            still = still + 1 if self.moved == last else 0
            last = self.moved
            return still >= QUIET_POLLS

        eventually(quiet, "a stopped reader stops the writer", 60)
        assert self.moved < offered, "the reader did not stop the writer"


@contextlib.contextmanager
def in_thread(
    work: Callable[[socket.socket], None], connection: socket.socket, leaving: threading.Event
) -> Iterator[None]:
    """Run it on the connection until the block ends, which sets `leaving` and closes the connection."""

    def guarded() -> None:
        with contextlib.suppress(OSError):
            work(connection)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    try:
        yield
    finally:
        leaving.set()
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()
        thread.join(20)
        assert not thread.is_alive()


class Pair:
    """A server and a client of it, warmed up, with their memory watched from here on."""

    def __init__(self, server: WraithServer, client: WraithClient) -> None:
        self.processes = (server, client)
        self.client = client
        with Target(echo) as echoing:
            self._carry(echoing)
        eventually(lambda: all(each.running for each in self.processes), "both run")
        self.descriptors = [each.descriptors() for each in self.processes]
        self.memory = [Resident(each.pid) for each in self.processes]

    def dial(self, target: Target) -> socket.socket:
        return through_socks5(self.client.socks_port, "127.0.0.1", target.port)

    def _carry(self, target: Target) -> None:
        with self.dial(target) as connection:
            for at in range(0, MIB, 64 << 10):
                connection.sendall(pattern(at, 64 << 10))
                assert exactly(connection, 64 << 10) == pattern(at, 64 << 10)

    def growth(self, record: Callable[[str, object], None], what: str) -> int:
        """Print and record how far each has grown at the most; the larger."""
        peaks = [each.peak for each in self.memory]
        for name, peak in zip(("server", "client"), peaks, strict=True):
            record(f"{what} {name} MiB", round(peak / MIB, 1))
        print(f"{what}: server and client grew by {[round(peak / MIB, 1) for peak in peaks]} MiB at the most")
        return max(peaks)

    def is_as_before(self) -> None:
        """See that what was opened is gone, and that the session still carries bytes."""
        eventually(
            lambda: [each.descriptors() for each in self.processes] <= self.descriptors, "every descriptor is released"
        )
        with Target(echo) as echoing:
            self._carry(echoing)
        for each in self.processes:
            assert "Traceback" not in each.log()


@contextlib.contextmanager
def pair(tmp_path: Path, transport: str, loop: str) -> Iterator[Pair]:
    with (
        WraithServer(tmp_path, transport=transport, loop=loop) as server,
        WraithClient(server, loop=loop) as client,
    ):
        yield Pair(server, client)


LONG = pytest.mark.long
KINDS = [
    ("tcp", LOOPS[-1]),
    ("tls", LOOPS[-1]),
    pytest.param("tcp", LOOPS[0], marks=LONG),
    pytest.param("tls", LOOPS[0], marks=LONG),
]
DIRECTIONS = [
    pytest.param("tcp", False, id="tcp-download"),
    pytest.param("tls", True, id="tls-upload"),
    pytest.param("tcp", True, id="tcp-upload", marks=LONG),
    pytest.param("tls", False, id="tls-download", marks=LONG),
]


@pytest.mark.parametrize(("transport", "loop"), KINDS)
def test_a_reader_that_stops_in_a_download_grows_neither_side_by_48_mib(
    tmp_path: Path, transport: str, loop: str, record_property: Callable[[str, object], None]
) -> None:
    with pair(tmp_path, transport, loop) as both:
        for measurement in ("first", "second"):
            source, reader = Counted(), Counted()
            with (
                Target(source.pour) as target,
                in_thread(reader.take, both.dial(target), reader.leave),
            ):
                source.settle()
                assert reader.moved >= FLUENT
                assert both.growth(record_property, f"{measurement} download") < ONE_STOPPED
            both.is_as_before()


@pytest.mark.parametrize(("transport", "loop"), KINDS)
def test_a_reader_that_stops_in_an_upload_grows_neither_side_by_48_mib(
    tmp_path: Path, transport: str, loop: str, record_property: Callable[[str, object], None]
) -> None:
    with pair(tmp_path, transport, loop) as both:
        for measurement in ("first", "second"):
            source, reader = Counted(), Counted()
            with (
                Target(reader.take) as target,
                in_thread(source.pour, both.dial(target), reader.leave),
            ):
                source.settle()
                assert reader.moved >= FLUENT
                assert both.growth(record_property, f"{measurement} upload") < ONE_STOPPED
            both.is_as_before()


@pytest.mark.parametrize(("transport", "upload"), DIRECTIONS)
def test_a_reader_that_stops_at_the_end_of_a_long_path_holds_no_more(
    tmp_path: Path, transport: str, upload: bool, record_property: Callable[[str, object], None]
) -> None:
    """There the window is at its largest when the reader stops."""
    with (
        WraithServer(tmp_path, transport=transport) as server,
        LongPath(server.port, 0.04) as path,
    ):
        server.port = path.port
        with WraithClient(server) as client:
            both = Pair(server, client)
            source, reader = Counted(), Counted()
            with (
                Target(reader.take if upload else source.pour) as target,
                in_thread(source.pour if upload else reader.take, both.dial(target), reader.leave),
            ):
                source.settle()
                assert reader.moved >= FLUENT
                assert both.growth(record_property, "long path") < ONE_STOPPED
            both.is_as_before()


@pytest.mark.parametrize(("transport", "upload"), DIRECTIONS)
def test_two_hundred_readers_that_stop_grow_neither_side_by_160_mib(
    tmp_path: Path, transport: str, upload: bool, record_property: Callable[[str, object], None]
) -> None:
    with pair(tmp_path, transport, LOOPS[-1]) as both:
        source, reader = Counted(), Counted()
        with Target(reader.hold if upload else source.pour) as target, contextlib.ExitStack() as stack:
            for _ in range(MANY):
                stack.enter_context(in_thread(source.pour if upload else reader.hold, both.dial(target), reader.leave))
            source.settle(MANY * OFFERED)
            assert target.accepted == MANY
            record_property("offered MiB", source.moved // MIB)
            assert both.growth(record_property, "200 readers") < MANY_STOPPED
        both.is_as_before()


# In one process, where tasks and objects can be counted


class Census:
    """What is there now of everything that a connection is made of."""

    KINDS = (ChannelStream, wraith_transports.TcpStream, Splice)

    def __init__(self) -> None:
        gc.collect()
        self.tasks = len(asyncio.all_tasks())
        self.descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names alone are counted
        objects = gc.get_objects()
        self.objects = {kind.__name__: sum(type(each) is kind for each in objects) for kind in self.KINDS}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Census) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{self.tasks} tasks, {self.descriptors} descriptors, {self.objects}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder with a key that may log in."""
    from wraith.ssh.key_files import generate_ed25519, public_line

    monkeypatch.setenv("WRAITH_DIR", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    generate_ed25519(tmp_path / "id_ed25519", "test", force=True)
    authorized = tmp_path / "authorized_keys"
    authorized.write_text(public_line(load_private_key(tmp_path / "id_ed25519")) + "\n")
    authorized.chmod(0o600)
    return tmp_path


class Ending(asyncio.Protocol):
    """Sends something, and ends in one of the ways a connection can."""

    def __init__(self, number: int) -> None:
        self._way = number % 5
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._stream: wraith_transports.DuplexStream = transport
        transport.write(b"some bytes" * 1000)
        if self._way == 0:
            transport.write_eof()
        elif self._way == 1:
            transport.close()
        elif self._way == 2:
            transport.abort()
        elif self._way == 3:
            transport.pause_reading()
            asyncio.get_running_loop().call_later(0.001, transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._way == 4:
            self._stream.close()

    def eof_received(self) -> None:
        self._stream.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_five_hundred_channels_leave_no_task_descriptor_object_or_credit(
    run: Callable[..., Any], folder: Path, transport: str
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        writer.close()

    async def open_some(session: wraith.Session, port: int, count: int) -> None:
        for number in range(0, count, 25):
            streams = await asyncio.gather(*(session.open_connection("127.0.0.1", port) for _ in range(25)))
            endings = [Ending(number + index) for index in range(len(streams))]
            for stream, ending in zip(streams, endings, strict=True):
                stream.attach(ending)
            await asyncio.gather(*(ending.lost for ending in endings))
            with contextlib.suppress(wraith.OpenFailed):
                await session.open_connection("127.0.0.1", 1)

    async def scenario() -> None:
        listen = parse_listen(f"{transport}://127.0.0.1:0")
        target = await asyncio.start_server(talk, "127.0.0.1", 0)
        port = target.sockets[0].getsockname()[1]
        async with wraith.serve(wraith.ServeOptions(listen=(listen,))) as server:
            options = wraith.ConnectOptions(
                "127.0.0.1",
                int(server.addresses[0].rpartition(":")[2]),
                transport=listen.scheme or Scheme.TCP,
                tls=wraith.TlsClientOptions(pins=(server.tls_pin,) if server.tls_pin else ()),
            )
            async with wraith.connect(options) as session:
                await open_some(session, port, 50)
                before = await settled()
                await open_some(session, port, 500)
                deadline = asyncio.get_running_loop().time() + 20
                while (after := await settled()) != before and asyncio.get_running_loop().time() < deadline:
                    pass
                assert after == before
                assert after.objects["ChannelStream"] == after.objects["Splice"] == 0
                assert server._credit.granted == 0
                assert session._session is not None
                assert session._session._connection.bounds.budget.granted == 0
                stream = await session.open_connection("127.0.0.1", port)
                ending = Ending(0)
                stream.attach(ending)
                await ending.lost
        target.close()
        await target.wait_closed()
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.005)

    async def settled() -> Census:
        await asyncio.sleep(0.05)
        return Census()

    run(scenario())
