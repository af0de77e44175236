"""Listening for a client: who may have what, what comes there, and that nothing stays when the session ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncssh
import psutil
import pytest
from asyncssh.constants import OPEN_CONNECT_FAILED
from asyncssh.packet import String, UInt32

from tests.conftest import Run
from tests.support.openers import Client
from tests.support.ssh_peers import (
    AUTHORIZED,
    USER_KEY,
    Served,
    Service,
    log_in,
    rogue_session,
    serving,
    session,
    until,
)
from wraith.specs import parse_permit_listen
from wraith.ssh.channel import open_forwarded_tcpip
from wraith.ssh.connection import BoundedClientConnection
from wraith.ssh.forward_requests import MAX_CLIENT_CHANNELS, ForwardedOpen
from wraith.ssh.key_files import public_line
from wraith.ssh.remote_listeners import MAX_LISTENERS
from wraith_transports import DuplexStream, memory_pair

OTHER_KEY = asyncssh.generate_private_key("ssh-ed25519")
BOTH = AUTHORIZED + (public_line(OTHER_KEY) + "\n").encode()
INSTANCE = bytes(range(16))


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


# Who may have what


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "", "*", "0.0.0.0", "::", "127.0.0.1"])
def test_without_gateway_ports_it_is_loopback_whatever_is_asked(run: Run, host: str) -> None:
    async def scenario() -> None:
        async with serving() as service, session(service) as (client, _):
            Echoes(client)
            port = await granted(client, host)
            assert listening(port)
            assert _addresses(port) <= {"127.0.0.1", "::1"}

    run(scenario())


def _addresses(port: int) -> set[str]:
    """Which addresses this process listens on with that port."""
    sockets = psutil.Process().net_connections("inet")
    return {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN and each.laddr.port == port}


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
            assert _addresses(port) <= expected
            assert _addresses(port)

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


def test_port_0_is_one_number_on_both_loopback_addresses(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as service, session(service) as (client, _):
            Echoes(client)
            port = await granted(client)
            assert port >= 1024
            assert listening(port)
            if _addresses(port) != {"127.0.0.1"}:
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
            contextlib.AsyncExitStack() as all_,
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
                await until(lambda: not _addresses(port), "the end of the listener")
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


def _sockets() -> int:
    """How many sockets this process has; libuv keeps descriptors of other kinds for itself."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(entry.readlink()).startswith("socket:")
    return count


def test_the_end_of_a_session_closes_its_listeners_and_what_came_by_them(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.sock"

    async def scenario() -> None:
        before = _sockets()
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
                await until(lambda: not any(_addresses(port) for port in ports), "the end of the listeners")
                assert not path.exists()
            async with second(service) as (again, _):
                assert [await ask(again, "localhost", port) for port in ports] == ports
            await until(lambda: _sockets() <= before, "every socket's end")

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
                await until(lambda port=port: not _addresses(port), "the end of the listener")  # type: ignore[misc]
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
