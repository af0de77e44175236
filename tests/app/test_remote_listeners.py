"""Listening for a client: who may have what, and what comes there."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import asyncssh
import pytest
from asyncssh.constants import OPEN_CONNECT_FAILED
from asyncssh.packet import String, UInt32

from tests.conftest import Run
from tests.support.openers import Client
from tests.support.remote_ports import Echoes, addresses, ask, ask_path, free, granted, listening
from tests.support.ssh_peers import (
    serving,
    session,
    until,
)
from wraith.specs import parse_permit_listen
from wraith.ssh.forward_requests import ForwardedOpen
from wraith.ssh.remote_listeners import MAX_LISTENERS
from wraith_transports import DuplexStream

# Who may have what


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "", "*", "0.0.0.0", "::", "127.0.0.1"])
def test_without_gateway_ports_it_is_loopback_whatever_is_asked(run: Run, host: str) -> None:
    async def scenario() -> None:
        async with serving() as service, session(service) as (client, _):
            Echoes(client)
            port = await granted(client, host)
            assert listening(port)
            assert addresses(port) <= {"127.0.0.1", "::1"}

    run(scenario())


@pytest.mark.parametrize(
    "host",
    ["192.0.2.1", "127.0.0.2", "2001:db8::1", "host.example", "x" * 300, "a\0b", "é", "127.0.0.1 ", "0"],
)
def test_without_gateway_ports_a_particular_other_address_is_refused(run: Run, host: str) -> None:
    async def scenario() -> None:
        async with serving() as service, session(service) as (client, _):
            assert await ask(client, host, 0) is None
            assert await granted(client)

    run(scenario())


@pytest.mark.parametrize(("host", "expected"), [("", {"0.0.0.0", "::"}), ("127.0.0.1", {"127.0.0.1"})])
def test_with_gateway_ports_it_is_what_is_asked(run: Run, host: str, expected: set[str]) -> None:
    async def scenario() -> None:
        async with serving(gateway_ports=True) as service, session(service) as (client, _):
            port = await granted(client, host)
            assert addresses(port) <= expected
            assert addresses(port)

    run(scenario())


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "x" * 300, "a\0b", "é", "a..b", "%", "fe80::1%nowhere"])
def test_with_gateway_ports_an_address_that_is_not_here_is_refused_and_the_session_goes_on(
    run: Run, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with serving(gateway_ports=True) as service, session(service) as (client, _):
            assert await ask(client, host, 0) is None
            assert await granted(client)

    run(scenario())
    assert not [record for record in caplog.records if record.exc_info], "a stranger's words are no fault of ours"


@pytest.mark.parametrize("port", [1, 22, 80, 443, 1023])
def test_privileged_ports_are_refused_without_asking_the_system(run: Run, port: int) -> None:
    async def scenario() -> None:
        async with serving() as service, session(service) as (client, _):
            assert await ask(client, "localhost", port) is None

    run(scenario())


def test_a_list_of_ports_is_all_there_is(run: Run) -> None:
    listed, other = free(), free()

    async def scenario() -> None:
        permit = parse_permit_listen([f"localhost:{listed}"])
        async with serving(permit_listen=permit) as service, session(service) as (client, _):
            assert await ask(client, "localhost", other) is None
            assert await ask(client, "127.0.0.1", listed) is None
            assert await ask(client, "localhost", 0) is None
            assert await ask(client, "localhost", listed) == listed

    run(scenario())


def test_a_busy_port_is_refused_and_can_be_had_later(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as service, session(service) as (client, _):
            with socket.create_server(("127.0.0.1", 0)) as busy:
                port = busy.getsockname()[1]
                assert await ask(client, "localhost", port) is None
            assert await ask(client, "localhost", port) == port

    run(scenario())


def test_port_0_is_one_number_on_both_loopbackaddresses(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as service, session(service) as (client, _):
            Echoes(client)
            port = await granted(client)
            assert port >= 1024
            assert listening(port)
            if addresses(port) != {"127.0.0.1"}:
                assert listening(port, "::1")

    run(scenario())


def test_a_session_listens_on_so_many_addresses_and_no_more(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as service, session(service) as (client, _):
            ports = [await granted(client, "127.0.0.1") for _ in range(MAX_LISTENERS)]
            assert await ask(client, "127.0.0.1", 0) is None
            assert await client.request(b"cancel-tcpip-forward", String("127.0.0.1"), UInt32(ports[0])) is not None
            assert await granted(client, "127.0.0.1")

    run(scenario())


# What comes there


def test_a_connection_becomes_a_channel_that_names_what_was_asked_and_who_came(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as service, session(service) as (client, _):
            echoes = Echoes(client)
            port = await granted(client)
            async with Client(f"127.0.0.1:{port}") as local:
                local.send(b"hello")
                local.writer.write_eof()
                assert await local.rest() == b"hello"
                host, origin_port = local.writer.get_extra_info("sockname")
            (request,) = echoes.requests
            assert str(request.listener) == f"localhost:{port}"
            assert request.origin == (host, origin_port)

    run(scenario())


def test_what_was_asked_is_named_as_it_was_asked(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as service, session(service) as (client, _):
            echoes = Echoes(client)
            port = await granted(client, "")
            async with Client(f"127.0.0.1:{port}") as local:
                local.send(b"x")
                assert await local.receive(1) == b"x"
            assert (echoes.requests[0].listener.host, port) == ("", port)  # type: ignore[union-attr]

    run(scenario())


@pytest.mark.parametrize("refuses", ["nobody", "refusal", "fault"])
def test_a_connection_the_client_does_not_take_is_reset_and_the_session_goes_on(run: Run, refuses: str) -> None:
    async def refuse(_: ForwardedOpen) -> Callable[[DuplexStream], None]:
        if refuses == "fault":
            raise ZeroDivisionError
        raise asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, "no")

    async def scenario() -> None:
        async with serving() as service, session(service) as (client, served):
            client.bounds.forwarded = None if refuses == "nobody" else refuse
            port = await granted(client)
            async with Client(f"127.0.0.1:{port}") as local:
                with pytest.raises(ConnectionResetError):
                    await local.rest()
            assert not client.channels
            assert not served.channels
            Echoes(client)
            async with Client(f"127.0.0.1:{port}") as local:
                local.send(b"x")
                assert await local.receive(1) == b"x"

    run(scenario())


def test_connections_count_as_channels(run: Run) -> None:
    async def scenario() -> None:
        async with (
            serving(max_channels=2) as service,
            session(service) as (client, _),
            contextlib.AsyncExitStack() as stack,
        ):
            Echoes(client)
            port = await granted(client)
            for _ in range(2):
                local = await stack.enter_async_context(Client(f"127.0.0.1:{port}"))
                local.send(b"x")
                assert await local.receive(1) == b"x"
            third = await stack.enter_async_context(Client(f"127.0.0.1:{port}"))
            with pytest.raises(ConnectionResetError):
                await third.rest()

    run(scenario())


def test_after_a_cancel_nothing_listens_and_connections_live_on(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as service, session(service) as (client, _):
            Echoes(client)
            port = await granted(client)
            async with Client(f"127.0.0.1:{port}") as local:
                local.send(b"x")
                assert await local.receive(1) == b"x"
                assert await client.request(b"cancel-tcpip-forward", String("localhost"), UInt32(port)) is not None
                await until(lambda: not addresses(port), "the end of the listener")
                local.send(b"y")
                assert await local.receive(1) == b"y"
            assert await client.request(b"cancel-tcpip-forward", String("localhost"), UInt32(port)) is None
            assert await ask(client, "localhost", port) == port

    run(scenario())


# Unix sockets


def test_a_unix_socket_is_made_where_it_is_listed_for_the_owner_alone_and_removed(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.sock"

    async def scenario() -> None:
        async with serving(permit_listen=parse_permit_listen([str(path)])) as service:
            async with session(service) as (client, _):
                echoes = Echoes(client)
                assert await ask_path(client, path)
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                async with Client(str(path)) as local:
                    local.send(b"x")
                    assert await local.receive(1) == b"x"
                assert str(echoes.requests[0].listener) == str(path)
                assert not await ask_path(client, path)
                assert not await ask_path(client, tmp_path / "b.sock")
                assert not await ask_path(client, f"{tmp_path}/./a.sock")
            await until(lambda: not path.exists(), "the end of the socket")
            async with session(service) as (client, _):
                assert await ask_path(client, path)
                assert await client.request(b"cancel-streamlocal-forward@openssh.com", String(str(path))) is not None
                assert not path.exists()

    run(scenario())


@pytest.mark.parametrize("kind", ["file", "dead socket", "folder", "link"])
def test_an_existing_file_is_never_replaced(run: Run, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.sock"
    match kind:
        case "file":
            path.write_text("precious")
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(tmp_path / "elsewhere")
        case _:
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(path))
    before = path.lstat()

    async def scenario() -> None:
        async with serving(permit_listen=parse_permit_listen([str(path)])) as service, session(service) as (client, _):
            assert not await ask_path(client, path)

    run(scenario())
    assert os.path.samestat(before, path.lstat())
    assert not (tmp_path / "elsewhere").exists()
