"""Whose a remote port is, and that nothing of it stays when the session ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncssh
import pytest
from asyncssh.packet import String, UInt32

from tests.conftest import Run
from tests.support.openers import Client
from tests.support.remote_ports import Echoes, addresses, ask, ask_path, free, granted, listening, second, sockets
from tests.support.ssh_peers import (
    AUTHORIZED,
    Served,
    serving,
    session,
    until,
)
from tests.support.ssh_rogues import rogue_session
from wraith.specs import parse_permit_listen
from wraith.ssh.channel import open_forwarded_tcpip
from wraith.ssh.forward_requests import MAX_CLIENT_CHANNELS, ForwardedOpen
from wraith.ssh.key_files import public_line
from wraith_transports import DuplexStream

OTHER_KEY = asyncssh.generate_private_key("ssh-ed25519")
BOTH = AUTHORIZED + (public_line(OTHER_KEY) + "\n").encode()
INSTANCE = bytes(range(16))


# Whose a place is


def test_another_key_does_not_get_a_held_port_under_any_name(run: Run) -> None:
    async def scenario() -> None:
        async with serving(authorized=BOTH, gateway_ports=True) as service, session(service) as (client, served):
            port = await granted(client)
            async with second(service, OTHER_KEY) as (other, _):
                for host in ("localhost", "127.0.0.1", "::1", "", "*", "0.0.0.0"):
                    assert await ask(other, host, port) is None
            assert not served.over

    run(scenario())


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", ""])
def test_the_same_process_gets_its_port_at_once_under_any_name(run: Run, host: str) -> None:
    async def scenario() -> None:
        async with serving(gateway_ports=True) as service, session(service) as (client, served):
            assert await client.request(b"instance@wraith", String(INSTANCE)) is not None
            port = await granted(client)
            async with second(service) as (again, _):
                assert await again.request(b"instance@wraith", String(INSTANCE)) is not None
                assert await ask(again, host, port) == port
                await until(lambda: served.over, "the end of the older session")
                Echoes(again)
                async with Client(f"127.0.0.1:{port}") as local:
                    local.send(b"x")
                    assert await local.receive(1) == b"x"

    run(scenario())


def test_a_live_session_keeps_its_port_and_the_refusal_says_since_when(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as service, session(service) as (client, served):
            port = await granted(client)
            async with second(service) as (again, _):
                said: list[str] = []
                owner = again.get_owner()
                assert owner is not None
                owner.debug_msg_received = lambda msg, lang, always_display: said.append(msg)  # type: ignore[method-assign]
                assert await ask(again, "localhost", port) is None
                assert any("held by another session of this key since " in each for each in said)
            assert not served.over
            assert listening(port)

    run(scenario())


def test_an_instance_is_named_once_and_is_16_bytes(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as service, session(service) as (client, _):
            for wrong in (b"", bytes(15), bytes(17)):
                assert await client.request(b"instance@wraith", String(wrong)) is None
            assert await client.request(b"instance@wraith", String(INSTANCE)) is not None
            assert await client.request(b"instance@wraith", String(INSTANCE)) is None

    run(scenario())


# The end


def test_the_end_of_a_session_closes_its_listeners_and_what_came_by_them(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.sock"

    async def scenario() -> None:
        before = sockets()
        async with serving(permit_listen=parse_permit_listen([str(path), "*:*"])) as service:
            async with contextlib.AsyncExitStack() as left:
                async with session(service) as (client, _):
                    Echoes(client)
                    ports = [await granted(client) for _ in range(5)]
                    assert await ask_path(client, path)
                    locals_ = [await left.enter_async_context(Client(f"127.0.0.1:{port}")) for port in ports]
                    for local in locals_:
                        local.send(b"x")
                        assert await local.receive(1) == b"x"
                for local in locals_:
                    with pytest.raises(ConnectionResetError):
                        await local.rest()
                await until(lambda: not any(addresses(port) for port in ports), "the end of the listeners")
                assert not path.exists()
            async with second(service) as (again, _):
                assert [await ask(again, "localhost", port) for port in ports] == ports
            await until(lambda: sockets() <= before, "every socket's end")

    run(scenario())


def test_a_session_that_ends_while_it_asks_leaves_nothing(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as service:
            for turns in range(6):
                async with rogue_session(service) as (rogue, served):
                    port = free()
                    rogue.send(80, String(b"tcpip-forward"), b"\1", String("localhost"), UInt32(port))
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    served.connection.abort()
                await until(lambda port=port: not addresses(port), "the end of the listener")  # type: ignore[misc]
                async with second(service) as (again, _):
                    assert await ask(again, "localhost", port) == port

    run(scenario())


# The client's side


def test_a_client_that_asked_for_nothing_takes_nothing_and_one_that_did_so_much(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as service, session(service) as (client, served):
            hanging: list[asyncio.Future[None]] = []

            async def hang(_: ForwardedOpen) -> Callable[[DuplexStream], None]:
                hanging.append(asyncio.get_running_loop().create_future())
                await hanging[-1]
                raise AssertionError

            client.bounds.forwarded = hang
            opens = [_open(served, number) for number in range(MAX_CLIENT_CHANNELS + 3)]
            tasks = [asyncio.ensure_future(each) for each in opens]
            await until(lambda: sum(task.done() for task in tasks) == 3, "the refusals")
            assert len(hanging) == MAX_CLIENT_CHANNELS
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    run(scenario())


def _open(served: Served, number: int) -> Awaitable[object]:
    return open_forwarded_tcpip(served.connection, "localhost", 1, ("127.0.0.1", number))
