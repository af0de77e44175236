"""TLS against other implementations' programs and libraries: openssl, curl, asyncio's own."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.support.certificates import AUTHORITY, LOCALHOST
from tests.support.tools import need
from wraith_transports import DirectDialer, DuplexStream, TcpAcceptor
from wraith_transports.testing.case import arrives, comes, hears_loss
from wraith_transports.testing.recorder import Heard, Recorder, pattern
from wraith_transports.tls import TlsAcceptor, TlsTransport, Verification

Run = Callable[..., Any]
Server = TypeVar("Server", bound=Recorder)

TRUSTING = Verification(ca=AUTHORITY.certificate_pem)
CONTEXT = LOCALHOST.server_context()


class Echo(Recorder):
    """Says everything back."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.stream.write(data)


class Web(Recorder):
    """Says hi to any request."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
        self.close()


@asynccontextmanager
async def serving(kind: type[Server]) -> AsyncIterator[tuple[int, list[Server]]]:
    """Accept TLS; give the port and the protocols so far."""
    acceptor = TlsAcceptor(TcpAcceptor("127.0.0.1", 0), lambda _: CONTEXT)
    await acceptor.start()
    protocols: list[Server] = []

    async def accept() -> None:
        while True:
            stream, _ = await acceptor.accept()
            protocols.append(kind())
            stream.attach(protocols[-1])

    accepting = asyncio.create_task(accept())
    try:
        yield int(acceptor.addresses()[0].rpartition(":")[2]), protocols
    finally:
        accepting.cancel()
        await asyncio.wait([accepting])
        await acceptor.aclose()


@asynccontextmanager
async def program(*arguments: str | Path) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(*map(str, arguments), stdin=PIPE, stdout=PIPE, stderr=STDOUT)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def read_until(process: Process, wanted: bytes) -> bytes:
    assert process.stdout is not None
    return await asyncio.wait_for(process.stdout.readuntil(wanted), 20)


async def tell(process: Process, data: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(data)
    await process.stdin.drain()


def s_client(run: Run, tmp_path: Path, *options: str, session: Callable[[Process], Any]) -> Echo:
    (openssl,) = need("openssl")
    ca = tmp_path / "ca.pem"
    ca.write_bytes(AUTHORITY.certificate_pem)

    async def check() -> Echo:
        async with (
            serving(Echo) as (port, echoes),
            program(
                openssl, "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", ca, "-verify_return_error",
                "-verify_hostname", "localhost", "-servername", "localhost", "-alpn", "http/1.1", *options,
            ) as client,
        ):  # fmt: skip
            await session(client)
            assert await comes(lambda: bool(echoes))
            await hears_loss(echoes[0])
            return echoes[0]

    return run(check())  # type: ignore[no-any-return]


def test_openssl_s_client_talks_and_leaves(run: Run, tmp_path: Path) -> None:
    async def session(client: Process) -> None:
        await tell(client, b"hello\n")
        said = await read_until(client, b"hello\n")
        assert b"Verify return code: 0 (ok)" in said
        assert b"ALPN protocol: http/1.1" in said
        await tell(client, b"Q\n")

    echo = s_client(run, tmp_path, session=session)
    assert echo.received == b"hello\n"
    assert echo.heard[-2:] == [Heard.EOF, Heard.LOST]


def test_key_updates_of_the_peer_are_followed_and_answered(run: Run, tmp_path: Path) -> None:
    async def session(client: Process) -> None:
        await tell(client, b"first\n")
        await read_until(client, b"first\n")
        for command, word in ((b"k\n", b"two\n"), (b"K\n", b"three\n"), (b"K\n", b"four\n")):
            await tell(client, command)
            await read_until(client, b"KEYUPDATE\n")
            await tell(client, word)
            await read_until(client, word)
        await tell(client, b"Q\n")

    assert s_client(run, tmp_path, "-tls1_3", session=session).received == b"first\ntwo\nthree\nfour\n"


def test_a_renegotiation_is_refused_and_costs_only_its_connection(run: Run, tmp_path: Path) -> None:
    async def session(client: Process) -> None:
        await tell(client, b"first\n")
        await read_until(client, b"first\n")
        await tell(client, b"R\n")
        assert client.stdout is not None
        said = await asyncio.wait_for(client.stdout.read(), 20)
        assert b"no renegotiation" in said

    assert s_client(run, tmp_path, "-tls1_2", session=session).received == b"first\n"


def test_openssl_s_server_is_served_as_a_server(run: Run, tmp_path: Path) -> None:
    (openssl,) = need("openssl")
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    certificate.write_bytes(LOCALHOST.chain_pem)
    key.write_bytes(LOCALHOST.key_pem)

    async def check() -> None:
        async with program(
            openssl, "s_server", "-accept", "127.0.0.1:0", "-cert", certificate, "-key", key, "-naccept", "1", "-rev",
        ) as server:  # fmt: skip
            said = await read_until(server, b"\n")
            while not said.startswith(b"ACCEPT 127.0.0.1:"):
                said = await read_until(server, b"\n")
            port = int(said.rpartition(b":")[2])
            stream, info = await TlsTransport(DirectDialer(), "127.0.0.1", port, TRUSTING).connect()
            assert info.server_name == "127.0.0.1"
            client = Recorder()
            stream.attach(client)
            stream.write(b"desserts\n")
            await arrives(client, 9)
            assert client.received == b"stressed\n"
            stream.close()
            await hears_loss(client)
            assert client.losses == [None]

    run(check())


def test_curl_does_its_handshake_and_sees_the_page_without_one(run: Run) -> None:
    (curl,) = need("curl")

    async def output(*arguments: str) -> tuple[int | None, bytes]:
        async with program(curl, "-sS", "-m", "20", *arguments) as process:
            out, _ = await process.communicate()
            return process.returncode, out

    async def check() -> None:
        async with serving(Web) as (port, answers):
            status, page = await output("-i", f"http://127.0.0.1:{port}/")
            assert status == 0
            assert page.startswith(b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n")
            assert page.endswith(b"<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n")
            assert await output("-k", f"https://127.0.0.1:{port}/") == (0, b"hi")
            assert await output("-k", "--pinnedpubkey", LOCALHOST.pin, f"https://127.0.0.1:{port}/") == (0, b"hi")
            assert (await output(f"https://127.0.0.1:{port}/"))[0] == 60  # CURLE_PEER_FAILED_VERIFICATION
            for answer in answers[:2]:
                await hears_loss(answer)

    run(check())


async def feed(writer: asyncio.StreamWriter, total: int) -> None:
    for at in range(0, total, 1 << 16):
        writer.write(pattern(at, min(1 << 16, total - at)))
        await writer.drain()


def test_asyncios_own_client_exchanges_megabytes(run: Run) -> None:
    total = 20 << 20
    context = ssl.create_default_context(cadata=AUTHORITY.certificate_pem.decode())
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)  # the test authority has no key identifiers

    async def check() -> None:
        async with serving(Echo) as (port, echoes):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
            feeding = asyncio.create_task(feed(writer, total))
            digest = hashlib.sha256(await reader.readexactly(total)).digest()
            await feeding
            assert digest == hashlib.sha256(echoes[0].received).digest() == hashlib.sha256(pattern(0, total)).digest()
            writer.close()
            await writer.wait_closed()
            await hears_loss(echoes[0])

    run(check())


def test_asyncios_own_server_exchanges_megabytes(run: Run) -> None:
    total = 20 << 20

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def pour_in(stream: DuplexStream, client: Recorder) -> None:
        for at in range(0, total, 1 << 16):
            assert await comes(lambda: not client.writing_paused)
            stream.write(pattern(at, 1 << 16))

    async def check() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=CONTEXT.ssl_context)
        port = server.sockets[0].getsockname()[1]
        stream, _ = await TlsTransport(DirectDialer(), "localhost", port, TRUSTING).connect()
        client = Recorder()
        stream.attach(client)
        await pour_in(stream, client)
        await arrives(client, total)
        assert client.received == pattern(0, total)
        stream.close()
        await hears_loss(client)
        server.close()
        await server.wait_closed()

    run(check())
