"""Claims about a server that has no descriptor left: it waits, says so once, and goes on."""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path

import pytest

from tests.support.crowds import Crowd, Wellbehaved
from tests.support.loops import LOOPS
from tests.support.polling import eventually
from tests.support.processes import WraithClient, WraithServer
from tests.support.socks_client import exactly, through_socks5
from tests.support.targets import Target, echo

pytestmark = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="sets the limits of another process")

FREE = 20
SAID = "no file descriptor is free"


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_accepting_pauses_until_there_are_descriptors_again(tmp_path: Path, transport: str, loop: str) -> None:
    with (
        WraithServer(tmp_path, transport=transport, loop=loop) as server,
        WraithClient(server) as client,
        Target(echo) as target,
        through_socks5(client.socks_port, "127.0.0.1", target.port) as connection,
    ):
        highest = max(map(int, os.listdir(f"/proc/{server.pid}/fd")))  # noqa: PTH208 - names alone
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (highest + 1 + FREE, highest + 1 + FREE))
        with Crowd(server.port) as crowd:
            crowd.join(FREE + 40)
            server.eventually_logs(SAID)
            worked = cpu_seconds(server)
            carries_bytes(connection)
            for _ in range(3):  # a descriptor becomes free and is taken, again and again
                crowd.leave(5)
                carries_bytes(connection)
            assert cpu_seconds(server) - worked < 2
        with WraithClient(server, "--no-socks5"):
            carries_bytes(connection)
        with Wellbehaved(client) as good:
            eventually(lambda: len(good.seconds) > 10, "channels are opened again")
            assert not good.failures
        assert server.log().count(SAID) == 1
        assert "Traceback" not in server.log()


def carries_bytes(connection: socket.socket) -> None:
    connection.sendall(b"hello" * 1000)
    assert exactly(connection, 5000) == b"hello" * 1000


def cpu_seconds(server: WraithServer) -> float:
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
