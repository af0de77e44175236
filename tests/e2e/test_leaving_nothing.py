"""Claims about what many connections leave behind in a server and a client: nothing."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.loops import LOOPS
from tests.support.polling import eventually
from tests.support.processes import WraithClient, WraithServer
from tests.support.socks_client import dial, exactly, socks5_ask, through_socks5
from tests.support.stock_servers import Nginx
from tests.support.targets import Target, echo, end_first, refusing, set_to_reset
from tests.support.tunnel import TRANSPORTS
from wraith.options import MAX_CHANNELS, MAX_SESSIONS

WARM_UP = 100  # connections that fill what is allocated once: pools, caches, imports
CONNECTIONS = MAX_CHANNELS + 100  # a forgotten one for each, and the session has no room for the last
AT_ONCE = 20
GROWTH = 8 << 20  # bytes

BLOCK = bytes(range(256)) * 64


@pytest.mark.parametrize(
    ("transport", "loop"), [(TRANSPORTS[0], LOOPS[0]), (TRANSPORTS[0], LOOPS[-1]), (TRANSPORTS[1], LOOPS[-1])]
)
def test_a_thousand_connections_leave_no_channel_no_descriptor_and_no_memory(
    transport: str, loop: str, tmp_path: Path, nginx: Nginx
) -> None:
    with (
        Target(echo) as echoing,
        Target(end_first) as ending,
        refusing() as closed_port,
        WraithServer(tmp_path, transport=transport, loop=loop) as server,
        WraithClient(server, loop=loop) as client,
    ):
        processes = (server, client)

        def end_properly(connection: socket.socket) -> None:
            connection.sendall(BLOCK)
            assert exactly(connection, len(BLOCK)) == BLOCK
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""

        def leave_with_data_on_the_way(connection: socket.socket) -> None:
            connection.sendall(BLOCK * 16)

        def reset(connection: socket.socket) -> None:
            connection.sendall(BLOCK)
            set_to_reset(connection)

        def be_left(connection: socket.socket) -> None:
            assert exactly(connection, 8) == b"goodbye\n"
            assert connection.recv(1) == b""

        kinds: list[tuple[Target, Callable[[socket.socket], None]]] = [
            (echoing, end_properly),
            (echoing, leave_with_data_on_the_way),
            (echoing, reset),
            (ending, be_left),
        ]

        def make(number: int) -> None:
            for start in range(0, number, AT_ONCE):
                with contextlib.ExitStack() as stack:
                    opened = []
                    for index in range(start, start + AT_ONCE):
                        target, use = kinds[index % len(kinds)]
                        connection = through_socks5(client.socks_port, "127.0.0.1", target.port)
                        opened.append((stack.enter_context(connection), use))
                    for connection, use in opened:
                        use(connection)
                with dial(client.socks_port) as refused:
                    assert socks5_ask(refused, "127.0.0.1", closed_port) != 0

        def settled(descriptors: list[int]) -> None:
            eventually(lambda: not echoing.open_connections + ending.open_connections, "the targets are left")
            eventually(
                lambda: [each.descriptors() for each in processes] == descriptors,
                f"descriptors are {descriptors} again, {[each.descriptors() for each in processes]} now",
            )

        at_first = [each.descriptors() for each in processes]
        make(WARM_UP)
        settled(at_first)
        before = [each.rss() for each in processes]
        make(CONNECTIONS)
        settled(at_first)
        grown = [each.rss() - earlier for each, earlier in zip(processes, before, strict=True)]
        assert max(grown) < GROWTH, f"server and client grew by {[each >> 10 for each in grown]} KiB"

        end_properly(through := through_socks5(client.socks_port, "127.0.0.1", echoing.port))
        through.close()
        print(f"server and client grew by {[each >> 10 for each in grown]} KiB")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_thousand_visitors_leave_the_server_room_for_sessions_which_leave_no_descriptor(
    transport: str, tmp_path: Path
) -> None:
    with WraithServer(tmp_path, transport=transport) as server:
        with WraithClient(server):
            pass  # the first session opens what the event loop keeps
        server.eventually_logs("connection closed")
        before = server.descriptors()
        for number in range(MAX_SESSIONS + 50):  # a forgotten one for each, and there is no room for a session
            with dial(server.port) as connection:
                if number % 2:
                    connection.sendall(b"SSH-2.0-scanner\r\n")
        eventually(lambda: server.descriptors() <= before, "the server has closed every visitor's connection")
        with contextlib.ExitStack() as stack:
            clients = [WraithClient(server, "--no-socks5") for _ in range(10)]
            for client in clients:
                stack.callback(client.end)
                client.start()
            for client in clients:
                client.wait_ready()
            assert server.descriptors() >= before + len(clients)
        eventually(lambda: server.descriptors() <= before, "the server has closed every session's connection")
