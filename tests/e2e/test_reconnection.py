"""Claims about a client whose server goes and comes back: what stays, how long it takes, and what is the end."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.openssh import SshAgent
from tests.support.polling import LIMIT_S, eventually
from tests.support.processes import WRAITH, Process, WraithClient, WraithServer, environment, make_key
from tests.support.refusals import refusal
from tests.support.socks_client import dial, exactly, http_ask, socks5_ask, through_socks5
from tests.support.stock_servers import accepts, free_port
from tests.support.targets import Target, echo
from wraith.errors import ExitCode

BACK = "the session is back"
SOCKS_FAILURE = 0x01
SERVICE_UNAVAILABLE = 503
WAIT_S = 10.0  # that a new connection waits for a session
NOTICE_S = 3.0  # for a connection that the kernel ends
BACK_S = 10.0  # the first delays are 1, 2 and 4 s; here the server is back within 2


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WraithServer]:
    """A server on a port that it will have again."""
    with WraithServer(tmp_path, listen=f"127.0.0.1:{free_port()}") as server:
        yield server


@pytest.fixture
def repeater() -> Iterator[Target]:
    with Target(echo) as target:
        yield target


def restart(server: WraithServer) -> None:
    """Start it again, on the same port."""
    server.start()
    server.wait_ready()


def allocated(client: WraithClient) -> list[int]:
    """Give the ports that the server chose, in the order in which they were told."""
    return [int(port) for port in re.findall(r"Allocated port (\d+) for remote forward", client.log())]


def carries(connection: socket.socket) -> None:
    connection.sendall(b"still there")
    assert exactly(connection, 11) == b"still there"


def through_remote(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as connection:
        carries(connection)


def went(client: Process, pattern: str, began: float) -> float:
    """Wait for a line of its log; after how long it was written."""
    client.eventually_logs(pattern)
    return time.monotonic() - began


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_all_that_was_there_is_there_again_after_a_server_was_killed(
    transport: str, repeater: Target, tmp_path: Path
) -> None:
    flags = ("-L", f"0:127.0.0.1:{repeater.port}", "-R", f"0:127.0.0.1:{repeater.port}")
    with (
        WraithServer(tmp_path, transport=transport, listen=f"127.0.0.1:{free_port()}") as server,
        WraithClient(server, *flags, stays=True) as client,
    ):
        (remote_port,) = allocated(client)
        through_remote(remote_port)
        listening = client.listening()
        began = time.monotonic()
        server.stop(signal.SIGKILL)
        noticed = went(client, r"WARN session lost reason=", began)
        assert noticed < NOTICE_S
        # While nobody is there its listeners are, and who comes waits.
        assert client.listening() == listening
        with ThreadPoolExecutor() as pool:
            early = pool.submit(through_socks5, client.socks_port, "127.0.0.1", repeater.port)
            began = time.monotonic()
            restart(server)
            back = went(client, BACK, began)
            with early.result(LIMIT_S) as connection:
                carries(connection)
        print(f"{transport}: noticed after {noticed:.2f} s, back {back:.2f} s after the start of the server")
        assert back < BACK_S
        assert client.listening() == listening
        with dial(client.forward_ports[0]) as connection:
            carries(connection)
        through_remote(remote_port)
        assert allocated(client) == [remote_port]  # told once: it is the same
        assert client.stop() == ExitCode.DONE


def test_who_has_waited_ten_seconds_is_told_that_there_is_no_session(server: WraithServer, repeater: Target) -> None:
    forward = ("-L", f"0:127.0.0.1:{repeater.port}")
    with WraithClient(server, *forward, stays=True) as client, ThreadPoolExecutor() as pool:
        server.stop(signal.SIGKILL)
        client.eventually_logs("session lost")
        began = time.monotonic()
        with (
            dial(client.socks_port) as first,
            dial(client.socks_port) as second,
            dial(client.forward_ports[0]) as third,
        ):
            socks = pool.submit(socks5_ask, first, "127.0.0.1", repeater.port)
            http = pool.submit(http_ask, second, "127.0.0.1", repeater.port)
            forwarded = pool.submit(third.recv, 1)
            assert socks.result(LIMIT_S) == SOCKS_FAILURE
            assert http.result(LIMIT_S) == SERVICE_UNAVAILABLE
            with pytest.raises(ConnectionResetError):
                forwarded.result(LIMIT_S)
        assert WAIT_S - 0.5 < time.monotonic() - began < WAIT_S + 3


def test_a_server_that_is_not_there_yet_is_waited_for(tmp_path: Path, server: WraithServer, repeater: Target) -> None:
    server.stop(signal.SIGKILL)
    socks = free_port()
    argv = [*WRAITH, "connect", *server.reached_by, "-D", f"127.0.0.1:{socks}"]
    with Process(argv, tmp_path / "client", name="connect", env=environment(tmp_path / "client")) as client:
        line = client.eventually_logs(r"^.* WARN not connected .*$")[0]
        assert "connection refused" in line
        assert accepts(socks)
        restart(server)
        client.eventually_logs("Ctrl-C ends it")
        with through_socks5(socks, "127.0.0.1", repeater.port) as connection:
            carries(connection)
        assert client.stop() == ExitCode.DONE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_client_that_waits_to_try_again_at_once(number: signal.Signals, server: WraithServer) -> None:
    with WraithClient(server, stays=True) as client:
        server.stop(signal.SIGKILL)
        client.eventually_logs("session lost")
        said = client.log()
        began = time.monotonic()
        assert client.stop(number) == ExitCode.DONE
        assert time.monotonic() - began < 1
        assert client.log() == said


def test_another_host_key_is_an_error_once_and_the_client_stays(server: WraithServer, tmp_path: Path) -> None:
    with WraithClient(server, stays=True) as client:
        server.stop(signal.SIGKILL)
        key = server.folder / "host_ed25519"
        kept = key.rename(tmp_path / "kept")
        make_key(key)
        restart(server)
        line = client.eventually_logs(r"^.* ERROR not connected .*$")[0]
        assert "host key" in line
        delay = re.search(r"retry_in=([\d.]+)s", line)
        assert delay is not None
        assert 200 < float(delay[1]) <= 300
        assert client.running
        assert client.log().count(" ERROR ") == 1
        assert kept.exists()


def test_an_agent_that_was_started_anew_signs_for_the_next_session(server: WraithServer, tmp_path: Path) -> None:
    arguments = [each for each in server.reached_by if each not in ("-i", str(server.client_key))]
    folder = tmp_path / "client"
    env = environment(folder, SSH_AUTH_SOCK=str(tmp_path / "agent.sock"))
    with contextlib.ExitStack() as stack:
        agent = stack.enter_context(SshAgent(tmp_path))
        agent.add(server.client_key)
        argv = [*WRAITH, "connect", *arguments, "--no-socks5"]
        client = stack.enter_context(Process(argv, folder, name="connect", env=env))
        client.eventually_logs("Ctrl-C ends it")
        server.stop(signal.SIGKILL)
        agent.stop(signal.SIGKILL)
        agent.socket.unlink()
        agent.start()
        agent.wait_ready()
        agent.add(server.client_key)
        restart(server)
        client.eventually_logs(BACK)


def test_exit_on_failure_says_by_its_code_what_failed(server: WraithServer, tmp_path: Path) -> None:
    with WraithClient(server) as client:
        server.stop(signal.SIGKILL)
        assert client.wait() == ExitCode.FAILED
        assert "lost" in client.log().splitlines()[-1]
    done = refusal(ExitCode.NOT_CONNECTED, "connect", *server.reached_by, "--no-socks5", folder=tmp_path)
    assert "connection refused" in done.line
    restart(server)
    flags = ("--exit-on-failure", "-R", "80:127.0.0.1:1")
    done = refusal(ExitCode.ADDRESS_UNAVAILABLE, "connect", *server.reached_by, *flags, folder=tmp_path)
    assert "localhost:80" in done.line


def test_a_refused_remote_forward_is_no_end_by_itself(server: WraithServer) -> None:
    with WraithClient(server, "-R", "80:127.0.0.1:1", stays=True) as client:
        client.eventually_logs(r"WARN remote forward refused forward=localhost:80:127.0.0.1:1")
        assert client.running


def test_the_service_manager_is_told_ready_when_the_listeners_are_up(server: WraithServer, tmp_path: Path) -> None:
    server.stop(signal.SIGKILL)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(LIMIT_S)
        folder = tmp_path / "client"
        env = environment(folder, NOTIFY_SOCKET=str(tmp_path / "notify"))
        argv = [*WRAITH, "connect", *server.reached_by, "--no-socks5"]
        with Process(argv, folder, name="connect", env=env) as client:
            told = manager.recv(4096).decode()
            assert told.startswith("READY=1\nSTATUS=not connected to ")
            client.eventually_logs("not connected")


def test_standard_input_and_output_are_joined_once_and_never_again(server: WraithServer, tmp_path: Path) -> None:
    server.stop(signal.SIGKILL)
    argv = [*WRAITH, "connect", *server.reached_by, "-W", "127.0.0.1:1"]
    with Process(argv, tmp_path / "client", env=environment(tmp_path / "client")) as client:
        assert client.wait(5) == ExitCode.NOT_CONNECTED
    restart(server)
    with Process(argv, tmp_path / "client", env=environment(tmp_path / "client")) as client:
        assert client.wait(5) == ExitCode.FAILED
    assert "refused" in client.log()


# Whose port it is


@dataclass(frozen=True, slots=True)
class Other:
    """The same server, with another key to log in with."""

    server: WraithServer
    key: Path

    @property
    def folder(self) -> Path:
        return self.server.folder

    @property
    def reached_by(self) -> list[str]:
        return [str(self.key) if each == str(self.server.client_key) else each for each in self.server.reached_by]


@pytest.fixture
def stranger(server: WraithServer) -> Other:
    """Somebody else who may log in."""
    other = make_key(server.folder / "other_key")
    with server.authorized_keys.open("a") as file:
        file.write(other.with_name("other_key.pub").read_text())
    return Other(server, other)


@pytest.mark.parametrize("alive", [True, False])
def test_another_key_does_not_get_the_port_of_a_session(
    alive: bool, server: WraithServer, stranger: Other, repeater: Target
) -> None:
    port = free_port()
    forward = ("-R", f"{port}:127.0.0.1:{repeater.port}", "--no-socks5")
    with WraithClient(server, *forward, stays=True) as holder:
        through_remote(port)
        if not alive:
            holder.popen.send_signal(signal.SIGSTOP)
        try:
            with WraithClient(stranger, *forward, stays=True) as other:
                refused = other.eventually_logs(r"WARN remote forward refused.*")[0]
                assert "since" not in refused  # another's business
        finally:
            holder.popen.send_signal(signal.SIGCONT)
        through_remote(port)
        assert "session lost" not in holder.log()


def test_the_same_key_gets_the_port_when_its_holder_is_dead_and_not_before(
    server: WraithServer, repeater: Target
) -> None:
    port = free_port()
    forward = ("-R", f"{port}:127.0.0.1:{repeater.port}", "--no-socks5")
    with WraithClient(server, *forward, stays=True) as holder:
        through_remote(port)
        with WraithClient(server, *forward, stays=True) as second:
            refused = second.eventually_logs(r"WARN remote forward refused.*")[0]
            assert re.search(r"held by another session of this key since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC", refused)
        assert "session lost" not in holder.log()
        holder.popen.send_signal(signal.SIGSTOP)  # as good as dead: it answers nobody
        try:
            began = time.monotonic()
            with WraithClient(server, *forward, stays=True) as third:
                took = time.monotonic() - began
                through_remote(port)
                print(f"taken over {took:.2f} s after the start of the client, the probe of 3 s included")
                assert "refused" not in third.log()
                # The one that wakes up again finds that it is not its port any more.
                holder.popen.send_signal(signal.SIGCONT)
                holder.eventually_logs("session lost")
                holder.eventually_logs(r"remote forward refused.*since")
                through_remote(port)
        finally:
            holder.popen.send_signal(signal.SIGCONT)


def test_the_server_says_in_its_log_that_a_port_was_refused(
    server: WraithServer, stranger: Other, repeater: Target
) -> None:
    port = free_port()
    forward = ("-R", f"{port}:127.0.0.1:{repeater.port}", "--no-socks5")
    with WraithClient(server, *forward, stays=True), WraithClient(stranger, *forward, stays=True):
        eventually(lambda: "remote forward refused" in server.log(), "the server's log")
        assert str(repeater.port) not in server.log()
