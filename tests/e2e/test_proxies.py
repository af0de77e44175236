"""`--proxy` on either side, through stock proxies and through wraith itself: what works, and how it fails."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.curl import fetched
from tests.support.polling import eventually
from tests.support.processes import WraithClient, WraithServer, make_key, wraith
from tests.support.socks_client import dial, exactly, socks5_ask, through_socks5
from tests.support.stock_proxies import (
    PASSWORD,
    PROXIES,
    Dante,
    Microsocks,
    StockProxy,
    Tinyproxy,
    connected_to,
    wraith_port,
)
from tests.support.stock_servers import Nginx
from tests.support.targets import Target, echo, refusing

TRANSPORTS = ("tcp", "tls")
FILE = "page"
SIZE = 4 << 20

MUCH = 64 << 20  # more than all the buffers on the way hold

SOCKS_FAILED, SOCKS_NOT_ALLOWED, SOCKS_REFUSED = 1, 2, 5

STOCK = {"microsocks": Microsocks, "tinyproxy": Tinyproxy}


def named(proxy: StockProxy) -> str:
    return f"the proxy {proxy.url()}"


def send_much(connection: socket.socket) -> None:
    connection.sendall(bytes(MUCH))


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with Nginx(tmp_path_factory.mktemp("nginx"), {FILE: SIZE}) as server:
        yield server


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("name", PROXIES)
def test_a_session_through_a_proxy_carries_a_file(name: str, transport: str, nginx: Nginx, tmp_path: Path) -> None:
    with (
        PROXIES[name](tmp_path / "proxy") as url,
        WraithServer(tmp_path, transport=transport) as server,
        WraithClient(server, "--proxy", url) as client,
    ):
        assert not connected_to(client, server.port)
        assert fetched(nginx.url(FILE), tmp_path, "--proxy", client.socks5h) == nginx.sha256[FILE]


@pytest.mark.parametrize("name", PROXIES)
def test_targets_through_a_proxy_carry_a_file(name: str, nginx: Nginx, tmp_path: Path) -> None:
    with (
        PROXIES[name](tmp_path / "proxy") as url,
        WraithServer(tmp_path, "--proxy", url) as server,
        WraithClient(server) as client,
        Target(echo) as target,
    ):
        with through_socks5(client.socks_port, "127.0.0.1", target.port) as connection:
            connection.sendall(b"hello")
            assert exactly(connection, 5) == b"hello"
            assert not connected_to(server, target.port)
        assert fetched(nginx.url(FILE), tmp_path, "--proxy", client.socks5h) == nginx.sha256[FILE]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_target_that_speaks_first_loses_nothing_behind_each_kind_of_proxy(loop: str, tmp_path: Path) -> None:
    for proxy in (Microsocks(tmp_path), Tinyproxy(tmp_path)):
        with (
            proxy,
            Target(lambda connection: connection.sendall(b"banner\n")) as target,
            WraithServer(tmp_path, "--proxy", proxy.url(), loop=loop) as server,
            WraithClient(server, loop=loop) as client,
        ):
            for _ in range(20):
                with through_socks5(client.socks_port, "127.0.0.1", target.port) as connection:
                    assert exactly(connection, 7) == b"banner\n"
                    assert connection.recv(1) == b""


def test_wraith_through_wraith_through_wraith(nginx: Nginx, tmp_path: Path) -> None:
    with (
        wraith_port(tmp_path / "first", "socks5h", login=True) as first,
        WraithServer(tmp_path / "second", transport="tls") as second,
        WraithClient(second, "--proxy", first) as middle,
        WraithServer(tmp_path / "third", "--proxy", f"socks5://127.0.0.1:{middle.socks_port}") as third,
        WraithClient(third, "--proxy", f"http://127.0.0.1:{middle.socks_port}") as last,
    ):
        assert fetched(nginx.url(FILE), tmp_path, "--proxy", last.socks5h) == nginx.sha256[FILE]
        with refusing() as port, dial(last.socks_port) as connection:
            assert socks5_ask(connection, "127.0.0.1", port) == SOCKS_REFUSED


@pytest.mark.parametrize("name", STOCK)
@pytest.mark.parametrize("credentials", ["", "someone:wrong@"])
def test_wrong_credentials_are_exit_4_and_one_line(name: str, credentials: str, tmp_path: Path) -> None:
    with STOCK[name](tmp_path, login=True) as proxy, WraithServer(tmp_path) as server:
        arguments = ("connect", *server.reached_by, "--exit-on-failure", "--proxy", proxy.url(credentials))
        done = wraith(*arguments, folder=tmp_path / "x")
        assert done.code == 4
        says = "does not accept the user and password" if credentials else "wants a user and password"
        assert done.one_line().startswith(f"wraith: {named(proxy)} {says}")
        assert "wrong" not in done.err


@pytest.mark.parametrize("login", [False, True])
def test_wrong_credentials_of_a_wraith_port_are_told_as_such(login: bool, tmp_path: Path) -> None:
    with wraith_port(tmp_path / "proxy", "http", login=True) as url, WraithServer(tmp_path) as server:
        for scheme in ("socks5", "http"):
            at = url.rpartition("@")[2]
            wrong = f"{scheme}://{'someone:wrong@' if login else ''}{at}"
            arguments = ("connect", *server.reached_by, "--exit-on-failure", "--proxy", wrong)
            done = wraith(*arguments, folder=tmp_path / "x")
            assert done.code == 4
            assert ("does not accept" if login else "wants a user and password") in done.one_line()


@pytest.mark.parametrize(
    ("name", "says"),
    [("microsocks", "connection refused (SOCKS reply 5)"), ("tinyproxy", "500 Unable to connect")],
)
def test_a_server_the_proxy_cannot_reach_is_exit_4_with_the_proxys_words(name: str, says: str, tmp_path: Path) -> None:
    with STOCK[name](tmp_path) as proxy, refusing() as port:
        arguments = ("connect", f"127.0.0.1:{port}", "-i", str(make_key(tmp_path / "key")), "--proxy", proxy.url())
        done = wraith(*arguments, "--exit-on-failure", folder=tmp_path / "x")
        assert done.code == 4
        assert done.one_line() == f"wraith: {named(proxy)} did not connect to 127.0.0.1:{port}: {says}"


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "http"])
def test_an_unreachable_proxy_is_exit_4_and_says_that_it_is_the_proxy(scheme: str, tmp_path: Path) -> None:
    key = str(make_key(tmp_path / "key"))
    with refusing() as port:
        url = f"{scheme}://someone:{PASSWORD.replace('@', '%40')}@127.0.0.1:{port}"
        arguments = ("connect", "server.example", "-i", key, "-vv", "--exit-on-failure", "--proxy", url)
        done = wraith(*arguments, folder=tmp_path / "x")
        assert done.code == 4
        last = done.err.splitlines()[-1]
        assert last == f"wraith: the proxy {scheme}://127.0.0.1:{port} cannot be reached: connection refused"
        assert "w0rd" not in done.err


@pytest.mark.parametrize(
    ("scheme", "says"), [("ftp", "ftp:// is no proxy that can be used"), ("", "the proxy needs a scheme")]
)
def test_a_bad_scheme_is_a_usage_error(scheme: str, says: str, tmp_path: Path) -> None:
    url = f"{scheme}://someone:s3cr3t@127.0.0.1:1" if scheme else "someone:s3cr3t@127.0.0.1:1"
    for command in (("connect", "server.example"), ("serve", "--listen", "127.0.0.1:0")):
        done = wraith(*command, "--proxy", url, folder=tmp_path / "x")
        assert done.code == 2
        assert says in done.one_line()
        assert "s3cr3t" not in done.err


def test_the_client_hears_why_a_target_behind_a_socks_proxy_failed(tmp_path: Path) -> None:
    with (
        Target(echo) as forbidden,
        Dante(tmp_path, forbidden_port=forbidden.port) as proxy,
        WraithServer(tmp_path, "--proxy", proxy.url()) as server,
        WraithClient(server) as client,
    ):
        with refusing() as port, dial(client.socks_port) as connection:
            assert socks5_ask(connection, "127.0.0.1", port) == SOCKS_REFUSED
        with dial(client.socks_port) as connection:
            assert socks5_ask(connection, "127.0.0.1", forbidden.port) == SOCKS_NOT_ALLOWED
        assert forbidden.accepted == 0
        assert "WARN" not in server.log()


@pytest.mark.parametrize("name", STOCK)
def test_a_server_whose_proxy_wants_another_password_says_so_in_its_log(name: str, tmp_path: Path) -> None:
    with (
        Target(echo) as target,
        STOCK[name](tmp_path, login=True) as proxy,
        WraithServer(tmp_path, "-vv", "--proxy", proxy.url("someone:wrong@")) as server,
        WraithClient(server) as client,
    ):
        for _ in range(3):
            with dial(client.socks_port) as connection:
                assert socks5_ask(connection, "127.0.0.1", target.port) == SOCKS_FAILED
        server.eventually_logs(rf"WARN the proxy for targets failed proxy={proxy.url()} failure=bad-credentials")
        assert server.log().count("the proxy for targets failed") == 1
        assert "wrong" not in server.log()
        assert str(target.port) not in server.log()


def test_a_server_whose_proxy_is_gone_serves_on_when_it_is_back(tmp_path: Path) -> None:
    proxy = Microsocks(tmp_path)
    with (
        Target(echo) as target,
        WraithServer(tmp_path, "--proxy", proxy.url()) as server,
        WraithClient(server) as client,
    ):
        with dial(client.socks_port) as connection:
            assert socks5_ask(connection, "127.0.0.1", target.port) == SOCKS_FAILED
        server.eventually_logs(r"WARN the proxy for targets failed .* failure=unreachable")
        with proxy:
            through_socks5(client.socks_port, "127.0.0.1", target.port).close()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("name", STOCK)
def test_a_proxy_gone_in_mid_transfer_ends_the_session(name: str, transport: str, tmp_path: Path) -> None:
    with (
        Target(send_much) as target,
        STOCK[name](tmp_path) as proxy,
        WraithServer(tmp_path, transport=transport) as server,
        WraithClient(server, "--exit-on-failure", "--proxy", proxy.url()) as client,
    ):
        with through_socks5(client.socks_port, "127.0.0.1", target.port) as connection:
            exactly(connection, 1 << 20)
            proxy.stop(signal.SIGKILL)
            for child in proxy.children():
                child.kill()
            assert client.wait() == 1
        assert "was lost" in client.log()
        eventually(lambda: not target.open_connections, "the server lets go of the target")


@pytest.mark.parametrize("name", STOCK)
def test_a_proxy_gone_in_mid_transfer_ends_the_targets_connection_alone(name: str, tmp_path: Path) -> None:
    with (
        Target(send_much) as target,
        STOCK[name](tmp_path) as proxy,
        WraithServer(tmp_path, "--proxy", proxy.url()) as server,
        WraithClient(server) as client,
    ):
        with through_socks5(client.socks_port, "127.0.0.1", target.port) as connection:
            exactly(connection, 1 << 20)
            proxy.stop(signal.SIGKILL)
            with pytest.raises(ConnectionError):
                exactly(connection, 1 << 30)
        with dial(client.socks_port) as connection:
            assert socks5_ask(connection, "127.0.0.1", target.port) == SOCKS_FAILED
        assert client.running
        assert server.running


def test_a_password_is_in_no_log_of_either_side(tmp_path: Path) -> None:
    with (
        Microsocks(tmp_path, login=True) as proxy,
        Target(echo) as target,
        WraithServer(tmp_path, "-vv", WRAITH_PROXY=proxy.url("someone:p%40ss%3Aw0rd@")) as server,
        WraithClient(server, "-vv", WRAITH_PROXY=proxy.url("someone:p%40ss%3Aw0rd@")) as client,
    ):
        through_socks5(client.socks_port, "127.0.0.1", target.port).close()
        assert f"targets through  {proxy.url()}" in server.log()
        for log in (server.log(), client.log()):
            assert "w0rd" not in log
            assert "someone" not in log


def test_a_proxys_address_says_nothing_of_the_servers_key(tmp_path: Path) -> None:
    with Microsocks(tmp_path) as proxy, WraithServer(tmp_path) as server:
        known = tmp_path / "known_hosts"
        kind, key, *_ = (server.folder / "host_ed25519.pub").read_text().split()
        known.write_text(f"@revoked [127.0.0.1]:{server.port} {kind} {key}\n")
        arguments = [f"localhost:{server.port}", "-i", str(server.client_key), "--known-hosts", str(known), "-4"]
        arguments += ["--host-key-check", "accept-new"]
        assert wraith("connect", *arguments, folder=tmp_path / "direct").code == 6
        with WraithClient(_Reached(server, arguments), "--proxy", proxy.url()) as client:
            assert client.running


class _Reached:
    """A peer that is reached by other arguments than its own."""

    def __init__(self, server: WraithServer, arguments: list[str]) -> None:
        self.folder = server.folder
        self.reached_by = arguments


def test_other_programs_proxy_variables_change_nothing(tmp_path: Path) -> None:
    with refusing() as port, Target(echo) as target:
        nowhere = dict.fromkeys(("ALL_PROXY", "all_proxy", "https_proxy"), f"socks5://127.0.0.1:{port}")
        with WraithServer(tmp_path, **nowhere) as server, WraithClient(server, **nowhere) as client:
            through_socks5(client.socks_port, "127.0.0.1", target.port).close()
