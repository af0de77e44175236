"""Unix sockets, and what a server permits: `--permit-open`, `--permit-listen`, `--gateway-ports`, `--deny-private`."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.curl import curl, fetched
from tests.support.openssh import SshClient
from tests.support.polling import LIMIT_S, eventually
from tests.support.processes import WRAITH, WraithClient, WraithServer, authorize, make_key, run_program
from tests.support.socks_client import dial, socks5_ask
from tests.support.stock_servers import Nginx, Sshd, accepts, free_port

NOT_ALLOWED = 2
FILE = "page"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with Nginx(tmp_path_factory.mktemp("site"), {FILE: 4 << 20}) as nginx:
        yield nginx


def by_socket(path: Path, folder: Path) -> str:
    return fetched(f"http://localhost/{FILE}", folder, "--unix-socket", str(path))


def by_port(port: int, folder: Path) -> str:
    return fetched(f"http://127.0.0.1:{port}/{FILE}", folder)


def addresses(port: int) -> set[str]:
    """Where this machine listens with that port."""
    listening = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
    return {each.rpartition(":")[0] for each in re.findall(rf"\S+:{port}\b", listening)}


def refused_forward(server: WraithServer, spec: str) -> bool:
    client = WraithClient(server, "--no-socks5", "--exit-on-failure", "-R", spec)
    client.start()
    done = client.finished()
    client.end()
    assert done.code == 7, done.err
    return "refused to listen" in done.err


# Unix sockets and -L


@pytest.mark.parametrize("far", ["wraith", "sshd"])
def test_every_way_of_l_with_unix_sockets_leads_to_a_server_on_one(far: str, site: Nginx, tmp_path: Path) -> None:
    server = WraithServer(tmp_path, "--permit-open", str(site.socket)) if far == "wraith" else Sshd(tmp_path)
    ours = [tmp_path / "1.sock", tmp_path / "2.sock"]
    forwards = (f"0:{site.socket}", f"{ours[0]}:{site.socket}", f"{ours[1]}:127.0.0.1:{site.port}")
    with server, WraithClient(server, "--no-socks5", *(each for spec in forwards for each in ("-L", spec))) as client:
        assert by_port(client.forward_ports[0], tmp_path) == site.sha256[FILE]
        for path in ours:
            assert by_socket(path, tmp_path) == site.sha256[FILE]
            assert path.stat().st_mode & 0o777 == 0o600
        assert client.stop() == 0
    assert not any(path.exists() for path in ours)


def test_stock_ssh_reaches_a_permitted_unix_socket(site: Nginx, tmp_path: Path) -> None:
    port = free_port()
    with (
        WraithServer(tmp_path, "--permit-open", str(site.socket)) as server,
        SshClient.of(server, tmp_path).tunnel("-L", f"127.0.0.1:{port}:{site.socket}"),
    ):
        assert by_port(port, tmp_path) == site.sha256[FILE]
        assert str(site.socket) not in server.log()  # targets are never logged


def test_a_unix_socket_that_is_not_listed_is_refused(site: Nginx, tmp_path: Path) -> None:
    with (
        WraithServer(tmp_path, "--permit-open", "/elsewhere") as server,
        WraithClient(server, "-L", f"127.0.0.1:0:{site.socket}", "-L", f"127.0.0.1:0:127.0.0.1:{site.port}") as client,
    ):
        with (
            socket.create_connection(("127.0.0.1", client.forward_ports[0]), timeout=LIMIT_S) as asking,
            pytest.raises(ConnectionResetError),
        ):
            asking.recv(1)
        # A listed path does not narrow the TCP targets.
        assert by_port(client.forward_ports[1], tmp_path) == site.sha256[FILE]


def test_a_file_in_the_way_of_a_local_socket_is_exit_code_7_and_left_alone(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("precious")
    with WraithServer(tmp_path) as server:
        client = WraithClient(server, "--no-socks5", "-L", f"{taken}:127.0.0.1:1")
        client.start()
        done = client.finished()
        client.end()
    assert done.code == 7
    assert str(taken) in done.one_line()
    assert taken.read_text() == "precious"


def test_without_a_socks_port_nothing_listens(tmp_path: Path) -> None:
    with WraithServer(tmp_path) as server, WraithClient(server, "--no-socks5") as client:
        assert client.listening() == set()


# -R


def test_permit_listen_is_all_that_may_be_listened_on(site: Nginx, tmp_path: Path) -> None:
    listed, other, path = free_port(), free_port(), tmp_path / "r.sock"
    target = f"127.0.0.1:{site.port}"
    with WraithServer(tmp_path, "--permit-listen", f"localhost:{listed}", "--permit-listen", str(path)) as server:
        for spec in (f"{other}:{target}", f"0:{target}", f"*:{listed}:{target}", f"{tmp_path / 'other'}:{target}"):
            assert refused_forward(server, spec), spec
        with WraithClient(server, "--no-socks5", "-R", f"{listed}:{target}", "-R", f"{path}:{target}"):
            assert by_port(listed, tmp_path) == site.sha256[FILE]
            assert by_socket(path, tmp_path) == site.sha256[FILE]
            assert path.stat().st_mode & 0o777 == 0o600
        done = SshClient.of(server, tmp_path).run("-N", "-oExitOnForwardFailure=yes", "-R", f"{other}:{target}")
        assert (done.code, "remote port forwarding failed" in done.err) == (255, True)
        eventually(lambda: not path.exists(), "the end of the socket")
        path.write_text("precious")
        assert refused_forward(server, f"{path}:{target}")
    assert path.read_text() == "precious"


def test_gateway_ports_let_everybody_in_and_nothing_else_does(site: Nginx, tmp_path: Path) -> None:
    target = f"127.0.0.1:{site.port}"
    for flags, expected in (((), {"127.0.0.1", "[::1]"}), (("--gateway-ports",), {"0.0.0.0", "[::]", "*"})):
        port = free_port()
        with WraithServer(tmp_path, *flags) as server:
            with WraithClient(server, "--no-socks5", "-R", f"*:{port}:{target}"):
                assert addresses(port) <= expected
                assert by_port(port, tmp_path) == site.sha256[FILE]
            eventually(lambda port=port: not accepts(port), "the end of the port")  # type: ignore[misc]
            with SshClient.of(server, tmp_path).tunnel("-R", f"*:{port}:{target}") as tunnel:
                tunnel.eventually_logs("remote forward success")
                assert addresses(port) <= expected
            eventually(lambda port=port: not accepts(port), "the end of the port")  # type: ignore[misc]
            # What names no address stays on loopback.
            with WraithClient(server, "--no-socks5", "-R", f"{port}:{target}"):
                assert addresses(port) <= {"127.0.0.1", "[::1]"}


def test_another_key_does_not_get_a_port_that_is_held(site: Nginx, tmp_path: Path) -> None:
    port, target = free_port(), f"127.0.0.1:{site.port}"
    with WraithServer(tmp_path) as server:
        stranger = make_key(tmp_path / "stranger")
        authorize(server.authorized_keys, server.client_key, stranger)
        with WraithClient(server, "--no-socks5", "-R", f"{port}:{target}"):
            flags = ("-N", "-oExitOnForwardFailure=yes", "-R", f"{port}:{target}")
            for key in (stranger, server.client_key):
                done = SshClient(server.port, key, tmp_path).run(*flags)
                assert done.code == 255, key
            assert by_port(port, tmp_path) == site.sha256[FILE]


# --deny-private


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WraithServer, WraithClient]]:
    with WraithServer(tmp_path_factory.mktemp("strict"), "--deny-private") as server, WraithClient(server) as client:
        yield server, client


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "0.0.0.0", "10.0.0.1", "::", "fe80::1"],
)
def test_private_targets_are_refused_by_name_and_by_number(
    host: str, strict: tuple[WraithServer, WraithClient], site: Nginx
) -> None:
    with dial(strict[1].socks_port) as asking:
        assert socks5_ask(asking, host, site.port) == NOT_ALLOWED


@pytest.mark.parametrize("host", ["127.1", "0x7f000001", "2130706433", "017700000001"])
def test_odd_spellings_of_loopback_are_refused(
    host: str, strict: tuple[WraithServer, WraithClient], site: Nginx, tmp_path: Path
) -> None:
    server = strict[0]
    command = (*WRAITH, "connect", *server.reached_by, "-W", f"{host}:{site.port}")
    done = run_program(*command, folder=tmp_path)
    assert (done.code, done.out) == (1, "")
    assert "not allowed" in done.err or "not permitted" in done.err or "prohibited" in done.err


def test_stock_ssh_is_told_so(strict: tuple[WraithServer, WraithClient], site: Nginx, tmp_path: Path) -> None:
    done = SshClient.of(strict[0], tmp_path).run("-W", f"localhost:{site.port}")
    assert done.code == 255
    assert "Permission denied" in done.err or "administratively prohibited" in done.err


def test_without_the_flag_they_are_opened(site: Nginx, tmp_path: Path) -> None:
    with WraithServer(tmp_path) as server, WraithClient(server) as client:
        done = curl("--proxy", client.socks5h, "-o", "/dev/null", site.url(FILE, "localhost"), folder=tmp_path)
        assert done.code == 0
