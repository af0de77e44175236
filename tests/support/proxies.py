"""Proxies of our own that answer as they are told: slowly, wrongly, in any pieces."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter

GRANTED_SOCKS = b"\x05\x00\x00\x01" + bytes(6)
GRANTED_HTTP = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Kind(Enum):
    """The two protocols that proxies speak."""

    SOCKS = "socks5"
    HTTP = "http"


class Step(Enum):
    """Where in its answer a proxy is."""

    ACCEPTED = "accepted"
    GREETED = "greeted"  # SOCKS: after the client's list of methods; the same as ASKED for HTTP
    ASKED = "asked"


@dataclass
class Asked:
    """What a client wanted."""

    host: str = ""
    port: int = 0
    kind: int = 0  # SOCKS: the type of the address
    methods: bytes = b""
    credentials: tuple[bytes, bytes] | None = None


async def send(writer: Writer, data: bytes, piece: int = 0) -> None:
    """Send data, in pieces that are read one by one when the reader runs on the same loop."""
    for start in range(0, len(data), piece or max(len(data), 1)):
        writer.write(data[start : start + piece] if piece else data)
        await writer.drain()
        for _ in range(3 if piece else 0):
            await asyncio.sleep(0)


async def echo(reader: Reader, writer: Writer) -> None:
    """Be the target: send back everything, and end when the client has."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


@dataclass
class FakeProxy:
    """One proxy; call `talk` for each connection (with `openers.target`).

    `reply` is what follows the request, `banner` what the target says with it. With `credentials`
    a client without them is turned away. `stop_at` is where the proxy calls `stopping` instead of
    going on.
    """

    kind: Kind
    reply: bytes | None = None
    banner: bytes = b""
    piece: int = 0
    credentials: tuple[bytes, bytes] | None = None
    stop_at: Step | None = None
    stopping: Callable[[Reader, Writer], Awaitable[None]] | None = None
    then: Callable[[Reader, Writer], Awaitable[None]] = echo
    asked: list[Asked] = field(default_factory=list)
    accepted: int = 0
    gone: int = 0  # connections whose client has left

    async def talk(self, reader: Reader, writer: Writer) -> None:
        self.accepted += 1
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        asked = Asked()
        try:
            if await self._stops(Step.ACCEPTED, reader, writer):
                return
            hears = self._socks if self.kind is Kind.SOCKS else self._http
            if not await hears(asked, reader, writer) or await self._stops(Step.ASKED, reader, writer):
                return
            granted = GRANTED_SOCKS if self.kind is Kind.SOCKS else GRANTED_HTTP
            reply = granted if self.reply is None else self.reply
            await send(writer, reply + self.banner, self.piece)
            await self.then(reader, writer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            self.gone += 1

    async def _stops(self, step: Step, reader: Reader, writer: Writer) -> bool:
        if self.stop_at is not step:
            return False
        assert self.stopping is not None
        await self.stopping(reader, writer)
        return True

    async def _socks(self, asked: Asked, reader: Reader, writer: Writer) -> bool:
        version, count = await reader.readexactly(2)
        assert version == 5
        asked.methods = await reader.readexactly(count)
        if await self._stops(Step.GREETED, reader, writer):
            return False
        if self.credentials is None:
            await send(writer, b"\x05\x00", self.piece)
        elif 2 not in asked.methods:
            await send(writer, b"\x05\xff", self.piece)
            return False
        else:
            await send(writer, b"\x05\x02", self.piece)
            assert await reader.readexactly(1) == b"\x01"
            user = await reader.readexactly((await reader.readexactly(1))[0])
            password = await reader.readexactly((await reader.readexactly(1))[0])
            asked.credentials = (user, password)
            right = asked.credentials == self.credentials
            await send(writer, b"\x01\x00" if right else b"\x01\x01", self.piece)
            if not right:
                return False
        version, command, _, asked.kind = await reader.readexactly(4)
        assert (version, command) == (5, 1)
        if asked.kind == 3:
            asked.host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            family, size = (socket.AF_INET, 4) if asked.kind == 1 else (socket.AF_INET6, 16)
            asked.host = socket.inet_ntop(family, await reader.readexactly(size))
        asked.port = int.from_bytes(await reader.readexactly(2))
        self.asked.append(asked)
        return True

    async def _http(self, asked: Asked, reader: Reader, writer: Writer) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, version = head[0].split(" ")
        assert (method, version) == ("CONNECT", "HTTP/1.1")
        fields = dict(line.split(": ", 1) for line in head[1:] if line)
        assert fields["Host"] == target
        asked.host, _, port = target.rpartition(":")
        asked.port = int(port)
        if "Proxy-Authorization" in fields:
            user, _, password = base64.b64decode(fields["Proxy-Authorization"].removeprefix("Basic ")).partition(b":")
            asked.credentials = (user, password)
        self.asked.append(asked)
        if await self._stops(Step.GREETED, reader, writer):
            return False
        if self.credentials is not None and asked.credentials != self.credentials:
            await send(writer, b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", self.piece)
            return False
        return True


async def silence(reader: Reader, writer: Writer) -> None:
    """Say nothing until the client leaves."""
    del writer
    await reader.read()


async def hang_up(reader: Reader, writer: Writer) -> None:
    """End without a word."""
    del reader
    writer.close()


async def reset(reader: Reader, writer: Writer) -> None:
    """Break the connection off."""
    del reader
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes((1, 0, 0, 0, 0, 0, 0, 0)))
    writer.transport.abort()
