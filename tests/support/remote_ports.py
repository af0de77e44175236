"""Asks a server over memory to listen, and takes what comes there."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncssh
import psutil
from asyncssh.packet import String, UInt32

from tests.support.ssh_peers import (
    USER_KEY,
    Served,
    Service,
    log_in,
    until,
)
from wraith.ssh.connection import BoundedClientConnection
from wraith.ssh.forward_requests import ForwardedOpen
from wraith_transports import DuplexStream, memory_pair


async def ask(client: BoundedClientConnection, host: str, port: int) -> int | None:
    """Ask to listen on a TCP address; the port, or None when refused."""
    answer = await client.request(b"tcpip-forward", String(host), UInt32(port))
    if answer is None:
        return None
    return int.from_bytes(answer, "big") if port == 0 else port


async def granted(client: BoundedClientConnection, host: str = "localhost", port: int = 0) -> int:
    got = await ask(client, host, port)
    assert got is not None
    return got


async def ask_path(client: BoundedClientConnection, path: Path | str) -> bool:
    return await client.request(b"streamlocal-forward@openssh.com", String(str(path))) is not None


def listening(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as asking:
        asking.settimeout(5)
        return asking.connect_ex((host, port)) == 0


def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextlib.asynccontextmanager
async def second(
    service: Service, key: asyncssh.SSHKey = USER_KEY
) -> AsyncIterator[tuple[BoundedClientConnection, Served]]:
    """Log in once more."""
    near, far = memory_pair()
    served = service.accept(far)
    client = await log_in(near, keys=[key])
    try:
        yield client, served
    finally:
        client.abort()
        await until(lambda: served.over, "end of the session")


class Echoes:
    """Takes what comes to remote forwards and sends it back."""

    def __init__(self, client: BoundedClientConnection) -> None:
        self.requests: list[ForwardedOpen] = []
        client.bounds.forwarded = self

    async def __call__(self, request: ForwardedOpen) -> Callable[[DuplexStream], None]:
        self.requests.append(request)
        return lambda channel: channel.attach(_Echo(channel))


class _Echo(asyncio.Protocol):
    def __init__(self, stream: DuplexStream) -> None:
        self.stream = stream

    def data_received(self, data: bytes) -> None:
        self.stream.write(data)

    def eof_received(self) -> bool:
        self.stream.write_eof()
        return True


def addresses(port: int) -> set[str]:
    """Which addresses this process listens on with that port."""
    sockets = psutil.Process().net_connections("inet")
    return {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN and each.laddr.port == port}


def sockets() -> int:
    """How many sockets this process has; libuv keeps descriptors of other kinds for itself."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(entry.readlink()).startswith("socket:")
    return count
