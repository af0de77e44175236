"""Claims about what curl gets through a tunnel: every protocol of the SOCKS port, both transports, both loops."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from tests.support.curl import TRANSFER_LIMIT_S, curl, fetched
from tests.support.loops import LOOPS
from tests.support.processes import WraithClient, WraithServer
from tests.support.stock_servers import Nginx
from tests.support.targets import Target, answer_with_digest, http_answer, read_head, refusing
from tests.support.tunnel import BIG, MEDIUM, TRANSPORTS, Tunnel

COULD_NOT_CONNECT_THROUGH_PROXY = 97  # curl's CURLE_PROXY
RECEIVE_ERROR = 56  # which is what curl calls a CONNECT that was not answered with 2xx
EMPTY_REPLY = 52


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ways(tunnel: Tunnel) -> dict[str, Sequence[str]]:
    """The ways to a target that curl knows, and the flags for each."""
    port = tunnel.client.socks_port
    return {
        "socks5, curl resolves": ("--socks5", f"127.0.0.1:{port}"),
        "socks5h": ("--socks5-hostname", f"127.0.0.1:{port}"),
        "socks4a": ("--socks4a", f"127.0.0.1:{port}"),
        "http connect": ("--proxy", f"http://127.0.0.1:{port}", "--proxytunnel"),
    }


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_large_file_arrives_whole(transport: str, loop: str, nginx: Nginx, tmp_path: Path) -> None:
    with WraithServer(tmp_path, transport=transport, loop=loop) as server, WraithClient(server, loop=loop) as client:
        digest = fetched(nginx.url(BIG, "localhost"), tmp_path, "--proxy", client.socks5h)
    assert digest == nginx.sha256[BIG]


@pytest.mark.parametrize(
    ("way", "host"),
    [
        *product(("socks5h", "http connect"), ("127.0.0.1", "[::1]", "localhost")),
        *product(("socks4a",), ("127.0.0.1", "localhost")),  # SOCKS4 has no IPv6 addresses
    ],
)
def test_every_protocol_takes_addresses_and_names(
    way: str, host: str, tunnel: Tunnel, nginx: Nginx, tmp_path: Path
) -> None:
    assert fetched(nginx.url(MEDIUM, host), tmp_path, *ways(tunnel)[way]) == nginx.sha256[MEDIUM]


def test_a_forward_carries_a_large_file(tunnel: Tunnel, nginx: Nginx, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{tunnel.forward_port}/{BIG}"
    assert fetched(url, tmp_path) == nginx.sha256[BIG]


@dataclass(frozen=True, slots=True)
class Reached:
    """A server, reached by one of its other addresses."""

    server: WraithServer
    target: str
    flags: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.server.folder

    @property
    def reached_by(self) -> Sequence[str]:
        _, *rest = self.server.reached_by
        return (self.target, *rest, *self.flags)


def test_a_server_on_every_address_is_reached_by_both_families(nginx: Nginx, tmp_path: Path) -> None:
    with WraithServer(tmp_path, listen="[::]:0") as server:
        here = (
            Reached(server, f"127.0.0.1:{server.port}"),
            Reached(server, f"[::1]:{server.port}"),
            Reached(server, f"localhost:{server.port}", ("-4",)),
            Reached(server, f"[::1]:{server.port}", ("-6",)),
        )
        for way in here:
            with WraithClient(way) as client:
                digest = fetched(nginx.url(MEDIUM), tmp_path, "--proxy", client.socks5h)
                assert digest == nginx.sha256[MEDIUM], way.target
        seen = re.findall(r"connection opened remote_addr=(\S+)", server.log())
        assert seen == ["127.0.0.1", "::1", "127.0.0.1", "::1"]


@pytest.mark.long
@pytest.mark.parametrize("way", ["socks5, curl resolves", "socks5h", "socks4a", "http connect"])
def test_every_protocol_carries_a_large_file(way: str, tunnel: Tunnel, nginx: Nginx, tmp_path: Path) -> None:
    assert fetched(nginx.url(BIG), tmp_path, *ways(tunnel)[way]) == nginx.sha256[BIG]


def test_200_transfers_at_once_all_arrive(tunnel: Tunnel, tmp_path: Path) -> None:
    number, size = 200, 256 << 10
    all_there = threading.Barrier(number)

    def body(path: str) -> bytes:
        return hashlib.shake_128(path.encode()).digest(size)

    def answer_when_all_are_there(connection: socket.socket) -> None:
        head, _ = read_head(connection)
        all_there.wait(TRANSFER_LIMIT_S)
        connection.sendall(http_answer(body(head.split()[1].decode())))

    with Target(answer_when_all_are_there) as target:
        done = curl(
            *("--parallel", "--parallel-immediate", "--parallel-max", str(number), "--fail"),
            *("--proxy", tunnel.client.socks5h, f"http://127.0.0.1:{target.port}/[1-{number}]", "-o", "page-#1"),
            folder=tmp_path,
        )
        assert done.code == 0
        assert target.accepted == number
    for each in range(1, number + 1):
        assert (tmp_path / f"page-{each}").read_bytes() == body(f"/{each}"), each


@pytest.mark.parametrize("way", ["socks5h", "http connect"])
def test_an_upload_arrives_whole(way: str, tunnel: Tunnel, tmp_path: Path) -> None:
    file = tmp_path / "upload"
    with file.open("wb") as opened:
        for block in range(64):
            opened.write(hashlib.shake_128(bytes((block,))).digest(1 << 20))
    with Target(answer_with_digest) as target:
        url = f"http://127.0.0.1:{target.port}/"
        put = curl("--fail", *ways(tunnel)[way], "--upload-file", file, url, folder=tmp_path)
        post = curl("--fail", *ways(tunnel)[way], "--data-binary", f"@{file}", url, folder=tmp_path)
    assert (put.code, put.out) == (0, sha256(file))
    assert (post.code, post.out) == (0, sha256(file))
    file.unlink()


@pytest.mark.parametrize(
    ("way", "code", "words"),
    [
        ("socks5h", COULD_NOT_CONNECT_THROUGH_PROXY, "(5)"),  # curl shows the SOCKS5 reply, RFC 1928 6
        ("socks4a", COULD_NOT_CONNECT_THROUGH_PROXY, "(91)"),
        ("http connect", RECEIVE_ERROR, "502"),
    ],
)
def test_curl_is_told_that_a_target_refuses(way: str, code: int, words: str, tunnel: Tunnel, tmp_path: Path) -> None:
    with refusing() as port:
        done = curl(*ways(tunnel)[way], f"http://127.0.0.1:{port}/", folder=tmp_path)
    assert done.code == code
    assert words in done.err


def test_a_forward_to_a_target_that_refuses_ends_without_a_byte(nginx: Nginx, tmp_path: Path) -> None:
    with (
        refusing() as port,
        WraithServer(tmp_path) as server,
        WraithClient(server, "-L", f"127.0.0.1:0:127.0.0.1:{port}", "-D", "127.0.0.1:0") as client,
    ):
        done = curl(f"http://127.0.0.1:{client.forward_ports[0]}/", folder=tmp_path)
        assert done.code in (EMPTY_REPLY, RECEIVE_ERROR)
        assert fetched(nginx.url(MEDIUM), tmp_path, "--proxy", client.socks5h) == nginx.sha256[MEDIUM]


def test_a_plain_http_proxy_request_is_answered_with_the_proxy_to_set(
    tunnel: Tunnel, nginx: Nginx, tmp_path: Path
) -> None:
    proxy = f"http://127.0.0.1:{tunnel.client.socks_port}"
    done = curl("--include", "--proxy", proxy, nginx.url(MEDIUM), folder=tmp_path)
    assert done.code == 0
    assert done.out.startswith("HTTP/1.1 501 ")
    assert "socks5h://" in done.out


@pytest.mark.parametrize("data", [(), ("--data", "CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n")], ids=["GET", "POST"])
def test_the_socks_port_is_no_web_server(data: Sequence[str], tunnel: Tunnel, tmp_path: Path) -> None:
    done = curl("--include", *data, f"http://127.0.0.1:{tunnel.client.socks_port}/", folder=tmp_path)
    assert done.code == 0
    assert done.out.startswith("HTTP/1.1 405 ")
    assert "connection: close" in done.out.lower()
