"""What the end-to-end tests share: one nginx, and for each transport one tunnel that many tests use."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.support.processes import WraithClient, WraithServer
from tests.support.stock_servers import Nginx
from tests.support.tunnel import FILES, TRANSPORTS, Tunnel


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with Nginx(tmp_path_factory.mktemp("nginx"), FILES) as server:
        yield server
    shutil.rmtree(server.site)  # pytest keeps the folders of its last runs, and these files are large


@pytest.fixture(scope="session", params=TRANSPORTS)
def shared_tunnel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, nginx: Nginx
) -> Iterator[Tunnel]:
    folder = tmp_path_factory.mktemp("tunnel")
    forward = f"127.0.0.1:0:127.0.0.1:{nginx.port}"
    with (
        WraithServer(folder, transport=request.param) as server,
        WraithClient(server, "-L", forward) as client,
    ):
        yield Tunnel(server, client)


@pytest.fixture
def tunnel(shared_tunnel: Tunnel) -> Iterator[Tunnel]:
    """A tunnel over each transport, which the test must leave as good as it found it."""
    both = (shared_tunnel.server, shared_tunnel.client)
    before = [len(each.log()) for each in both]
    yield shared_tunnel
    for each, seen in zip(both, before, strict=True):
        print(f"--- {each.name} meanwhile:\n{each.log()[seen:]}")
        assert each.running, f"{each.name} ended"
        assert "Traceback" not in each.log()[seen:]
