"""Claims about how `wraith serve` and `wraith connect` end: by a signal, or because an address is taken."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.support.polling import LIMIT_S, eventually
from tests.support.processes import WRAITH, Process, WraithClient, WraithServer, make_key, wraith
from tests.support.socks_client import exactly, through_socks5
from tests.support.stock_servers import accepts, free_port
from tests.support.targets import Target, echo, read_to_end, send_for_ever
from tests.support.tools import need
from tests.support.tunnel import TRANSPORTS
from wraith.errors import ExitCode

CURL_RECEIVE_ERROR = 56
STOP_S = 3.0  # 2 s of the product, and the interpreter's own end

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Busy:
    """A tunnel in the middle of three transfers that have no end."""

    server: WraithServer
    client: WraithClient
    target: Target
    transfers: list[Process]


@contextlib.contextmanager
def busy(tmp_path: Path, transport: str, loop: str = "uvloop") -> Iterator[Busy]:
    (curl,) = need("curl")
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(Target(send_for_ever))
        server = stack.enter_context(WraithServer(tmp_path, transport=transport, loop=loop))
        client = stack.enter_context(WraithClient(server, loop=loop))
        transfers = []
        for number in range(3):
            page = tmp_path / f"page-{number}"
            # The rate is curl's doing, so that data waits on the whole way.
            argv: list[str | Path] = [curl, "-sS", "--proxy", client.socks5h, "--limit-rate", "8M", "-o", page]
            argv.append(f"http://127.0.0.1:{target.port}/")
            transfers.append(stack.enter_context(Process(argv, tmp_path / f"curl-{number}", name="curl")))
            eventually(partial(_has_bytes, page), "the transfer has begun")
        yield Busy(server, client, target, transfers)


def _has_bytes(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def stop(process: Process, number: signal.Signals) -> float:
    started = time.monotonic()
    assert process.stop(number) == ExitCode.DONE
    return time.monotonic() - started


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_signal_ends_the_client_within_3_s_in_mid_transfer(
    transport: str, number: signal.Signals, tmp_path: Path
) -> None:
    with busy(tmp_path, transport) as here:
        port, pid = here.client.socks_port, here.client.pid
        said = here.client.log()
        assert stop(here.client, number) < STOP_S
        assert here.client.log() == said
        assert not accepts(port)
        assert not psutil.pid_exists(pid)
        for transfer in here.transfers:
            assert transfer.wait() == CURL_RECEIVE_ERROR  # what was cut off is not taken for the whole
        eventually(lambda: here.target.open_connections == 0, "the server has let the targets go")
        here.server.eventually_logs("connection closed")
        assert "Traceback" not in here.server.log()
        with WraithClient(here.server) as next_client:
            assert next_client.socks_port


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_signal_ends_the_server_within_3_s_in_mid_transfer(
    transport: str, number: signal.Signals, tmp_path: Path
) -> None:
    with busy(tmp_path, transport) as here:
        said = here.client.log()
        assert stop(here.server, number) < STOP_S
        assert not accepts(here.server.port)
        assert "Traceback" not in here.server.log()
        for transfer in here.transfers:
            assert transfer.wait() == CURL_RECEIVE_ERROR  # what was cut off is not taken for the whole
        eventually(lambda: here.target.open_connections == 0, "the server has let the targets go")
        assert here.client.wait(STOP_S) == ExitCode.FAILED  # nobody asked the client to end
        (line,) = here.client.log().removeprefix(said).splitlines()
        assert line.startswith("wraith: ")
        assert "lost" in line


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_that_dies_ends_the_client_and_cuts_its_transfers_off(transport: str, tmp_path: Path) -> None:
    with busy(tmp_path, transport) as here:
        said = here.client.log()
        here.server.stop(signal.SIGKILL)
        assert here.client.wait(STOP_S) == ExitCode.FAILED
        assert here.client.log().removeprefix(said).count("\n") == 1
        for transfer in here.transfers:
            assert transfer.wait() == CURL_RECEIVE_ERROR


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_an_idle_tunnel_without_another_word(number: signal.Signals, tmp_path: Path) -> None:
    with WraithServer(tmp_path) as server:
        with WraithClient(server) as client:
            said = client.log()
            assert stop(client, number) < STOP_S
            assert client.log() == said
        server.eventually_logs("connection closed")
        said = server.log()
        assert stop(server, number) < STOP_S
        assert server.log() == said


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_client_that_waits_for_a_silent_server(number: signal.Signals, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, contextlib.ExitStack() as stack:
        silent.settimeout(LIMIT_S)
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        argv: list[str | Path] = [*WRAITH, "connect", target, "-i", make_key(tmp_path / "key"), "-D", "127.0.0.1:0"]
        with Process(argv, tmp_path / "client", name="connect") as client:
            connection = stack.enter_context(silent.accept()[0])
            assert stop(client, number) < STOP_S
            assert client.log() == ""
            connection.settimeout(LIMIT_S)
            with contextlib.suppress(ConnectionResetError):
                read_to_end(connection)  # one way or the other the client's socket is closed


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_second_server_on_the_port_says_so_in_one_line(transport: str, tmp_path: Path) -> None:
    with WraithServer(tmp_path, transport=transport) as server:
        listen = f"{transport}://127.0.0.1:{server.port}"
        second = wraith("serve", "--listen", listen, folder=tmp_path / "second")
        assert second.code == ExitCode.ADDRESS_UNAVAILABLE
        assert str(server.port) in second.one_line()
        assert "--listen" in second.one_line()
        assert server.running
        with WraithClient(server):
            pass


def test_a_server_that_cannot_bind_one_of_its_addresses_binds_none(tmp_path: Path) -> None:
    free = free_port()
    with Target(echo) as taken:
        flags = ("--listen", f"127.0.0.1:{free}", "--listen", f"tls://127.0.0.1:{taken.port}")
        done = wraith("serve", *flags, folder=tmp_path)
    assert done.code == ExitCode.ADDRESS_UNAVAILABLE
    assert str(taken.port) in done.one_line()
    assert not accepts(free)


@pytest.mark.parametrize("flag", ["-D", "-L"])
def test_a_busy_local_port_ends_the_client_before_it_dials(flag: str, tmp_path: Path) -> None:
    with Target(echo) as busy_port, Target(echo) as server:
        value = f"127.0.0.1:{busy_port.port}" + (":localhost:80" if flag == "-L" else "")
        key = make_key(tmp_path / "key")
        done = wraith("connect", f"127.0.0.1:{server.port}", "-i", key, flag, value, folder=tmp_path / "client")
        assert done.code == ExitCode.ADDRESS_UNAVAILABLE
        assert str(busy_port.port) in done.one_line()
        assert flag in done.one_line()
        assert server.accepted == 0


def test_a_second_client_leaves_the_first_alone(tmp_path: Path) -> None:
    with Target(echo) as target, WraithServer(tmp_path) as server, WraithClient(server) as first:
        bind = f"127.0.0.1:{first.socks_port}"
        second = wraith("connect", *server.reached_by, "-D", bind, folder=tmp_path / "second")
        assert second.code == ExitCode.ADDRESS_UNAVAILABLE
        second.one_line()
        with through_socks5(first.socks_port, "127.0.0.1", target.port) as connection:
            connection.sendall(b"first")
            assert exactly(connection, 5) == b"first"
