"""The SOCKS port over real sockets: every protocol, every end, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
import stat
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.support.openers import (
    Client,
    DirectOpener,
    FailingOpener,
    HangingOpener,
    answer_at_the_end,
    target,
    until,
)
from wraith.errors import AddressUnavailable, UsageError
from wraith.opening import Opener, OpenFailed, OpenFailure
from wraith.socks import Credentials, FrontProtocol, SocksListener, failed, opened
from wraith.specs import ALL_ADDRESSES, LOCALHOST, SocksSpec, TcpBind, UnixBind

LOOPBACK = SocksSpec(TcpBind("127.0.0.1", 0))
GREETED = b"\x05\x00"


def asking(protocol: FrontProtocol, port: int, host: bytes = b"127.0.0.1") -> bytes:
    """Write everything a client sends before its own bytes."""
    match protocol:
        case FrontProtocol.SOCKS5:
            return b"\x05\x01\x00\x05\x01\x00\x03" + bytes((len(host),)) + host + port.to_bytes(2, "big")
        case FrontProtocol.SOCKS4:
            return b"\x04\x01" + port.to_bytes(2, "big") + b"\0\0\0\1me\0" + host + b"\0"
        case FrontProtocol.HTTP:
            return b"CONNECT %s:%d HTTP/1.1\r\n\r\n" % (host, port)


def granted(protocol: FrontProtocol) -> bytes:
    return (GREETED if protocol is FrontProtocol.SOCKS5 else b"") + opened(protocol)


async def started(
    opener: Opener, spec: SocksSpec = LOOPBACK, *, credentials: Credentials | None = None
) -> SocksListener:
    listener = SocksListener(spec, opener, credentials=credentials)
    await listener.start()
    return listener


@pytest.mark.parametrize("protocol", FrontProtocol)
def test_every_protocol_carries_both_ways_and_keeps_early_bytes(run: Run, protocol: FrontProtocol) -> None:
    async def scenario() -> None:
        opener = DirectOpener()
        payload = bytes(range(256)) * 1024
        async with target() as port:
            listener = await started(opener)
            async with Client(listener.addresses()[0]) as client:
                client.send(asking(protocol, port) + payload)
                client.writer.write_eof()
                assert await client.rest() == granted(protocol) + payload
                assert opener.asked == [("127.0.0.1", port, client.writer.get_extra_info("sockname")[:2])]
            await listener.aclose()

    run(scenario())


@pytest.mark.parametrize("protocol", FrontProtocol)
def test_a_handshake_of_single_bytes_works(run: Run, protocol: FrontProtocol) -> None:
    async def scenario() -> None:
        async with target() as port:
            listener = await started(DirectOpener())
            async with Client(listener.addresses()[0]) as client:
                for byte in asking(protocol, port) + b"payload":
                    client.send(bytes((byte,)))
                    await asyncio.sleep(0)
                assert await client.receive(len(granted(protocol)) + 7) == granted(protocol) + b"payload"
            await listener.aclose()

    run(scenario())


def test_a_half_close_reaches_the_target_and_its_answer_comes_back(run: Run) -> None:
    async def scenario() -> None:
        async with target(answer_at_the_end) as port:
            listener = await started(DirectOpener())
            async with Client(listener.addresses()[0]) as client:
                client.send(asking(FrontProtocol.SOCKS5, port))
                await client.receive(12)
                client.send(b"question")
                client.writer.write_eof()
                assert await client.rest() == b"got 8"
            await listener.aclose()

    run(scenario())


@pytest.mark.parametrize("protocol", FrontProtocol)
@pytest.mark.parametrize("reason", [OpenFailure.REFUSED, OpenFailure.SESSION_DOWN])
def test_a_failure_is_answered_with_its_reason_and_closed(
    run: Run, protocol: FrontProtocol, reason: OpenFailure
) -> None:
    async def scenario() -> None:
        listener = await started(FailingOpener(OpenFailed("no", reason)))
        async with Client(listener.addresses()[0]) as client:
            client.send(asking(protocol, 80) + b"early bytes")
            expected = failed(protocol, reason)
            assert await client.rest() == (GREETED if protocol is FrontProtocol.SOCKS5 else b"") + expected
        await listener.aclose()

    run(scenario())


def test_a_real_refusal_is_answered_as_one(run: Run) -> None:
    async def scenario() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # bound and not listening: refused
            listener = await started(DirectOpener())
            async with Client(listener.addresses()[0]) as client:
                client.send(asking(FrontProtocol.SOCKS5, unused.getsockname()[1]))
                assert await client.rest() == GREETED + failed(FrontProtocol.SOCKS5, OpenFailure.REFUSED)
            await listener.aclose()

    run(scenario())


def test_a_web_page_cannot_smuggle_a_connect(run: Run) -> None:
    async def scenario() -> None:
        opener = DirectOpener()
        listener = await started(opener)
        async with Client(listener.addresses()[0]) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n" + asking(FrontProtocol.HTTP, 80))
            reply = await client.rest()
        assert reply.startswith(b"HTTP/1.1 405 ")
        assert reply.count(b"HTTP/1.1") == 1
        assert opener.asked == []
        await listener.aclose()

    run(scenario())


@pytest.mark.parametrize("start", [b"\x16\x03\x01\x02\x00", b"get / HTTP/1.1\r\n\r\n", b"\x00", b"SSH-2.0-x\r\n"])
def test_anything_else_is_closed(run: Run, start: bytes) -> None:
    async def scenario() -> None:
        opener = DirectOpener()
        listener = await started(opener)
        async with Client(listener.addresses()[0]) as client:
            client.send(start)
            reply = await client.rest()
        assert reply == b"" or reply.startswith(b"HTTP/1.1 400 ")
        assert opener.asked == []
        await listener.aclose()

    run(scenario())


@pytest.mark.parametrize("start", [b"", b"\x05", b"\x05\x01\x00", b"CONNECT host"])
def test_a_stalled_handshake_is_dropped(run: Run, start: bytes) -> None:
    async def scenario() -> None:
        listener = SocksListener(LOOPBACK, DirectOpener(), stall_timeout_s=0.02)
        await listener.start()
        async with Client(listener.addresses()[0]) as client:
            client.send(start)
            with contextlib.suppress(ConnectionResetError):
                assert await client.rest() in (b"", GREETED)
            assert client.reader.at_eof() or client.reader.exception() is not None
        await listener.aclose()

    run(scenario())


def test_a_client_that_leaves_in_mid_handshake_is_forgotten(run: Run) -> None:
    async def scenario() -> None:
        listener = await started(DirectOpener())
        async with Client(listener.addresses()[0]) as client:
            client.send(b"\x05\x01")
            client.writer.write_eof()
            assert await client.rest() == b""
        await listener.aclose()

    run(scenario())


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_an_open_is_cancelled_when_the_client_leaves(run: Run, leave: str) -> None:
    async def scenario() -> None:
        opener = HangingOpener()
        listener = await started(opener)
        async with Client(listener.addresses()[0]) as client:
            client.send(asking(FrontProtocol.SOCKS5, 80))
            await until(lambda: opener.opening == 1)
            assert opener.cancelled == 0
            client.writer.close() if leave == "close" else client.reset()
            await until(lambda: opener.cancelled == 1)
        await listener.aclose()

    run(scenario())


def test_only_the_right_password_opens_a_connection(run: Run) -> None:
    async def scenario() -> None:
        async with target() as port:
            opener = DirectOpener()
            listener = await started(opener, credentials=Credentials({b"anna": b"secret"}))
            request = asking(FrontProtocol.SOCKS5, port)[3:]
            async with Client(listener.addresses()[0]) as client:
                client.send(b"\x05\x01\x02\x01\x04anna\x06secret" + request + b"x")
                expected = b"\x05\x02\x01\x00" + opened(FrontProtocol.SOCKS5) + b"x"
                assert await client.receive(len(expected)) == expected
            async with Client(listener.addresses()[0]) as client:
                client.send(b"\x05\x01\x02\x01\x04anna\x05wrong" + request)
                assert await client.rest() == b"\x05\x02\x01\x01"
            assert len(opener.asked) == 1
            await listener.aclose()

    run(scenario())


@pytest.mark.parametrize("host", [ALL_ADDRESSES, "0.0.0.0"])
def test_an_address_for_strangers_demands_a_password(run: Run, host: str) -> None:
    async def scenario() -> None:
        listener = SocksListener(SocksSpec(TcpBind(host, 0)), DirectOpener())
        with pytest.raises(UsageError, match="--socks5-auth-file"):
            await listener.start()
        await listener.aclose()

    run(scenario())


@pytest.mark.parametrize("host", ["127.0.0.1", LOCALHOST, "127.5.5.5"])
def test_loopback_addresses_need_no_password(run: Run, host: str) -> None:
    async def scenario() -> None:
        listener = await started(DirectOpener(), SocksSpec(TcpBind(host, 0)))
        assert listener.addresses()
        await listener.aclose()

    run(scenario())


def test_a_unix_socket_is_its_owners_and_goes_when_closed(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "w.sock"

    async def scenario() -> None:
        async with target() as port:
            opener = DirectOpener()
            listener = await started(opener, SocksSpec(UnixBind(str(path))))
            assert listener.addresses() == [str(path)]
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            async with Client(str(path)) as client:
                client.send(asking(FrontProtocol.SOCKS5, port) + b"x")
                assert await client.receive(13) == granted(FrontProtocol.SOCKS5) + b"x"
                listener.stop()
                assert not path.exists()
                client.send(b"y")
                assert await client.receive(1) == b"y"
            assert opener.asked == [("127.0.0.1", port, ("127.0.0.1", 0))]
            await listener.aclose()

    run(scenario())


@pytest.mark.parametrize("kind", ["file", "dead socket", "link"])
def test_an_existing_file_is_never_replaced(run: Run, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "w.sock"
    if kind == "file":
        path.write_text("precious")
    elif kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    before = path.lstat()

    async def scenario() -> None:
        listener = SocksListener(SocksSpec(UnixBind(str(path))), DirectOpener())
        with pytest.raises(AddressUnavailable, match="there is a file of that name"):
            await listener.start()
        await listener.aclose()

    run(scenario())
    assert path.lstat() == before


def test_a_file_that_took_the_sockets_place_is_left_alone(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "w.sock"

    async def scenario() -> None:
        listener = await started(DirectOpener(), SocksSpec(UnixBind(str(path))))
        path.rename(tmp_path / "moved")
        path.write_text("another's")
        await listener.aclose()

    run(scenario())
    assert path.read_text() == "another's"


def test_a_folder_that_is_not_there_is_said(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        listener = SocksListener(SocksSpec(UnixBind(str(tmp_path / "no" / "w.sock"))), DirectOpener())
        with pytest.raises(AddressUnavailable, match="the folder does not exist"):
            await listener.start()
        await listener.aclose()

    run(scenario())


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_without_free_descriptors_accepting_pauses_and_says_so_once(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    path = str(tmp_path / "w.sock")

    def complaints() -> list[str]:
        return [record.getMessage() for record in caplog.records if "descriptor" in record.getMessage()]

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        listener = await started(DirectOpener(), SocksSpec(UnixBind(path)) if kind == "unix" else LOOPBACK)
        address = listener.addresses()[0]
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET) as client:
            free = os.dup(client.fileno())
            os.close(free)
            # Every number below `free` is taken, so with this limit none is left.
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
            try:
                client.connect(address if kind == "unix" else ("127.0.0.1", int(address.rpartition(":")[2])))
                client.setblocking(False)
                await until(complaints)
                await asyncio.sleep(0.25)  # two more attempts, about which nothing is said
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            await loop.sock_sendall(client, b"\x05\x01\x00")
            assert await asyncio.wait_for(loop.sock_recv(client, 2), 10) == GREETED
        await listener.aclose()

    with caplog.at_level(logging.INFO):
        run(scenario())
    assert len(complaints()) == 1
