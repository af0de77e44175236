"""The near end of `wraith demo`: fetches a page through a SOCKS5 port, as a browser would."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from dataclasses import dataclass

from wraith.errors import WraithError

CHUNK = 256 << 10
MAX_HEAD = 8 << 10  # bytes of the answer's head


class FetchFailed(WraithError):
    """The page could not be fetched."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What arrived."""

    size: int
    sha256: str


async def fetch(socks_port: int, host: str, port: int) -> Fetched:
    """GET / from host and port through the SOCKS5 port on loopback. Raises FetchFailed."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", socks_port, limit=2 * CHUNK)
    except OSError as error:
        raise FetchFailed(f"the SOCKS port cannot be reached: {error.strerror or error}") from error
    try:
        await _ask_socks(reader, writer, host, port)
        writer.write(f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        return await _read_answer(reader)
    except asyncio.IncompleteReadError as error:
        raise FetchFailed("the connection ended early") from error
    except (OSError, asyncio.LimitOverrunError) as error:
        raise FetchFailed(f"the connection failed: {error}") from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _ask_socks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
    """Have the target opened (RFC 1928); it is named, never resolved here."""
    writer.write(b"\x05\x01\x00")  # version 5, one method: no authentication
    if await reader.readexactly(2) != b"\x05\x00":
        raise FetchFailed("the SOCKS port wants a password")
    name = host.encode("ascii")
    writer.write(b"\x05\x01\x00\x03" + bytes([len(name)]) + name + port.to_bytes(2, "big"))
    version, reply, _, kind = await reader.readexactly(4)
    if version != 5 or reply != 0:
        raise FetchFailed(f"the SOCKS port answered with error {reply}")
    length = {1: 4, 4: 16}.get(kind) or (await reader.readexactly(1))[0]
    await reader.readexactly(length + 2)  # the bound address and port, which say nothing to us


async def _read_answer(reader: asyncio.StreamReader) -> Fetched:
    head = await reader.readuntil(b"\r\n\r\n")
    if len(head) > MAX_HEAD or not head.startswith(b"HTTP/1.1 200 "):
        raise FetchFailed("the web server answered something else than a page")
    digest, size = hashlib.sha256(), 0
    while chunk := await reader.read(CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return Fetched(size, digest.hexdigest())
