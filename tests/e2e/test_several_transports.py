"""One server on several transports: each is reached, no session minds another's end, one bad address ends all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.curl import fetched
from tests.support.processes import WraithClient, WraithServer
from tests.support.refusals import refusal
from tests.support.stock_servers import Nginx, free_port
from tests.support.tunnel import MEDIUM


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WraithServer]:
    with WraithServer(tmp_path, "--listen", "tls://127.0.0.1:0", "--listen", "[::1]:0") as server:
        yield server


def reached_by(server: WraithServer, scheme: str, host: str) -> tuple[str, ...]:
    port = re.search(rf"{scheme}://{re.escape(host)}:(\d+)", server.log())
    assert port is not None
    pin = ("--tls-pin", server.tls_pin or "") if scheme == "tls" else ()
    return (f"{scheme}://{host}:{port[1]}", "--host-key", server.host_key, "-i", str(server.client_key), *pin)


class Way:
    """One of a server's addresses, as a client is told it."""

    def __init__(self, server: WraithServer, scheme: str, host: str) -> None:
        self.folder = server.folder
        self.reached_by = reached_by(server, scheme, host)


def test_every_address_is_served_and_no_session_minds_the_others(
    server: WraithServer, nginx: Nginx, tmp_path: Path
) -> None:
    ways = [Way(server, "tcp", "127.0.0.1"), Way(server, "tls", "127.0.0.1"), Way(server, "tcp", "[::1]")]
    with WraithClient(ways[0]) as first, WraithClient(ways[1]) as second, WraithClient(ways[2]) as third:
        for client in (first, second, third):
            assert fetched(nginx.url(MEDIUM), tmp_path, "--proxy", client.socks5h) == nginx.sha256[MEDIUM]
        assert first.stop() == 0
        assert fetched(nginx.url(MEDIUM), tmp_path, "--proxy", second.socks5h) == nginx.sha256[MEDIUM]
    assert len(re.findall(r"INFO connection opened .*transport=tls", server.log())) == 1
    assert len(re.findall(r"INFO connection opened .*transport=tcp", server.log())) == 2


def test_one_address_that_is_taken_leaves_none_bound(server: WraithServer, tmp_path: Path) -> None:
    free = free_port()
    taken = f"127.0.0.1:{server.port}"
    refused = refusal(7, "serve", "--listen", f"127.0.0.1:{free}", "--listen", f"tls://{taken}", folder=tmp_path)
    assert taken in refused.line
    with WraithServer(tmp_path, listen=f"127.0.0.1:{free}"):
        pass
