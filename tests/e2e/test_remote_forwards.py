"""`-R` in every form, between stock ssh and wraith both ways, and between wraith and wraith."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.curl import fetched
from tests.support.openssh import SshClient
from tests.support.polling import LIMIT_S, eventually
from tests.support.processes import Process, WraithClient, WraithServer
from tests.support.stock_servers import Nginx, Sshd, accepts, free_port
from tests.support.targets import Target, answer_after_end, end_first, read_to_end

MIB = 1 << 20
BIG, SMALL = "64m", "small"

PAIRS = ("ssh to wraith", "wraith to sshd", "wraith to wraith", "wraith to wraith over tls")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with Nginx(tmp_path_factory.mktemp("site"), {BIG: 64 * MIB, SMALL: 10_000}) as nginx:
        yield nginx


@dataclass(frozen=True, slots=True)
class Pair:
    """Two programs with a session between them, and what the far one listens on for the near one."""

    ways: dict[str, tuple[str, ...]]  # form of the forward to curl's arguments for its way
    upload_port: int
    farewell_port: int
    near: Process
    far: Process


@contextlib.contextmanager
def near_end(pair: str, folder: Path, sockets: list[Path], flags: list[str]) -> Iterator[tuple[Process, Process]]:
    """Start both ends; the near and the far."""
    if pair == "wraith to sshd":
        far: Sshd | WraithServer = Sshd(folder)
    else:
        permitted = [each for path in sockets for each in ("--permit-listen", str(path))]
        far = WraithServer(folder, *permitted, transport="tls" if pair.endswith("tls") else "tcp")
    with far:
        if isinstance(far, WraithServer) and pair.startswith("ssh"):
            near: Process = SshClient.of(far, folder).tunnel("-oExitOnForwardFailure=yes", *flags)
        else:
            near = WraithClient(far, "--no-socks5", *flags)
        with near:
            yield near, far


@pytest.fixture(scope="module", params=PAIRS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, site: Nginx) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("r")
    sockets = [folder / "a.sock", folder / "b.sock"]
    ports = [free_port() for _ in range(9)]
    forms = {
        "port": f"{ports[0]}:127.0.0.1:{site.port}",
        "name": f"localhost:{ports[1]}:localhost:{site.port}",
        "IPv6": f"[::1]:{ports[2]}:[::1]:{site.port}",
        "everywhere": f"*:{ports[3]}:127.0.0.1:{site.port}",
        "unix target": f"{ports[4]}:{site.socket}",
        "unix": f"{sockets[0]}:127.0.0.1:{site.port}",
        "unix to unix": f"{sockets[1]}:{site.socket}",
        "dynamic": str(ports[5]),
        "any": f"0:127.0.0.1:{site.port}",
        "dynamic any": "0",
        "loopback": f"127.0.0.1:{ports[6]}:127.0.0.1:{site.port}",
    }
    with Target(answer_after_end) as listener, Target(end_first) as farewell:
        wanted = [*forms.values(), f"{ports[7]}:127.0.0.1:{listener.port}", f"{ports[8]}:127.0.0.1:{farewell.port}"]
        flags = [each for form in wanted for each in ("-R", form)]
        with near_end(request.param, folder, sockets, flags) as (near, far):
            eventually(lambda: accepts(ports[8]), "the last forward")
            for path in sockets:
                eventually(path.is_socket, "the unix sockets")
            said = re.findall(r"Allocated port (\d+) for remote forward to (\S+)", near.log())
            allocated = {target: port for port, target in said}
            assert len(allocated) == 2
            to_site = allocated.pop(f"127.0.0.1:{site.port}")
            (to_socks,) = allocated.values()
            plain = f"http://127.0.0.1:{{}}/{SMALL}"
            ways = {
                "port": (plain.format(ports[0]),),
                "name": (plain.format(ports[1]),),
                "IPv6": (f"http://[::1]:{ports[2]}/{SMALL}",),
                "everywhere": (plain.format(ports[3]),),
                "unix target": (plain.format(ports[4]),),
                "unix": (plain.format(1), "--unix-socket", str(sockets[0])),
                "unix to unix": (plain.format(1), "--unix-socket", str(sockets[1])),
                "dynamic": (site.url(SMALL), "--proxy", f"socks5h://127.0.0.1:{ports[5]}"),
                "any": (plain.format(to_site),),
                "dynamic any": (site.url(SMALL, "localhost"), "--proxy", f"socks5h://127.0.0.1:{to_socks}"),
                "loopback": (plain.format(ports[6]),),
            }
            assert ways.keys() == forms.keys()
            yield Pair(ways, ports[7], ports[8], near, far)
            assert near.running
            assert far.running
        if request.param != "wraith to sshd":
            # What stock sshd made it leaves behind, unless it is told otherwise.
            eventually(lambda: not any(path.exists() for path in sockets), "the end of the unix sockets")


def test_every_form_leads_to_its_target(pair: Pair, site: Nginx, tmp_path: Path) -> None:
    for form, (url, *flags) in pair.ways.items():
        assert fetched(url, tmp_path, *flags) == site.sha256[SMALL], form


def test_a_file_comes_whole(pair: Pair, site: Nginx, tmp_path: Path) -> None:
    assert fetched(pair.ways["port"][0].replace(SMALL, BIG), tmp_path) == site.sha256[BIG]


def test_an_upload_arrives_whole_and_its_end_with_it(pair: Pair) -> None:
    data = random.Random(3).randbytes(64 * MIB)
    with socket.create_connection(("127.0.0.1", pair.upload_port), timeout=LIMIT_S) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        assert connection.makefile().read() == f"{len(data)} {hashlib.sha256(data).hexdigest()}\n"


def test_a_target_that_ends_first_still_hears_the_rest(pair: Pair) -> None:
    with socket.create_connection(("127.0.0.1", pair.farewell_port), timeout=LIMIT_S) as connection:
        assert read_to_end(connection)[0] == len(b"goodbye\n")
        connection.sendall(bytes(MIB))


def test_it_is_loopback_that_listens(pair: Pair) -> None:
    listening = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
    ports = {re.search(r":(\d+)/", way[0])[1] for form, way in pair.ways.items() if form in ("port", "everywhere")}  # type: ignore[index]
    addresses = {each.rpartition(":")[0] for each in re.findall(r"\S+:(?:" + "|".join(ports) + r")\b", listening)}
    assert addresses
    assert addresses <= {"127.0.0.1", "[::1]"}


# Refusals


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WraithServer]:
    with WraithServer(tmp_path_factory.mktemp("server")) as wraith:
        yield wraith


def test_a_target_that_refuses_resets_the_connection_and_the_forward_stays(
    server: WraithServer, site: Nginx, tmp_path: Path
) -> None:
    dead, good = free_port(), free_port()
    flags = ("-R", f"{dead}:127.0.0.1:{free_port()}", "-R", f"{good}:127.0.0.1:{site.port}")
    with WraithClient(server, "--no-socks5", *flags):
        for _ in range(2):
            with (
                socket.create_connection(("127.0.0.1", dead), timeout=LIMIT_S) as asking,
                pytest.raises(ConnectionResetError),
            ):
                asking.recv(1)
        assert fetched(f"http://127.0.0.1:{good}/{SMALL}", tmp_path) == site.sha256[SMALL]
    eventually(lambda: not accepts(good), "the end of the listener with its session")


@pytest.mark.parametrize("spec", ["80:127.0.0.1:1", "/nowhere/a.sock:127.0.0.1:1", "192.0.2.1:8080:127.0.0.1:1"])
def test_what_is_not_permitted_is_exit_code_7_where_failures_end_it(spec: str, server: WraithServer) -> None:
    client = WraithClient(server, "--no-socks5", "--exit-on-failure", "-R", spec)
    client.start()
    done = client.finished()
    client.end()
    assert (done.code, done.out) == (7, "")
    line = done.err.splitlines()[-1]
    assert line.startswith("wraith: the server refused to listen on ")
    assert "Traceback" not in done.err


def test_a_refusal_of_sshd_is_told_alike(tmp_path: Path) -> None:
    with Sshd(tmp_path, "AllowTcpForwarding no") as sshd:
        client = WraithClient(sshd, "--no-socks5", "--exit-on-failure", "-R", "0:127.0.0.1:1")
        client.start()
        done = client.finished()
        client.end()
    assert done.code == 7
    assert "the server refused to listen on localhost:0" in done.err.splitlines()[-1]


def test_a_refused_forward_is_a_warning_and_is_asked_for_again(
    server: WraithServer, site: Nginx, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        forward = f"{port}:127.0.0.1:{site.port}"
        with WraithClient(server, "--no-socks5", "-R", forward, stays=True) as client:
            client.eventually_logs(r"WARN remote forward refused forward=")
            busy.close()
            client.eventually_logs(r"WARN remote forward accepted")
            assert fetched(f"http://127.0.0.1:{port}/{SMALL}", tmp_path) == site.sha256[SMALL]
            assert client.stop() == 0
