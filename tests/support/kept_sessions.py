"""A session keeper in the test's own process, and servers for it to lose and find."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import asyncssh

import wraith
from tests.support.openers import Client, until
from wraith.backoff import Backoff
from wraith.forward import LocalForward
from wraith.opening import DialingOpener
from wraith.options import ConnectOptions, ServeOptions
from wraith.remote_forwards import RemoteForwards
from wraith.session_keeper import SessionKeeper
from wraith.specs import ListenSpec, RemoteForwardSpec, TcpBind, TcpTarget, parse_local_forward
from wraith_transports.tcp import DirectDialer

USER_KEY = asyncssh.generate_private_key("ssh-ed25519")
STRANGER = asyncssh.generate_private_key("ssh-ed25519")
HOST_KEY = asyncssh.generate_private_key("ssh-ed25519")
OTHER_HOST_KEY = asyncssh.generate_private_key("ssh-ed25519")
QUICK = {"first_s": 0.01, "longest_s": 0.02, "refused_first_s": 0.01, "refused_longest_s": 0.02}
MEMORY_GROWTH = 6 << 20  # bytes that the allocator may take for what 50 sessions have left in it


def private(key: asyncssh.SSHKey) -> bytes:
    return bytes(key.export_private_key())


def server_on(port: int, *, host_key: asyncssh.SSHKey = HOST_KEY, user: asyncssh.SSHKey = USER_KEY) -> wraith.Server:
    return wraith.serve(
        ServeOptions(
            key=private(host_key),
            authorized_keys=user.export_public_key(),
            listen=(ListenSpec("127.0.0.1", port),),
        )
    )


def port_of(server: wraith.Server) -> int:
    return int(server.addresses[0].rpartition(":")[2])


def cut_sessions(server: wraith.Server) -> None:
    """Reset every connection, as a network does that forgets."""
    for _, link in list(server._connections.values()):
        link.reset()


def options_for(port: int, **more: Any) -> ConnectOptions:
    given: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": port,
        "identities": (private(USER_KEY),),
        "host_keys": (HOST_KEY.get_fingerprint(),),
    }
    return ConnectOptions(**(given | more))


@dataclass
class Kept:
    """A keeper that runs, and what it said of itself."""

    keeper: SessionKeeper
    running: asyncio.Task[None]
    ups: list[bool] = field(default_factory=list)

    async def up(self, times: int = 1) -> None:
        await until(lambda: len(self.ups) >= times or self.running.done())
        assert len(self.ups) >= times, self.running.exception()

    async def ended(self) -> BaseException | None:
        async with asyncio.timeout(10):
            await asyncio.wait([self.running])
        return self.running.exception()

    async def echoes(self, port: int, what: bytes = b"hello") -> None:
        """See that a connection is carried."""
        forward = LocalForward(parse_local_forward(f"127.0.0.1:0:127.0.0.1:{port}"), self.keeper)
        await forward.start()
        try:
            async with Client(forward.addresses()[0]) as client:
                client.send(what)
                assert await client.receive(len(what)) == what
        finally:
            await forward.aclose()


@contextlib.asynccontextmanager
async def kept(
    options: ConnectOptions, *, forwards: RemoteForwards | None = None, backoff: Backoff | None = None, **more: Any
) -> AsyncIterator[Kept]:
    ups: list[bool] = []
    keeper = SessionKeeper(options, forwards=forwards, up=ups.append, backoff=backoff or Backoff(**QUICK), **more)
    here = Kept(keeper, asyncio.create_task(keeper.run()), ups)
    try:
        yield here
    finally:
        here.running.cancel()
        await asyncio.wait([here.running])
        if forwards is not None:
            await forwards.aclose()


def remote(spec: RemoteForwardSpec, told: list[int], **more: Any) -> RemoteForwards:
    return RemoteForwards((spec,), DialingOpener(DirectDialer()), lambda _spec, port: told.append(port), **more)


def fill(port: int) -> RemoteForwardSpec:
    return RemoteForwardSpec(TcpBind("localhost", 0), TcpTarget("127.0.0.1", port))
