"""Claims about links that go dead without a word, and hosts that move: both ends notice, and the client comes back."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.network.host import Host
from tests.lab.network.lab import Lab
from tests.lab.network.links import Link
from tests.support.processes import Process, WraithClient, WraithServer
from tests.support.socks_client import dial, exactly, socks5_ask, through_socks5
from tests.support.stock_servers import accepts
from tests.support.targets import Target, echo

PORT = 2222
REMOTE_PORT = 8080
NAME = "server.test"
# Keepalives are sent after 10, 20 and 30 s of silence, and the last is waited for; TCP_USER_TIMEOUT is 30 s from
# the first byte that was lost. And the machine may be busy.
NOTICE_S = 45.0
BACK_S = 45.0  # the longest delay of 30 s, and a dial that was under way


@dataclass(frozen=True, slots=True)
class Named:
    """A server as its clients know it: by a name."""

    server: WraithServer

    @property
    def folder(self) -> Path:
        return self.server.folder

    @property
    def reached_by(self) -> list[str]:
        return [f"{NAME}:{PORT}", *self.server.reached_by[1:]]


@dataclass(frozen=True, slots=True)
class Road:
    """A client and a server in hosts of their own, and the link between them."""

    link: Link
    server: WraithServer
    client: WraithClient
    target: Target  # beside the server

    def works(self) -> None:
        """See that both directions carry."""
        with self.link.a.host.inside():
            connection = through_socks5(self.client.socks_port, "127.0.0.1", self.target.port)
        with connection:
            connection.sendall(b"forth")
            assert exactly(connection, 5) == b"forth"
        with self.link.b.host.inside():
            assert accepts(REMOTE_PORT)


def in_host(host: Host, process: Process) -> None:
    """Have a process that was not started yet run in a host, with the names that this knows."""
    process.argv = host.command(*process.argv)


def client_in(host: Host, server: WraithServer) -> WraithClient:
    client = WraithClient(Named(server), "-R", f"{REMOTE_PORT}:127.0.0.1:9", stays=True)
    in_host(host, client)
    return client


def after(process: Process, pattern: str, began: float, limit_s: float) -> float:
    process.eventually_logs(pattern, limit_s)
    return time.monotonic() - began


@pytest.fixture
def road(lab: Lab, tmp_path: Path) -> Iterator[Road]:
    link = lab.link(lab.host("client"), lab.host("server"))
    link.a.host.knows({NAME: [link.b.ipv4]})
    server = WraithServer(tmp_path, listen=f"[::]:{PORT}")
    in_host(link.b.host, server)
    with link.b.host.inside():
        target = Target(echo)
    with target, server, client_in(link.a.host, server) as client:
        here = Road(link, server, client, target)
        here.works()
        yield here


def test_a_client_that_was_started_anew_gets_the_port_of_its_session_that_died_unheard(road: Road) -> None:
    road.link.cut()
    road.client.stop(signal.SIGKILL)
    began = time.monotonic()
    road.link.mend()
    with client_in(road.link.a.host, road.server) as client:
        print(f"back {time.monotonic() - began:.1f} s after the start")
        assert "refused" not in client.log()
        with road.link.b.host.inside():
            assert accepts(REMOTE_PORT)


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("used", [False, True])
def test_a_link_that_is_cut_without_a_word_is_noticed_by_both_ends_and_found_again(used: bool, road: Road) -> None:
    with road.link.a.host.inside():
        listening = road.client.listening()
    began = time.monotonic()
    road.link.cut()
    if used:
        with road.link.a.host.inside():
            connection = dial(road.client.socks_port, limit_s=NOTICE_S)
        with connection:
            assert socks5_ask(connection, "127.0.0.1", road.target.port) != 0
            print(f"a request meanwhile was refused after {time.monotonic() - began:.1f} s")
    noticed = after(road.client, "session lost", began, NOTICE_S)
    there = after(road.server, "connection closed", began, NOTICE_S)
    with road.link.a.host.inside():
        assert road.client.listening() == listening
    began = time.monotonic()
    road.link.mend()
    back = after(road.client, "the session is back", began, BACK_S)
    print(f"noticed after {noticed:.1f} s, by the server after {there:.1f} s; back {back:.1f} s after the mending")
    road.works()


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("moves", ["client", "server"])
def test_a_host_that_has_another_address_is_no_end_of_it(moves: str, road: Road) -> None:
    end, address = (road.link.a, "198.18.1.78") if moves == "client" else (road.link.b, "198.18.1.77")
    old = next(each for each in end.addresses if "." in each)
    began = time.monotonic()
    end.change(old, f"{address}/24")
    if moves == "server":
        road.link.a.host.knows({NAME: [address]})
    noticed = after(road.client, "session lost", began, NOTICE_S)
    back = after(road.client, "the session is back", began, NOTICE_S + BACK_S)
    print(f"the {moves} moved: noticed after {noticed:.1f} s, back after {back:.1f} s")
    road.works()
    assert not re.search(r"remote forward refused", road.client.log())
