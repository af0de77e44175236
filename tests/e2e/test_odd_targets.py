"""Claims about targets that half-close, refuse, are not there or never answer, asked for through the SOCKS port."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.polling import LIMIT_S, eventually
from tests.support.processes import WraithClient, WraithServer
from tests.support.socks_client import dial, exactly, http_ask, socks4_ask, socks5_ask, through_socks5
from tests.support.targets import (
    Target,
    answer_after_end,
    cut_off,
    echo,
    end_first,
    never_answering,
    read_to_end,
    refusing,
    set_to_reset,
)
from tests.support.tunnel import Tunnel

DIAL_LIMIT_S = 10.0  # of the product; what a test allows beyond it is for a busy machine
SLACK_S = 8.0

GRANTED, FAILED, NOT_ALLOWED, UNREACHABLE, REFUSED = 0, 1, 2, 4, 5  # RFC 1928 6
SOCKS4_FAILED = 91

Question = Callable[[socket.socket, str, int], int]


@pytest.fixture(scope="module")
def echoing() -> Iterator[Target]:
    with Target(echo) as target:
        yield target


def carries(tunnel: Tunnel, target: Target) -> bool:
    """Whether the session still opens channels and carries bytes both ways."""
    with through_socks5(tunnel.client.socks_port, "127.0.0.1", target.port) as connection:
        connection.sendall(b"still there?")
        return exactly(connection, 12) == b"still there?"


def test_a_target_that_answers_only_after_our_end_of_stream_answers(tunnel: Tunnel) -> None:
    sent = hashlib.shake_128(b"up").digest(8 << 20)
    with (
        Target(answer_after_end) as target,
        through_socks5(tunnel.client.socks_port, "127.0.0.1", target.port) as connection,
    ):
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.decode() == f"{len(sent)} {hashlib.sha256(sent).hexdigest()}\n"


def test_a_target_that_ends_first_still_gets_what_we_send(tunnel: Tunnel) -> None:
    sent = hashlib.shake_128(b"after").digest(4 << 20)
    got: list[tuple[int, str]] = []

    def end_then_read(connection: socket.socket) -> None:
        connection.sendall(b"goodbye\n")
        connection.shutdown(socket.SHUT_WR)
        got.append(read_to_end(connection))

    with (
        Target(end_then_read) as target,
        through_socks5(tunnel.client.socks_port, "127.0.0.1", target.port) as connection,
    ):
        assert exactly(connection, 8) == b"goodbye\n"
        assert connection.recv(1) == b""
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        eventually(lambda: got, "the target has read to the end")
    assert got == [(len(sent), hashlib.sha256(sent).hexdigest())]


def test_a_half_close_passes_through_a_forward_and_http_connect(tmp_path: Path) -> None:
    with (
        Target(end_first) as ending,
        Target(answer_after_end) as answering,
        WraithServer(tmp_path) as server,
        WraithClient(
            server, "-D", "127.0.0.1:0", "-L", f"127.0.0.1:0:127.0.0.1:{ending.port}",
            "-L", f"127.0.0.1:0:127.0.0.1:{answering.port}",
        ) as client,
    ):  # fmt: skip
        with dial(client.forward_ports[0]) as connection:
            assert exactly(connection, 8) == b"goodbye\n"
            assert connection.recv(1) == b""
        with dial(client.forward_ports[1]) as connection:
            connection.sendall(b"abc")
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100).startswith(b"3 ")
        with dial(client.socks_port) as connection:
            assert http_ask(connection, "127.0.0.1", answering.port) == 200
            connection.sendall(b"abc")
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100).startswith(b"3 ")
        eventually(lambda: not ending.open_connections + answering.open_connections, "both ends are closed")


def test_a_target_that_resets_is_not_taken_for_one_that_ended(tunnel: Tunnel) -> None:
    with (
        Target(cut_off) as target,
        through_socks5(tunnel.client.socks_port, "127.0.0.1", target.port) as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        received = b""
        while not received.endswith(b"half a page"):
            received += connection.recv(4096)
        connection.sendall(b"!")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_a_client_that_resets_is_not_taken_for_one_that_ended(tunnel: Tunnel) -> None:
    ends: list[str] = []

    def note_the_end(connection: socket.socket) -> None:
        connection.settimeout(LIMIT_S)
        try:
            read_to_end(connection)
            ends.append("ended")
        except ConnectionResetError:
            ends.append("reset")

    with Target(note_the_end) as target:
        with through_socks5(tunnel.client.socks_port, "127.0.0.1", target.port) as connection:
            connection.sendall(b"half a file")
            set_to_reset(connection)
        eventually(lambda: ends, "the target has heard of it")
    assert ends == ["reset"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_refusal_is_told_as_a_refusal(host: str, tunnel: Tunnel, echoing: Target) -> None:
    with refusing("::1" if ":" in host else "127.0.0.1") as port:
        with dial(tunnel.client.socks_port) as connection:
            assert socks5_ask(connection, host, port) == REFUSED
            assert connection.recv(1) == b""
        with dial(tunnel.client.socks_port) as connection:
            assert socks4_ask(connection, host, port) == SOCKS4_FAILED
        with dial(tunnel.client.socks_port) as connection:
            assert http_ask(connection, host, port) == 502
    assert carries(tunnel, echoing)


def test_a_name_that_does_not_exist_is_told_as_unreachable(tunnel: Tunnel, echoing: Target) -> None:
    with dial(tunnel.client.socks_port) as connection:
        assert socks5_ask(connection, "name.invalid", 80) == UNREACHABLE
    with dial(tunnel.client.socks_port) as connection:
        assert socks4_ask(connection, "name.invalid", 80) == SOCKS4_FAILED
    with dial(tunnel.client.socks_port) as connection:
        assert http_ask(connection, "name.invalid", 80) == 502
    assert carries(tunnel, echoing)


@pytest.mark.parametrize("name", ["wraith-control", "Wraith-Control", "wraith-anything.", "wraith-a.example"])
def test_reserved_names_are_not_allowed(name: str, tunnel: Tunnel, echoing: Target) -> None:
    with dial(tunnel.client.socks_port) as connection:
        assert socks5_ask(connection, name, 1) == NOT_ALLOWED
    with dial(tunnel.client.socks_port) as connection:
        assert http_ask(connection, name, 1) == 403
    assert carries(tunnel, echoing)


def test_only_permitted_targets_are_opened_by_the_name_as_asked(tmp_path: Path, echoing: Target) -> None:
    with (
        WraithServer(tmp_path, "--permit-open", f"127.0.0.1:{echoing.port}") as server,
        WraithClient(server) as client,
    ):
        for host, port, expected in (
            ("127.0.0.1", echoing.port, GRANTED),
            ("127.0.0.1", echoing.port - 1, NOT_ALLOWED),
            ("localhost", echoing.port, NOT_ALLOWED),
        ):
            with dial(client.socks_port) as connection:
                assert socks5_ask(connection, host, port) == expected, (host, port)


def test_a_target_that_never_answers_is_given_up_and_holds_nobody_else(tunnel: Tunnel, echoing: Target) -> None:
    answers: dict[str, int] = {}
    before = tunnel.server.descriptors(), tunnel.client.descriptors()

    def ask(name: str, question: Question, connection: socket.socket) -> None:
        answers[name] = question(connection, "127.0.0.1", port)

    with never_answering() as port, contextlib.ExitStack() as stack:
        started = time.monotonic()
        threads = []
        for name, question in (("socks5", socks5_ask), ("socks4", socks4_ask), ("http", http_ask)):
            connection = stack.enter_context(dial(tunnel.client.socks_port, DIAL_LIMIT_S + SLACK_S))
            threads.append(threading.Thread(target=ask, args=(name, question, connection)))
            threads[-1].start()
        for _ in range(5):
            with dial(tunnel.client.socks_port) as leaving:
                leaving.sendall(b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01" + port.to_bytes(2, "big"))
                assert exactly(leaving, 2) == b"\x05\x00"
        assert carries(tunnel, echoing)
        assert not answers
        for thread in threads:
            thread.join(DIAL_LIMIT_S + SLACK_S)
        took = time.monotonic() - started
    assert answers == {"socks5": UNREACHABLE, "socks4": SOCKS4_FAILED, "http": 504}
    assert DIAL_LIMIT_S - 1 < took < DIAL_LIMIT_S + SLACK_S
    assert carries(tunnel, echoing)
    eventually(lambda: tunnel.server.descriptors() <= before[0], "the server has closed the sockets of all dials")
    eventually(lambda: tunnel.client.descriptors() <= before[1], "the client has closed the sockets of all who asked")
