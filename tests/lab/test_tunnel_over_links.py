"""Claims about a tunnel over distance, loss and broken links, between two hosts of the lab."""

from __future__ import annotations

import hashlib
import random
import socket
import time
from pathlib import Path

import pytest

from tests.lab.lab_tunnel import LabClient, LabServer, target_in
from tests.lab.network.lab import Lab
from tests.lab.network.rates import tcp_mbit
from tests.lab.network.tcp_memory import await_tcp_memory
from tests.support.socks_client import through_socks5
from tests.support.targets import Handler, echo, http_answer, read_head

MIB = 1 << 20
FIRST_WINDOW = 2 * MIB  # of a channel, which has to grow on a long path
NOTICED_S = 40.0  # three keepalives, 10 s apart, unanswered
FALLBACK_S = 0.25  # after which the other family is tried (RFC 8305)


def serving(body: bytes) -> Handler:
    """Answer every HTTP request with one body."""

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(http_answer(body))

    return serve


@pytest.mark.parametrize(
    ("transport", "loss", "size"), [("tcp", 0.0, 16 * MIB), ("tls", 0.0, 16 * MIB), ("tcp", 0.01, 4 * MIB)]
)
def test_a_file_arrives_whole_over_50_ms_and_100_mbit(
    transport: str, loss: float, size: int, lab: Lab, tmp_path: Path
) -> None:
    near, far = lab.host("near"), lab.host("far")
    link, emulated = lab.emulated_link(near, far, round_trip_ms=50, rate_mbit=100, loss=loss)
    body = random.Random(size).randbytes(size)
    with (
        target_in(far, serving(body)) as target,
        LabServer(far, link.b.ipv4, tmp_path, transport=transport) as server,
        LabClient(near, server) as client,
    ):
        began = time.monotonic()
        fetched = client.folder / "fetched"
        done = client.curl(f"http://127.0.0.1:{target.port}/", "-o", fetched)
        print(f"{size / MIB:.0f} MiB in {time.monotonic() - began:.2f} s; {emulated.counters()}")
        assert done.code == 0, done.err
        assert hashlib.sha256(fetched.read_bytes()).digest() == hashlib.sha256(body).digest()
    assert (sum(each.lost for each in emulated.counters()) > 0) == (loss > 0)


def test_a_session_and_its_targets_can_be_ipv6_alone(lab: Lab, tmp_path: Path) -> None:
    near, far, beyond = lab.host("near"), lab.host("far"), lab.host("beyond")
    link = lab.link(near, far, a_has=["2001:db8:a::1/64"], b_has=["2001:db8:a::2/64"])
    behind = lab.link(far, beyond, a_has=["2001:db8:b::1/64"], b_has=["2001:db8:b::2/64"])
    with (
        target_in(beyond, serving(b"over IPv6"), behind.b.ipv6) as target,
        LabServer(far, link.b.ipv6, tmp_path) as server,
        LabClient(near, server) as client,
    ):
        assert client.curl(f"http://[{behind.b.ipv6}]:{target.port}/").out == "over IPv6"


def test_an_ipv6_address_that_leads_nowhere_delays_neither_session_nor_target(lab: Lab, tmp_path: Path) -> None:
    near, far, beyond = lab.host("near"), lab.host("far"), lab.host("beyond")
    link, behind = lab.link(near, far), lab.link(far, beyond)
    near.knows({"server.test": [link.b.ipv6, link.b.ipv4]})
    far.knows({"target.test": [behind.b.ipv6, behind.b.ipv4]})
    for lost in (link.b, behind.b):
        lost.host.drop(destination=lost.ipv6)
    with (
        target_in(beyond, serving(b"over IPv4"), behind.b.ipv4) as target,
        LabServer(far, "server.test", tmp_path) as server,
    ):
        began = time.monotonic()
        with LabClient(near, server) as client:
            connected_s = time.monotonic() - began
            done = client.curl(f"http://target.test:{target.port}/", "-w", " %{time_starttransfer}")
            assert done.code == 0, done.err
            text, _, reply_s = done.out.rpartition(" ")
            print(f"a session after {connected_s:.2f} s, with the start of a process; a target's reply {reply_s} s")
            assert text == "over IPv4"
            assert float(reply_s) >= FALLBACK_S, "IPv6 was tried first"
            assert float(reply_s) < 3 * FALLBACK_S + 1
            assert connected_s < 10  # connecting by IPv6 would take the system two minutes


def test_the_window_grows_on_a_long_fast_link(lab: Lab, tmp_path: Path) -> None:
    near, far = lab.host("near"), lab.host("far")
    round_trip_s = 0.1
    link, emulated = lab.emulated_link(near, far, round_trip_ms=round_trip_s * 1000, rate_mbit=1000)
    size = 256 * MIB

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // MIB):
            connection.sendall(bytes(MIB))

    raw = tcp_mbit(far, near, link.a.ipv4, "--bytes", str(size))
    with (
        target_in(far, serve) as target,
        LabServer(far, link.b.ipv4, tmp_path) as server,
        LabClient(near, server) as client,
    ):
        await_tcp_memory()
        done = client.curl(f"http://127.0.0.1:{target.port}/", "-o", "/dev/null", "-w", "%{speed_download}")
        assert done.code == 0, done.err
        mbit = float(done.out) * 8 / 1e6
        print(f"1 Gbit/s, 100 ms: {mbit:.0f} Mbit/s, raw TCP {raw:.0f}, ratio {mbit / raw:.2f}")
        print(f"{emulated.counters()}")
        assert float(done.out) > 1.5 * FIRST_WINDOW / round_trip_s


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_link_that_is_cut_without_a_word_ends_the_session_on_both_sides(lab: Lab, tmp_path: Path) -> None:
    near, far = lab.host("near"), lab.host("far")
    link = lab.link(near, far)
    with (
        target_in(far, echo) as target,
        LabServer(far, link.b.ipv4, tmp_path) as server,
        LabClient(near, server) as client,
    ):
        with near.inside():
            connection = through_socks5(client.socks_port, "127.0.0.1", target.port)
        with connection:
            link.cut()
            began = time.monotonic()
            assert client.wait(3 * NOTICED_S) == 1
            noticed_s = time.monotonic() - began
            server.eventually_logs(r"connection closed", 3 * NOTICED_S)
            print(f"the client noticed after {noticed_s:.1f} s, the server after {time.monotonic() - began:.1f} s")
            print(client.log())
            link.mend()
            with LabClient(near, server) as again:
                assert again.running
