"""Claims about every other way to be refused: peers that are none, busy ports, wrong flags, strangers."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.consoles import terminal
from tests.support.openssh import SshClient
from tests.support.polling import LIMIT_S, eventually
from tests.support.processes import WRAITH, Process, WraithClient, WraithServer, environment, make_key
from tests.support.refusals import AT_A_TERMINAL, parsed, refusal
from tests.support.stock_servers import Nginx, accepts, free_port
from tests.support.targets import Handler, Target, echo, never_answering, read_to_end, refusing

VERSION_LIMIT_S = 5.0  # that a server waits for a client's version line
SERVER_LIMIT_S = 10.0  # that a client waits for a server's first words


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WraithServer]:
    with WraithServer(tmp_path_factory.mktemp("server")) as wraith:
        yield wraith


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_key(tmp_path_factory.mktemp("key") / "id")


@pytest.fixture(scope="module")
def repeater() -> Iterator[Target]:
    with Target(echo) as target:
        yield target


def serves(server: WraithServer, repeater: Target, folder: Path) -> None:
    """See that a stranger's server still does its work, with as many sessions as were there before."""
    done = SshClient.of(server, folder).run("-W", f"127.0.0.1:{repeater.port}", stdin=b"still there")
    assert (done.code, done.out) == (0, "still there"), done.err


# Nobody there


def test_a_server_nobody_runs_is_exit_code_4(key: Path, tmp_path: Path) -> None:
    with refusing() as port:
        for scheme in ("tcp", "tls"):
            refused = refusal(4, "connect", f"{scheme}://127.0.0.1:{port}", "-i", key, "--no-socks5", folder=tmp_path)
            assert refused.line == f"127.0.0.1:{port}: connection refused"
            assert refused.log == ()
    assert not (tmp_path / "known_hosts").exists()


def test_a_name_that_does_not_exist_is_exit_code_4(key: Path, tmp_path: Path) -> None:
    refused = refusal(4, "connect", "nowhere.invalid", "-i", key, "--no-socks5", folder=tmp_path)
    assert refused.line.startswith("nowhere.invalid:22: ")


def test_an_address_of_the_other_family_is_exit_code_4(server: WraithServer, key: Path, tmp_path: Path) -> None:
    target = f"127.0.0.1:{server.port}"
    refused = refusal(4, "connect", target, "-6", "-i", key, "--no-socks5", folder=tmp_path)
    assert refused.line.startswith(f"{target}: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_connecting_is_no_failure_and_leaves_nothing(
    number: signal.Signals, key: Path, tmp_path: Path
) -> None:
    socks = free_port()
    with never_answering() as port:
        argv = [*WRAITH, "connect", f"127.0.0.1:{port}", "-i", str(key), "-D", f"127.0.0.1:{socks}"]
        with Process(argv, tmp_path, env=environment(tmp_path)) as client:
            eventually(lambda: accepts(socks), "the listeners are bound before anything is dialled")
            assert client.stop(number, limit_s=5) == 0
            assert client.log() == ""
    assert not accepts(socks)


def test_ctrl_c_while_connecting_is_no_failure(key: Path, tmp_path: Path) -> None:
    socks = free_port()
    with never_answering() as port:
        arguments = ("connect", f"127.0.0.1:{port}", "-i", str(key), "-D", f"127.0.0.1:{socks}")
        with terminal(AT_A_TERMINAL, *arguments, env=environment(tmp_path)) as person:
            eventually(lambda: accepts(socks), "the listeners are bound before anything is dialled")
            person.type("\x03")
            assert person.end() == 0
    assert person.shown.replace("^C", "") == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_lost_session_is_exit_code_1_and_one_line(number: signal.Signals, tmp_path: Path) -> None:
    with WraithServer(tmp_path) as server, WraithClient(server) as client:
        before = len(client.log())
        server.popen.send_signal(number)
        assert client.wait() == 1
        refused = parsed(client.log()[before:])
        assert refused.line.startswith(f"the session with tcp://127.0.0.1:{server.port} was lost: ")
        assert refused.log == ()
        assert "Errno" not in refused.line
        assert not accepts(client.socks_port)


# Somebody else there


# No line ends in it: lines may precede the version string (RFC 4253 4.2), and a client waits for more of them.
GARBAGE = hashlib.shake_128(b"garbage").digest(20_000).replace(b"\n", b"")


def say_nothing(connection: socket.socket) -> None:
    read_to_end(connection)


def send_garbage(connection: socket.socket) -> None:
    connection.sendall(GARBAGE)
    read_to_end(connection)


def send_garbage_lines(connection: socket.socket) -> None:
    for _ in range(10_000):
        connection.sendall(b"220 mail.example ESMTP\r\n" * 10)


def close_at_once(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)
    read_to_end(connection)


def answer_like_old_ssh(connection: socket.socket) -> None:
    connection.sendall(b"SSH-1.5-OpenSSH_1.2\r\n")
    read_to_end(connection)


def answer_like_a_web_server(connection: socket.socket) -> None:
    connection.recv(1)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def end_after_the_version(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-short\r\n")
    connection.shutdown(socket.SHUT_WR)
    read_to_end(connection)


def send_garbage_after_the_version(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-garbage\r\n")
    send_garbage(connection)


def reset_at_once(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


def tried(handler: Handler, scheme: str, key: Path, folder: Path) -> tuple[str, int]:
    """Connect to such a peer, which must be refused with exit code 4; the line without the address, and how often."""
    folder.mkdir(exist_ok=True)
    with Target(handler) as target:
        where = f"127.0.0.1:{target.port}"
        flags = ("-i", key, "--no-socks5", "--host-key-check", "accept-new")
        refused = refusal(4, "connect", f"{scheme}://{where}", *flags, folder=folder)
        assert refused.line.startswith(where)
        assert refused.log == ()
        assert "Errno" not in refused.line
        assert "Traceback" not in refused.line
        assert not (folder / "known_hosts").exists()
        return refused.line.removeprefix(where).lstrip(": "), target.accepted


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (send_garbage, "does not speak SSH"),
        (send_garbage_lines, "does not speak SSH"),
        (close_at_once, "closed the connection without a word of SSH"),
        (answer_like_old_ssh, "speaks a version of SSH that is not 2.0"),
        (answer_like_a_web_server, "answered as a web server, not SSH"),
        (end_after_the_version, ""),
        (send_garbage_after_the_version, ""),
        (reset_at_once, ""),  # what is said depends on whether the dialling noticed
    ],
)
def test_a_peer_that_is_no_ssh_server_is_exit_code_4(handler: Handler, words: str, key: Path, tmp_path: Path) -> None:
    line, connections = tried(handler, "tcp", key, tmp_path)
    assert words in line
    assert connections == 1


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (send_garbage, "does not speak TLS"),
        (close_at_once, "TLS"),
        (answer_like_a_web_server, "does not speak TLS (it answered like an HTTP server)"),
        (reset_at_once, ""),
    ],
)
def test_a_peer_that_is_no_tls_server_is_exit_code_4(handler: Handler, words: str, key: Path, tmp_path: Path) -> None:
    line, connections = tried(handler, "tls", key, tmp_path)
    assert words in line
    assert connections == 1


def test_a_peer_that_says_nothing_is_exit_code_4_after_ten_seconds(key: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    with ThreadPoolExecutor() as pool:
        tries = [pool.submit(tried, say_nothing, scheme, key, tmp_path / scheme) for scheme in ("tcp", "tls")]
        (tcp, _), (tls, _) = [each.result() for each in tries]
    took = time.monotonic() - began
    assert SERVER_LIMIT_S < took < SERVER_LIMIT_S + 5
    assert tcp.startswith("sent nothing: ")
    assert tls == "no answer to the TLS handshake within 10 s"


def test_a_real_web_server_is_exit_code_4(key: Path, tmp_path: Path) -> None:
    with Nginx(tmp_path, {}) as nginx:
        refused = refusal(4, "connect", f"127.0.0.1:{nginx.port}", "-i", key, "--no-socks5", folder=tmp_path)
        assert "web server" in refused.line
        refused = refusal(4, "connect", f"tls://127.0.0.1:{nginx.port}", "-i", key, "--no-socks5", folder=tmp_path)
        assert "HTTP" in refused.line


def test_tls_to_the_plain_port_suggests_the_right_transport(
    server: WraithServer, repeater: Target, key: Path, tmp_path: Path
) -> None:
    refused = refusal(4, "connect", f"tls://127.0.0.1:{server.port}", "-i", key, "--no-socks5", folder=tmp_path)
    assert "--transport tcp" in refused.line
    serves(server, repeater, tmp_path)


# A server among strangers


def stranger(server: WraithServer, sends: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S)
    connection.sendall(sends)
    return connection


def time_to_the_end(connection: socket.socket) -> float:
    """Read until the server ends the connection; how long that took."""
    began = time.monotonic()
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(65536):
            pass
    return time.monotonic() - began


def dribble(connection: socket.socket) -> float:
    """Send a version line that never ends, a byte now and then, until the server ends the connection."""
    began = time.monotonic()
    connection.settimeout(0.25)  # what is read sets the pace
    with contextlib.suppress(ConnectionError):
        for byte in b"SSH-2.0-" + b"x" * 200:
            connection.sendall(bytes((byte,)))
            with contextlib.suppress(TimeoutError):
                while connection.recv(1000):
                    pass
                break
    return time.monotonic() - began


def test_strangers_without_a_version_line_are_dropped_in_five_seconds_and_the_server_serves_on(
    server: WraithServer, repeater: Target, tmp_path: Path
) -> None:
    serves(server, repeater, tmp_path)
    before = server.descriptors()
    silent = (b"", b"SSH-2.", b"S", b"SSH-2.0-" + b"x" * 200)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(stranger(server, each)) for each in silent * 5]
        serves(server, repeater, tmp_path)
        dribbling = stack.enter_context(stranger(server, b""))
        with ThreadPoolExecutor(len(connections) + 1) as pool:
            waits = [pool.submit(dribble, dribbling), *(pool.submit(time_to_the_end, each) for each in connections)]
            for wait in waits:
                assert VERSION_LIMIT_S - 2 < wait.result() < VERSION_LIMIT_S + 3
    eventually(lambda: server.descriptors() <= before, "the server lets go of them")
    serves(server, repeater, tmp_path)


@pytest.mark.parametrize(
    "sends",
    [
        GARBAGE,
        b"a line before the version\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"SSH-1.5-old\r\n",
        b"SSH-2.0-x\r\n" + GARBAGE,
        b"x" * 100_000,
        b"\r\n" * 50_000,
        b"SSH-2.0-" + b"x" * 100_000,
    ],
    ids=["garbage", "a line", "HTTP", "SSH 1", "garbage packets", "no line end", "empty lines", "long version"],
)
def test_what_cannot_be_ssh_is_dropped_and_the_server_serves_on(
    sends: bytes, server: WraithServer, repeater: Target, tmp_path: Path
) -> None:
    before = server.descriptors()
    # It may end the connection before all was sent.
    with contextlib.suppress(ConnectionError), stranger(server, sends) as connection:
        assert time_to_the_end(connection) < VERSION_LIMIT_S + 3
    eventually(lambda: server.descriptors() <= before, "the server lets go of it")
    serves(server, repeater, tmp_path)
    assert "Traceback" not in server.log()
    assert "internal task failed" not in server.log()


def test_strangers_that_leave_at_once_leave_nothing_behind(
    server: WraithServer, repeater: Target, tmp_path: Path
) -> None:
    before = server.descriptors()
    for sends in (b"", b"S", b"SSH-2.0-x\r\n", b"\x16\x03\x01") * 25:
        stranger(server, sends).close()
    eventually(lambda: server.descriptors() <= before, "the server lets go of them")
    serves(server, repeater, tmp_path)


@pytest.mark.long
def test_a_stranger_without_a_key_exchange_is_dropped_in_twenty_seconds(server: WraithServer) -> None:
    with stranger(server, b"SSH-2.0-slow\r\n") as connection:
        connection.settimeout(40)
        assert 18 < time_to_the_end(connection) < 25


# Addresses that cannot be had


@pytest.mark.parametrize("flag", ["-D", "-L"])
def test_a_busy_local_port_is_exit_code_7_before_anything_is_dialled(
    flag: str, server: WraithServer, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        where = f"127.0.0.1:{busy.getsockname()[1]}"
        wanted = where if flag == "-D" else f"{where}:127.0.0.1:1"
        other = free_port()
        seen = len(server.log())
        arguments = (*server.reached_by, flag, wanted, "-L", f"127.0.0.1:{other}:127.0.0.1:1")
        refused = refusal(7, "connect", *arguments, folder=tmp_path)
    assert where in refused.line
    assert flag in refused.line or "--socks5" in refused.line or "--forward" in refused.line
    assert server.log()[seen:] == ""
    assert not accepts(other)


def test_a_busy_port_of_the_server_is_exit_code_7_and_leaves_the_others_free(
    server: WraithServer, repeater: Target, tmp_path: Path
) -> None:
    free = free_port()
    listens = ("--listen", f"127.0.0.1:{free}", "--listen", f"127.0.0.1:{server.port}")
    refused = refusal(7, "serve", *listens, folder=tmp_path)
    assert f"127.0.0.1:{server.port}" in refused.line
    assert "--listen" in refused.line
    assert not accepts(free)
    serves(server, repeater, tmp_path)


def test_an_address_of_another_machine_is_exit_code_7(tmp_path: Path) -> None:
    # TEST-NET-1 (RFC 5737), which no machine has.
    refused = refusal(7, "serve", "--listen", "192.0.2.1:2222", folder=tmp_path)
    assert "192.0.2.1:2222" in refused.line


def test_a_port_that_needs_privileges_is_exit_code_7_and_suggests_another(server: WraithServer, tmp_path: Path) -> None:
    first_free = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    port = 1023 if accepts(1022) else 1022
    if port >= first_free:
        pytest.skip("this system lets anybody have any port")
    without = "-net_bind_service"
    refused = refusal(7, "serve", "--listen", f"127.0.0.1:{port}", folder=tmp_path, without=without)
    assert "--listen" in refused.line
    refused = refusal(7, "connect", *server.reached_by, "-D", f"127.0.0.1:{port}", folder=tmp_path, without=without)
    assert f"127.0.0.1:{port}" in refused.line


# Flags


@pytest.mark.parametrize(
    "arguments",
    [
        ("connect",),
        ("connect", "h", "--transport", "quic"),
        ("connect", "h:0"),
        ("connect", "h:65536"),
        ("connect", "http://h"),
        ("connect", "h", "--host-key", "MD5:00"),
        ("connect", "h", "--host-key-check", "no"),
        ("connect", "h", "-L", "nonsense"),
        ("connect", "h", "-D", "nonsense"),
        ("connect", "h", "-D", "1080", "--no-socks5"),
        ("connect", "h", "--tls-pin", "sha256//AAAA"),
        ("connect", "tls://h", "--tls-pin", "sha256//AAAA"),
        ("connect", "tls://h", "--insecure", "--tls-ca", "x"),
        ("connect", "h", "-R", "x"),
        ("serve", "--listen", "nonsense"),
        ("serve", "--listen", "quic://127.0.0.1:1"),
        ("serve", "--permit-open", "nonsense"),
        ("serve", "--tls-cert", "x"),
        ("serve", "extra"),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_wrong_flags_are_exit_code_2_and_say_where_help_is(arguments: tuple[str, ...], tmp_path: Path) -> None:
    refused = refusal(2, *arguments, folder=tmp_path)
    assert "--help`)" in refused.line
    assert refused.log == ()
    assert list(tmp_path.iterdir()) == []


def test_two_v_add_a_traceback_and_one_v_does_not(key: Path, tmp_path: Path) -> None:
    with refusing() as port:
        arguments = ("connect", f"127.0.0.1:{port}", "-i", key, "--no-socks5", "--exit-on-failure")
        assert refusal(4, *arguments, "-v", folder=tmp_path).line
        with Process([*WRAITH, *arguments, "-vv"], tmp_path, env=environment(tmp_path)) as client:
            assert client.wait() == 4
            assert "Traceback" in client.log()
            assert client.log().splitlines()[-1].startswith("wraith: ")
